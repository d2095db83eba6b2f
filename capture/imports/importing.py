"""Import files that other tools recorded: each becomes one or more captures of a dataset."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from hindsight.capture.conversion.convert import (
    Converted,
    Job,
    Recording,
    available_processors,
    convert_recording,
)
from hindsight.capture.conversion.progress import Progress
from hindsight.capture.conversion.slices import SLICE_BYTES
from hindsight.capture.conversion.staging import Staging, sweep, unwritable
from hindsight.capture.imports import pages, samples
from hindsight.capture.imports.facts import Keys, Origin
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.pages import Wanted
from hindsight.capture.imports.perf_data import is_perf_data
from hindsight.capture.imports.tracing_data import MAGIC
from hindsight.errors import VerificationError


def import_files(
    files: Sequence[Path],
    out: Path,
    *,
    comm: bool = False,
    force: bool = False,
    jobs: int | None = None,
    date: str = "",
    label: str = "",
    slice_bytes: int = SLICE_BYTES,
    progress: Progress | None = None,
    done: Callable[[Converted, Origin], object] = lambda result, origin: None,
) -> list[Converted]:
    """Import trace.dat and perf.data files into the dataset ``out``; one result per ring buffer.

    Names of programs become keyed hashes unless ``comm``. What ``out`` already holds is left alone unless
    ``force``. ``date``: YYYY-MM-DD, of files that do not tell it. ``done`` is called after each capture.

    Raises ConfigurationError for a file that cannot be read or an unwritable ``out``, VerificationError for
    one that is damaged, big-endian or of an unknown version, BusyError when another process imports it.
    """
    job = Job(Path(out), comm, force, jobs or available_processors(), slice_bytes)
    bar = progress or Progress(wanted=False)
    results = []
    try:
        wanted = Wanted(Keys.of(job.out), date, label)
        for path in files:
            with Foreign(Path(path)) as file, ExitStack() as stack:
                for recording, origin in recordings(file, wanted, Scratch(job.out, stack)):
                    try:
                        result = convert_recording(recording, job, bar)
                    finally:
                        bar.clear()
                    results.append(result)
                    done(result, origin)
        sweep(job.out)
    except OSError as error:
        raise unwritable(error) from error
    return results


class Scratch:
    """Makes directories below ``out`` for what has to be unpacked; they are removed with ``stack``."""

    def __init__(self, out: Path, stack: ExitStack) -> None:
        self._out = out
        self._stack = stack
        self._places: dict[str, Path] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str) -> Path:
        """The directory of that name. Raises BusyError when another process has it."""
        with self._lock:
            if name not in self._places:
                self._places[name] = self._stack.enter_context(Staging(self._out, f"{name}-raw")).path
            return self._places[name]


def recordings(
    file: Foreign, wanted: Wanted, scratch: Callable[[str], Path]
) -> list[tuple[Recording, Origin]]:
    """What a file holds, by what it begins with; ``scratch`` makes directories for what has to be unpacked.

    Raises VerificationError when it is of neither tool, or damaged.
    """
    start = file.read(0, min(16, file.size), "the beginning")
    if start.startswith(MAGIC):
        return pages.recordings(file, wanted, scratch)
    if is_perf_data(start):
        return samples.recordings(file, wanted, scratch)
    raise VerificationError(
        f"{file.path} is neither trace.dat nor perf.data",
        "Name a file that trace-cmd record, or perf record, has written.",
    )
