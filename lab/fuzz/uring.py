"""An io_uring with nothing but the system calls (io_uring_setup(2), io_uring_enter(2)): reads, waited for.

Layouts: include/uapi/linux/io_uring.h. The numbers of the system calls are the same on every architecture
but alpha.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

SETUP, ENTER = 425, 426
OP_READ = 22
ENTER_GETEVENTS = 1
OFFSETS_SQ, OFFSETS_CQ, OFFSETS_SQES = 0, 0x8000000, 0x10000000
ENTRIES = 8
_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "io_uring")
    return result


class Ring:
    """A ring of eight entries."""

    def __init__(self) -> None:
        parameters = (ctypes.c_uint32 * 30)()
        self.fd = _call(SETUP, ctypes.c_uint(ENTRIES), ctypes.byref(parameters))
        words = list(parameters)
        # struct io_uring_params: 10 words, then the offsets into the two rings, 10 words each.
        self.sq_head, self.sq_tail, self.sq_mask, _, _, _, self.sq_array = words[10:17]
        self.cq_head, self.cq_tail, self.cq_mask, _, _, self.cqes = words[20:26]
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        sq_size, cq_size = self.sq_array + 4 * words[0], self.cqes + 16 * words[1]
        self.sq = mmap.mmap(self.fd, sq_size, mmap.MAP_SHARED, protection, offset=OFFSETS_SQ)
        self.cq = mmap.mmap(self.fd, cq_size, mmap.MAP_SHARED, protection, offset=OFFSETS_CQ)
        self.sqes = mmap.mmap(self.fd, 64 * words[0], mmap.MAP_SHARED, protection, offset=OFFSETS_SQES)

    def read(self, fd: int, batch: list[tuple[int, int]]) -> list[int]:
        """Submit reads of (offset, bytes) together and wait for all; results in order of the batch."""
        buffers = [ctypes.create_string_buffer(n) for _, n in batch]
        tail = self._word(self.sq, self.sq_tail)
        for i, (pos, n) in enumerate(batch):
            at = (tail + i) & self._word(self.sq, self.sq_mask)
            entry = struct.pack("<BBHiQQIIQ", OP_READ, 0, 0, fd, pos, ctypes.addressof(buffers[i]), n, 0, i)
            self.sqes[64 * at : 64 * at + 64] = entry.ljust(64, b"\0")
            self._set(self.sq, self.sq_array + 4 * at, at)
        self._set(self.sq, self.sq_tail, tail + len(batch))
        submitted, results = 0, [0] * len(batch)
        done = 0
        while done < len(batch):
            submitted += _call(
                ENTER, ctypes.c_int(self.fd), ctypes.c_uint(len(batch) - submitted),
                ctypes.c_uint(len(batch) - done), ctypes.c_uint(ENTER_GETEVENTS), None, ctypes.c_size_t(0),
            )  # fmt: skip
            head = self._word(self.cq, self.cq_head)
            while head != self._word(self.cq, self.cq_tail):
                at = self.cqes + 16 * (head & self._word(self.cq, self.cq_mask))
                number, result = struct.unpack("<Qi", self.cq[at : at + 12])
                results[number] = result
                head = head + 1 & 0xFFFFFFFF
                done += 1
            self._set(self.cq, self.cq_head, head)
        return results

    def close(self) -> None:
        """Give it back."""
        for memory in (self.sq, self.cq, self.sqes):
            memory.close()
        os.close(self.fd)

    @staticmethod
    def _word(memory: mmap.mmap, at: int) -> int:
        return int(struct.unpack_from("<I", memory, at)[0])

    @staticmethod
    def _set(memory: mmap.mmap, at: int, value: int) -> None:
        struct.pack_into("<I", memory, at, value & 0xFFFFFFFF)
