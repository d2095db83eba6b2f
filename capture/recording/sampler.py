"""What is sampled beside the trace, at intervals: each source in a thread of its own, none waits for another.

A source that fails, hangs or comes late costs its own samples alone, and that is a loss with its cause.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from hindsight.capture.recording.ledger import Loss
from hindsight.capture.segments.rowfiles import Rows
from hindsight.errors import HindsightError

_END_S = 1.0
"""How long the end of a recording waits for samples that are being taken."""
_HANGS_S = 2.0
"""A sample that takes longer is said not to come, before it does; a source that waits itself gives up in
half of that."""


class Sampled(NamedTuple):
    """One sample: the rows of each table, and what the source knows to be missing before it."""

    rows: Mapping[str, Rows]
    losses: Sequence[Loss] = ()


class Source(Protocol):
    """Something to be sampled every ``every_s`` seconds; ``table`` is where most of its rows go.

    Only its own thread calls it, but for :meth:`close`, which may come while a sample is being taken.
    """

    name: str
    table: str
    every_s: float

    def sample(self) -> Sampled:
        """Take a sample, with times of CLOCK_MONOTONIC. Raises HindsightError or OSError when it cannot."""

    def close(self) -> None:
        """Release everything."""


class Sampler:
    """Samples ``sources`` from :meth:`start` to :meth:`stop`.

    ``append`` takes rows by table (False: there is no segment, the recording pauses; OSError: no space).
    ``say`` tells the user when a source begins to fail and when it works again.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        append: Callable[[Mapping[str, Rows]], bool],
        say: Callable[[str], None],
    ) -> None:
        self._append = append
        self._say = say
        self._begin = threading.Event()
        self._end = threading.Event()
        self._found: deque[Loss] = deque()
        # A source's thread and whoever asks for losses both say what became of a sample.
        self._lock = threading.Lock()
        self._watches = [_Watch(source) for source in sources]
        for watch in self._watches:
            watch.thread = threading.Thread(
                target=self._run, args=(watch,), name=f"sample {watch.source.name}", daemon=True
            )
            watch.thread.start()

    def start(self) -> None:
        """Begin. (The threads exist already: they are to be left out of the trace.)"""
        now = time.monotonic_ns()
        for watch in self._watches:
            watch.last_ns = now
        self._begin.set()

    def losses(self) -> list[Loss]:
        """What was not sampled, since the last call. To be called at intervals: it looks for sources that
        hang, too.
        """
        until = time.monotonic_ns() - int(_HANGS_S * 1e9)
        for watch in self._watches:
            if 0 < watch.begun_ns < until:
                self._fail(watch, "it does not answer", watch.begun_ns)
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def stop(self) -> None:
        """End; a source that hangs is left behind, and what it misses is a loss."""
        self._end.set()
        self._begin.set()
        until = time.monotonic() + _END_S
        for watch in self._watches:
            watch.thread.join(max(until - time.monotonic(), 0))
        for watch in self._watches:
            with self._lock:
                if watch.thread.is_alive():
                    watch.fail("it hangs")
                self._settle(watch)
            watch.source.close()
        self._watches = []

    def _run(self, watch: _Watch) -> None:
        self._begin.wait()
        due = time.monotonic()
        while not self._end.is_set():
            self._take(watch)
            due += watch.source.every_s
            late = time.monotonic() - due
            if late > 0:
                # Samples that should have been taken meanwhile are not made up for.
                due += late // watch.source.every_s * watch.source.every_s
            self._end.wait(max(due - time.monotonic(), 0))
        self._take(watch)  # what came since the last one, and of a short recording all there is

    def _take(self, watch: _Watch) -> None:
        source = watch.source
        watch.begun_ns = time.monotonic_ns()
        try:
            sampled = source.sample()
            self._append(sampled.rows)
            self._found.extend(sampled.losses)
        except HindsightError as error:
            self._fail(watch, error.message)
            return
        except OSError as error:
            self._fail(watch, error.strerror or type(error).__name__)
            return
        except Exception as error:  # a source must not end the recording, whatever it did
            self._fail(watch, repr(error)[:200])
            return
        with self._lock:
            watch.begun_ns = 0
            now = time.monotonic_ns()
            again = watch.failing is not None
            if again:
                self._settle(watch)
            elif now - watch.last_ns > 2 * source.every_s * 1e9:
                self._lose(watch, watch.last_ns, now, "it is slow")
            watch.last_ns = now
        if again:
            self._say(f"{source.name} is sampled again")

    def _fail(self, watch: _Watch, why: str, begun_ns: int = 0) -> None:
        """A source fails; ``begun_ns``: if it is still at the sample that it began then."""
        with self._lock:
            if begun_ns and watch.begun_ns != begun_ns:
                return
            if not begun_ns:
                watch.begun_ns = 0
            if watch.failing == why:
                return
            self._settle(watch)
            watch.fail(why)
        if not self._end.is_set():
            self._say(f"{watch.source.name} cannot be sampled: {why}")

    def _settle(self, watch: _Watch) -> None:
        """The interval in which a source failed ends now."""
        if watch.failing is not None:
            now = time.monotonic_ns()
            self._lose(watch, watch.last_ns, now, watch.failing)
            watch.failing, watch.last_ns = None, now

    def _lose(self, watch: _Watch, since: int, until: int, why: str) -> None:
        cause = f"not sampled: {watch.source.name}: {why}"
        self._found.append(Loss(None, None, watch.source.table, since, until, 0, None, cause))


class _Watch:
    """A source, its thread, when it was last sampled, when the sample was begun that is being taken (0: none
    is), and why it fails (None: it does not).
    """

    thread: threading.Thread

    def __init__(self, source: Source) -> None:
        self.source = source
        self.last_ns = self.begun_ns = 0
        self.failing: str | None = None

    def fail(self, why: str) -> None:
        self.failing = why
