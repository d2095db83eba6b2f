"""What a recording samples beside the trace, by its options."""

from __future__ import annotations

from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.sampler import Source


def sources(options: RecordOptions) -> list[Source]:
    """The sources that were asked for. Raises HindsightError when one of them does not exist."""
    if options.proxies:
        from hindsight.capture.proxy.source import sources as proxies

        return [*proxies(options)]
    return []
