"""Thresholds of pressure stall information, watched by the kernel (Documentation/accounting/psi.rst)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from hindsight.capture.options import Pressure
from hindsight.errors import NotPermittedError

DIRECTORY = Path("/proc/pressure")
QUIET_NS = 10_000_000_000
"""After a trigger the next is not heeded for so long."""


class PressureWatch:
    """Triggers on ``thresholds``; :attr:`descriptors` become urgently readable (POLLPRI) when one is crossed.

    Raises NotPermittedError when the kernel has no such information or does not take the threshold.
    """

    def __init__(self, thresholds: Iterable[Pressure], directory: Path = DIRECTORY) -> None:
        self.descriptors: dict[int, Pressure] = {}
        self._heeded_ns: int | None = None
        try:
            for threshold in thresholds:
                self.descriptors[_watch(threshold, directory)] = threshold
        except BaseException:
            self.close()
            raise

    def heed(self, now_ns: int) -> bool:
        """Whether a threshold that was crossed now is to be acted on: at most one in 10 s."""
        if self._heeded_ns is not None and now_ns - self._heeded_ns < QUIET_NS:
            return False
        self._heeded_ns = now_ns
        return True

    def close(self) -> None:
        """Take the triggers back."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = {}


def _watch(threshold: Pressure, directory: Path) -> int:
    path = directory / threshold.resource
    text = f"{threshold.kind} {threshold.stall_us} {threshold.window_us}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotPermittedError(
            f"this kernel has no pressure stall information for {threshold.resource}",
            "It needs CONFIG_PSI, and psi=1 on its command line where that is off by default.",
        ) from None
    except OSError as error:
        raise NotPermittedError(f"{path} cannot be opened: {error.strerror}", "Run it as root.") from None
    try:
        os.write(descriptor, text.encode() + b"\0")
    except OSError as error:
        os.close(descriptor)
        remedy = (
            "The window must be between 500 ms and 10 s and no shorter than the stall; without "
            "CAP_SYS_RESOURCE it must be a multiple of 2 s."
        )
        if error.errno == errno.EOPNOTSUPP:
            remedy = "It needs CONFIG_PSI with psi=1 on the kernel's command line."
        raise NotPermittedError(f"the kernel refuses {text!r} on {path}: {error.strerror}", remedy) from None
    return descriptor
