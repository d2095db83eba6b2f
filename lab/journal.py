"""The journal of a validation: what was planned, predicted and run, one JSON object a line, never rewritten.

Its order is part of the evidence: the hash of the predictions stands before the first run. A line is on disk
before the next step begins, so that a validation that was killed goes on where it was; the line that was
being written then is cut off. One process at a time holds a journal.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from hindsight.errors import ConfigurationError

FORMAT = 1


class Journal:
    """An open journal; ``entries`` are all that it holds, each with its ``kind``.

    Raises ConfigurationError if another process holds it, or a line other than the last one is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigurationError(
                    f"another process works with {path}",
                    "Wait until it has ended, or use another --work DIR.",
                ) from None
            self.entries = self._read()
        except BaseException:
            os.close(self._fd)
            raise

    def _read(self) -> list[dict[str, Any]]:
        data = b""
        while chunk := os.read(self._fd, 1 << 20):
            data += chunk
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._fd, whole)
        os.lseek(self._fd, whole, os.SEEK_SET)
        entries = []
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                entry = json.loads(line)
                entry["kind"]
            except (ValueError, TypeError, KeyError):
                raise ConfigurationError(
                    f"{self.path}, line {number} is damaged", "Start again with another --work DIR."
                ) from None
            entries.append(entry)
        return entries

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def write(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Add an entry; it is on disk when this returns."""
        entry = {"kind": kind, **facts}
        line = json.dumps(entry, sort_keys=True, allow_nan=False).encode() + b"\n"
        done = 0
        while done < len(line):
            done += os.write(self._fd, line[done:])
        os.fsync(self._fd)
        self.entries.append(entry)
        return entry

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The entries of a kind, in order."""
        return [entry for entry in self.entries if entry["kind"] == kind]


def begin(journal: Journal, plan: Mapping[str, Any]) -> bool:
    """Write the plan into an empty journal, or check that the journal is of this plan; True if it goes on.

    ``plan`` names the machine, among others. Raises ConfigurationError if the journal was begun on another
    machine, or with another plan: their measurements must not meet.
    """
    plans = journal.of("plan")
    if not plans:
        if journal.entries:
            raise ConfigurationError(
                f"{journal.path} does not begin with a plan", "Start again with another --work DIR."
            )
        journal.write("plan", format=FORMAT, **plan)
        return False
    known = {key: value for key, value in plans[0].items() if key not in ("kind", "format")}
    wanted = json.loads(json.dumps(dict(plan)))
    if known.get("machine") != wanted.get("machine"):
        raise ConfigurationError(
            f"{journal.path} was begun on machine {known.get('machine')}, this is {wanted.get('machine')}: "
            "measurements of two machines are never paired",
            "Start again with another --work DIR.",
        )
    different = sorted(key for key in known.keys() | wanted.keys() if known.get(key) != wanted.get(key))
    if different or plans[0].get("format") != FORMAT:
        raise ConfigurationError(
            f"{journal.path} was begun with another plan (differs in: {', '.join(different) or 'format'})",
            "Repeat the command that began it, or start again with another --work DIR.",
        )
    return True


def finished_blocks(journal: Journal) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """(profile, workload, round) -> its runs, of the blocks that were run to their end without interruption.

    Runs of a block that was broken off count for nothing: its stock run was made before the interruption.
    """
    blocks: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    current: list[dict[str, Any]] = []
    for entry in journal.entries:
        if entry["kind"] == "run":
            current.append(entry)
        elif entry["kind"] == "block":
            key = (entry["profile"], entry["workload"], entry["round"])
            blocks[key] = [run for run in current if (run["profile"], run["workload"], run["round"]) == key]
            current = []
        else:  # a new beginning
            current = []
    return blocks
