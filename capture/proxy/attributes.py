"""The kernel's own attributes in sysfs and procfs, read as they are: a proxy that the reader makes itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from hindsight.capture.proxy.errors import Gone, Malformed, Oversized
from hindsight.capture.proxy.records import DOCUMENT_BYTES, NAME, SCHEMA, Actuator, Dataset, Snapshot
from hindsight.capture.proxy.shapes import Text

__all__ = ["Attributes", "Making"]
_ALL_OF_IT = 2048
"""A file of records ends where less than this comes at once: the kernel's buffer is a page, at least, and no
record is so long (fs/seq_file.c)."""


class Attributes:
    """Attributes that are read again and again: each is opened once, and is made anew by the kernel when it
    is read from its beginning. One thread reads; :meth:`close` may come from another one.
    """

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}
        self._reading = threading.Lock()
        self._closed = False

    def read(self, path: str) -> bytes:
        """What an attribute says, at most 64 KiB. Raises OSError or Oversized."""
        with self._reading:
            try:
                return self._read(path)
            finally:
                if self._closed:
                    self._release()

    def _read(self, path: str) -> bytes:
        descriptor = self._descriptors.get(path)
        if descriptor is not None:
            try:
                return _whole(descriptor, path)
            except OSError:  # of what was removed; another may have come in its place
                os.close(self._descriptors.pop(path))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        descriptor = self._descriptors[path] = os.open(path, flags)
        return _whole(descriptor, path)

    def number(self, path: str) -> int | None:
        """The integer that an attribute holds; None: there is no such attribute, or the kernel gives none.

        Raises Malformed or Oversized.
        """
        try:
            text = self.read(path)
        except OSError:  # absent, or EINVAL, EOPNOTSUPP: this device has no such thing
            return None
        return _integer(path, text.strip())

    def numbers(self, path: str) -> list[int]:
        """The integers of one line. Raises OSError, Malformed or Oversized."""
        return [_integer(path, word) for word in self.read(path).split()]

    def table(self, path: str, names: Iterable[str]) -> dict[str, int]:
        """Those of some names that are there, in lines of a name and an integer as /proc/vmstat has them.

        Raises OSError, Malformed or Oversized.
        """
        words = self.read(path).decode("ascii", "replace").split()
        found = dict(zip(words[::2], words[1::2], strict=False))
        return {name: _integer(path, found[name].encode()) for name in names if name in found}

    def close(self) -> None:
        """Let go of the files; if one is being read, whoever reads it does."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._reading.release()

    def _release(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


def _whole(descriptor: int, path: str) -> bytes:
    data = os.pread(descriptor, DOCUMENT_BYTES + 1, 0)
    size = len(data)
    while size >= _ALL_OF_IT:
        piece = os.pread(descriptor, DOCUMENT_BYTES + 1 - len(data), len(data))
        size = len(piece)
        data += piece
        if len(data) > DOCUMENT_BYTES:
            raise Oversized(f"{path}: more than {DOCUMENT_BYTES} bytes", "This is no attribute.")
    return data


def _integer(path: str, text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > 19:
        raise Malformed(f"{path}: not the integers that the kernel documents", "Report this kernel.")
    return int(text)


class Making:
    """Makes the snapshots of a proxy that is no program of its own: numbers them, dates them.

    ``subject`` is the path of what the proxy is about: when it is gone, so is the proxy.
    """

    def __init__(self, name: str, subsystem: str, subject: str) -> None:
        self.name = name
        self.subsystem = subsystem
        self.subject = subject
        self._sequence = 0
        Text(NAME).check(name, "the name of the proxy")

    def make(
        self,
        state: Mapping[str, int],
        actuators: tuple[Actuator, ...] = (),
        lost: Mapping[str, int] | None = None,
    ) -> Snapshot:
        """The next snapshot; it was made now. Its mode is unknown: nobody takes recommendations here."""
        self._sequence += 1
        return Snapshot(
            SCHEMA, self.name, self.subsystem, boot_id(), self._sequence, time.monotonic_ns(), "unknown",
            Dataset("empty", "clean", 0, 0), state, actuators, lost or {},
        )  # fmt: skip

    def gone(self, error: OSError) -> Gone:
        """The error of a subject that is not there."""
        return Gone(f"{self.subject}: {error.strerror}", "It was removed, or this kernel does not have it.")


@cache
def boot_id() -> str:
    """Of the running kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
