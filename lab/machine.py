"""Which machine a measurement was made on, as a pseudonym: pairs are of one machine."""

from __future__ import annotations

from pathlib import Path


def machine_pseudonym(fallback: Path) -> str:
    """12 hexadecimal digits, those that captures of this host carry; ``fallback``: where the key is kept if
    /etc/hindsight cannot be written."""
    from hindsight.capture import host

    return host.pseudonym(host.host_key(fallback), f"host:{host.machine_id()}")
