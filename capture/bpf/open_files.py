"""The BPF programs that tell open files apart, in the kernel: what they are told, what they know."""

from __future__ import annotations

import ctypes
import mmap
import os
import pkgutil
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hindsight.capture.bpf.calls import READ_CALLS
from hindsight.capture.bpf.libbpf import BpfObject
from hindsight.capture.bpf.ring import RingMemory
from hindsight.capture.devices import Device
from hindsight.capture.profiles import kernel_device
from hindsight.errors import NotPermittedError, UsageError

OBJECT = "open_files.bpf.o"
MACHINES = ("x86_64",)
"""Where the arguments of a system call are is known for these."""
_CALLS = 512
_DEVICES = 16
_PIDS = 1 << 22
_ITERATOR = "found_open"
_DECISIONS = ("sync_decision", "async_decision", "order_decision")
_OPTIONAL = (*_DECISIONS, "ring_asked", "ring_read")
"""Programs whose tracepoints a kernel may lack."""
_LEARN_S = 2.0
_FILE_NR = Path("/proc/sys/fs/file-nr")
_LEAST_ROOM, _MOST_ROOM = 1 << 14, 1 << 20


class _Call(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint8) for name in ("number", "fd", "count", "pos"))


class _Settings(ctypes.Structure):
    _fields_ = (
        ("calls", _Call * _CALLS),
        ("device_count", ctypes.c_uint32),
        ("devices", ctypes.c_uint32 * _DEVICES),
        ("unused", ctypes.c_uint32),
        ("ring_mask", ctypes.c_uint64),
    )


class _State(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("recording", "only_listed", "following", "shed", "epoch")),
        ("last_ordinal", ctypes.c_uint32),
        ("caches", ctypes.c_uint64 * 2),
    )


class _Listed(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint64 * (_PIDS // 64)),)


def compiled() -> bytes:
    """The compiled programs. Raises NotPermittedError when this installation lacks them."""
    try:
        found = pkgutil.get_data(__package__, OBJECT)
    except OSError:
        found = None
    if found is None:
        raise NotPermittedError(
            f"the BPF programs ({OBJECT}) were not built",
            "In the sources: make bpf (it needs clang and libbpf-dev), or install a package that has them.",
        )
    return found


def room(path: Path = _FILE_NR) -> int:
    """How many open files can be told apart at once: twice those of the whole host now, within bounds."""
    try:
        now = int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        now = 0
    return min(max(2 * now, _LEAST_ROOM), _MOST_ROOM)


class OpenFiles:
    """The programs, loaded and attached, not recording yet. ``wanted``: devices to which they are limited.

    They write to ``memory``. ``decisions``: this kernel has tracepoints of them. ``state`` is shared with the
    programs. Raises NotPermittedError when they were not built or cannot be loaded here, UsageError for too
    many devices.
    """

    def __init__(self, wanted: Sequence[Device], memory: RingMemory) -> None:
        if platform.machine() not in MACHINES:
            raise NotPermittedError(
                f"telling open files apart is not supported on {platform.machine()}",
                "Record without --open-files.",
            )
        if len(wanted) > _DEVICES:
            raise UsageError(f"--open-files with more than {_DEVICES} devices", "Name fewer, or none.")
        self.object = BpfObject(compiled(), OBJECT)
        self._maps: list[mmap.mmap] = []
        try:
            settings = self.object.constants(".rodata.settings", _Settings)
            for code, call in enumerate(READ_CALLS, 1):
                settings.calls[call.number] = _Call(code, call.fd, call.size, call.pos)
            settings.device_count = len(wanted)
            settings.devices[: len(wanted)] = [kernel_device(*device) for device in wanted]
            self.object.resize("identities", room())
            settings.ring_mask = memory.reserve(self.object)
            absent = [name for name in _OPTIONAL if not self.object.tracepoint_exists(name)]
            for name in absent:
                self.object.leave_out(name)
            self.decisions = not set(_DECISIONS) & set(absent)
            self.object.load()
            memory.share(self.object)
            self.state: Any = self._shared(".data.state", _State)
            self._listed: Any = self._shared(".bss", _Listed)
            for name in self.object.programs():
                if name not in (_ITERATOR, *absent):
                    self.object.attach(name)
            self._learn()
        except BaseException:
            self.close()
            raise

    def _shared(self, section: str, layout: type[ctypes.Structure]) -> Any:
        memory = self.object.shared(section, ctypes.sizeof(layout))
        self._maps.append(memory)
        return layout.from_buffer(memory)

    def _learn(self) -> None:
        """The programs must have seen an open file's memory being freed: only then identities are safe."""
        until = time.monotonic() + _LEARN_S
        while not self.state.caches[0]:
            os.close(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            time.sleep(0.001)
            if time.monotonic() > until:
                raise NotPermittedError(
                    "this kernel frees open files in a way that is not known: a reused one could not be told",
                    "Record without --open-files.",
                )

    def follow(self, threads: Iterable[int]) -> None:
        """Record only these threads and those that they create."""
        self._list(threads)
        self.state.only_listed = self.state.following = 1

    def ignore(self, threads: Iterable[int]) -> None:
        """Never record these threads."""
        self._list(threads)

    def _list(self, threads: Iterable[int]) -> None:
        for thread in threads:
            self._listed.words[thread // 64] |= 1 << thread % 64

    def find(self) -> None:
        """Describe the files that are open now in the processes that are recorded. Raises OSError."""
        self.object.iterate(_ITERATOR)

    def close(self) -> None:
        """Detach and unload the programs."""
        self.object.close()
        self.state = self._listed = None
        maps, self._maps = self._maps, []
        for memory in maps:
            memory.close()
