"""The built-in proxy ``readahead``: the kernel's readahead decisions, summed up by programs in the kernel.

``capture/bpf/readahead_proxy.bpf.c`` counts synchronous and asynchronous requests and the windows that
followed, in all and for each file; the files that decided last are part of the snapshot. Needs the
tracepoints ``readahead:*`` (after Linux 6.12), BTF, libbpf.so.1 and CAP_BPF with CAP_PERFMON.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from hindsight.capture.bpf import maps as bpf
from hindsight.capture.bpf.libbpf import BpfObject
from hindsight.capture.proxy.bpfmaps import NAME as ENTRY
from hindsight.capture.proxy.bpfmaps import PROXY, STATE, Maps, Numbered, check, document
from hindsight.capture.proxy.client import Description, Quantity
from hindsight.capture.proxy.errors import Refused, unreadable
from hindsight.capture.proxy.records import SCHEMA, Snapshot

NAME = "readahead"
OBJECT = Path(bpf.__file__).with_name("readahead_proxy.bpf.o")
FILES = 32
"""So many files are part of a snapshot."""
_LOG2 = 16
_KEY = struct.Struct("=QII")
"""inode number, device as the kernel has it, 0."""
_FILE = struct.Struct("=QQQQIIII")
_U32 = struct.Struct("=I")

TOTALS = (
    Quantity("sync", "u64", "requests", "a page was missing", True),
    Quantity("async", "u64", "requests", "a page with the readahead mark was met", True),
    Quantity("windows", "u64", "windows", "the kernel decided on a window", True),
    Quantity("sync_pages", "u64", "pages", "asked for where a page was missing", True),
    Quantity("window_pages", "u64", "pages", "in windows", True),
    Quantity("async_pages", "u64", "pages", "in windows, beyond their marks", True),
    Quantity("files_new", "u64", "files", "met for the first time, or again after they were dropped", True),
    *(
        Quantity(f"window_log2_{n}", "u64", "windows", f"windows of {1 << n} pages and more", True)
        for n in range(_LOG2)
    ),
)  # fmt: skip
"""In the order of hs_values."""
_OF_A_FILE = ("sync", "async", "windows", "size", "async_size", "ra_pages", "order")
QUANTITIES = {quantity.name: quantity for quantity in TOTALS}


class Readahead:
    """The kernel's readahead as a proxy (:class:`~hindsight.capture.proxy.client.Proxy`).

    The programs are loaded by the first snapshot, and detached by :meth:`close` or when the process ends.
    """

    name = NAME

    def __init__(self) -> None:
        self._object: BpfObject | None = None
        self._numbered = Numbered()

    def describe(self) -> Description:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`; the names of files are no quantities."""
        return Description(NAME, NAME, "bpf", OBJECT.name, QUANTITIES)

    def snapshot(self) -> Snapshot:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`. Raises Refused where BPF is not possible."""
        try:
            if self._object is None:
                self._load()
            found = document(self._maps)
            lost = self._add_files(found["state"])
            found["lost"]["files_dropped"] = lost
            return self._numbered.snapshot(found)
        except OSError as error:
            raise unreadable(NAME, error) from error

    def _load(self) -> None:
        try:
            data = OBJECT.read_bytes()
        except OSError:
            raise Refused(f"{OBJECT} is missing", "It is compiled by: make bpf (clang, libbpf-dev)") from None
        loaded = BpfObject(data, OBJECT.name)
        try:
            loaded.load()
            names = ("hs_proxy", "hs_names", "hs_values")
            maps = Maps(*(bpf.described(loaded.descriptor(name)) for name in names))
            check(maps)
            proxy = PROXY.pack(SCHEMA, 0, 1, 2, 0, 0, NAME.encode(), NAME.encode())
            maps.proxy.update(_U32.pack(0), proxy)
            for position, quantity in enumerate(TOTALS):
                maps.names.update(_U32.pack(position), ENTRY.pack(STATE, 0, quantity.name.encode()))
            self._files = bpf.described(loaded.descriptor("hs_files"))
            for program in loaded.programs():
                loaded.attach(program)
        except BaseException:
            loaded.close()
            raise
        self._object, self._maps = loaded, maps

    def _add_files(self, state: dict[str, Any]) -> int:
        """Add the files that decided last; return how many the kernel dropped from the map."""
        keys, values, count = self._files.entries()
        files = []
        for n in range(count):
            ino, device, _ = _KEY.unpack_from(keys, n * _KEY.size)
            last, *numbers = _FILE.unpack_from(values, n * _FILE.size)
            files.append((-last, device, ino, numbers))
        files.sort()
        for _, device, ino, numbers in files[:FILES]:
            base = f"file.{device >> 20}:{device & 0xFFFFF}.{ino}"
            for name, value in zip(_OF_A_FILE, numbers, strict=True):
                state[f"{base}.{name}"] = value
        return max(int(state["files_new"]) - count, 0)

    def close(self) -> None:
        """Detach the programs."""
        if self._object is not None:
            self._object.close()
            self._object = None
