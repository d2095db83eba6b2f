"""Reading a file that anybody may have written: every size is held against what is there, before it is
used."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

from hindsight.capture.segments.segment import open_regular
from hindsight.errors import ConfigurationError, VerificationError

MAX_META = 64 << 20
"""The most bytes of descriptions (formats, options, strings) that are read of a file."""
_SAMPLES = 64
_SAMPLE_BYTES = 4096


class Foreign:
    """A file open for reading; a context manager. ``size`` is what it has, at opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = open_regular(path)
        except FileNotFoundError:
            raise ConfigurationError(f"{path} does not exist") from None
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be read: {error.strerror}",
                "Name a regular file; write what comes through a pipe to a file first.",
            ) from None
        self.size = os.fstat(self.descriptor).st_size

    def __enter__(self) -> Foreign:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def damaged(self, what: str) -> VerificationError:
        """The error for a file that is not what it says."""
        return VerificationError(
            f"{self.path} is damaged or cut off: {what}", "Copy it again, or let its own tool repair it."
        )

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Exactly ``size`` bytes at ``offset``. Raises VerificationError when they are not there."""
        if not 0 <= size <= MAX_META or offset < 0 or offset + size > self.size:
            raise self.damaged(f"{what} of {size} bytes at {offset}, of a file of {self.size}")
        pieces = []
        while size:
            try:
                piece = os.pread(self.descriptor, size, offset)
            except OSError as error:
                raise VerificationError(f"{self.path} cannot be read: {error.strerror}") from error
            if not piece:
                raise self.damaged("it became shorter while it was read")
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return b"".join(pieces)

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that tell this file from others: of its size and a sample of its bytes.

        The beginning, the end and 64 places between them are looked at: reading all of it would cost as much
        as decoding it.
        """
        digest = hashlib.sha256(struct.pack("<Q", self.size))
        last = max(self.size - _SAMPLE_BYTES, 0)
        places = {last * n // _SAMPLES for n in range(_SAMPLES + 1)}
        for place in sorted(places):
            digest.update(self.read(place, min(_SAMPLE_BYTES, self.size - place), "a sample"))
        return digest.hexdigest()[:12]


class Cursor:
    """Takes numbers and texts, one after the other, out of bytes. Raises what ``source.damaged`` makes."""

    def __init__(self, source: Foreign, data: bytes, what: str) -> None:
        self.source = source
        self.data = data
        self.at = 0
        self._what = what

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if not 0 <= size <= self.left:
            raise self.source.damaged(f"{self._what}: {size} bytes at {self.at} of {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def skip(self, size: int) -> None:
        """Leave out the next bytes."""
        if not 0 <= size <= self.left:
            raise self.source.damaged(f"{self._what}: {size} bytes at {self.at} of {len(self.data)}")
        self.at += size

    def number(self, size: int) -> int:
        """The next bytes as an unsigned number, little-endian."""
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        """The next bytes up to a NUL."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.source.damaged(f"{self._what}: a text without an end")
        found = self.take(end - self.at)
        self.at += 1
        return as_text(found)


class FileCursor(Cursor):
    """A :class:`Cursor` over a file, which is not read as a whole."""

    def __init__(self, source: Foreign, offset: int, end: int, what: str) -> None:
        super().__init__(source, b"", what)
        self.at = offset
        self._end = min(end, source.size)
        self._read = 0

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return self._end - self.at

    def take(self, size: int) -> bytes:
        """The next bytes."""
        self.skip(size)
        self._read += size
        if self._read > MAX_META:
            raise self.source.damaged(f"{self._what} of more than {MAX_META >> 20} MiB")
        return self.source.read(self.at - size, size, self._what)

    def skip(self, size: int) -> None:
        """Leave out the next bytes."""
        if not 0 <= size <= self.left:
            raise self.source.damaged(f"{self._what} of {size} bytes at {self.at}, of a file of {self._end}")
        self.at += size

    def text(self) -> str:
        """The next bytes up to a NUL; a text has at most 4096."""
        piece = self.source.read(self.at, min(4096, max(self.left, 0)), self._what)
        end = piece.find(b"\0")
        if end < 0:
            raise self.source.damaged(f"{self._what}: a text without an end")
        self.take(end + 1)
        return as_text(piece[:end])


def as_text(data: bytes) -> str:
    """What a kernel or a tool wrote as text; it is ASCII but for names."""
    return data.decode("utf-8", "replace")
