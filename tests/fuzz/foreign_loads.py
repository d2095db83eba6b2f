"""Small trace.dat and perf.data files, damaged: read, indexed and decoded in this process, nothing written.

The same as :mod:`foreign_files` without Parquet, on files of three kinds of events and a page of each
processor, so that a million of them is a matter of minutes. A sound file gives exactly the events of the slow
decoder; a damaged one an error of the program's own, or no more events than it has room for. What can be read
in one pass gives the same when it is indexed first.
"""

from __future__ import annotations

from pathlib import Path

from foreign_files import ForeignFiles
from target import Failed

from hindsight.capture.conversion.columns import Layout, Rows
from hindsight.capture.conversion.convert import Recording
from hindsight.capture.conversion.events import Trace
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.stream import Unsuited
from hindsight.capture.conversion.workers import NONE
from hindsight.capture.imports.facts import Keys
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.importing import recordings
from hindsight.capture.imports.pages import Wanted
from hindsight.errors import HindsightError

_DECODED = 8
"""Of one in so many files that are accepted, all columns are made."""


class ForeignLoads(ForeignFiles):
    """Cases are files of one family: ``trace.dat`` or ``perf.data``."""

    batch = 256
    seconds = 120.0
    pages = 1
    kinds = 3

    def __init__(self, name: str, cases: int) -> None:
        super().__init__(name, cases)
        self._wanted = Wanted(Keys.of(self.path))
        self._scratch = self.path / "scratch"
        self._scratch.mkdir()
        self._number = 0

    def _unpacked(self, name: str) -> Path:
        return self._scratch

    def check(self, seed: int, first: int, count: int) -> None:
        """One file for each case."""
        for case in range(first, first + count):
            data, sound = self.damaged(seed, case)
            self._number = case
            try:
                self._load(data, sound)
            except Exception as error:
                raise Failed(case, f"{type(error).__name__}: {error}", {"file": data}) from error

    def _load(self, data: bytes, sound: bool) -> None:
        path = self.path / "file"
        path.write_bytes(data)
        for left in self._scratch.iterdir():
            left.unlink()
        events = 0
        try:
            with Foreign(path) as file:
                for recording, _ in recordings(file, self._wanted, self._unpacked):
                    once = self._once(recording)
                    _, instances = recording.load(NONE, lambda count: None)
                    events += sum(map(self._decode, instances))
                    if once is not None:
                        assert once == sum(map(self._decode, instances)), "one pass gives others"
                        self.seen["once"] += 1
        except HindsightError as error:
            assert not sound, f"refused: {error}"
            self.seen["refused"] += 1
            return
        self.seen["loaded"] += 1
        self.seen["events"] += events
        if sound:
            assert events == self.rows, f"{events} events, not {self.rows}"
        # No event can come of less than a word of payload; a compressed page of zeros is small.
        assert events <= len(data) * 64, "more events than the file has room for"

    def _once(self, recording: Recording) -> int | None:
        """Events that come out of one pass; None if it has to be indexed first."""
        stream = None if recording.stream is None else recording.stream(lambda count: None)
        if stream is None:
            return None
        try:
            events = self._decode(stream)
        except Unsuited:
            return None
        assert events == sum(cpu.events for cpu in stream.counts()), "decoded and counted events differ"
        stream.facts()
        return events

    def _decode(self, trace: Trace) -> int:
        events = 0
        for slice_, _ in trace.slices():
            for kind in trace.kinds:
                rows = int(slice_.counts[kind.number]) if slice_.counts.size else 0
                if not rows:
                    continue
                events += rows
                if self._number % _DECODED == 0 and kind.table is not None:
                    table = slice_.table(kind)
                    layout = Layout(kind.format, kind.plan, Rows(kind.table.columns, rows, Scratch(), 0))
                    table.into(layout, slice(0, rows), 0)
                    ts = layout.rows.numbers["ts"]
                    assert (ts[1:] >= ts[:-1]).all(), "out of order"
        return events
