"""Does a split of captures into training and test leak? One checker per named evaluation.

A row is a mapping with ``capture``, ``workload``, ``program``, ``host`` (str), ``start_ns`` and ``end_ns``
(int, one clock per host). Each checker returns None or raises VerificationError that names the leak.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hindsight.errors import VerificationError

Row = Mapping[str, Any]
FIELDS = ("capture", "workload", "program", "host", "start_ns", "end_ns")


def check_tomorrow(train: Iterable[Row], test: Iterable[Row], purge_ns: int) -> None:
    """*Tomorrow*: the same hosts and workloads, later.

    On each host, every test capture starts at least ``purge_ns`` after the last training capture ended (a
    label looks ahead by its horizon, so that a smaller gap would let the test into the labels); and each
    (host, workload) of the test was seen in training, else it answers another question.
    """
    if purge_ns < 0:
        raise VerificationError(f"tomorrow: the purge gap is negative ({purge_ns} ns)")
    train_rows, test_rows = _rows("tomorrow", train, test)
    seen = {(row["host"], row["workload"]) for row in train_rows}
    last: dict[str, Row] = {}
    for row in train_rows:
        if row["host"] not in last or row["end_ns"] > last[row["host"]]["end_ns"]:
            last[row["host"]] = row
    for row in test_rows:
        if (row["host"], row["workload"]) not in seen:
            raise VerificationError(
                f"tomorrow: test capture {row['capture']!r} has workload {row['workload']!r} on host "
                f"{row['host']!r}, which training has not seen there",
                "record that workload before as well, or leave the capture to the evaluation new_workload",
            )
        before = last[row["host"]]
        gap = row["start_ns"] - before["end_ns"]
        if gap < purge_ns:
            raise VerificationError(
                f"tomorrow: test capture {row['capture']!r} starts {gap} ns after training capture "
                f"{before['capture']!r} ended on the same host; the purge gap is {purge_ns} ns",
                "move the cut in time, or drop the captures that lie within the gap",
            )


def check_new_workload(train: Iterable[Row], test: Iterable[Row]) -> None:
    """*New workload*: no program of the test was seen in training, nor a workload under another name."""
    _check_disjoint("new_workload", train, test, ("program", "workload"))


def check_new_host(train: Iterable[Row], test: Iterable[Row]) -> None:
    """*New host*: no host of the test was seen in training."""
    _check_disjoint("new_host", train, test, ("host",))


def _check_disjoint(name: str, train: Iterable[Row], test: Iterable[Row], keys: tuple[str, ...]) -> None:
    train_rows, test_rows = _rows(name, train, test)
    for key in keys:
        shared = sorted({row[key] for row in train_rows} & {row[key] for row in test_rows})
        if shared:
            raise VerificationError(
                f"{name}: {key} {', '.join(map(repr, shared))} stands in training and in test",
                f"leave every capture of that {key} out of training",
            )


def _rows(name: str, train: Iterable[Row], test: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    train_rows, test_rows = list(train), list(test)
    for side, rows in (("training", train_rows), ("test", test_rows)):
        if not rows:
            raise VerificationError(f"{name}: the {side} side of the split is empty")
        for row in rows:
            missing = [field for field in FIELDS if row.get(field) is None]
            if missing:
                raise VerificationError(f"{name}: a {side} row lacks {', '.join(missing)}: {dict(row)!r}")
            if row["end_ns"] < row["start_ns"]:
                raise VerificationError(f"{name}: {side} capture {row['capture']!r} ends before it starts")
    both = sorted({row["capture"] for row in train_rows} & {row["capture"] for row in test_rows})
    if both:
        raise VerificationError(
            f"{name}: capture {', '.join(map(repr, both))} stands in training and in test",
            "split by whole captures",
        )
    return train_rows, test_rows
