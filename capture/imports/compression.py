"""Compressed chunks of trace.dat: zstd and zlib. Nothing is unpacked beyond the size that is said before
it."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.capture.imports.foreign import Foreign
from hindsight.errors import VerificationError

MAX_CHUNK = 64 << 20
"""The largest chunk that is unpacked; trace-cmd's have some hundred KiB."""
_MAX_RATIO = 1 << 15
"""No compressor of the two saves more: what claims to is a trap."""
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
        self._of_thread = threading.local()

    def unpack(self, file: Foreign, data: bytes | memoryview, size: int) -> Any:
        """``data``, unpacked: exactly ``size`` bytes, as something with their buffer protocol."""
        if size > MAX_CHUNK or size > len(data) * _MAX_RATIO:
            raise file.damaged(f"a chunk of {size} bytes, compressed to {len(data)}")
        found: Any = b""
        try:
            if self.name == "zlib":
                found = zlib.decompressobj().decompress(data, size + 1)
            elif self.name == "zstd":
                found = self._zstd(data, size)
            else:
                raise file.damaged("a compressed chunk, though nothing is compressed")
        except (zlib.error, OSError, ValueError) as error:
            raise file.damaged(f"a chunk cannot be unpacked: {error}") from None
        if len(found) != size:
            raise file.damaged(f"a chunk of {len(found)} bytes, not {size}")
        return found

    def _zstd(self, data: bytes | memoryview, size: int) -> Any:
        import zstandard

        if not size:
            return b""
        context = getattr(self._of_thread, "context", None)
        if context is None:
            # One for all chunks, as to make one costs as much as to unpack a small chunk; but one for each
            # thread, as two that use the same at once get each other's bytes.
            context = self._of_thread.context = zstandard.ZstdDecompressor()
        try:
            # What the frame says of itself is what would be allocated.
            if zstandard.frame_content_size(data) not in (-1, size):
                raise ValueError("its frame has another size")
            return context.decompress(data, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None

    def pieces(
        self,
        file: Foreign,
        offset: int,
        size: int,
        piece_bytes: int,
        target: Path,
        advance: Callable[[int], None],
    ) -> Iterator[np.ndarray]:
        """Unpack the chunks of one processor into the file ``target``; yields its content (u8) as it grows.

        All pieces but the last have ``piece_bytes``; each is valid until the next. The chunks begin with
        their
        number (u32), which is not part of ``size``; each has its compressed and its plain size (u32) before
        it.
        """
        buffer = np.empty(piece_bytes, np.uint8)
        filled = 0
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for packed, plain in self._chunks(file, offset, min(offset + 4 + size, file.size)):
                data = np.frombuffer(self.unpack(file, packed, plain), np.uint8)
                done = 0
                while done < data.size:
                    count = min(data.size - done, piece_bytes - filled)
                    buffer[filled : filled + count] = data[done : done + count]
                    done, filled = done + count, filled + count
                    if filled == piece_bytes:
                        write_all(out, buffer.data)
                        yield buffer
                        filled = 0
                advance(len(packed))
            if filled:
                write_all(out, buffer[:filled].data)
                yield buffer[:filled]
        finally:
            os.close(out)

    def _chunks(self, file: Foreign, begin: int, end: int) -> Iterator[tuple[memoryview, int]]:
        (count,) = struct.unpack("<I", file.read(begin, 4, "the number of chunks"))
        at = begin + 4
        if count > (end - at) // 8:
            raise file.damaged(f"{count} chunks in {end - at} bytes")
        window, low = memoryview(b""), at
        for _ in range(count):
            head = at - low
            if head + 8 > len(window) or head + 8 + _packed(window, head) > len(window):
                low, head = at, 0
                want = _WINDOW_BYTES
                if end - at >= 8:
                    want = max(want, 8 + _packed(memoryview(file.read(at, 4, "a chunk")), 0))
                if want > MAX_CHUNK:
                    raise file.damaged(f"a chunk of {want} bytes")
                window = memoryview(file.read(at, min(want, end - at), "chunks"))
            if len(window) < 8 or head + 8 + _packed(window, head) > len(window):
                raise file.damaged("its last chunk is cut off")
            packed, plain = struct.unpack_from("<II", window, head)
            yield window[head + 8 : head + 8 + packed], plain
            at += 8 + packed


def _packed(window: memoryview, at: int) -> int:
    return int.from_bytes(window[at : at + 4], "little")


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
