"""The beginning of a recording: what takes time in the kernel is begun before anything else is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from hindsight.capture.bpf.records import EVENTS as OPEN_FILE_EVENTS
from hindsight.capture.ftrace import probes, tracefs
from hindsight.capture.options import FTRACE, PERF, RecordOptions
from hindsight.capture.profiles import FILES, profile
from hindsight.capture.recording.child import StoppedCommand, choose_identity
from hindsight.capture.recording.tracers import Tracers
from hindsight.errors import ConfigurationError, UsageError


class Launch:
    """The traced command, stopped, and the ring buffers, which the kernel allocates meanwhile.

    ``command`` is None for the whole host. Raises what the function ``record`` says of
    privileges, profiles, users and directories. Everything is released when it is left.
    """

    def __init__(self, options: RecordOptions, say: Callable[[str], None]) -> None:
        self.options = options
        self.say = say
        self.command: StoppedCommand | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Launch:
        with self._stack:
            self._launch()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _launch(self) -> None:
        options = self.options
        wanted = profile(options.profile)
        if wanted.ftrace_only and options.source == PERF:
            raise UsageError(
                f"perf misses events of the profile {wanted.name}",
                "They fire in idle processors or for another thread than runs: record with --source ftrace.",
            )
        identity, sentence = choose_identity(options.user) if options.command else (None, "")
        root = tracefs.locate() if options.source == FTRACE else None
        self._make_directory()
        self._tidy(root)
        if options.command:
            self.command = StoppedCommand(options.command, identity)  # before there are threads
            self._stack.callback(self.command.close)
        if sentence:
            self.say(sentence)
        if options.open_files:
            wanted = wanted._replace(events={**wanted.events, FILES: OPEN_FILE_EVENTS})
        self.tracers = Tracers(root, options, wanted)
        self._stack.callback(self.tracers.close)

    def _make_directory(self) -> None:
        out = self.options.out
        try:
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"recordings cannot be written to {out}: {error.strerror}", "Choose another -o DIR."
            ) from error

    def _tidy(self, root: Path | None) -> None:
        """Put in order what dead recorders left, if there is anything: that takes time."""
        left = any(path.name.startswith(".recording-") for path in self.options.out.iterdir())
        if left or (root is not None and (tracefs.abandoned(root) or probes.abandoned(root))):
            from hindsight.capture.segments.tidy import tidy

            tidy(self.say, [self.options.out])
