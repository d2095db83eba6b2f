"""Types of the running kernel as it describes them: where members are, and which arguments functions have.

The format is that of Documentation/bpf/btf.rst and include/uapi/linux/btf.h (Linux 6.18), little or big
endian, read with the standard library alone.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NamedTuple

from hindsight.errors import NotPermittedError

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_MAGIC = 0xEB9F
_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _FUNC, _FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = (
    1, 3, 4, 5, 6, 12, 13, 14, 15, 17, 19,
)  # fmt: skip
_PASSED_THROUGH = frozenset({8, 9, 10, 11, 18})
"""typedef, volatile, const, restrict, type tag: the type is another one's."""
_EXTRA = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_EXTRA_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}


class _Type(NamedTuple):
    kind: int
    name: int
    type: int
    flag: bool
    parts: int
    extra: int
    """Where its members or parameters begin."""


class Btf:
    """The types. Raises NotPermittedError when there are none, or they cannot be understood."""

    def __init__(self, path: Path = VMLINUX) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise NotPermittedError(
                f"this kernel does not describe its types ({path}: {error.strerror})",
                "It needs CONFIG_DEBUG_INFO_BTF.",
            ) from error
        self._order = "<" if sys.byteorder == "little" else ">"
        try:
            self._parse(data)
        except (struct.error, IndexError, ValueError) as error:
            raise NotPermittedError(f"{path} cannot be understood: {error}") from error

    def _parse(self, data: bytes) -> None:
        magic, _, _, header, types, types_size, names, names_size = struct.unpack_from(
            self._order + "HBBIIIII", data
        )
        if magic != _MAGIC:
            raise ValueError(f"it begins with {magic:#x}")
        self._data = data[header + types : header + types + types_size]
        self._names = data[header + names : header + names + names_size]
        self._types = [_Type(0, 0, 0, False, 0, 0)]
        self._structs: dict[bytes, int] = {}
        self._functions: dict[bytes, int] = {}
        at, unpack = 0, struct.Struct(self._order + "III").unpack_from
        while at < types_size:
            name, info, other = unpack(self._data, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            number = len(self._types)
            self._types.append(_Type(kind, name, other, bool(info >> 31), count, at + 12))
            if kind == _STRUCT and name:
                self._structs.setdefault(self._raw(name), number)
            elif kind == _FUNC:
                self._functions.setdefault(self._raw(name), number)
            at += 12 + _EXTRA.get(kind, 0) + _EXTRA_EACH.get(kind, 0) * count

    def _raw(self, name: int) -> bytes:
        return self._names[name : self._names.index(b"\0", name)]

    def _resolved(self, number: int) -> _Type:
        found = self._types[number]
        while found.kind in _PASSED_THROUGH:
            found = self._types[found.type]
        return found

    def offset(self, struct_name: str, member: str) -> int | None:
        """Bytes from the beginning of a structure to a member, of unnamed parts too; None if it has none."""
        number = self._structs.get(struct_name.encode())
        return None if number is None else self._offset(self._types[number], member.encode())

    def _offset(self, of: _Type, member: bytes) -> int | None:
        for n in range(of.parts):
            name, kind, bits = struct.unpack_from(self._order + "III", self._data, of.extra + 12 * n)
            at = (bits & 0xFFFFFF if of.flag else bits) // 8
            found = self._raw(name)
            if found == member:
                return at
            inner = self._resolved(kind)
            if not found and inner.kind in (_STRUCT, _UNION):
                deeper = self._offset(inner, member)
                if deeper is not None:
                    return at + deeper
        return None

    def arguments(self, function: str) -> list[str] | None:
        """The names of a function's parameters; None if there is no such function."""
        number = self._functions.get(function.encode())
        if number is None:
            return None
        proto = self._types[self._types[number].type]
        names = (
            struct.unpack_from(self._order + "I", self._data, proto.extra + 8 * n)[0]
            for n in range(proto.parts)
        )
        return [self._raw(name).decode() for name in names]
