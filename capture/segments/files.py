"""Facts about the files on which readahead was seen: found in the raw trace, read through file handles."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from hindsight.capture.devices import Device, mount_id, mounts
from hindsight.capture.filestat import FileStat, file_stat
from hindsight.capture.segments.handles import opener

Inode = tuple[Device, int]
"""A file as its device and inode number."""

_MINOR_BITS = 20
_WINDOW_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 14
_RARE = 64
"""A byte is rare when at most one of so many is that."""


class InodeScan:
    """Finds inodes in raw sub-buffers without decoding them, window by window; never too few of them.

    ``events`` are (event id, offset of ``i_ino``, offset of ``s_dev``) in the payload, of 8 and 4 bytes. The
    result is a superset of the inodes of these events on ``devices``: bytes that look like an event count as
    one. Who decodes the trace later drops what no event names.
    """

    def __init__(
        self, events: Iterable[tuple[int, int, int]], devices: Iterable[Device], page_bytes: int
    ) -> None:
        numbers = [struct.pack("<I", major << _MINOR_BITS | minor) for major, minor in devices]
        self._devices = frozenset(numbers)
        self._page = page_bytes
        self._events = [(struct.pack("<H", number), ino, dev) for number, ino, dev in events]
        self._seen: list[set[bytes]] = [set() for _ in self._events]

    @property
    def window_bytes(self) -> int:
        """How much to feed at a time: whole sub-buffers, so few that other threads never wait for long."""
        return max(_WINDOW_BYTES // self._page, 1) * self._page

    @property
    def idle(self) -> bool:
        """Whether there is nothing to look for."""
        return not (self._devices and self._events)

    def feed(self, window: bytes) -> None:
        """Look through a window that begins with a sub-buffer."""
        if self.idle:
            return
        sample = window[:_SAMPLE_BYTES]
        for (number, ino_at, dev_at), seen in zip(self._events, self._seen, strict=True):
            # memchr(3) for the rarer byte of the id beats a search for more, unless both are common.
            hits, which = min((sample.count(number[i]), i) for i in (0, 1))
            if hits * _RARE <= len(sample):
                find, sought = window.find, number[which : which + 1]
            else:
                find, sought, which = window.find, number, 0
            first, last = min(ino_at, dev_at), max(ino_at + 8, dev_at + 4)
            dev_in = dev_at - first
            low, high = number
            end = len(window) - last + which
            at = find(sought)
            while 0 <= at <= end:
                start = at - which
                # A payload is aligned to 4 bytes.
                if not start & 3 and window[start] == low and window[start + 1] == high:
                    key = window[start + first : start + last]
                    if (
                        key not in seen
                        and key[dev_in : dev_in + 4] in self._devices
                        and start % self._page + last <= self._page
                    ):
                        seen.add(key)
                at = find(sought, at + 1)

    @property
    def inodes(self) -> set[Inode]:
        """What was found so far."""
        found = set()
        for (_, ino_at, dev_at), seen in zip(self._events, self._seen, strict=True):
            first = min(ino_at, dev_at)
            for key in seen:
                (ino,) = struct.unpack_from("<Q", key, ino_at - first)
                (dev,) = struct.unpack_from("<I", key, dev_at - first)
                found.add(((dev >> _MINOR_BITS, dev & ((1 << _MINOR_BITS) - 1)), ino))
        return found


def find_inodes(
    pages: Path, events: Iterable[tuple[int, int, int]], devices: Iterable[Device], page_bytes: int
) -> set[Inode]:
    """:class:`InodeScan` over a whole file of sub-buffers."""
    scan = InodeScan(events, devices, page_bytes)
    with open(pages, "rb", buffering=0) as file:
        while window := file.read(scan.window_bytes):
            scan.feed(window)
    return scan.inodes


def file_facts(inodes: Iterable[Inode], pids: Iterable[int], paths: bool) -> list[dict[str, object]]:
    """Rows of the table ``files``, sorted by device and inode; a file that cannot be reached has none.

    A file is opened by its number (:mod:`hindsight.capture.segments.handles`), else looked for among the open
    files of the processes ``pids``.
    """
    wanted = sorted(set(inodes))
    # (A server in user space knows no such handle, and may not answer.)
    roots = {m.device: m for m in reversed(mounts()) if not m.fstype.startswith("fuse")}
    rows = {}
    for device in sorted({device for device, _ in wanted} & roots.keys()):
        try:
            root = os.open(roots[device].where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if mount_id(f"/proc/self/fdinfo/{root}") != roots[device].number:  # something is mounted over it
                continue
            by_number = opener(root, roots[device].fstype)
            for inode in wanted:
                if inode[0] == device and (descriptor := by_number(inode[1])) is not None:
                    row = _opened(inode, descriptor, paths)
                    if row is not None:
                        rows[inode] = row
        finally:
            os.close(root)
    missing = set(wanted) - rows.keys()
    if missing:
        for pid in pids:
            _by_descriptors(pid, missing, rows, paths)
    return [rows[inode] for inode in wanted if inode in rows]


def _number(device: int) -> Device:
    return os.major(device), os.minor(device)


def _opened(inode: Inode, descriptor: int, paths: bool) -> dict[str, object] | None:
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}") if paths else None
        return _row(inode, file_stat(f"/proc/self/fd/{descriptor}"), path)
    finally:
        os.close(descriptor)


def _by_descriptors(pid: int, missing: set[Inode], rows: dict[Inode, dict[str, object]], paths: bool) -> None:
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = f"/proc/{pid}/fd/{fd}"
                status = file_stat(link)
                inode = (status.device, status.inode)
                if inode in missing:
                    row = _row(inode, status, os.readlink(link) if paths else None)
                    if row is not None:
                        rows[inode] = row


def _row(inode: Inode, status: FileStat, path: str | None) -> dict[str, object] | None:
    if not stat.S_ISREG(status.mode) or status.inode != inode[1]:
        return None
    return {
        "s_dev_major": inode[0][0],
        "s_dev_minor": inode[0][1],
        "i_ino": inode[1],
        "size": status.size,
        "mtime_ns": status.mtime_ns,
        "cached_at_start": None,
        "path": path,
    }
