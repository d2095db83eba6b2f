"""Small datasets for the toy subsystem, written as `hindsight capture convert` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindsight.capture import schema

DAY_NS = 86_400_000_000_000


def write_table(
    dataset: Path, table: str, capture: str, columns: dict[str, Any], rows: int, host: str = "h1"
) -> Path:
    """One file; columns that are not given are zero, empty or null."""
    wanted = schema.arrow_schema(table)
    arrays = []
    for field in wanted:
        value = columns.get(field.name)
        if value is None:
            value = None if field.nullable else "" if field.type == pa.string() else 0
        values = value if isinstance(value, np.ndarray | list) else [value] * rows
        arrays.append(pa.array(values).cast(field.type) if value is not None else pa.nulls(rows, field.type))
    path = dataset / f"host={host}" / "date=2024-01-01" / table / f"{capture}-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays(arrays, schema=wanted), path)
    return path


def accesses(kind: str, n: int, generator: np.random.Generator) -> np.ndarray:
    """Block numbers: `run`s, `jump`s, `phases` of both, or jumps to short runs (`pairs`, `fours`)."""
    run = np.arange(n)
    jump = generator.integers(0, 1 << 20, n)
    return {
        "run": run,
        "jump": jump,
        "phases": np.where(np.arange(n) // (n // 4) % 2, run, jump),
        "pairs": jump[run // 2] + run % 2,
        "fours": jump[run // 4] + run % 4,
    }[kind]


def write_capture(
    dataset: Path,
    capture: str,
    workload: str,
    program: str,
    start_ns: int,
    kinds: tuple[str, ...],
    reads: int = 600,
    seed: int = 0,
    decisions: bool = True,
    host: str = "h1",
) -> None:
    """One capture of 12 s: a thread per kind, one more with three reads."""
    generator = np.random.Generator(np.random.PCG64(seed))
    parts = [(100 + i, accesses(kind, reads, generator)) for i, kind in enumerate(kinds)]
    parts.append((99, np.arange(3)))
    mono = 5_000_000_000
    ts = np.concatenate([mono + np.arange(len(b)) * (12_000_000_000 // len(b)) + pid for pid, b in parts])
    pid = np.concatenate([np.full(len(b), p) for p, b in parts])
    pos = np.concatenate([b for _, b in parts]) * 4096
    order = np.argsort(ts, kind="stable")
    facts = {
        "capture": capture,
        "host": host,
        "label": workload,
        "program": program,
        "start_ns": mono,
        "end_ns": mono + 12_000_000_000,
        "realtime_start_ns": start_ns,
    }
    write_table(dataset, "captures", capture, facts, 1, host)
    write_table(dataset, "devices", capture, {"dev_major": 7, "dev_minor": 1, "rotational": False}, 1, host)
    events = {"ts": ts[order], "pid": pid[order], "pos": pos[order], "count": 4096}
    write_table(dataset, "sys_enter_pread64", capture, events, len(ts), host)
    if decisions:
        write_decisions(dataset, capture, ts[order], pid[order], pos[order] // 4096, host)


def write_decisions(dataset: Path, capture: str, ts: Any, pid: Any, block: Any, host: str = "h1") -> None:
    """What a kernel with a window of 8 would have decided: an implementation of its own, not the replay's."""
    last: dict[int, int] = {}
    rows = []
    for when, thread, b in zip(ts.tolist(), pid.tolist(), block.tolist(), strict=True):
        begin = last.get(thread)
        if begin is None or not begin <= b < begin + 8:
            last[thread] = b
            rows.append((when, thread, b))
    times, threads, index = (np.array(column) for column in zip(*rows, strict=True))
    columns = {"ts": times, "pid": threads, "index": index, "size": 8}
    write_table(dataset, "page_cache_ra_order", capture, columns, len(rows), host)


def write_dataset(dataset: Path, passes: int = 2, reads: int = 600, hosts: tuple[str, ...] = ("h1",)) -> Path:
    """Three programs, two passes on different days, on each host."""
    workloads = (
        ("scan", "reader", ("run",)),
        ("lookup", "db", ("jump",)),
        ("mixed", "db", ("run", "jump")),
        ("phases", "tool", ("phases",)),
    )
    for place, host in enumerate(hosts):
        for number in range(passes):
            for i, (workload, program, kinds) in enumerate(workloads):
                start = 1_700_000_000_000_000_000 + number * DAY_NS + i * 60_000_000_000
                seed = 100 * place + 10 * number + i
                name = f"c{number}{i}" + (f"-{host}" if place else "")
                write_capture(dataset, name, workload, program, start, kinds, reads, seed, host=host)
    return dataset
