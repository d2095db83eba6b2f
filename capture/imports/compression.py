"""Compressed chunks of trace.dat: zstd and zlib. Nothing is unpacked beyond the size that is said before
it."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hindsight.capture.imports.foreign import Foreign
from hindsight.errors import VerificationError

MAX_CHUNK = 64 << 20
"""The largest chunk that is unpacked; trace-cmd's have some hundred KiB."""
_MAX_RATIO = 1 << 15
"""No compressor of the two saves more: what claims to is a trap."""
Unpack = Callable[[bytes | memoryview, int], bytes]
_WINDOW_BYTES = 1 << 20
"""Compressed bytes that are read at once."""


class Compression:
    """One of ``none``, ``zstd``, ``zlib``. Raises VerificationError for others."""

    def __init__(self, name: str) -> None:
        if name not in ("none", "zstd", "zlib"):
            raise VerificationError(
                f"trace.dat is compressed with {name[:20]!r}",
                "Convert it: trace-cmd convert --compression none -i FILE -o NEW.",
            )
        self.name = name
        by_name: dict[str, Unpack] = {"none": _refuse, "zlib": _zlib, "zstd": _Zstd()}
        self._unpack = by_name[name]

    def unpack(self, file: Foreign, data: bytes | memoryview, size: int) -> Any:
        """``data``, unpacked: exactly ``size`` bytes, as something with their buffer protocol."""
        if size > MAX_CHUNK or size > len(data) * _MAX_RATIO:
            raise file.damaged(f"a chunk of {size} bytes, compressed to {len(data)}")
        try:
            found = self._unpack(data, size)
        except (zlib.error, OSError, ValueError) as error:
            raise file.damaged(f"a chunk cannot be unpacked: {error}") from None
        if len(found) != size:
            raise file.damaged(f"a chunk of {len(found)} bytes, not {size}")
        return found

    def chunks(self, file: Foreign, offset: int, size: int, advance: Callable[[int], None]) -> Iterator[Any]:
        """The chunks of one processor, unpacked; ``advance`` is told of the bytes of each in the file.

        They begin with their number (u32), which is not part of ``size``; each has its compressed and its
        plain size (u32) before it.
        """
        end = min(offset + 4 + size, file.size)
        (count,) = struct.unpack("<I", file.read(offset, 4, "the number of chunks"))
        at = offset + 4
        if count > (end - at) // 8:
            raise file.damaged(f"{count} chunks in {end - at} bytes")
        window, low = memoryview(b""), at
        for _ in range(count):
            sizes = _whole(window, at - low)
            if sizes is None:
                window, low = _window(file, at, end), at
                sizes = _whole(window, 0)
                if sizes is None:
                    raise file.damaged("its last chunk is cut off")
            packed, plain = sizes
            begin = at - low + 8
            yield self.unpack(file, window[begin : begin + packed], plain)
            at += 8 + packed
            advance(packed)


def _refuse(data: bytes | memoryview, size: int) -> bytes:
    raise ValueError("the file says that nothing is compressed")


def _zlib(data: bytes | memoryview, size: int) -> bytes:
    return zlib.decompressobj().decompress(data, size + 1)


class _Zstd:
    """One context for all chunks, as to make one costs as much as to unpack a small chunk; but one for each
    thread, as two that use the same at once get each other's bytes.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def __call__(self, data: bytes | memoryview, size: int) -> bytes:
        if not size:
            return b""
        try:
            context, size_of, failed = self._of_thread.zstd
        except AttributeError:
            context, size_of, failed = self._of_thread.zstd = _zstd()
        try:
            # What the frame says of itself is what would be allocated.
            if size_of(data) not in (-1, size):
                raise ValueError("its frame has another size")
            found: bytes = context.decompress(data, max_output_size=size)
            return found
        except failed as error:
            raise ValueError(str(error)) from None


def _zstd() -> tuple[Any, Any, Any]:
    import zstandard

    return zstandard.ZstdDecompressor(), zstandard.frame_content_size, zstandard.ZstdError


_SIZES = struct.Struct("<II")


def _whole(window: memoryview, at: int) -> tuple[int, int] | None:
    """The compressed and the plain size of the chunk at a place; None if not all of it is there."""
    if at + 8 > len(window):
        return None
    packed, plain = _SIZES.unpack_from(window, at)
    return (packed, plain) if at + 8 + packed <= len(window) else None


def _window(file: Foreign, at: int, end: int) -> memoryview:
    """What is read at once, from a chunk on: all of that chunk at least, if the file has it."""
    want = _WINDOW_BYTES
    if end - at >= 8:
        want = max(want, 8 + int.from_bytes(file.read(at, 4, "a chunk"), "little"))
    if want > MAX_CHUNK:
        raise file.damaged(f"a chunk of {want} bytes")
    return memoryview(file.read(at, min(want, end - at), "chunks"))


class Filling:
    """What chunks hold, one after the other, as arrays of any size are filled with it."""

    def __init__(self, chunks: Iterator[Any]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def __call__(self, into: np.ndarray) -> int:
        """Fill an array of u8; how many bytes: fewer than it has at the end alone."""
        room, done, size = into.data, 0, into.size
        rest: Any = self._rest
        while (end := done + len(rest)) < size:
            room[done:end] = rest
            done = end
            rest = next(self._chunks, None)
            if rest is None:
                self._rest = memoryview(b"")
                return done
        rest = memoryview(rest)
        room[done:] = rest[: size - done]
        self._rest = rest[size - done :]
        return size


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
