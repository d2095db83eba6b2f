"""The program that is recorded: ``python -m hindsight.lab.fuzz.program PLAN DIRECTORY LOG``.

Does the operations of the plan PLAN on the files below DIRECTORY and appends to LOG what it did: one line
each, with the process, the operation and its result (a number, ``-errno``, or ``skipped`` where a slot is
empty). The standard library alone.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hindsight.lab.fuzz.uring import Ring

Op = list[Any]
_libc = ctypes.CDLL(None, use_errno=True)
_libc.readahead.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_size_t]
_libc.readahead.restype = ctypes.c_ssize_t
PAGE = mmap.PAGESIZE


class SlotIsEmpty(Exception):
    """The operation acts on a descriptor or mapping that is not there."""


class Interpreter:
    """A task: its descriptors, mappings and tasks that it started. Threads share it, children copy it."""

    def __init__(self, directory: str, log: int) -> None:
        self.directory = directory
        self.log = log
        self.descriptors: dict[int, int] = {}
        self.mappings: dict[int, mmap.mmap] = {}
        self.started: list[threading.Thread | int] = []
        self.null = os.open(os.devnull, os.O_WRONLY)
        self.pipe = os.pipe()
        self.copied = -1
        self.rings: dict[int, Ring] = {}

    def run(self, ops: list[Op]) -> None:
        """Do these operations, then wait for what they started, then say what was done."""
        said: list[str] = []
        for op in ops:
            said.append(f"{os.getpid()} {json.dumps(self._short(op))} {self._do(op)}\n")
        os.write(self.log, "".join(said).encode())

    def _do(self, op: Op) -> str:
        action = ACTIONS.get(op[0])
        if action is None:
            return "unknown"
        try:
            return str(action(self, *op[1:]))
        except SlotIsEmpty:
            return "skipped"
        except OSError as error:
            return f"-{error.errno}"

    @staticmethod
    def _short(op: Op) -> Op:
        return [a if not (isinstance(a, list) and a and isinstance(a[0], list)) else len(a) for a in op]

    def fd(self, slot: int) -> int:
        """The descriptor in a slot."""
        if slot not in self.descriptors:
            raise SlotIsEmpty
        return self.descriptors[slot]

    def mapping(self, slot: int) -> mmap.mmap:
        """The mapping in a slot."""
        if slot not in self.mappings:
            raise SlotIsEmpty
        return self.mappings[slot]

    def child(self, ops: list[Op]) -> int:
        """Start a child that does these operations; its process id."""
        pid = os.fork()
        if pid:
            return pid
        try:
            self.started = []
            self.rings = {}
            self.run(ops)
            _join(self)
        finally:
            os._exit(0)


_FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_RDWR,
    "a": os.O_RDWR | os.O_APPEND,
    "t": os.O_RDWR | os.O_TRUNC,
}


def _open(t: Interpreter, slot: int, file: str, mode: str) -> int:
    t.descriptors[slot] = os.open(os.path.join(t.directory, file), _FLAGS[mode])
    return 0


def _close(t: Interpreter, slot: int) -> int:
    os.close(t.fd(slot))
    del t.descriptors[slot]
    return 0


def _dup(t: Interpreter, slot: int, other: int) -> int:
    t.descriptors[other] = os.dup(t.fd(slot))
    return 0


def _dup2(t: Interpreter, slot: int, other: int) -> int:
    os.dup2(t.fd(slot), t.fd(other))
    return 0


def _read(t: Interpreter, slot: int, n: int) -> int:
    return len(os.read(t.fd(slot), n))


def _readv(t: Interpreter, slot: int, parts: list[int]) -> int:
    return os.readv(t.fd(slot), [bytearray(n) for n in parts])


def _pread(t: Interpreter, slot: int, n: int, pos: int) -> int:
    return len(os.pread(t.fd(slot), n, pos))


def _preadv(t: Interpreter, slot: int, parts: list[int], pos: int, flags: int = 0) -> int:
    return os.preadv(t.fd(slot), [bytearray(n) for n in parts], pos, flags)


def _preadv2(t: Interpreter, slot: int, parts: list[int], pos: int, flags: int) -> int:
    """The call itself: os.preadv takes preadv where there are no flags, and no position of -1."""
    buffers = [ctypes.create_string_buffer(n) for n in parts]
    vector = (ctypes.c_size_t * (2 * len(parts)))()
    for i, buffer in enumerate(buffers):
        vector[2 * i], vector[2 * i + 1] = ctypes.addressof(buffer), len(buffer)
    return _result(
        _libc.preadv2(t.fd(slot), ctypes.byref(vector), len(parts), ctypes.c_int64(pos), ctypes.c_int(flags))
    )


def _seek(t: Interpreter, slot: int, pos: int) -> int:
    return os.lseek(t.fd(slot), pos, os.SEEK_SET)


def _advise(t: Interpreter, slot: int, pos: int, n: int, what: int) -> int:
    os.posix_fadvise(t.fd(slot), pos, n, what)
    return 0


def _readahead(t: Interpreter, slot: int, pos: int, n: int) -> int:
    return _result(_libc.readahead(t.fd(slot), pos, n))


def _result(value: int) -> int:
    if value < 0:
        raise OSError(ctypes.get_errno(), "")
    return value


def _sendfile(t: Interpreter, slot: int, pos: int, n: int) -> int:
    return os.sendfile(t.null, t.fd(slot), None if pos < 0 else pos, n)  # type: ignore[arg-type]


def _splice(t: Interpreter, slot: int, pos: int, n: int) -> int:
    moved = os.splice(t.fd(slot), t.pipe[1], n, offset_src=None if pos < 0 else pos)
    left = moved
    while left > 0:
        left -= len(os.read(t.pipe[0], left))
    return moved


def _copy(t: Interpreter, slot: int, pos: int, n: int) -> int:
    if t.copied < 0:
        name = os.path.join(t.directory, f"copy-{os.getpid()}")
        t.copied = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    return os.copy_file_range(t.fd(slot), t.copied, n, None if pos < 0 else pos, 0)


def _ring(t: Interpreter, slot: int, batch: list[list[int]]) -> str:
    task = threading.get_ident()
    if task not in t.rings:
        t.rings[task] = Ring()
    return ",".join(str(n) for n in t.rings[task].read(t.fd(slot), [(pos, n) for pos, n in batch]))


def _map(t: Interpreter, mapping: int, slot: int, executable: int) -> int:
    protection = mmap.PROT_READ | (mmap.PROT_EXEC if executable else 0)
    t.mappings[mapping] = mmap.mmap(t.fd(slot), 0, mmap.MAP_SHARED, protection)
    return 0


def _touch(t: Interpreter, mapping: int, page: int) -> int:
    memory = t.mapping(mapping)
    return memory[page * PAGE] if page * PAGE < len(memory) else -1


def _madvise(t: Interpreter, mapping: int, first: int, pages: int, what: int) -> int:
    memory = t.mapping(mapping)
    length = min(pages * PAGE, len(memory) - first * PAGE) if pages else len(memory)
    memory.madvise(what, first * PAGE, length)
    return 0


def _truncate(t: Interpreter, slot: int, size: int) -> int:
    os.ftruncate(t.fd(slot), size)
    return 0


def _write(t: Interpreter, slot: int, pos: int, n: int) -> int:
    return os.pwrite(t.fd(slot), bytes(n), pos)


def _cpu(t: Interpreter, number: int) -> int:
    allowed = sorted(os.sched_getaffinity(os.getpid()) | ALLOWED)
    os.sched_setaffinity(0, {allowed[number % len(allowed)]})
    return 0


def _fork(t: Interpreter, ops: list[Op]) -> int:
    return os.waitpid(t.child(ops), 0)[1]


def _process(t: Interpreter, ops: list[Op]) -> int:
    t.started.append(t.child(ops))
    return 0


def _thread(t: Interpreter, ops: list[Op]) -> int:
    thread = threading.Thread(target=t.run, args=(ops,))
    t.started.append(thread)
    thread.start()
    return 0


def _join(t: Interpreter) -> int:
    while t.started:
        one = t.started.pop()
        if isinstance(one, int):
            os.waitpid(one, 0)
        else:
            one.join()
    return 0


ALLOWED = os.sched_getaffinity(0)
ACTIONS: dict[str, Callable[..., int | str]] = {
    "open": _open, "close": _close, "dup": _dup, "dup2": _dup2, "read": _read, "readv": _readv,
    "pread": _pread, "preadv": _preadv, "preadv2": _preadv2, "seek": _seek, "advise": _advise,
    "readahead": _readahead, "sendfile": _sendfile, "splice": _splice, "copy": _copy, "ring": _ring,
    "map": _map, "touch": _touch, "madvise": _madvise, "truncate": _truncate, "write": _write, "cpu": _cpu,
    "fork": _fork, "process": _process, "thread": _thread, "join": _join,
}  # fmt: skip
"""What each operation does; the result is a number, or numbers."""


def main(plan: str, directory: str, log: str) -> None:
    """Run a plan."""
    tasks = json.loads(Path(plan).read_text())["tasks"]
    here = Interpreter(directory, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    if len(tasks) == 1:
        here.run(tasks[0])
    else:
        for ops in tasks:
            _process(here, ops)
    _join(here)


if __name__ == "__main__":
    main(*sys.argv[1:])
