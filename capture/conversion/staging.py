"""Files that become visible all at once: written under ``OUT/.converting-<segment>``, then renamed.

The directory is locked (flock) while it is in use. What a process left that was killed is removed by the next
that converts the same segment; :func:`sweep` removes it for any segment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from hindsight.capture.conversion.workers import Workers
from hindsight.errors import ConfigurationError, HindsightError

PREFIX = ".converting-"


class BusyError(HindsightError):
    """Another process is converting the same segment."""


class Staging:
    """A locked, empty directory for the files of one segment; a context manager that removes it."""

    def __init__(self, out: Path, segment: str) -> None:
        self.path = out / f"{PREFIX}{segment}"
        self._descriptor = -1

    def __enter__(self) -> Staging:
        try:
            while self._descriptor < 0:
                self.path.mkdir(parents=True, exist_ok=True)
                self._descriptor = _lock(self.path)
            for entry in self.path.iterdir():
                entry.unlink()
        except BaseException:
            if self._descriptor >= 0:
                self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)

    def publish(
        self,
        files: Iterable[tuple[Path, Path]],
        commit: tuple[Path, Path],
        stale: Iterable[Path],
        workers: Workers,
    ) -> None:  # fmt: skip
        """Make all files durable, then give them their names: ``commit`` (from, to) last of all.

        As long as ``commit`` has not its name, a reader takes none of them for complete. ``stale`` files of
        an earlier conversion are removed.
        """
        pairs = list(files)
        workers.each(_fsync, [source for source, _ in (*pairs, commit)])
        commit[1].unlink(missing_ok=True)
        for path in stale:
            path.unlink(missing_ok=True)
        for source, target in pairs:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
        commit[1].parent.mkdir(parents=True, exist_ok=True)
        workers.each(_fsync, sorted({target.parent for _, target in pairs}))
        os.rename(*commit)
        workers.each(_fsync, [commit[1].parent])


def sweep(out: Path) -> None:
    """Remove what killed processes left in ``out``; what cannot be removed is left."""
    with contextlib.suppress(OSError):
        for path in out.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError, BusyError):
                descriptor = _lock(path)
                if descriptor >= 0:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(descriptor)


def _lock(path: Path) -> int:
    """Lock a directory; returns the descriptor, -1 when it was removed meanwhile. Raises BusyError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return descriptor
    except BlockingIOError:
        os.close(descriptor)
        raise BusyError(
            f"{path.name.removeprefix(PREFIX)} is being converted by another process",
            "Wait for it, or choose another -o OUT.",
        ) from None
    except FileNotFoundError:
        pass
    os.close(descriptor)
    return -1


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(error: OSError) -> ConfigurationError:
    """The error for a dataset that cannot be written."""
    return ConfigurationError(
        f"tables cannot be written: {error}", "Choose another -o OUT, or make room there, and convert again."
    )
