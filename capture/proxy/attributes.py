"""The kernel's own attributes in sysfs and procfs, read as they are: a proxy that the reader makes itself."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from hindsight.capture.proxy.errors import Gone, Malformed, Oversized
from hindsight.capture.proxy.records import DOCUMENT_BYTES, NAME, SCHEMA, Actuator, Dataset, Snapshot
from hindsight.capture.proxy.shapes import Text

__all__ = ["Making", "number", "numbers", "read", "table"]


def read(path: str) -> bytes:
    """What an attribute says, at most 64 KiB. Raises OSError or Oversized."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        data = b""
        while piece := os.read(descriptor, DOCUMENT_BYTES + 1 - len(data)):
            data += piece
            if len(data) > DOCUMENT_BYTES:
                raise Oversized(f"{path}: more than {DOCUMENT_BYTES} bytes", "This is no attribute.")
        return data
    finally:
        os.close(descriptor)


def _integer(path: str, text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > 19:
        raise Malformed(f"{path}: not the integers that the kernel documents", "Report this kernel.")
    return int(text)


def number(path: str) -> int | None:
    """The integer that an attribute holds; None: there is no such attribute, or the kernel gives none.

    Raises Malformed or Oversized.
    """
    try:
        text = read(path)
    except OSError:  # absent, or EINVAL, EOPNOTSUPP: this device has no such thing
        return None
    return _integer(path, text.strip())


def numbers(path: str) -> list[int]:
    """The integers of one line. Raises OSError, Malformed or Oversized."""
    return [_integer(path, word) for word in read(path).split()]


def table(path: str) -> dict[str, int]:
    """Lines of a name and an integer, as /proc/vmstat has them. Raises OSError, Malformed or Oversized."""
    found = {}
    for line in read(path).splitlines():
        name, _, value = line.partition(b" ")
        found[name.decode("ascii", "replace")] = _integer(path, value)
    return found


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


def boot_id() -> str:
    """Of the running kernel."""
    return read("/proc/sys/kernel/random/boot_id").decode().strip()
