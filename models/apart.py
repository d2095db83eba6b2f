"""Run one of our modules in a process of its own, within limits: what it reads may crash it.

The child calls :func:`limit` before it looks at its standard input, and writes one line of JSON to its
standard output, then what is attached to it (:func:`answer`). The parent believes nothing of it: not its
form, not its length.
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

MAX_ANSWER_BYTES = 1 << 20
"""Of the line of JSON."""
MAX_REASON = 400


def ask(module: str, request: bytes, attached: int = 0) -> tuple[dict[str, object], bytes]:
    """Run ``python -m module`` with ``request`` on its standard input; returns its answer and what is
    attached to it, which must have ``attached`` bytes.

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
        return _parse(output.read(MAX_ANSWER_BYTES + 1 + attached + 1), attached)


def no_answer() -> VerificationError:
    """The error for an answer of another form."""
    return VerificationError("the process that loaded the model gave no answer", _DO_NOT_USE)


def _parse(data: bytes, attached: int) -> tuple[dict[str, object], bytes]:
    line, _, rest = data.partition(b"\n")
    try:
        reply = json.loads(line) if len(line) <= MAX_ANSWER_BYTES else None
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise no_answer()
    if "error" in reply:
        raise VerificationError(_plain(str(reply["error"])), _plain(str(reply.get("remedy") or _DO_NOT_USE)))
    if len(rest) != attached:
        raise no_answer()
    return reply, rest


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


def answer(work: Callable[[bytes], tuple[dict[str, object], bytes]]) -> None:
    """The child's side: do ``work`` on the request; the answer is its result, or the error that it raised."""
    limit()
    # Libraries print to standard output; the answer must stand there alone.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        try:
            reply, rest = work(sys.stdin.buffer.read())
        except HindsightError as error:
            reply, rest = {"error": error.message, "remedy": error.remedy}, b""
        output.write(json.dumps(reply).encode() + b"\n" + rest)
