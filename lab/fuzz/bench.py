"""Where plans are run: a device for each file system, made when it is first needed, or a given directory."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import types
from pathlib import Path

from hindsight.errors import ConfigurationError
from hindsight.lab.device import (
    IMAGES,
    PROFILES,
    LabDevice,
    remount_cold,
    set_read_ahead,
    throttled_device,
)
from hindsight.lab.fuzz.plan import FILES, Plan
from hindsight.lab.programs import path_of

IMAGE_BYTES = 400 << 20
"""Room for the files, for what a plan writes, and for the smallest xfs."""


class Place:
    """A directory with the files of the plans, on a device that can be set and made cold."""

    def __init__(self, directory: Path, device: LabDevice | None) -> None:
        self.directory = directory
        self.device = device

    def number(self) -> tuple[int, int]:
        """(major, minor) of the file system, as the kernel's events carry it."""
        found = os.stat(self.directory).st_dev
        return os.major(found), os.minor(found)

    def prepare(self, plan: Plan) -> None:
        """Files as they are at the beginning of a plan, nothing of them cached but what it wants warm."""
        for path in self.directory.glob("copy-*"):
            path.unlink()
        for name, size in FILES.items():
            path = self.directory / name
            if not path.exists() or path.stat().st_size != size or name == "scratch":
                # Written, not sparse: holes and unwritten extents are read without I/O.
                path.write_bytes(random.Random(name).randbytes(size))
        subprocess.run([path_of("sync") or "sync", "-f", str(self.directory)], check=True)
        if self.device is not None:
            remount_cold(self.device)
            set_read_ahead(self.device, plan.read_ahead_kb)
        else:
            self._set_read_ahead(plan.read_ahead_kb)
        for name in FILES:
            with _opened(self.directory / name) as fd:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for name, offset, size in plan.warm:
            with _opened(self.directory / name) as fd:
                os.pread(fd, size, offset)

    def _set_read_ahead(self, kilobytes: int) -> None:
        major, minor = self.number()
        path = Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb")
        try:
            path.write_text(str(kilobytes))
        except OSError as error:
            raise ConfigurationError(
                f"cannot set read_ahead_kb of the file system of {self.directory}: {error.strerror}",
                "Name a directory on a disk, or none: then a loop device is made.",
            ) from error


@contextlib.contextmanager
def _opened(path: Path):  # type: ignore[no-untyped-def]
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


class Bench(contextlib.AbstractContextManager["Bench"]):
    """The places, for the length of a ``with`` block; what was made is removed at its end."""

    def __init__(self, directory: Path | None = None, images: Path = IMAGES) -> None:
        self.directory = directory
        self.images = images
        self._places: dict[str, Place] = {}
        self._made = contextlib.ExitStack()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._made.close()

    def place(self, filesystem: str) -> Place:
        """The place of that file system; the directory, where one was given.

        Raises NotPermittedError (not root, no loop devices), ConfigurationError (no mkfs for it, no space).
        """
        if filesystem not in self._places:
            self._places[filesystem] = self._make(filesystem)
        return self._places[filesystem]

    def _make(self, filesystem: str) -> Place:
        if self.directory is not None:
            before = self._read_ahead_of(self.directory)
            home = self.directory / "hindsight-fuzz"
            home.mkdir(exist_ok=True)
            self._made.callback(self._tidy, home, before)
            return Place(home, None)
        # The device is throttled only for members of its group, and nobody joins it.
        name = f"fuzz-{os.getpid()}-{filesystem}"
        device = self._made.enter_context(
            throttled_device(name, PROFILES["P2"], IMAGE_BYTES, self.images, filesystem)
        )
        return Place(device.mount_point, device)

    @staticmethod
    def _read_ahead_of(directory: Path) -> tuple[Path, str]:
        found = os.stat(directory).st_dev
        path = Path(f"/sys/class/bdi/{os.major(found)}:{os.minor(found)}/read_ahead_kb")
        if not path.exists():
            raise ConfigurationError(
                f"the file system of {directory} has no read_ahead_kb",
                "Name a directory on a disk, or none: then a loop device is made.",
            )
        return path, path.read_text().strip()

    @staticmethod
    def _tidy(home: Path, before: tuple[Path, str]) -> None:
        before[0].write_text(before[1])
        for path in home.iterdir():
            path.unlink()
        home.rmdir()
