"""The chunks of one processor in a compressed trace.dat, unpacked into arrays.

They begin with their number (u32); each has its compressed and its plain size (u32) before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.index import Advance, read_exactly
from hindsight.capture.imports import zstd
from hindsight.capture.imports.compression import MAX_CHUNK, Compression, check_sizes
from hindsight.capture.imports.foreign import Foreign

_WINDOW_BYTES = 256 << 10
"""Compressed bytes that are read at once."""
_MOST_LISTED = 1 << 12
_HEAD_BYTES = 8

BEGIN, PACKED, PLAIN = range(3)
"""Of a chunk: where it begins in the window, its compressed and its plain size, in bytes."""
NEXT, REST, STOP, FAILED, RESULT = range(5)
"""Of the state of unpacking: the chunk that comes next; what is left of the last one, in the spare room;
whether the last one is damaged, and what the library said then."""


@compiled
def list_chunks(window: Any, begin: Any, left: Any, listed: Any) -> Any:
    """List the chunks that are whole in ``window`` (u8) from ``begin`` on, ``left`` and the rows of
    ``listed`` (i64[n, 3]) at most; returns how many.
    """
    size = np.uint64(window.size)
    at = np.uint64(begin)
    count = np.uint64(0)
    most = min(np.uint64(left), np.uint64(listed.shape[0]))
    while count < most and at + np.uint64(_HEAD_BYTES) <= size:
        packed, plain = np.uint64(0), np.uint64(0)
        for j in range(4):
            shift = np.uint64(8 * j)
            packed |= np.uint64(window[at + np.uint64(j)]) << shift
            plain |= np.uint64(window[at + np.uint64(4 + j)]) << shift
        at += np.uint64(_HEAD_BYTES)
        if at + packed > size:
            break
        listed[count, BEGIN] = np.int64(at)
        listed[count, PACKED] = np.int64(packed)
        listed[count, PLAIN] = np.int64(plain)
        count += np.uint64(1)
        at += packed
    return np.int64(count)


@compiled
def unpack_chunks(
    context: Any, window: Any, listed: Any, count: Any, into: Any, filled: Any, spare: Any, state: Any
) -> Any:
    """Unpack the first ``count`` chunks of ``listed`` (zstd) into ``into`` (u8), from byte ``filled`` on,
    until it is full; one that does not fit there goes into ``spare`` (u8, as large as any of them), and on
    from there. Returns where that ended; ``state`` i64[5] goes on.
    """
    size, done = np.uint64(into.size), np.uint64(filled)
    window_at, into_at = np.uint64(window.ctypes.data), np.uint64(into.ctypes.data)
    number = np.uint64(state[NEXT])
    rest, stop = np.uint64(state[REST]), np.uint64(state[STOP])
    while True:
        some = min(stop - rest, size - done)
        for i in range(some):
            into[done + np.uint64(i)] = spare[rest + np.uint64(i)]
        rest += some
        done += some
        if done == size or number == np.uint64(count):
            break
        begin = window_at + np.uint64(listed[number, BEGIN])
        packed, plain = np.uint64(listed[number, PACKED]), np.uint64(listed[number, PLAIN])
        number += np.uint64(1)
        if plain == 0:
            continue
        if plain <= size - done:
            got = zstd.decompress(context, into_at + done, plain, begin, packed)
            done += plain
        else:
            got = zstd.decompress(context, np.uint64(spare.ctypes.data), plain, begin, packed)
            rest, stop = np.uint64(0), plain
        if got != plain:
            state[FAILED], state[RESULT] = 1, np.int64(got)
            break
    state[NEXT] = np.int64(number)
    state[REST], state[STOP] = np.int64(rest), np.int64(stop)
    return done


class Chunks:
    """What chunks hold, one after the other, as arrays of any size are filled with it.

    ``advance`` is told of the bytes of each in the file. Raises VerificationError when they are not what they
    say.
    """

    def __init__(
        self, file: Foreign, compression: Compression, offset: int, size: int, advance: Advance
    ) -> None:
        self._file, self._compression, self._advance = file, compression, advance
        self._end = min(offset + 4 + size, file.size)
        self._at = offset + 4
        self._left = int.from_bytes(file.read(offset, 4, "the number of chunks"), "little")
        if self._left > (self._end - self._at) // _HEAD_BYTES:
            raise file.damaged(f"{self._left} chunks in {self._end - self._at} bytes")
        self._room = np.empty(0, np.uint8)
        self._window, self._used = self._room, 0
        self._listed, self._count = np.empty((_MOST_LISTED, 3), np.int64), 0
        self._spare = np.empty(0, np.uint8)
        self._state = np.zeros(5, np.int64)
        self._context = zstd.Context() if compression.name == "zstd" else None

    def __call__(self, into: np.ndarray) -> int:
        """Fill an array of u8; how many bytes: fewer than it has at the end alone."""
        done = 0
        while True:
            begun = int(self._state[NEXT])
            done = self._unpack(into, done)
            self._advance(int(self._listed[begun : int(self._state[NEXT]), PACKED].sum()))
            if done == into.size or not self._more():
                return done

    def _unpack(self, into: np.ndarray, done: int) -> int:
        """Unpack what is listed; returns up to where it fills ``into``."""
        state = self._state
        if self._context is not None:
            where = self._context.address, self._window, self._listed, self._count
            done = int(unpack_chunks(*where, into, done, self._spare, state))
            if state[FAILED]:
                result = int(state[RESULT]) & ((1 << 64) - 1)
                why = zstd.reason(result) or f"it has {result} bytes"
                raise self._file.damaged(f"a chunk cannot be unpacked: {why}")
            return done
        while True:
            rest, stop = int(state[REST]), int(state[STOP])
            some = min(stop - rest, into.size - done)
            into[done : done + some] = self._spare[rest : rest + some]
            done += some
            state[REST] += some
            if done == into.size or state[NEXT] == self._count:
                return done
            begin, packed, plain = self._listed[state[NEXT]].tolist()
            data = self._window[begin : begin + packed].data
            self._spare = np.frombuffer(self._compression.unpack(self._file, data, plain), np.uint8)
            state[NEXT] += 1
            state[REST], state[STOP] = 0, plain

    def _more(self) -> bool:
        """List the next chunks; False at the end."""
        if not self._left:
            return False
        if not self._list():
            self._read()
            if not self._list():
                raise self._file.damaged("its last chunk is cut off")
        self._left -= self._count
        self._state[NEXT] = 0
        return True

    def _list(self) -> int:
        self._count = int(list_chunks(self._window, self._used, self._left, self._listed))
        if self._count:
            some = self._listed[: self._count]
            self._used = int(some[-1, BEGIN] + some[-1, PACKED])
            check_sizes(self._file, some[:, PACKED], some[:, PLAIN])
            if self._context is not None and self._spare.size < some[:, PLAIN].max():
                self._spare = np.empty(some[:, PLAIN].max(), np.uint8)
        return self._count

    def _read(self) -> None:
        """Read on from where the next chunk begins: all of it at least, if the file has it."""
        self._at, self._used = self._at + self._used, 0
        want = _WINDOW_BYTES
        if self._end - self._at >= _HEAD_BYTES:
            packed = int.from_bytes(self._file.read(self._at, 4, "a chunk"), "little")
            want = max(want, _HEAD_BYTES + packed)
        if want > MAX_CHUNK:
            raise self._file.damaged(f"a chunk of {want} bytes")
        want = min(want, self._end - self._at)
        if self._room.size < want:
            self._room = np.empty(want, np.uint8)
        self._window = self._room[:want]
        read_exactly(self._file.descriptor, self._window, self._at, self._file.path)
