"""Copy the samples of a perf.data, by processor, into native records: what the decoder of native captures
(:mod:`hindsight.capture.perf.records`) then reads.

The file is read once, in pieces; what becomes of it is written into a scratch directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hindsight.capture.imports import reframe as of
from hindsight.capture.imports.compression import write_all
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.perf_data import PerfData
from hindsight.capture.imports.perf_sample import Layouts
from hindsight.capture.imports.sample_reader import SMALLEST, Framed, SampleReader

_PIECE_BYTES = 4 << 20

_NO_KINDS = np.empty(0, np.uint16), np.empty(0, np.uint16), np.empty(0, np.uint64)


class Framer(SampleReader):
    """Writes the samples of tracepoints into ``target``."""

    def __init__(self, file: Foreign, data: PerfData, target: Path) -> None:
        super().__init__(file, data, _PIECE_BYTES)
        self._target = target
        self._out = np.empty(self.piece_bytes // 4, np.uint32)
        room = self.piece_bytes // SMALLEST + 1
        self._place, self._raw = np.empty((2, room), np.uint32)
        self._cpu, self._ts = np.empty(room, np.uint16), np.empty(room, np.int64)
        self._size_of = np.zeros(of.MAX_CPU, np.int64)

    def run(self, advance: Callable[[int], None]) -> Framed:
        """Read all. Raises VerificationError when records of perf itself are damaged."""
        room = np.empty(self.piece_bytes, np.uint8)
        while not self.ended:
            advance(self.step(room))
        return self.done

    def look(self, words: np.ndarray, layout: Layouts) -> None:
        """Append the samples of a piece to the files of their processors."""
        of.find_samples(
            words, layout.rows, layout.ids, layout.owner, layout.id_at, layout.id_back, self.passed,
            self.last, self._place, self._raw, self._cpu, self._ts, *_NO_KINDS, self.notes, self.tally, False,
        )  # fmt: skip
        self._size_of.fill(0)
        found = int(self.tally[of.SAMPLES])
        of.add_sizes(words, self._raw[:found], self._cpu[:found], self._size_of)
        cursor = np.cumsum(self._size_of) - self._size_of
        begin = cursor.copy()
        some = slice(0, found)
        samples = self._place[some], self._raw[some], self._cpu[some], self._ts[some]
        of.copy_samples(words, layout.id_at, *samples, cursor, self._out)
        for number in np.flatnonzero(self._size_of).tolist():
            self._write(number, self._out[begin[number] : cursor[number]])

    def _write(self, cpu: int, words: np.ndarray) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._target / f"cpu{cpu}.perf", flags, 0o600)
        try:
            write_all(descriptor, words.view(np.uint8).data)
        finally:
            os.close(descriptor)
        self.done.cpus[cpu] = self.done.cpus.get(cpu, 0) + words.size * 4
