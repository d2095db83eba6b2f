"""Proxies over eBPF: a snapshot out of maps that programs in the kernel fill.

The maps, pinned in a directory of a BPF file system or held by who loaded the object:

``hs_proxy``      array of one: who it is (PROXY below)
``hs_names``      array: what the value at the same index is (NAME below); kind 0: not used
``hs_values``     array or per-CPU array of s64, as many entries; values of several processors are added up
``hs_actuators``  array (ACTUATOR below), need not be there

The kernel numbers no snapshots here: sequence and time are those of the look. Values are read one after the
other while programs go on: they may be some events apart.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hindsight.capture.bpf import maps as bpf
from hindsight.capture.bpf.maps import Map
from hindsight.capture.proxy import parsing
from hindsight.capture.proxy.attributes import boot_id
from hindsight.capture.proxy.client import Description, Quantity, typed
from hindsight.capture.proxy.errors import Malformed, Oversized, unreadable
from hindsight.capture.proxy.records import (
    ACTUATORS,
    DATASET_STATES,
    DATASET_TYPES,
    MODES,
    STATE_NAMES,
    Snapshot,
)

PROXY = struct.Struct("=IIIIQQ32s32s")
"""schema, mode, type and state of the dataset (the RFC's numbers), its offset and size, id, subsystem."""
NAME = struct.Struct("=II56s")
"""kind (1 state, 2 lost), 0, name."""
ACTUATOR = struct.Struct("=32s16sqqq")
"""name, scope, current, min, max; empty name: not used."""
UNUSED, STATE, LOST = 0, 1, 2


class Maps(NamedTuple):
    """The maps of one proxy."""

    proxy: Map
    names: Map
    values: Map
    actuators: Map | None = None

    def close(self) -> None:
        """Close them."""
        for opened in self:
            if opened is not None:
                opened.close()


def _malformed(what: str) -> Malformed:
    return Malformed(what, "The maps of a proxy are described in docs/proxy.md.")


def check(maps: Maps) -> None:
    """Raise Malformed or Oversized unless the maps have the shapes of the contract."""
    plain = (bpf.ARRAY,)
    for name, opened, types, size, most in (
        ("hs_proxy", maps.proxy, plain, PROXY.size, 1),
        ("hs_names", maps.names, plain, NAME.size, STATE_NAMES + ACTUATORS),
        ("hs_values", maps.values, (bpf.ARRAY, bpf.PERCPU_ARRAY), 8, STATE_NAMES + ACTUATORS),
        ("hs_actuators", maps.actuators, plain, ACTUATOR.size, ACTUATORS),
    ):
        if opened is None:
            continue
        if opened.type not in types:
            raise _malformed(f"{name} is not an array")
        if opened.key_size != 4 or opened.value_size != size:
            raise _malformed(f"{name} has values of {opened.value_size} bytes, not {size}")
        if opened.max_entries > most:
            raise Oversized(f"{name} has more than {most} entries", "A snapshot has at most 64 KiB.")
    if maps.values.max_entries != maps.names.max_entries:
        raise _malformed("hs_names and hs_values differ in length")


def _text(data: bytes, where: str) -> str:
    name, end, rest = data.partition(b"\0")
    if not end or rest.strip(b"\0") or not name.isascii():
        raise _malformed(f"{where} is not a string that ends in zeros")
    return name.decode()


def _word(words: tuple[str, ...], number: int, first: int, where: str) -> str:
    if not first <= number < first + len(words):
        raise _malformed(f"{where} is out of range")
    return words[number - first]


def document(maps: Maps) -> dict[str, Any]:
    """The maps as the members of a snapshot, before it is checked. Raises OSError or Malformed."""
    schema, mode, kind, state, offset, size, proxy, subsystem = PROXY.unpack(_all(maps.proxy))
    found: dict[str, Any] = {"schema": schema}
    parsing.check_version(found)
    values = _sums(maps.values)
    parts: dict[int, dict[str, int]] = {STATE: {}, LOST: {}}
    for (entry, reserved, name), value in zip(NAME.iter_unpack(_all(maps.names)), values, strict=True):
        if entry == UNUSED:
            continue
        if entry not in parts or reserved:
            raise _malformed("hs_names has an entry of no known kind")
        text = _text(name, "a name in hs_names")
        if text in parts[entry]:
            raise _malformed("hs_names has a name twice")
        parts[entry][text] = value
    return found | {
        "proxy": _text(proxy, "the id in hs_proxy"),
        "subsystem": _text(subsystem, "the subsystem in hs_proxy"),
        "mode": _word(MODES, mode, 0, "the mode in hs_proxy"),
        "dataset": {
            "type": _word(DATASET_TYPES, kind, 1, "the type of the dataset in hs_proxy"),
            "state": _word(DATASET_STATES, state, 1, "the state of the dataset in hs_proxy"),
            "offset": offset,
            "size": size,
        },
        "state": parts[STATE],
        "actuators": _actuators(maps.actuators),
        "lost": parts[LOST],
    }


def _actuators(opened: Map | None) -> list[dict[str, Any]]:
    if opened is None:
        return []
    found = []
    for name, scope, *numbers in ACTUATOR.iter_unpack(_all(opened)):
        if name.strip(b"\0"):
            texts = {"name": _text(name, "a name in hs_actuators"), "scope": _text(scope, "a scope")}
            found.append(texts | dict(zip(("current", "min", "max"), numbers, strict=True)))
    return found


def _all(opened: Map) -> bytes:
    """The values of an array, in order."""
    _, values, _ = opened.entries()
    return values


def _sums(opened: Map) -> list[int]:
    """The values of an array of s64, summed over processors."""
    numbers = struct.unpack(f"={opened.max_entries * opened.cpus}q", _all(opened))
    return [sum(numbers[first : first + opened.cpus]) for first in range(0, len(numbers), opened.cpus)]


class Numbered:
    """Gives snapshots out of maps their sequence number and time."""

    def __init__(self) -> None:
        self._sequence = 0

    def snapshot(self, found: dict[str, Any]) -> Snapshot:
        """The next one. Raises Malformed."""
        self._sequence += 1
        return parsing.checked(
            found | {"boot_id": boot_id(), "sequence": self._sequence, "mono_ns": time.monotonic_ns()}
        )


class PinnedProxy:
    """The proxy whose maps are pinned in the directory ``path``."""

    def __init__(self, name: str, path: Path, quantities: Mapping[str, Mapping[str, Quantity]]) -> None:
        self.name = name
        self._path = path
        self._known = quantities
        self._numbered = Numbered()
        self._maps: tuple[int, Maps] | None = None
        self._subsystem = ""

    def describe(self) -> Description:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`; the subsystem is known after a snapshot."""
        quantities = self._known.get(self._subsystem, {})
        return Description(self.name, self._subsystem, "bpf", str(self._path), quantities)

    def snapshot(self) -> Snapshot:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        try:
            found = self._numbered.snapshot(document(self._opened()))
        except OSError as error:
            self.close()
            raise unreadable(str(self._path), error) from error
        self._subsystem = found.subsystem
        return typed(found, self._known.get(found.subsystem, {}))

    def _opened(self) -> Maps:
        """The maps that are pinned now: what was unpinned is gone, what was replaced is opened again."""
        now = os.stat(self._path / "hs_proxy").st_ino
        if self._maps is not None and self._maps[0] == now:
            return self._maps[1]
        self.close()
        opened: list[Map] = []
        try:
            for name in ("hs_proxy", "hs_names", "hs_values"):
                opened.append(bpf.pinned(self._path / name))
            if (self._path / "hs_actuators").exists():
                opened.append(bpf.pinned(self._path / "hs_actuators"))
            maps = Maps(*opened)
            check(maps)
        except BaseException:
            for one in opened:
                one.close()
            raise
        self._maps = now, maps
        return maps

    def close(self) -> None:
        """Close the maps."""
        if self._maps is not None:
            self._maps[1].close()
            self._maps = None
