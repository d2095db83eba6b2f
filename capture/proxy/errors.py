"""What can be wrong with a proxy. A reader reports it and goes on: none is trusted, and none is needed."""

from __future__ import annotations

from hindsight.errors import HindsightError, NotPermittedError, VerificationError


class Malformed(VerificationError):
    """What the proxy gave is no record of the contract; the message names the field, never its content."""


class NewerSchema(VerificationError):
    """The record has a schema version that this release does not know."""


class Oversized(VerificationError):
    """More bytes than a record may have."""


class Hanging(HindsightError):
    """The proxy did not answer within the budget."""


class Gone(HindsightError):
    """The proxy is not there, or not any more."""


class Refused(NotPermittedError):
    """The kernel does not let this process read the proxy, or lacks what it takes."""


def hanging(name: str, budget_s: float) -> Hanging:
    """The error of a proxy that takes longer than its budget."""
    return Hanging(f"{name} did not answer within {budget_s:g} s", "It is asked again once it has answered.")


def unreadable(place: str, error: OSError) -> HindsightError:
    """The error of a proxy that could not be read: :class:`Gone`, :class:`Refused`, or a plain failure."""
    reason = f"{place}: {error.strerror or 'it cannot be read'}"
    if isinstance(error, PermissionError):
        return Refused(reason, "Run it as root, or let this user read the proxy.")
    if isinstance(error, BlockingIOError):
        return Hanging(f"{place}: it has nothing to say now", "Sample it less often.")
    # ENODEV, ENXIO, ENOTCONN (a file system whose server died), ESTALE, ESRCH
    if isinstance(error, FileNotFoundError | ConnectionError | ProcessLookupError) or error.errno in _GONE:
        return Gone(reason, "Start the proxy; `hindsight capture proxy list` shows those that are there.")
    return HindsightError(reason, "See the kernel log, or the log of what serves the proxy.")


_GONE = frozenset({6, 19, 107, 116})
"""ENXIO, ENODEV, ENOTCONN, ESTALE (include/uapi/asm-generic/errno.h)."""
