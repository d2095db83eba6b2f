"""Run one of our modules in a process of its own, within limits: what it reads may crash it.

The child calls :func:`limit` before it looks at its standard input, and writes one line of JSON to its
standard output (:func:`answer`). The parent believes nothing of it: not its form, not its length.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import BinaryIO

from hindsight.errors import ConfigurationError, HindsightError, VerificationError

TIMEOUT_S = 120
MEMORY_BYTES = 4 << 30
FILE_BYTES = 64 << 20
"""What the child may write to a file, its output among them (it may also compile, and keep the result)."""

MAX_ANSWER_BYTES = 1 << 16
MAX_REASON = 400


def ask(module: str, request: bytes) -> dict[str, object]:
    """Run ``python -m module`` with ``request`` on its standard input; returns its answer.

    Raises VerificationError if it refuses, crashes, takes longer than TIMEOUT_S of processor time or twice
    that in all, or answers in another form; ConfigurationError if no process can be started.
    """
    with (
        tempfile.TemporaryFile() as asked,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as messages,
    ):
        try:
            asked.write(request)
            asked.seek(0)
            # Files, not pipes: a child that writes without end fills neither our memory nor the disk.
            done = subprocess.run(
                # -P: the working directory is no place to import from.
                [sys.executable, "-P", "-m", module],
                stdin=asked,
                stdout=output,
                stderr=messages,
                timeout=2 * TIMEOUT_S,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise VerificationError(f"the model did not load within {2 * TIMEOUT_S} s", _DO_NOT_USE) from None
        except OSError as error:
            raise ConfigurationError(
                f"no process to load the model in: {error.strerror}",
                "make room in the directory of temporary files, or for processes",
            ) from None
        if done.returncode != 0:
            raise VerificationError(
                f"the model crashed the process that loaded it ({_reason(done.returncode, messages)})",
                _DO_NOT_USE,
            )
        output.seek(0)
        return _parse(output.read(MAX_ANSWER_BYTES + 1))


def _parse(data: bytes) -> dict[str, object]:
    try:
        reply = json.loads(data) if len(data) <= MAX_ANSWER_BYTES else None
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise VerificationError("the process that loaded the model gave no answer", _DO_NOT_USE)
    if "error" in reply:
        raise VerificationError(_plain(str(reply["error"])), _plain(str(reply.get("remedy") or _DO_NOT_USE)))
    return reply


_DO_NOT_USE = "do not use this package; make it again from its data"


def _plain(text: str) -> str:
    # What is not printable could steer the terminal that shows it.
    return "".join(c for c in text if c.isprintable())[:MAX_REASON]


def _reason(status: int, messages: BinaryIO) -> str:
    if status < 0:
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"
    messages.seek(max(0, messages.seek(0, os.SEEK_END) - MAX_ANSWER_BYTES))
    last = messages.read().decode(errors="replace").strip().rpartition("\n")[2]
    return _plain(last) or f"exit status {status}"


def limit() -> None:
    """The child's side: bound memory, processor time and files; no core dump."""
    for which, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, TIMEOUT_S),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(which)[1]
        if hard == resource.RLIM_INFINITY or hard > value:
            resource.setrlimit(which, (value, value))


def answer(work: Callable[[bytes], dict[str, object]]) -> None:
    """The child's side: do ``work`` on the request; the answer is its result, or the error that it raised."""
    limit()
    # Libraries print to standard output; the answer must stand there alone.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        try:
            reply = work(sys.stdin.buffer.read())
        except HindsightError as error:
            reply = {"error": error.message, "remedy": error.remedy}
        output.write(json.dumps(reply).encode() + b"\n")
