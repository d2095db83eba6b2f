"""The segments of a running recording: the one being written, the next one, those being sealed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hindsight.capture import host
from hindsight.capture.recording.ledger import Ledger, Loss
from hindsight.capture.recording.tracer import Stats
from hindsight.capture.segments.opening import Description, Usage, in_chunks, stats_as_json
from hindsight.capture.segments.rowfiles import Rows
from hindsight.capture.segments.sealer import Sealer, thread_ids
from hindsight.capture.segments.unsealed import RESERVE, OpenSegment

_WAITING = 3
"""No segment is closed for rotation while so many wait to be sealed: the disk is behind."""


class Segments:
    """Opens, cuts and seals the segments of one recording.

    ``subjects`` returns the processes that are recorded, None = all of the host. ``sealed`` is called in the
    main thread with the path of each segment when it has been sealed.
    """

    def __init__(
        self,
        description: Description,
        sealer: Sealer,
        ledger: Ledger,
        subjects: Callable[[], list[int] | None],
        sealed: Callable[[Path], None],
    ) -> None:
        self._description = description
        self._sealer = sealer
        self._ledger = ledger
        self._subjects = subjects
        self._on_sealed = sealed
        self._number = 0
        self._carried: list[dict[str, Any]] = []
        self._usage = Usage(0)
        self._before: Stats = {}
        self._syncing = False
        self._dirty = True
        self._noted: Stats = {}
        self._preparing = False
        self._looking = False
        self._threads: set[int] = set()
        self._sealing: list[Callable[[], Path]] = []
        self._unsealed: list[Callable[[], Path]] = []
        self.current: OpenSegment | None = None
        self.next: OpenSegment | None = None
        self.sealed: list[Path] = []
        self.devices: list[Any] | None = None
        self.opened_ns = 0

    @property
    def raw_bytes(self) -> int:
        """Raw trace in the current segment."""
        return self._usage.raw_bytes

    @property
    def behind(self) -> bool:
        """Whether so many segments wait to be sealed that no more should be closed."""
        return self._sealer.pending >= _WAITING

    def wrote(self, count: int) -> None:
        """So many bytes went into the current segment."""
        self._usage.raw_bytes += count
        self._dirty = self._dirty or count > 0

    def _build(
        self, anchor: host.ClockAnchor, stats: Stats, tables: dict[str, list[Any]], prepared: bool = False
    ) -> OpenSegment:
        description = self._description
        opening = description.opening(
            self._number,
            anchor,
            stats,
            self._carried,
            thread_ids(),
            {"devices": description.devices, **tables},
        )
        opening["prepared"] = prepared
        name = f"{description.capture}-{self._number:04d}"
        return OpenSegment(description.options.out, name, opening, description.formats)

    def open(self, stats: Stats, tables: dict[str, list[Any]]) -> OpenSegment:
        """Open a segment while nothing is recorded. Raises OSError when there is no space."""
        anchor = host.clock_anchor()
        usage = Usage(anchor.ts)
        self.current = self._build(anchor, stats, tables)
        self._usage, self._before, self.opened_ns = usage, stats, anchor.ts
        self._number += 1
        return self.current

    def prepare(self, stats: Stats) -> None:
        """Have the next segment made, by the sealer; :attr:`next` is set when it is there."""
        if self._preparing or self.next is not None:
            return
        self._preparing = True
        anchor = host.clock_anchor()
        self._sealer.do("prepare", lambda: self._build(anchor, stats, {}, prepared=True))

    def discard_next(self) -> None:
        """The next segment is not needed after all."""
        if self.next is not None:
            self.next.discard()
            self.next = None

    def give_up_reserve(self) -> None:
        """Free the space that the current segment reserves, for what has to be written now."""
        if self.current is not None:
            (self.current.path / RESERVE).unlink(missing_ok=True)

    def look(self, stats: Stats, now_ns: int, losses: list[Loss]) -> None:
        """Note the kernel's counters, and losses, in the journal of the current segment."""
        if self.current is None:
            return
        self.note_losses(losses)
        if self._noted != stats:  # of a host that rests the journal does not grow
            self.current.note({"kind": "look", "ts": now_ns, "stats": stats_as_json(stats)})
            self._noted = stats
            self._dirty = True

    def note_losses(self, losses: list[Loss]) -> None:
        """Note losses in the journal."""
        for loss in losses:
            if self.current is not None:
                self.current.note({"kind": "loss", "row": loss.row()})
                self._dirty = True

    def append(self, sample: Mapping[str, Rows]) -> bool:
        """Append a sample, rows by table, to the current segment, from any thread; False: there is none.

        Raises OSError (ENOSPC, …).
        """
        while (segment := self.current) is not None:
            if segment.append(sample):
                self._dirty = True
                return True
            if segment is self.current:  # it is closed, and none follows
                return False
        return False

    def note_anchor(self) -> None:
        """Read the clocks into the journal."""
        if self.current is not None:
            self.current.note({"kind": "anchor", "row": asdict(host.clock_anchor())})

    def tasks(self, pids: Iterable[int], known: Collection[int] = ()) -> list[dict[str, object]]:
        """Rows of the table ``tasks`` for these processes, but for ``known`` threads."""
        return list(self._description.tasks(pids, known))

    def look_at_new_threads(self) -> None:
        """Have the sealer note the threads that were created since it last looked."""
        segment = self.current
        if segment is None or self._looking:
            return
        self._looking = True

        def job() -> None:
            pids = self._subjects()
            subjects = host.processes() if pids is None else pids
            alive = {pid: host.threads(pid) for pid in subjects}
            fresh = [pid for pid, threads in alive.items() if not self._threads.issuperset(threads)]
            for entry in in_chunks("tasks", self.tasks(fresh, self._threads)):
                segment.note(entry)
            # Numbers are used again: who is gone is not known any more.
            self._threads = {thread for threads in alive.values() for thread in threads}

        self._sealer.do("threads", job)

    def look_at_host(self) -> None:
        """Have threads and open files looked at, by the sealer, into the current segment."""
        segment = self.current
        if segment is None:
            return

        def job() -> None:
            pids = self._subjects()
            subjects = host.processes() if pids is None else pids
            tasks = self.tasks(subjects)
            self._threads = {int(str(row["pid"])) for row in tasks}
            for table, rows in (("tasks", tasks), ("descriptors", host.descriptors(subjects))):
                for entry in in_chunks(table, rows):
                    segment.note(entry)

        self._sealer.do("look", job)

    def sync(self) -> None:
        """Have what was written since the last time made durable."""
        if self.current is not None and not self._syncing and self._dirty:
            self._syncing = True
            self._dirty = False
            self._sealer.do("sync", self.current.sync)

    def cut(self, closed: str, stats: Stats, uncertain: list[Loss]) -> OpenSegment:
        """The current segment ends, :attr:`next` begins; what was drained up to now is in the former."""
        assert self.next is not None
        following, self.next = self.next, None
        anchor, seal = self._close(closed, stats, uncertain)
        self._usage, self._before, self.opened_ns = Usage(anchor.ts), stats, anchor.ts
        self._number += 1
        self.current = following
        following.note(
            {
                "kind": "opened",
                "ts": anchor.ts,
                "captures": self._description.capture_row(anchor, stats),
                "anchor": asdict(anchor),
                "stats_before": stats_as_json(stats),
                "losses": self._carried,
                "threads": thread_ids(),
            }
        )
        self.look_at_host()  # before the hashing, which takes its time
        self._seal(seal)
        return following

    def close(self, closed: str, stats: Stats) -> None:
        """The current segment ends; nothing is recorded after it."""
        self.discard_next()
        _, seal = self._close(closed, stats, [])
        self._seal(seal)
        self.current = None

    def _close(
        self, closed: str, stats: Stats, uncertain: list[Loss]
    ) -> tuple[host.ClockAnchor, Callable[[], Path]]:
        segment = self.current
        assert segment is not None
        anchor = host.clock_anchor()
        losses, self._carried = self._ledger.cut(anchor.ts, uncertain)
        closing: dict[str, Any] = {
            "closed": closed,
            "end_ns": anchor.ts,
            "stats_after": stats_as_json(stats),
            "losses": losses,
            "tables": {"clock_anchors": [asdict(anchor)]},
            "recorder": self._usage.row(anchor.ts),
            "threads": thread_ids(),
        }
        if self.devices is not None:
            closing["tables"]["devices"] = self.devices

        def job() -> Path:
            if self._subjects() is None:
                closing["tables"]["tasks"] = self.tasks(host.processes())
            path = segment.seal(closing)
            if closed == "rotation":
                _drop_from_cache(path)
            return path

        return anchor, job

    def collect(self) -> None:
        """Take what the sealer has done. Raises the first error of a job, once all were taken.

        A segment that could not be sealed is kept, and :meth:`retry` tries again.
        """
        failed: list[BaseException] = []
        for outcome in self._sealer.outcomes():
            if outcome.kind == "prepare":
                self._preparing = False
                self.next = outcome.value
            elif outcome.kind == "sync":
                self._syncing = False
            elif outcome.kind == "threads":
                self._looking = False
            elif outcome.kind == "seal":
                job, path = outcome.value if outcome.error is None else (self._sealing[0], None)
                self._sealing.remove(job)
                if path is None:
                    self._unsealed.append(job)
                else:
                    self.sealed.append(path)
                    self._on_sealed(path)
            if outcome.error is not None and outcome.kind not in ("look", "threads"):
                # (A look fails when its segment is sealed already, or with the space that others miss too.)
                failed.append(outcome.error)
        if failed:
            raise failed[0]

    def retry(self) -> None:
        """Have those sealed that could not be."""
        again, self._unsealed = self._unsealed, []
        for job in again:
            self._seal(job)

    @property
    def busy(self) -> bool:
        """Whether the sealer has something to do."""
        return self._sealer.pending > 0

    def _seal(self, job: Callable[[], Path]) -> None:
        self._sealing.append(job)
        self._sealer.do("seal", lambda: (job, job()))

    def abandon(self, keep: bool) -> None:
        """Nothing more is sealed: the current segment stays on disk for recovery, or is removed."""
        self.discard_next()
        if self.current is not None:
            (self.current.abandon if keep else self.current.discard)()
        self.current = None


def _drop_from_cache(path: Path) -> None:
    """Let the page cache forget what was written and then read once more to be hashed.

    Nobody needs it soon, and pages that were used twice would push out those of the host's own work.
    """
    for file in path.glob("raw/*/*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
