"""Ways to damage bytes, text and JSON, each driven by the randomness that it is given."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 15, 16, 28, 29, 30, 31, 127, 128, 255, 256, 4079, 4080, 4081, 4095, 4096, 65535,
    65536, (1 << 20) - 1, 1 << 20, (1 << 27) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
    (1 << 59) - 1, 1 << 59, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**18, 10**30,
)  # fmt: skip


def flip(rng: random.Random, data: bytearray) -> None:
    """Flip one to eight bits."""
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray) -> None:
    """Overwrite a range with zeros, ones, or noise."""
    size = min(rng.choice((1, 2, 4, 8, 16, 64, 300)), len(data))
    at = rng.randrange(len(data) - size + 1)
    how = rng.randrange(3)
    data[at : at + size] = b"\0" * size if how == 0 else b"\xff" * size if how == 1 else rng.randbytes(size)


def number(rng: random.Random, data: bytearray) -> None:
    """Overwrite an aligned word with a number at which something may change."""
    size = rng.choice((2, 4, 8))
    if len(data) < size:
        return
    at = rng.randrange(len(data) // size) * size
    value = rng.choice(NUMBERS) & (1 << 8 * size) - 1
    data[at : at + size] = value.to_bytes(size, "little")


def move(rng: random.Random, data: bytearray) -> None:
    """Copy one range over another, or exchange them."""
    size = min(rng.choice((4, 8, 40, 200)), len(data))
    a, b = (rng.randrange((len(data) - size) // 4 + 1) * 4 for _ in range(2))
    first, second = bytes(data[a : a + size]), bytes(data[b : b + size])
    data[b : b + size] = first
    if rng.randrange(2):
        data[a : a + size] = second


BYTES: tuple[Callable[[random.Random, bytearray], None], ...] = (flip, overwrite, number, move)


def cut(rng: random.Random, data: bytearray) -> None:
    """Cut the end off, or a piece out of the middle, or double a piece: the length changes."""
    at = rng.randrange(len(data) + 1)
    to = min(at + rng.choice((1, 2, 8, 100, 1 << 20)), len(data))
    piece = data[at:to]
    if rng.randrange(2):
        del data[at:to]
    else:
        data[to:to] = piece * rng.randint(1, 3)


def text(rng: random.Random, original: str, words: Sequence[str]) -> str:
    """Damage text: characters, numbers, lines, pieces; ``words`` are what its grammar is made of."""
    result = original
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        how = rng.randrange(8)
        at = rng.randrange(len(result) + 1)
        if how == 0:
            result = (
                result[:at]
                + chr(rng.choice((0, 9, 10, 32, 59, 91, 93, 127, 0x663, 0x2028, 0x10FFFF)))
                + result[at:]
            )
        elif how == 1:
            result = result[:at] + result[min(at + rng.choice((1, 2, 10, 200)), len(result)) :]
        elif how == 2:
            result = result[:at] + rng.choice(words) + result[at:]
        elif how == 3:  # another number, anywhere where one stands
            digits = [i for i, c in enumerate(result) if c.isdecimal()]
            if digits:
                begin = end = rng.choice(digits)
                while begin and result[begin - 1].isdecimal():
                    begin -= 1
                while end < len(result) and result[end].isdecimal():
                    end += 1
                value = str(rng.choice(NUMBERS)) if rng.randrange(20) else "9" * rng.choice((400, 5000))
                result = result[:begin] + rng.choice(("", "", "", "-", "0x")) + value + result[end:]
        elif how in (4, 5):
            lines = result.split("\n")
            a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
            if how == 4:
                lines[a], lines[b] = lines[b], lines[a]
            else:
                lines.insert(a, lines[b])
            result = "\n".join(lines)
        elif how == 6:
            word = rng.choice(words)
            result = result.replace(word, rng.choice(words), rng.choice((1, -1))) if word else result
        elif rng.randrange(50) == 0:
            piece = result[at : at + rng.randint(1, 40)]
            result = result[:at] + piece * rng.choice((100, 3000)) + result[at:]
        else:
            result = result[:at]
    return result


SCALARS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 4096, 1 << 16, 1 << 31, 1 << 32, -(1 << 63), 1 << 63, 1 << 64, 10**30,
    0.5, 1e308, float("inf"), float("nan"), "", "0", "-1", "x", "../x", "/etc/passwd", "\0", "\ud800",
    "a" * 300, [], {},
    [[]], [{}], {"": None},
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) inside a JSON value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        at = waiting.pop()
        if isinstance(at, dict):
            found += [(at, key) for key in at]
            waiting += at.values()
        elif isinstance(at, list):
            found += [(at, index) for index in range(len(at))]
            waiting += at
    return found


def structure(rng: random.Random, value: Any) -> None:
    """Damage a JSON value in place: replace, remove, exchange, double, rename, nest."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        found = places(value)
        if not found:
            return
        container, key = rng.choice(found)
        how = rng.randrange(8)
        if how <= 2:
            container[key] = copy.deepcopy(rng.choice(SCALARS))
        elif how == 3:
            del container[key]
        elif how == 4:
            other, there = rng.choice(found)
            if not _inside(container[key], other) and not _inside(other[there], container):
                container[key], other[there] = other[there], container[key]
        elif how == 5 and isinstance(container, list):
            container += container[key : key + 1] * rng.randint(1, 3)
        elif how == 5:
            container[str(rng.choice(("", key, "x", "0", "999999999999", "cpu", "../../x")))] = container.pop(
                key
            )
        elif how == 6:
            depth = rng.choice((1, 3, 40))
            inner = container[key]
            for _ in range(depth):
                inner = [inner]
            container[key] = inner
        elif isinstance(container[key], int):
            container[key] = int(container[key]) + rng.choice((-1, 1, 1 << 20, 1 << 40, -(1 << 40)))


def _inside(outer: Any, inner: Any) -> bool:
    return outer is inner or any(c[k] is inner for c, k in places(outer))


def u32(data: bytes | bytearray, at: int) -> int:
    """A little-endian word."""
    return int(struct.unpack_from("<I", data, at)[0])
