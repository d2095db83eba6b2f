"""Which open file each read and each decision belongs to: a tracer whose events BPF programs make."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hindsight.capture import devices
from hindsight.capture.bpf import records
from hindsight.capture.bpf.open_files import OpenFiles
from hindsight.capture.bpf.ring import Output, RingMemory
from hindsight.capture.perf.rings import RECORD_BYTES, RingFiles
from hindsight.errors import UsageError


class OpenFilesTracer(RingFiles[Output]):
    """The records of the BPF programs (:mod:`hindsight.capture.bpf.records`), as a group of events.

    ``wanted`` limits them to files on these devices. What
    :class:`hindsight.capture.recording.tracer.Tracer` says holds; processors that come online later are not
    recorded. Raises what :class:`OpenFiles` raises, and UsageError for ``overwrite``.
    """

    source = "bpf"

    def __init__(
        self,
        name: str,
        buffer_kb: int,
        events: Sequence[str],
        wanted: Iterable[devices.Device] = (),
        overwrite: bool = False,
    ) -> None:
        if overwrite:
            raise UsageError(
                "the ring buffers of --open-files cannot be overwritten in flight mode",
                "Leave out --flight or --open-files.",
            )
        super().__init__()
        self.name = name
        self.events = list(events)
        self._wanted = list(wanted)
        self._followed: list[int] | None = None
        self._began = False
        self._memory = RingMemory(buffer_kb, max(self._cpus) + 1)
        self.buffer_kb = self._memory.bytes >> 10
        try:
            self._files = OpenFiles(self._wanted, self._memory)
        except BaseException:
            self._memory.close()
            raise
        self.missing = [] if self._files.decisions else [e for e in self.events if e == records.DECISIONS]
        self.events = [event for event in self.events if event not in self.missing]

    def open(self, directory: Path) -> None:
        """See :class:`Tracer`."""
        self._directory = directory
        self._groups = {cpu: Output(self._memory, cpu) for cpu in self._cpus}
        self._begin(directory)

    def follow(self, pids: Iterable[int]) -> None:
        """See :class:`Tracer`."""
        self._followed = list(pids)
        self._files.follow(self._followed)

    def followed(self) -> list[int] | None:
        """The threads that :meth:`follow` was told; None when all are recorded."""
        return self._followed

    def ignore(self, threads: Iterable[int]) -> None:
        """See :class:`Tracer`."""
        self._files.ignore(threads)

    def ignore_files(self, files: Sequence[tuple[int, int]]) -> None:
        """Nothing: these are records of threads, and the recorder's are left out."""

    @property
    def descriptors(self) -> list[int]:
        """None: they are drained on a timer, and when others are half full."""
        return []

    def on(self) -> None:
        """See :class:`Tracer`. Once it is on, the files that are open already are described."""
        self._on = True
        self._files.state.recording = 1
        if not self._began:
            self._began = True
            with contextlib.suppress(OSError):  # without it they are described when they are read
                self._files.find()

    def off(self) -> None:
        """See :class:`Tracer`."""
        self._files.state.recording = 0
        self._pass_everywhere()
        self._on = False

    def rotate(self, directory: Path) -> None:
        """See :class:`Tracer`. Open files are described again in the new segment, when they are used."""
        super().rotate(directory)
        self._files.state.epoch += 1

    def formats(self) -> dict[str, str]:
        """See :class:`Tracer`; without what describes ftrace's sub-buffers."""
        return {event: text for event, text in records.formats().items() if event in self.events}

    def shed(self, events: Iterable[str]) -> None:
        """See :class:`Tracer`."""
        for event in events:
            self._files.state.shed |= 1 << records.number(event)

    def restore(self, events: Iterable[str]) -> None:
        """See :class:`Tracer`."""
        for event in events:
            self._files.state.shed &= ~(1 << records.number(event))

    def facts(self) -> dict[str, Any]:
        """See :class:`Tracer`."""
        wanted = " || ".join(f"{major}:{minor}" for major, minor in sorted(self._wanted))
        return {
            "source": self.source,
            "path": "",
            "events": self.events,
            "filters": dict.fromkeys(self.events, f"s_dev == {wanted}") if wanted else {},
            "buffer_kb": self.buffer_kb,
            "overwrite": False,
            "subbuffer_bytes": RECORD_BYTES,
        }

    def close(self) -> None:
        """See :class:`Tracer`."""
        self._files.close()
        super().close()
        self._memory.close()
