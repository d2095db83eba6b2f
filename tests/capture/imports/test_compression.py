"""Chunks of several processors are unpacked at the same time."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hindsight.capture.imports.compression import Compression
from hindsight.capture.imports.foreign import Foreign

CHUNK_BYTES = 256 << 10
THREADS = 4


@pytest.mark.parametrize("how", ["zstd", "zlib"])
def test_threads_share_a_compression(tmp_path: Path, how: str) -> None:
    (tmp_path / "empty").touch()
    random = np.random.default_rng(5)
    chunks = [random.integers(0, 16, CHUNK_BYTES, np.uint8).tobytes() for _ in range(THREADS)]
    if how == "zlib":
        packed = [zlib.compress(chunk) for chunk in chunks]
    else:
        packed = [pa.compress(chunk, codec="zstd", asbytes=True) for chunk in chunks]
    compression = Compression(how)
    with Foreign(tmp_path / "empty") as file, ThreadPoolExecutor(THREADS) as pool:

        def unpacked(number: int) -> list[bytes]:
            return [bytes(compression.unpack(file, packed[number], CHUNK_BYTES)) for _ in range(40)]

        for number, found in enumerate(pool.map(unpacked, range(THREADS))):
            assert found == [chunks[number]] * 40
