"""sqlite3 with its mapping off: a full scan, points, ranges, and all of them on one descriptor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hindsight.lab.workloads.run import run
from hindsight.lab.workloads.workload import Budget, FileSet, Workload

ROWS = 120_000
PAGE = 8192
ROW_BYTES = 1000
"""Mean; rows have 200 … 1,800 bytes."""

_MODULUS = 2147483647
_MULTIPLIER = 48271
"""Park and Miller's minimal standard generator (CACM 36/7, 1993): SQL can compute it, seeded."""


def _random_rows(count: int, seed: int) -> str:
    """SQL of a table ``picks(i, x)`` of ``count`` pseudo-random numbers below the modulus."""
    return (
        f"WITH RECURSIVE picks(i, x) AS (SELECT 1, {seed * 7919 % (_MODULUS - 1) + 1} UNION ALL "
        f"SELECT i + 1, x * {_MULTIPLIER} % {_MODULUS} FROM picks WHERE i < {count}) "
    )


def _prepare(directory: Path, seed: int) -> None:
    directory.mkdir(parents=True)
    run(
        "sqlite3", str(directory / "lab.db"),
        stdin=f"PRAGMA page_size = {PAGE}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, k INTEGER, payload TEXT); BEGIN;"
        + _random_rows(ROWS, seed)
        + f"INSERT INTO t SELECT i, x, printf('%0*d', {ROW_BYTES - 800} + x % 1600, x) FROM picks; COMMIT;",
    )  # fmt: skip


FILES = FileSet("sqlite", "a table of 120 MB in the order of its key, pages of 8 KiB", ("sqlite3",), _prepare)


def _points(count: int, seed: int) -> str:
    return _random_rows(count, seed) + (
        f"SELECT sum(length(t.payload)) FROM picks CROSS JOIN t ON t.id = 1 + picks.x % {ROWS};"
    )


def _ranges(count: int, rows: int, seed: int) -> str:
    return _random_rows(count, seed) + (
        "SELECT sum(length(t.payload)) FROM picks CROSS JOIN t "
        f"ON t.id BETWEEN picks.x % {ROWS} AND picks.x % {ROWS} + {rows};"
    )


def _scan(first: int, last: int) -> str:
    return f"SELECT count(*) FROM t WHERE id BETWEEN {first} AND {last} AND payload LIKE '%needle%';"


def _queries(name: str, meaning: str, sql: Callable[[int, Budget], str], sample: bool = True) -> Workload:
    def command(directory: Path, seed: int, budget: Budget) -> list[str]:
        return [
            "sqlite3",
            "-readonly",
            "-batch",
            str(directory / "lab.db"),
            "PRAGMA mmap_size = 0; " + sql(seed, budget),
        ]

    return Workload(f"sqlite3-{name}", "sqlite3", FILES, meaning, command, sample)


def _phases(seed: int, budget: Budget) -> str:
    points = max(1, budget.random_reads // 8)
    half = ROWS // 2
    return (
        _points(points, seed)
        + _scan(1, half // 2)
        + _ranges(max(1, points // 4), 64, seed + 1)
        + _points(points, seed + 2)
        + _scan(half, half + half // 2)
    )


WORKLOADS = (
    _queries("scan", "a full table scan",
             lambda seed, budget: _scan(1, min(ROWS, budget.stream_bytes // ROW_BYTES))),
    _queries("points", "rows by key, at random",
             lambda seed, budget: _points(budget.random_reads // 2, seed)),
    _queries("ranges", "128 rows in a row from random keys",
             lambda seed, budget: _ranges(max(1, budget.random_reads // 8), 128, seed), sample=False),
    _queries("phases", "points, a scan, ranges, points, a scan: on one descriptor", _phases),
)  # fmt: skip
