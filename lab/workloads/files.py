"""grep -r and tar over a tree like a source checkout with its logs: many small files, a few large ones."""

from __future__ import annotations

import random
from pathlib import Path

from hindsight.lab.workloads.workload import Budget, FileSet, Workload

SMALL_FILES = 900
LARGE_FILES = 2
LARGE_BYTES = 10 << 20
_WORDS = 4096


def write_tree(directory: Path, seed: int, small: int, large: int, large_bytes: int) -> None:
    """Write ``small`` files (log-normal, median 6 KiB, at most 256) and ``large`` logs, in nested folders."""
    rng = random.Random(seed)
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz_", k=rng.randint(2, 11))) for _ in range(_WORDS)]
    paragraph = b"\n".join(b" ".join(rng.choices(words, k=9)) for _ in range(8000))
    for number in range(small + large):
        folder = directory / f"part{number % 12:02d}" / f"unit{number % 60:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        if number < small:
            path, size = (
                folder / f"file{number:05d}.c",
                int(min(256 << 10, max(512, rng.lognormvariate(8.7, 1.2)))),
            )
        else:
            path, size = folder / f"service{number:05d}.log", large_bytes
        begin = rng.randrange(len(paragraph) // 2)
        text = paragraph[begin:] + b"\n"
        path.write_bytes((text * (size // len(text) + 1))[:size])


TREE = FileSet(
    "tree",
    f"{SMALL_FILES} small text files and {LARGE_FILES} of {LARGE_BYTES >> 20} MiB, in nested folders",
    (),
    lambda directory, seed: write_tree(directory, seed, SMALL_FILES, LARGE_FILES, LARGE_BYTES),
)

LOGS = FileSet(
    "logs",
    "24 small text files and 6 logs of 24 MiB",
    (),
    lambda directory, seed: write_tree(directory, seed, 24, 6, 24 << 20),
)


def _grep(directory: Path, seed: int, budget: Budget) -> list[str]:
    # A needle with a capital is nowhere in the tree: every file is read to its end.
    return ["grep", "--recursive", "--fixed-strings", f"Needle{seed}", str(directory)]


def _tar(directory: Path, seed: int, budget: Budget) -> list[str]:
    # Written straight to /dev/null, tar would not read; through a filter it does.
    return ["tar", "--create", "--file=-", "--use-compress-program=cat", f"--directory={directory}", "."]


def _tar_large(directory: Path, seed: int, budget: Budget) -> list[str]:
    return [*_tar(directory, seed, budget)[:-1], "--blocking-factor=64", "."]


WORKLOADS = (
    Workload("grep-tree", "grep", TREE, "a recursive search in a source tree", _grep, ok_statuses=(1,)),
    Workload("grep-logs", "grep", LOGS, "a recursive search in large logs", _grep, ok_statuses=(1,)),
    Workload("tar-tree", "tar", TREE, "an archive of a source tree", _tar, in_sample=False),
    Workload("tar-logs", "tar", LOGS, "an archive of large logs, 32 KiB a read", _tar_large),
)
