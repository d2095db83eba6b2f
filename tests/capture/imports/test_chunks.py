"""Compressed chunks of any sizes, filled into arrays of any sizes, against those who compressed them."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.capture.imports import chunks as chunks_of
from hindsight.capture.imports.chunks import Chunks
from hindsight.capture.imports.compression import Compression
from hindsight.capture.imports.foreign import Foreign
from hindsight.errors import VerificationError

BEFORE = b"before"
HOW = ["zstd", "zlib"]


def packed(data: bytes, how: str) -> bytes:
    return zlib.compress(data) if how == "zlib" else bytes(pa.compress(data, codec="zstd", asbytes=True))


def written(path: Path, parts: list[bytes], how: str) -> tuple[int, int]:
    """A file with chunks; their size in it, and what of that is compressed."""
    small = [packed(part, how) for part in parts]
    body = b"".join(struct.pack("<II", len(s), len(p)) + s for s, p in zip(small, parts, strict=True))
    path.write_bytes(BEFORE + struct.pack("<I", len(parts)) + body + b"after")
    return len(body), sum(map(len, small))


def filled(chunks: Chunks, sizes: list[int]) -> bytes:
    """All of it, by arrays of these sizes, in turns."""
    found = []
    for size in cycle(sizes):
        into = np.full(size, 0xAA, np.uint8)
        got = chunks(into)
        assert (into[got:] == 0xAA).all(), "beyond what was filled"
        found.append(into[:got].tobytes())
        if got < size:
            return b"".join(found)
    raise AssertionError


def parts_of(sizes: list[int], seed: int) -> list[bytes]:
    random = np.random.default_rng(seed)
    # Runs, which are compressed by much, and noise, which is not at all.
    return [
        random.integers(0, 256, size, np.uint8).tobytes() if seed % 2 else bytes([size % 251]) * size
        for size in sizes
    ]


@pytest.mark.parametrize("how", HOW)
@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 700), max_size=12),
    arrays=st.lists(st.integers(1, 900), min_size=1, max_size=4),
    seed=st.integers(0, 9),
    window=st.integers(16, 2000),
    listed=st.integers(1, 5),
)
def test_any_sizes(
    tmp_path_factory: pytest.TempPathFactory,
    how: str,
    sizes: list[int],
    arrays: list[int],
    seed: int,
    window: int,
    listed: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"chunks-{how}"
    parts = parts_of(sizes, seed)
    size, small = written(path, parts, how)
    told: list[int] = []
    with (
        patch.object(chunks_of, "_WINDOW_BYTES", window),
        patch.object(chunks_of, "_MOST_LISTED", listed),
        Foreign(path) as file,
    ):
        chunks = Chunks(file, Compression(how), len(BEFORE), size, told.append)
        assert filled(chunks, arrays) == b"".join(parts)
        assert chunks(np.empty(1, np.uint8)) == 0
    assert sum(told) == small


@pytest.mark.parametrize("how", HOW)
@settings(max_examples=300, deadline=None)
@given(place=st.integers(0), change=st.integers(1, 255), cut=st.integers(0, 40))
def test_damage(
    tmp_path_factory: pytest.TempPathFactory, how: str, place: int, change: int, cut: int
) -> None:
    """It is found, or the library cannot tell; there is never more than was said, nothing else is raised."""
    path = tmp_path_factory.getbasetemp() / f"chunks-{how}"
    parts = parts_of([300, 0, 500, 40], 2)
    size, _ = written(path, parts, how)
    data = bytearray(path.read_bytes())
    data[len(BEFORE) + place % (size + 4)] ^= change
    path.write_bytes(data[: len(data) - cut])
    with Foreign(path) as file:
        try:
            chunks = Chunks(file, Compression(how), len(BEFORE), size, lambda count: None)
            found = filled(chunks, [97])
        except VerificationError as error:
            assert "damaged or cut off" in str(error)
        else:
            # Noise in what is compressed, or fewer chunks.
            assert len(found) in {sum(map(len, parts[:n])) for n in range(5)}


@pytest.mark.parametrize(
    ("parts", "plain", "message"),
    [
        (b"x" * 64, 64 << 20 | 1, "a chunk of 67108865 bytes, compressed to"),
        (b"x" * 64, 63, "a chunk cannot be unpacked: Destination buffer is too small"),
        (b"x" * 64, 65, "a chunk cannot be unpacked: it has 64 bytes"),
    ],
)
def test_sizes_that_lie(tmp_path: Path, parts: bytes, plain: int, message: str) -> None:
    path = tmp_path / "file"
    size, _ = written(path, [parts], "zstd")
    data = bytearray(path.read_bytes())
    data[len(BEFORE) + 8 : len(BEFORE) + 12] = struct.pack("<I", plain)
    path.write_bytes(data)
    with Foreign(path) as file:
        chunks = Chunks(file, Compression("zstd"), len(BEFORE), size, lambda count: None)
        with pytest.raises(VerificationError, match=message):
            chunks(np.empty(1000, np.uint8))


def test_more_chunks_than_there_are(tmp_path: Path) -> None:
    path = tmp_path / "file"
    size, _ = written(path, [b"some", b"more"], "zstd")
    data = bytearray(path.read_bytes())
    for count, message in ((3, "its last chunk is cut off"), (1 << 31, "2147483648 chunks in")):
        data[len(BEFORE) : len(BEFORE) + 4] = struct.pack("<I", count)
        path.write_bytes(data)
        with Foreign(path) as file, pytest.raises(VerificationError, match=message):
            Chunks(file, Compression("zstd"), len(BEFORE), size, lambda n: None)(np.empty(100, np.uint8))


@pytest.mark.parametrize("how", HOW)
def test_on_threads(tmp_path: Path, how: str) -> None:
    """Those of several processors are unpacked at the same time."""
    threads = 4
    random = np.random.default_rng(5)
    parts = [[random.integers(0, 16, 256 << 10, np.uint8).tobytes()] * 40 for _ in range(threads)]
    sizes = [written(tmp_path / str(number), some, how)[0] for number, some in enumerate(parts)]
    compression = Compression(how)

    def unpacked(number: int) -> bytes:
        with Foreign(tmp_path / str(number)) as file:
            chunks = Chunks(file, compression, len(BEFORE), sizes[number], lambda count: None)
            return filled(chunks, [100_000])

    with ThreadPoolExecutor(threads) as pool:
        for number, found in enumerate(pool.map(unpacked, range(threads))):
            assert found == b"".join(parts[number])
