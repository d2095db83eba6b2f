"""Whether a package may be used on this host. Checked in the order of what an attacker could do:

1. the signature, over the bytes of ``manifest.json``, by a key in the operator's trust directory;
2. the form of the manifest, and the sizes that it names;
3. the files: nothing unlisted, no link, each of its size and hash;
4. the expiry;
5. the model, loaded in a child process, reproduces the golden predictions bit for bit.

The first thing that is wrong ends it. No byte of the model or of a table is parsed before the last step.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime

from hindsight.advisor.golden import reproduce
from hindsight.errors import VerificationError
from hindsight.models.keys import Trust
from hindsight.models.manifest import Manifest
from hindsight.models.package import Package, read_package
from hindsight.models.signing import Signed, check, same_manifest

UNUSABLE = "emergency"
"""The mode that says: do not use."""


@dataclass(frozen=True)
class Verified:
    """A package that passed: the bytes that were hashed, who signed it (None: not asked), and the number of
    golden predictions that this machine reproduced."""

    package: Package
    signed: Signed | None
    golden: int

    @property
    def may_actuate(self) -> bool:
        """Whether its advice may reach a kernel: signed by a trusted key, and not in the mode *emergency*."""
        return self.signed is not None and self.package.manifest.mode != UNUSABLE


def verify(directory: str | os.PathLike[str], trust: Trust | None, now_ns: int) -> Verified:
    """Check a package in the order above.

    ``trust``: the keys that count (:func:`hindsight.models.keys.read_trust`); None leaves out the first step,
    and what comes of it must not actuate. ``now_ns``: realtime, ns since 1970.

    Raises VerificationError with the reason; ConfigurationError if there is no such directory.
    """
    signed = None if trust is None else check(directory, trust)
    package = read_package(directory)
    if signed is not None:
        # It was opened a second time.
        same_manifest(signed.manifest, package.manifest)
    check_expiry(package.manifest, now_ns)
    return Verified(package, signed, reproduce(package))


def check_expiry(manifest: Manifest, now_ns: int) -> None:
    """VerificationError if the package has expired at ``now_ns``, or its data are newer than that."""
    if now_ns >= manifest.expires_ns:
        raise VerificationError(
            f"the package expired on {_date(manifest.expires_ns)}, {manifest.valid_days} days after its "
            "newest data",
            "make it again from newer data",
        )
    if now_ns < manifest.newest_data_ns:
        # With such a clock nothing would ever expire.
        raise VerificationError(
            f"the package was trained on data of {_date(manifest.newest_data_ns)}; the clock says "
            f"{_date(now_ns)}",
            "set the clock of this host",
        )


def _date(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).date().isoformat()
