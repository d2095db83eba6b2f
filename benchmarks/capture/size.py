"""Bytes per event in Parquet, on the readahead profile: fio, grep over a tree, and sqlite, from a cold cache.

All files of the dataset count, also those that are no events (the capture, its devices, open files, clocks).
"""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from pathlib import Path

import children
import recorders
from figures import Figure

ROWS = 60_000
SQL = f"""
create table t(id integer primary key, k integer, v text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < {ROWS})
insert into t select i, (i * 7919) % {ROWS}, hex(randomblob(100)) from n;
create index tk on t(k);
"""
QUERIES = (
    f"with recursive n(i) as (select 1 union all select i + 1 from n where i < 8000) "
    f"select sum(length(v)) from n join t on t.k = (n.i * 104729) % {ROWS};"
    "select count(*) from t where v like '%ABCDEF%';"
)


def measure(directory: Path, file: Path) -> list[Figure]:
    """The figure: the largest of the workloads that can run here."""
    found = {}
    absent = []
    for name, prepare in (("fio", _fio), ("grep", _grep), ("sqlite", _sqlite)):
        try:
            command = prepare(directory, file)
        except recorders.Absent as reason:
            absent.append(str(reason))
            continue
        found[name] = _bytes_per_event(directory / name, command)
    if not found:
        raise recorders.Absent("; ".join(absent))
    worst = max(of["bytes_per_event"] for of in found.values())
    value = ", ".join(f"{name} {of['bytes_per_event']:.2f}" for name, of in found.items())
    details = {"workloads": found, "absent": absent}
    return [Figure("bytes per event in Parquet, readahead profile", value, "≤ 5", worst <= 5, details)]


def _bytes_per_event(where: Path, command: list[str]) -> dict[str, float]:
    raw, out = where / "raw", where / "out"
    children.run(recorders.hindsight(raw, command, 32768), sink=True)
    result = json.loads(
        children.run([*recorders.HINDSIGHT, "capture", "convert", "--json", "-o", out, raw]).output
    )
    if any(segment["lost"] for segment in result):
        raise children.ChildFailed(f"{command[0]}: events were lost")
    events = sum(segment["events"] for segment in result)
    size = sum(path.stat().st_size for path in out.rglob("*.parquet"))
    pages = sum(path.stat().st_size for path in raw.rglob("*.pages"))
    shutil.rmtree(where)
    return {"events": events, "bytes_per_event": size / events, "raw_bytes_per_event": pages / events}


def drop_from_cache(path: Path) -> None:
    """Write a file back and forget its cached pages."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _fio(directory: Path, file: Path) -> list[str]:
    jobs = [
        f"--filename={file}",
        "--readonly",
        "--ioengine=psync",
        "--thread",
        "--invalidate=1",
        "--output=/dev/null",
    ]
    # Enough of each that what a file costs, whatever is in it, decides nothing.
    jobs += ["--name=random", "--rw=randread", "--bs=4k", "--io_size=72M"]
    jobs += ["--name=sequential", "--rw=read", "--bs=64k", f"--io_size={min(file.stat().st_size, 192 << 20)}"]
    return [recorders.program("fio"), *jobs]


def _grep(directory: Path, file: Path) -> list[str]:
    tree = Path(sysconfig.get_path("stdlib"))
    for path in tree.rglob("*.py"):
        drop_from_cache(path)
    return [recorders.program("grep"), "-r", "--include=*.py", "-c", "import", str(tree)]


def _sqlite(directory: Path, file: Path) -> list[str]:
    base = directory / "base.sqlite"
    children.run([recorders.program("sqlite3"), base, SQL])
    drop_from_cache(base)
    return [recorders.program("sqlite3"), str(base), QUERIES]
