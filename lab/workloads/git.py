"""git over a generated repository: verifying its pack (a scan, then deltas) and searching its files."""

from __future__ import annotations

import random
from pathlib import Path

from hindsight.lab.workloads.files import write_tree
from hindsight.lab.workloads.run import run
from hindsight.lab.workloads.workload import Budget, FileSet, Workload

COMMITS = 6
_BINARIES = 40
_BINARY_BYTES = 768 << 10


def _prepare(directory: Path, seed: int) -> None:
    rng = random.Random(seed)
    write_tree(directory, seed, 700, 0, 0)
    assets = [directory / "assets" / f"image{number:03d}.bin" for number in range(_BINARIES)]
    assets[0].parent.mkdir()
    for path in assets:
        path.write_bytes(rng.randbytes(_BINARY_BYTES))
    settings = (
        "pack.threads=1",
        "core.bigFileThreshold=512m",
        "gc.auto=0",
        "core.compression=1",
        "pack.window=4",
    )
    git = ("git", *(word for setting in settings for word in ("-c", setting)))
    run(*git, "init", "--quiet", "--initial-branch=main", ".", cwd=directory)
    for number in range(COMMITS):
        for path in rng.sample(assets, 8):
            data = bytearray(path.read_bytes())
            for _ in range(6):
                at = rng.randrange(len(data) - 4096)
                data[at : at + 4096] = rng.randbytes(4096)
            path.write_bytes(data)
        run(*git, "add", "--all", cwd=directory)
        run(*git, "commit", "--quiet", f"--message=Change {number}", cwd=directory)
    run(*git, "repack", "-a", "-d", "-f", "--quiet", cwd=directory)
    pack = next((directory / ".git/objects/pack").glob("pack-*.pack"))
    for suffix in (".pack", ".idx"):
        pack.with_suffix(suffix).rename(pack.with_name("lab" + suffix))


FILES = FileSet(
    "repository", "a git repository: one pack of 40 MB of binaries with deltas, 700 texts", ("git",), _prepare
)


def _verify(directory: Path, seed: int, budget: Budget) -> list[str]:
    # One thread: what several threads read of one file cannot be told apart afterwards.
    return [
        "git",
        "-C",
        str(directory),
        "index-pack",
        "--threads=1",
        "--verify",
        ".git/objects/pack/lab.pack",
    ]


def _grep(directory: Path, seed: int, budget: Budget) -> list[str]:
    return ["git", "-C", str(directory), "grep", "--threads=1", "--fixed-strings", f"Needle{seed}"]


WORKLOADS = (
    Workload("git-verify-pack", "git", FILES, "a scan of a pack, then its deltas at random", _verify),
    Workload("git-grep", "git", FILES, "a search in the working tree", _grep, False, ok_statuses=(1,)),
)
