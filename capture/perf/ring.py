"""The ring buffer of one processor that the kernel shares with this process, copied to a file as it is.

The kernel moves ``data_head`` past whole records; what was copied is given back by moving ``data_tail``. The
file holds the records as the kernel wrote them, one after the other, each a multiple of 8 bytes, and never a
part of one. Format: include/uapi/linux/perf_event.h of Linux 6.18.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path

_HEAD, _TAIL, _DATA_OFFSET, _DATA_SIZE = 1024, 1032, 1040, 1048
"""Positions in ``struct perf_event_mmap_page``."""
_PAGE = mmap.PAGESIZE
RECORD_SAMPLE = 9


def data_pages(buffer_kb: int) -> int:
    """How many pages of data a ring buffer of at most ``buffer_kb`` KiB has: a power of two, at least one."""
    return 1 << max((buffer_kb << 10) // _PAGE, 1).bit_length() - 1


class Ring:
    """The ring buffer of the event ``descriptor``, mapped. Raises OSError when that is refused."""

    map: mmap.mmap | None = None

    def __init__(self, descriptor: int, buffer_kb: int) -> None:
        self.map = mmap.mmap(descriptor, (1 + data_pages(buffer_kb)) * _PAGE)
        offset = ctypes.c_uint64.from_buffer(self.map, _DATA_OFFSET).value
        size = ctypes.c_uint64.from_buffer(self.map, _DATA_SIZE).value
        self._use(
            memoryview(self.map)[offset : offset + size],
            ctypes.c_uint64.from_buffer(self.map, _HEAD),
            ctypes.c_uint64.from_buffer(self.map, _TAIL),
        )

    def _use(self, data: memoryview, head: ctypes.c_uint64, tail: ctypes.c_uint64) -> None:
        """Its memory, and the positions that are shared with the kernel."""
        self._data = data
        self.size = len(data)
        self._head, self._tail = head, tail
        self.tail = self._tail.value
        self.file = -1
        self.written = 0
        self._order = threading.Lock()
        self._order.acquire()

    @property
    def head(self) -> int:
        """Where the kernel writes next, in bytes since the beginning; what lies before it may be read."""
        value = int(self._head.value)
        # Releasing and taking a lock orders this load before those of the data (smp_rmb in the header).
        self._order.release()
        self._order.acquire()
        return value

    @property
    def pending(self) -> int:
        """Bytes that wait to be copied."""
        return self.head - self.tail

    def _parts(self, start: int, stop: int) -> list[memoryview]:
        begin, length = start % self.size, stop - start
        parts = [self._data[begin : min(begin + length, self.size)]]
        if begin + length > self.size:
            parts.append(self._data[: begin + length - self.size])
        return parts

    def copy(self, until: int | None = None) -> int:
        """Append the records up to ``until`` (default: all that are there) to the file; returns bytes.

        Raises OSError when the file cannot take them; the file then ends with a whole record, and the next
        call goes on after it.
        """
        stop = self.head if until is None else until
        begin = at = self.tail
        try:
            while at < stop:
                at += os.writev(self.file, self._parts(at, stop))
        except OSError:
            at = self._whole(begin, at)
            os.ftruncate(self.file, self.written + at - begin)
            os.lseek(self.file, 0, os.SEEK_END)
            raise
        finally:
            self.written += at - begin
            self.tail = at
            self._tail.value = at
        return at - begin

    def _whole(self, start: int, stop: int) -> int:
        """The end of the last record that lies completely within [start, stop)."""
        while start + 8 <= stop:
            size = self._record(start)[1]
            if size < 8 or start + size > stop:
                break
            start += size
        return start

    def _record(self, at: int) -> tuple[int, int]:
        """Type and size of the record at a position; records are aligned, so that a header never wraps."""
        header = self._data[at % self.size : at % self.size + 8]
        return int.from_bytes(header[:4], "little"), int.from_bytes(header[6:8], "little")

    def samples(self, stop: int) -> int:
        """How many samples wait before the position ``stop``."""
        found, at = 0, self.tail
        while at < stop:
            kind, size = self._record(at)
            if size < 8:
                break
            found += kind == RECORD_SAMPLE
            at += size
        return found

    def write_to(self, path: Path) -> int:
        """Create a file and return its descriptor; :meth:`use` begins to write to it. Raises OSError."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def use(self, descriptor: int) -> None:
        """Write to this file from now on; the one before is closed."""
        self.close_file()
        self.file, self.written = descriptor, 0

    def close_file(self) -> None:
        """Close the file; sealing, which may run already, removes one that holds nothing."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def close(self) -> None:
        """Close the file and unmap the ring buffer; what waits in it is given up."""
        self.close_file()
        self._data.release()
        del self._head, self._tail
        if self.map is not None:
            self.map.close()
