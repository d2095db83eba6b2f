"""What is compressed in a trace.dat: by zstd or zlib. Nothing is unpacked beyond the size that is said before
it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable

import numpy as np

from hindsight.capture.imports.foreign import Foreign
from hindsight.errors import VerificationError

MAX_CHUNK = 64 << 20
"""The largest chunk that is unpacked; trace-cmd's have some hundred KiB."""
_MAX_RATIO = 1 << 15
"""No compressor of the two saves more: what claims to is a trap."""
Unpack = Callable[[bytes | memoryview, int], bytes]


class Compression:
    """One of ``none``, ``zstd``, ``zlib``. Raises VerificationError for others."""

    def __init__(self, name: str) -> None:
        if name not in ("none", "zstd", "zlib"):
            raise VerificationError(
                f"trace.dat is compressed with {name[:20]!r}",
                "Convert it: trace-cmd convert --compression none -i FILE -o NEW.",
            )
        self.name = name
        by_name: dict[str, Unpack] = {"none": _refuse, "zlib": _zlib, "zstd": _zstd}
        self._unpack = by_name[name]

    def unpack(self, file: Foreign, data: bytes | memoryview, size: int) -> bytes:
        """``data``, unpacked: exactly ``size`` bytes."""
        check_sizes(file, np.array([len(data)]), np.array([size]))
        try:
            found = self._unpack(data, size)
        except (zlib.error, ValueError) as error:
            raise file.damaged(f"a chunk cannot be unpacked: {error}") from None
        if len(found) != size:
            raise file.damaged(f"a chunk of {len(found)} bytes, not {size}")
        return found


def check_sizes(file: Foreign, packed: np.ndarray, plain: np.ndarray) -> None:
    """Raises VerificationError when one of some chunks, of so many bytes each (i64), would be too large."""
    for number in np.flatnonzero((plain > MAX_CHUNK) | (plain > packed * _MAX_RATIO)).tolist():
        raise file.damaged(f"a chunk of {plain[number]} bytes, compressed to {packed[number]}")


def _refuse(data: bytes | memoryview, size: int) -> bytes:
    raise ValueError("the file says that nothing is compressed")


def _zlib(data: bytes | memoryview, size: int) -> bytes:
    return zlib.decompressobj().decompress(data, size + 1)


def _zstd(data: bytes | memoryview, size: int) -> bytes:
    import zstandard

    if not size:
        return b""
    try:
        # What the frame says of itself is what would be allocated.
        if zstandard.frame_content_size(data) not in (-1, size):
            raise ValueError("its frame has another size")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
