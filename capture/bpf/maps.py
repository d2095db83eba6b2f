"""Read and write the maps of BPF programs, those of a loaded object or pinned ones, through libbpf.

Layouts of descriptions: include/uapi/linux/bpf.h (Linux 6.18).
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hindsight.capture.bpf import libbpf

ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH = 2, 5, 6, 10
"""Types of maps."""
_PER_CPU = (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH)

_library = cache(libbpf.library)


def _fail(what: str) -> OSError:
    number = ctypes.get_errno() or errno.EINVAL
    return OSError(number, f"{what}: {os.strerror(number)}")


class Map(NamedTuple):
    """A map, by its descriptor; sizes in bytes."""

    descriptor: int
    type: int
    key_size: int
    value_size: int
    max_entries: int

    @property
    def cpus(self) -> int:
        """Values for each key."""
        return possible_cpus() if self.type in _PER_CPU else 1

    @property
    def stride(self) -> int:
        """Bytes that a look-up of one key gives: those of all processors, each a multiple of 8."""
        return (self.value_size + 7 & ~7) * self.cpus if self.type in _PER_CPU else self.value_size

    def update(self, key: bytes, value: bytes) -> None:
        """Set the value of a key. Raises OSError."""
        if len(key) != self.key_size or len(value) != self.stride:
            raise ValueError("the map has keys or values of another size")
        if _library().bpf_map_update_elem(self.descriptor, key, value, ctypes.c_uint64(0)) != 0:
            raise _fail("update of a map")

    def entries(self) -> tuple[bytes, bytes, int]:
        """All keys and all values, one after the other, and how many there are. Raises OSError."""
        keys = ctypes.create_string_buffer(self.key_size * self.max_entries)
        values = ctypes.create_string_buffer(self.stride * self.max_entries)
        cursor = ctypes.create_string_buffer(max(self.key_size, 8))
        count = ctypes.c_uint32(self.max_entries)
        done = _library().bpf_map_lookup_batch(
            self.descriptor, None, cursor, keys, values, ctypes.byref(count), None
        )
        if done != 0 and ctypes.get_errno() != errno.ENOENT:  # ENOENT: these were all
            raise _fail("look-up of all of a map")
        return keys.raw, values.raw, count.value

    def pin(self, path: Path) -> None:
        """Pin it at ``path``, in a BPF file system. Raises OSError."""
        if _library().bpf_obj_pin(self.descriptor, os.fsencode(path)) != 0:
            raise _fail(str(path))

    def close(self) -> None:
        """Close the descriptor, unless it belongs to an object."""
        os.close(self.descriptor)


@cache
def possible_cpus() -> int:
    """Processors that a value of a per-CPU map has room for."""
    found: int = _library().libbpf_num_possible_cpus()
    return found


class _Info(ctypes.Structure):
    """The beginning of struct bpf_map_info."""

    _fields_ = tuple(
        (name, ctypes.c_uint32) for name in ("type", "id", "key_size", "value_size", "max_entries")
    )


def described(descriptor: int) -> Map:
    """The map of a descriptor. Raises OSError."""
    info = _Info()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    if _library().bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(size)) != 0:
        raise _fail("description of a map")
    return Map(descriptor, info.type, info.key_size, info.value_size, info.max_entries)


def pinned(path: Path) -> Map:
    """The map that is pinned at ``path``. Raises OSError."""
    descriptor = _library().bpf_obj_get(os.fsencode(path))
    if descriptor < 0:
        raise _fail(str(path))
    return described(descriptor)
