"""Inodes in a file of perf records, found without decoding it."""

from __future__ import annotations

from collections.abc import Iterable

from hindsight.capture.devices import Device
from hindsight.capture.segments.files import InodeScan

_WINDOW_BYTES = 1 << 20
_OVERLAP_BYTES = 512
"""More than an event with an inode has; a multiple of 4."""


class RecordScan(InodeScan):
    """The same as :class:`InodeScan`, for records that lie one after the other, across windows too."""

    def __init__(self, events: Iterable[tuple[int, int, int]], devices: Iterable[Device]) -> None:
        super().__init__(events, devices, 2 * _WINDOW_BYTES)  # one page is more than a window
        self._rest = b""

    @property
    def window_bytes(self) -> int:
        """How much to feed at a time."""
        return _WINDOW_BYTES

    def feed(self, window: bytes) -> None:
        """Look through the next window."""
        window = self._rest + window
        self._rest = window[-_OVERLAP_BYTES:]
        super().feed(window)
