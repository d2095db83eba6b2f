"""Kprobes in place of the tracepoints that an older kernel lacks: the same fields, from the same functions.

The probes belong to the whole host, so their group bears the name of the recorder, as its instances do, and
what a killed one left is removed by a later one. Documentation/trace/kprobetrace.rst has the language
(``$argN`` needs Linux 4.20, a constant as ``\\N`` 5.8); where members are and which argument is which comes
from the kernel's own description of its types. What differs from the tracepoints is in docs/support.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from hindsight.capture.ftrace.btf import Btf
from hindsight.capture.owner import Owner, own, parse
from hindsight.errors import NotPermittedError

_CONTROL = "kprobe_events"
_PREFIX = "hindsight_"
NOT_THERE = 0xFFFFFFFF
"""The value of ``order`` where this kernel's readahead state has none."""


class _Absent(Exception):
    """This kernel lacks a function, an argument or a member that a probe needs."""


class Probe(NamedTuple):
    """A function, and what to note of each call as ``name=expression:type``."""

    function: str
    fields: tuple[str, ...]


class _Types:
    """Expressions of the probes' language, by names of the kernel's types."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf

    def argument(self, function: str, name: str) -> str:
        names = self._btf.arguments(function)
        if names is None or name not in names:
            raise _Absent(f"{function}({name})")
        return f"$arg{names.index(name) + 1}"

    def has(self, struct: str, member: str) -> bool:
        return self._btf.offset(struct, member) is not None

    def member(self, struct: str, member: str, pointer: str) -> str:
        """What is in a member of the structure that ``pointer`` points to."""
        offset = self._btf.offset(struct, member)
        if offset is None:
            raise _Absent(f"{struct}.{member}")
        return f"+{offset}({pointer})"

    def inode(self, mapping: str) -> tuple[str, str]:
        inode = self.member("address_space", "host", mapping)
        device = self.member("super_block", "s_dev", self.member("inode", "i_sb", inode))
        return f"i_ino={self.member('inode', 'i_ino', inode)}:u64", f"s_dev={device}:u32"

    def window(self, state: str, order: str | None = None) -> tuple[str, ...]:
        """The readahead state; ``order`` where it is an argument."""
        if order is None:
            there = self.has("file_ra_state", "order")
            order = self.member("file_ra_state", "order", state) if there else f"\\{NOT_THERE}"
            order += ":u16" if there else ":u32"
        fields = [f"order={order}"]
        for name in ("size", "async_size", "ra_pages"):
            fields.append(f"{name}={self.member('file_ra_state', name, state)}:u32")
        return tuple(fields)

    def before(self, function: str) -> tuple[str, ...]:
        """What both kinds of requests show."""
        control = self.argument(function, "ractl")
        state = self.member("readahead_control", "ra", control)
        miss = "u16" if self.has("file_ra_state", "order") else "u32"
        return (
            *self.inode(self.member("readahead_control", "mapping", control)),
            f"index={self.member('readahead_control', '_index', control)}:u64",
            *self.window(state),
            f"mmap_miss={self.member('file_ra_state', 'mmap_miss', state)}:{miss}",
            f"prev_pos={self.member('file_ra_state', 'prev_pos', state)}:s64",
            f"req_count={self.argument(function, 'req_count')}:u64",
        )


def _sync(t: _Types) -> Probe:
    return Probe("page_cache_sync_ra", t.before("page_cache_sync_ra"))


def _async(t: _Types) -> Probe:
    return Probe("page_cache_async_ra", t.before("page_cache_async_ra"))


def _order(t: _Types) -> Probe:
    name = "page_cache_ra_order"
    control, state = t.argument(name, "ractl"), t.argument(name, "ra")
    order = None
    with contextlib.suppress(_Absent):
        order = f"{t.argument(name, 'new_order')}:u32"
    mapping = t.member("readahead_control", "mapping", control)
    index = f"index={t.member('readahead_control', '_index', control)}:u64"
    return Probe(name, (*t.inode(mapping), index, *t.window(state, order)))


def _unbounded(t: _Types) -> Probe:
    name = "page_cache_ra_unbounded"
    control = t.argument(name, "ractl")
    return Probe(
        name,
        (
            *t.inode(t.member("readahead_control", "mapping", control)),
            f"index={t.member('readahead_control', '_index', control)}:u64",
            f"nr_to_read={t.argument(name, 'nr_to_read')}:u64",
            f"lookahead_size={t.argument(name, 'lookahead_size')}:u64",
        ),
    )


def _pages(t: _Types) -> Probe:
    name = "filemap_get_read_batch"
    return Probe(
        name,
        (
            *t.inode(t.argument(name, "mapping")),
            f"index={t.argument(name, 'index')}:u64",
            f"last_index={t.argument(name, 'max')}:u64",
        ),
    )


def _fault(t: _Types) -> Probe:
    fault = t.argument("filemap_fault", "vmf")
    file = t.member("vm_area_struct", "vm_file", t.member("vm_fault", "vma", fault))
    index = f"index={t.member('vm_fault', 'pgoff', fault)}:u64"
    return Probe("filemap_fault", (*t.inode(t.member("file", "f_mapping", file)), index))


def _around(t: _Types) -> Probe:
    name = "filemap_map_pages"
    file = t.member("vm_area_struct", "vm_file", t.member("vm_fault", "vma", t.argument(name, "vmf")))
    return Probe(
        name,
        (
            *t.inode(t.member("file", "f_mapping", file)),
            f"index={t.argument(name, 'start_pgoff')}:u64",
            f"last_index={t.argument(name, 'end_pgoff')}:u64",
        ),
    )


STAND_INS: Mapping[str, Callable[[_Types], Probe]] = {
    "readahead/page_cache_sync_ra": _sync,
    "readahead/page_cache_async_ra": _async,
    "readahead/page_cache_ra_order": _order,
    "readahead/page_cache_ra_unbounded": _unbounded,
    "filemap/mm_filemap_get_pages": _pages,
    "filemap/mm_filemap_fault": _fault,
    "filemap/mm_filemap_map_pages": _around,
}
"""The tracepoints that a probe can stand for."""


def probes_for(events: Iterable[str], btf: Btf) -> dict[str, Probe]:
    """The probes that this kernel's types allow, by the tracepoint that each stands for."""
    types, found = _Types(btf), {}
    for event in events:
        if event in STAND_INS:
            with contextlib.suppress(_Absent):
                found[event] = STAND_INS[event](types)
    return found


def lacking(root: Path, events: Iterable[str]) -> list[str]:
    """Those of ``events`` that this kernel has no tracepoint of and a probe might stand for."""
    return [event for event in events if event in STAND_INS and not (root / "events" / event).is_dir()]


def possible(root: Path) -> bool:
    """Whether this kernel has kprobes, and this process may make some."""
    return os.access(root / _CONTROL, os.W_OK)


class StandIns:
    """The probes of one recorder; :meth:`close` removes them, after the instances that use them.

    ``made``: the event of the tracing system (``group/name``) by the tracepoint that it stands for.
    """

    def __init__(self, root: Path, events: Iterable[str], owner: Owner | None = None) -> None:
        self._control = root / _CONTROL
        self._group = _PREFIX + str(owner or own()).replace("-", "_")
        self.made: dict[str, str] = {}
        wanted = lacking(root, events)
        if not wanted or not possible(root):
            return
        try:
            found = probes_for(wanted, Btf())
        except NotPermittedError:
            return  # no types: nothing can stand in
        try:
            for event, probe in found.items():
                name = event.partition("/")[2]
                line = f"p:{self._group}/{name} {probe.function} {' '.join(probe.fields)}"
                with contextlib.suppress(OSError):  # (a function that may not be probed)
                    _append(self._control, line)
                    self.made[event] = f"{self._group}/{name}"
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the probes. Raises OSError when one is still in use."""
        for event, made in list(self.made.items()):
            _append(self._control, f"-:{made}")
            del self.made[event]


def remove_abandoned(root: Path) -> list[str]:
    """Remove the probes of recorders that no longer live; returns the names of those that are gone."""
    removed = []
    for made in abandoned(root):
        with contextlib.suppress(OSError):
            _append(root / _CONTROL, f"-:{made}")
            removed.append(made)
    return removed


def abandoned(root: Path) -> list[str]:
    """The probes (``group/name``) of recorders that no longer live."""
    try:
        lines = (root / _CONTROL).read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        made = line.split(" ")[0].partition(":")[2]
        group = made.partition("/")[0]
        if group.startswith(_PREFIX):
            owner = parse(group[len(_PREFIX) :].replace("_", "-"))
            if owner is not None and owner.alive is False:
                found.append(made)
    return found


def _append(control: Path, line: str) -> None:
    descriptor = os.open(control, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)
