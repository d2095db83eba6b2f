"""The ring buffers that BPF programs fill: plain memory that they share with this process, and counters.

It is cheaper for the programs than perf's ring buffers, and looks the same: the files hold perf records.
"""

from __future__ import annotations

import ctypes
import mmap

from hindsight.capture.bpf.libbpf import BpfObject
from hindsight.capture.perf.ring import Ring, data_pages

SLACK = 4096
"""Each ring buffer is followed by so many bytes that are not used."""


class _Counters(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("recorded", "lost", "head", "busy")),
        ("unused", ctypes.c_uint64 * 4),
        ("tail", ctypes.c_uint64),
        ("also_unused", ctypes.c_uint64 * 7),
    )


class RingMemory:
    """The ring buffers of all processors: :meth:`reserve`, load the programs, :meth:`share`."""

    def __init__(self, buffer_kb: int, processors: int) -> None:
        self.bytes = data_pages(buffer_kb) * mmap.PAGESIZE
        self.processors = processors
        self._maps: list[mmap.mmap] = []

    def reserve(self, programs: BpfObject) -> int:
        """Give the programs' maps their sizes; returns what they know the size by."""
        programs.resize("counters", self.processors)
        programs.resize("rings", self.processors, self.bytes + SLACK)
        return self.bytes - 8

    def share(self, programs: BpfObject) -> None:
        """Map them. Raises OSError."""
        size = self.processors * ctypes.sizeof(_Counters)
        self._maps = [programs.shared("counters", size)]
        self._maps.append(programs.shared("rings", self.processors * (self.bytes + SLACK)))
        self.counters = (_Counters * self.processors).from_buffer(self._maps[0])

    def data(self, cpu: int) -> memoryview:
        """The memory of the ring buffer of a processor."""
        begin = cpu * (self.bytes + SLACK)
        return memoryview(self._maps[1])[begin : begin + self.bytes]

    def close(self) -> None:
        """Unmap them; every :class:`Output` is closed."""
        if self._maps:
            del self.counters
        maps, self._maps = self._maps, []
        for memory in maps:
            memory.close()


class _SharedRing(Ring):
    """A ring buffer of :class:`RingMemory`."""

    def __init__(self, memory: RingMemory, cpu: int) -> None:
        own = memory.counters[cpu]
        at = {name: getattr(_Counters, name).offset for name in ("head", "tail")}
        self._use(
            memory.data(cpu),
            ctypes.c_uint64.from_buffer(own, at["head"]),
            ctypes.c_uint64.from_buffer(own, at["tail"]),
        )


class Output:
    """What the programs emit on processor ``cpu``: its ring buffer and its counters."""

    descriptor = -1
    """Nothing to wait for: it is drained on a timer."""

    def __init__(self, memory: RingMemory, cpu: int) -> None:
        self.cpu = cpu
        self._own = memory.counters[cpu]
        self._ring: Ring | None = _SharedRing(memory, cpu)

    @property
    def ring(self) -> Ring:
        """The ring buffer."""
        assert self._ring is not None, "it is closed"
        return self._ring

    def count(self) -> tuple[int, int]:
        """Records emitted, and how many of these found the ring buffer full."""
        lost = self._own.lost
        return self._own.recorded + lost, lost

    def settled(self) -> tuple[int, int, int] | None:
        """See :class:`hindsight.capture.perf.rings.Filled`; a program runs to its end on its processor."""
        for _ in range(16):
            head, counts = self.ring.head, self.count()
            if self.count() == counts and self.ring.head == head:
                return head, *counts
        return None

    def switch(self, on: bool) -> None:
        """Nothing: the programs themselves are told whether to record."""

    def close(self) -> None:
        """Let go of the ring buffer; the programs do not run any more."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
            del self._own
