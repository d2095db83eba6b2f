"""Walk the records of a perf.data, a piece at a time: find the samples of tracepoints, note what was lost."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hindsight.capture.conversion.index import read_exactly
from hindsight.capture.imports import reframe as of
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.perf_data import PerfData, compressed, take_record
from hindsight.capture.imports.perf_sample import Layouts, layouts

SMALLEST = 32
"""No sample with time, processor and a record is smaller, in bytes."""
_AUXTRACE, _COMPRESSED, _COMPRESSED2 = 71, 81, 83
_MOST_NOTES = 1 << 16
"""More losses of one recording are joined."""
_CUT_OFF = "the last record is incomplete"


@dataclass
class Framed:
    """What became of the records: processors with samples, losses (kind, cpu, from, to, count), damage."""

    cpus: dict[int, int] = field(default_factory=dict)
    notes: list[tuple[int, ...]] = field(default_factory=list)
    bad: int = 0
    cut: str = ""


class SampleReader:
    """Walks the records; who inherits from it says in :meth:`look` what becomes of the samples.

    ``passed``, ``last``, ``notes``, ``tally``: see :func:`hindsight.capture.imports.reframe.find_samples`.
    """

    def __init__(self, file: Foreign, data: PerfData, piece_bytes: int) -> None:
        self.file = file
        self.data = data
        self.done = Framed()
        self.at, self.end = data.begin, min(data.end, file.size)
        self.piece_bytes = min(piece_bytes, max(self.end - self.at, 0) // 8 * 8 + 8)
        """The most bytes that are looked at at once."""
        self.ended = self.at >= self.end
        self.last = np.full(of.MAX_CPU, -1, np.int64)
        self.passed = np.zeros(256, np.bool_)
        self.passed[list(of.PASSED)] = True
        self.notes = np.empty((self.piece_bytes // SMALLEST // 2 + 1, 5), np.int64)
        self.tally = np.zeros(7, np.int64)
        self._layouts: Layouts | None = None
        self._known = -1

    def look(self, words: np.ndarray, layout: Layouts) -> None:
        """Find the samples of a piece (u32), from its beginning on, and keep them."""
        raise NotImplementedError

    def step(self, room: np.ndarray) -> int:
        """Read the next piece into ``room`` (u8[piece_bytes]) and take it in; how many bytes that were.

        ``ended`` says whether it was the last. Raises VerificationError when records of perf itself are
        damaged, or the file cannot be read.
        """
        piece = room[: min(room.size, self.end - self.at) // 4 * 4]
        used, why = 0, of.END
        if piece.size:
            read_exactly(self.file.descriptor, piece, self.at, self.file.path)
            used, why = self._piece(piece.view("<u4"))
        self.at += used
        if why == of.DAMAGED:
            self.done.cut = "records are damaged"
        elif why == of.STOPPED:
            self.at = self._own(self.at, self.end)
            if self.at < 0:
                self.done.cut = _CUT_OFF
        elif why == of.END and used == 0:
            self.done.cut = _CUT_OFF
        self.ended = self.at >= self.end or bool(self.done.cut)
        return used

    def _layout(self) -> Layouts | None:
        """Of the samples, once it is known."""
        if self._known != len(self.data.attributes):
            self._known = len(self.data.attributes)
            if any(attribute.traced for attribute in self.data.attributes):
                self._layouts = layouts(self.file, self.data.attributes)
        return self._layouts

    def _piece(self, words: np.ndarray) -> tuple[int, int]:
        """Take in what begins a piece; returns the bytes that were used, and why it stopped there."""
        layout = self._layout()
        if layout is None:
            return self._before_events(words)
        self.tally.fill(0)
        self.look(words, layout)
        used, _, bad, noted, why = self.tally[: of.WHY + 1].tolist()
        self.done.bad += bad
        if noted:
            self._note(self.notes[:noted])
        return used * 4, why

    def _before_events(self, words: np.ndarray) -> tuple[int, int]:
        """A stream begins with records of perf itself: nothing can be a sample before its event is known."""
        if words.size < 2:
            return 0, of.END
        kind, size = int(words[0]), int(words[1]) >> 16
        if size < 8:
            return 0, of.DAMAGED
        if kind < of.FIRST_OWN:
            if kind == of.SAMPLE:
                self.done.bad += 1
            return (size, of.ODD) if size <= words.size * 4 else (0, of.END)
        return 0, of.STOPPED

    def _note(self, notes: np.ndarray) -> None:
        for note in notes.tolist():
            if len(self.done.notes) < _MOST_NOTES:
                self.done.notes.append(tuple(note))
                continue
            kind, cpu, begin, end, count = self.done.notes[-1]
            both = count + note[4] if count >= 0 and note[4] >= 0 else -1
            self.done.notes[-1] = (kind, cpu if cpu == note[1] else -1, begin, max(end, note[3]), both)

    def _own(self, at: int, end: int) -> int:
        """Take in a record of perf itself; returns where the next one is, -1 when it is cut off."""
        head = self.file.read(at, 8, "a record") if at + 8 <= end else b""
        kind, size = int.from_bytes(head[:4], "little"), int.from_bytes(head[6:8], "little")
        if at + max(size, 8) > end or size < 8:
            return -1
        if kind in (_COMPRESSED, _COMPRESSED2):
            raise compressed(self.file)
        after = 0
        if kind == _AUXTRACE and size >= 16:
            after = int.from_bytes(self.file.read(at + 8, 8, "a record"), "little")
        elif self.data.pipe:
            after = take_record(self.file, self.data, kind, at, size)
        at += size + after
        return at if at <= end else -1
