"""Play the games with descriptors while they are recorded, and judge what a recording tells of them."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hindsight.capture import schema
from hindsight.capture.conversion.convert import convert
from hindsight.capture.recording.record import RecordOptions, record
from hindsight.pipeline.dataset import find_captures, read_tables
from hindsight.subsystems.readahead import calls as sc
from hindsight.subsystems.readahead.history import History

GAMES = Path(__file__).parent / "descriptor_games.py"


class Played(NamedTuple):
    """A recording of the games: its tables, and what the program says of each call (None = not its read)."""

    tables: dict[str, Any]
    history: History
    labels: list[str | None]


def play(directory: Path, rounds: int) -> Played:
    """Record the games. Raises NotPermittedError when open files cannot be told apart here."""
    log = directory / "log"
    (directory / "files").mkdir()
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    command = (python, "-S", str(GAMES), str(directory / "files"), str(log), str(rounds))
    options = RecordOptions(directory / "raw", command, buffer_kb=65536, open_files=True)
    done = record(options, lambda text: None)
    assert done.status == 0 and done.lost == 0
    convert([directory / "raw"], directory / "dataset")
    (capture,) = find_captures(directory / "dataset")
    tables = read_tables(capture, schema.TABLES)
    truth = {int(size): label for size, label in map(str.split, log.read_text().splitlines())}
    # Of the system calls alone: what the kernel told is what it is held against.
    told = ("file_reads", "file_releases", "opens")
    history = History({name: table for name, table in tables.items() if name not in told})
    reads = np.isin(history.calls.code, (sc.READ, sc.PREAD))
    labels = [truth.get(size) for size in np.where(reads, history.calls.a, -1).tolist()]
    # Every read is in the recording, once.
    assert Counter(label for label in labels if label is not None) == Counter(truth.values())
    return Played(tables, history, labels)


def judge(numbers: list[int], labels: list[str | None]) -> Counter[str]:
    """Reads told right, wrong, and not at all: a number must stand for one label, a label for one."""
    of_number, of_label = defaultdict(set), defaultdict(set)
    known = [(n, label) for n, label in zip(numbers, labels, strict=True) if label is not None]
    for number, label in known:
        if number > 0:
            of_number[number].add(label)
            of_label[label].add(number)
    verdicts = Counter[str]()
    for number, label in known:
        fits = number > 0 and len(of_number[number]) == len(of_label[label]) == 1
        verdicts["right" if fits else "wrong" if number > 0 else "not told"] += 1
    return verdicts
