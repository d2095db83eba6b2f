"""Reads files that may hang, in a process of its own.

A read from a file system in user space, or from a driver, may wait in the kernel where not even SIGKILL
ends it (fs/fuse/dev.c: a request that its server has taken is waited for). A thread that hangs there keeps
its process from ending. So it is another process that reads, and this one waits for it at a pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import subprocess
import sys
from pathlib import Path

from hindsight.capture import owner

_HEAD = struct.Struct("=II")
"""errno (0: none), bytes that follow."""
_PROGRAM = """
import os, struct, sys

def serve(path, inner, most, open, read, write, close, head):
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    while read(0, 1):
        data, number, file = b"", 0, -1
        try:
            try:
                file = open(inner, flags)
            except NotADirectoryError:
                file = open(path, flags)
            while len(data) <= most:
                piece = read(file, most + 1 - len(data))
                data += piece
                if not piece or data.endswith(b"}\\n") and data.count(b"{") == data.count(b"}"):
                    break
        except OSError as error:
            data, number = b"", error.errno or 5
        answer = head(number, len(data)) + data
        while answer:
            answer = answer[write(1, answer):]
        if file >= 0:
            try:
                close(file)
            except OSError:
                pass

path, inner, most = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), int(sys.argv[3])
serve(path, inner, most, os.open, os.read, os.write, os.close, struct.Struct("=II").pack)
"""
"""Given a byte, it reads the file from its beginning, and answers. Each call of a file system in user space
takes some 0.05 ms: a complete document is not read on, the file is closed when the answer is on its way. The
loop is a function with all that it needs as arguments: a module's names are looked up in dictionaries, which
are in no cache after a pause."""


class Reader:
    """Reads up to ``most`` bytes (and one more, if there are more) of the file ``path``, again and again.

    What ends with a line and has a closing brace for each opening one is a whole document, and nothing after
    it is asked for. When ``path`` is a directory, the file ``inner`` in it is meant.
    """

    def __init__(self, path: Path, most: int, inner: str = "") -> None:
        self._arguments = [str(path), str(path / inner), str(most)]
        self._most = most
        self._asked = False
        self._child: subprocess.Popen[bytes] | None = None
        self._questions = self._answers = -1

    def start(self) -> None:
        """Start the process, unless there is one."""
        if self._child is None:
            self._asked = False
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, *self._arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a child that hangs must not keep it open for those who wait
                bufsize=0, cwd="/",
                start_new_session=True,  # Ctrl-C is for the recorder
            )  # fmt: skip
            assert self._child.stdin is not None and self._child.stdout is not None
            self._questions, self._answers = self._child.stdin.fileno(), self._child.stdout.fileno()
            owner.adopt(self._child.pid)

    def read(self, seconds: float | None = None) -> bytes | None:
        """What the file holds. Raises OSError as reading it does.

        None when that takes longer than ``seconds`` (None: it is waited for). As long as it does, each
        further call gives None at once.
        """
        if self._asked:
            if not _ready(self._answers, 0):
                return None
            self._answer()  # it is of long ago
        try:
            self._ask()
        except BrokenPipeError:  # it was ended, by somebody else
            self._forget()
            self._ask()
        if not _ready(self._answers, seconds):
            return None
        number, data = self._answer()
        if number:
            raise OSError(number, os.strerror(number))
        return data

    def _ask(self) -> None:
        self.start()
        os.write(self._questions, b"\n")
        self._asked = True

    def _forget(self) -> None:
        self.close()
        self._child, self._asked = None, False

    def _answer(self) -> tuple[int, bytes]:
        data = b""
        want = _HEAD.size
        while len(data) < want:
            piece = os.read(self._answers, _HEAD.size + self._most + 1 - len(data))
            if not piece:
                self._forget()
                raise OSError(5, "the process that reads it was ended")
            data += piece
            if len(data) >= _HEAD.size:
                want = _HEAD.size + min(_HEAD.unpack_from(data)[1], self._most + 1)
        self._asked = False
        return _HEAD.unpack_from(data)[0], data[_HEAD.size : want]

    def close(self) -> None:
        """End the process; one that hangs ends when the kernel lets go of it. From any thread."""
        if self._child is not None:
            self._child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(0.2)


def _ready(descriptor: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
