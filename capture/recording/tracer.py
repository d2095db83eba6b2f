"""What a source of events offers to a recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Stats = Mapping[str, Mapping[int, Mapping[str, int]]]
"""Group of events, CPU, counter of the kernel: its value."""


class Tracer(Protocol):
    """The ring buffers of one group of events, and the files that they are moved to.

    A tracer is made switched off; :meth:`open`, then :meth:`follow` or :meth:`ignore`, then :meth:`on`. Only
    the thread that drains calls it. ``events`` are recorded, ``missing`` are those that this kernel lacks,
    both as ``system/event``; ``buffer_kb`` is the size of a ring buffer in KiB per CPU.
    """

    name: str
    source: str
    events: list[str]
    missing: list[str]
    buffer_kb: int

    @property
    def descriptors(self) -> list[int]:
        """To be waited for: readable when a ring buffer is about half full."""

    def open(self, directory: Path) -> None:
        """Open the ring buffers, and files for them in ``directory``; enable the events, stay off."""

    def follow(self, pids: Iterable[int]) -> None:
        """Record only these threads and those that they will create."""

    def followed(self) -> list[int] | None:
        """The threads that are recorded now; None when all are."""

    def ignore(self, threads: Iterable[int]) -> None:
        """Never record these threads."""

    def ignore_files(self, files: Sequence[tuple[int, int]]) -> None:
        """Never record page-cache events of these files, given as st_dev and inode; replaces earlier ones."""

    def on(self) -> None:
        """Begin, or go on."""

    def off(self) -> None:
        """Stop; what the ring buffers hold stays there."""

    def drain(self) -> int:
        """Move what fills whole sub-buffers to the files; returns bytes moved.

        Bounded: at most about what the ring buffers held when it was called. Raises OSError when a file
        cannot be written; nothing is lost by that, the next call goes on where this one failed.
        """

    def finish(self) -> int:
        """Move everything that was there when it was called, partly filled sub-buffers as well.

        On or off; raises what :meth:`drain` raises. Returns bytes moved.
        """

    def flush(self) -> None:
        """Write what a call that failed had taken from a ring buffer already; raises OSError if it cannot."""

    def rotate(self, directory: Path) -> None:
        """From now on write to new files in ``directory``; the old ones are closed.

        What :meth:`drain` took from the ring buffers before goes to the old ones.
        """

    def stats(self) -> dict[int, dict[str, int]]:
        """Counters of the kernel by CPU, since the tracer was made.

        ``read events`` (those that drain and finish took), ``dropped events`` (a full ring buffer),
        ``overrun`` and ``commit overrun`` (overwritten), ``entries`` and ``bytes`` (still there).
        """

    def formats(self) -> dict[str, str]:
        """The kernel's own descriptions: of each event, ``header_page`` and ``header_event``, by name."""

    def shed(self, events: Iterable[str]) -> None:
        """Stop recording these events."""

    def restore(self, events: Iterable[str]) -> None:
        """Record these events again."""

    def recent(self, count: int) -> list[bytes]:
        """Up to ``count`` of the latest sub-buffers that were written to the current files, oldest first."""

    def facts(self) -> dict[str, Any]:
        """What was configured, for the segment: source, path, events, filters, buffer_kb, overwrite,
        subbuffer_bytes."""

    def close(self) -> None:
        """Release everything, on whatever path; nothing stays enabled or allocated in the kernel."""
