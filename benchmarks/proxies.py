#!/usr/bin/env python3
"""How long a snapshot of a proxy takes, from the beginning of its read to its rows in the segment.

Real recordings: `--proxy` of one proxy at a time, `--every 20ms`, beside a command that sleeps; every sample
is timed where the recorder takes it, the first ten left out. The proxies: `memory` (some files of procfs, an
attribute at a time), `blockdev` of one disk (sysfs), a document in a FUSE file system (served by mfusepy, in
another process), and `readahead` (the maps of a BPF program). Needs root and `make bpf`.

    sudo .venv/bin/python benchmarks/proxies.py             the table
    sudo .venv/bin/python benchmarks/proxies.py --json      with 99th percentiles and all samples

Exit status: 0, 1 when a figure is not met, 3 when one could not be measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "capture")]
from figures import Figure  # noqa: E402

from hindsight.capture.options import RecordOptions  # noqa: E402
from hindsight.capture.proxy.blockdev import devices  # noqa: E402
from hindsight.capture.recording import sampler  # noqa: E402
from hindsight.capture.recording.record import record  # noqa: E402
from hindsight.errors import HindsightError  # noqa: E402

EVERY_S = 0.02
WARM_UP = 10
DOCUMENT: dict[str, Any] = {
    "schema": 1, "proxy": "benchmark", "subsystem": "test", "mode": "learning",
    "boot_id": "00000000-0000-0000-0000-000000000000",
    "dataset": {"type": "structure", "state": "clean", "offset": 0, "size": 64},
    "state": {f"counter{n}": n for n in range(50)},
    "actuators": [{"name": "window", "current": 128, "min": 4, "max": 4096, "scope": "device"}],
    "lost": {"snapshots": 0},
}  # fmt: skip


def timed(name: str, seconds: float, directory: Path) -> list[float]:
    """Milliseconds of each sample of the proxy ``name``, in a recording of its own."""
    spans: list[float] = []
    take = sampler.Sampler._take

    def stopwatch(self: sampler.Sampler, watch: Any) -> None:
        begin = time.monotonic_ns()
        take(self, watch)
        spans.append((time.monotonic_ns() - begin) / 1e6)

    sampler.Sampler._take = stopwatch  # type: ignore[method-assign]
    said: list[str] = []
    try:
        options = RecordOptions(directory, ("sleep", str(seconds)), proxies=(name,), every_s=EVERY_S)
        done = record(options, said.append)
    finally:
        sampler.Sampler._take = take  # type: ignore[method-assign]
    failed = [text for text in said if "cannot be sampled" in text]
    if done.status != 0 or done.lost or failed:
        raise HindsightError(f"the recording of {name} is not sound: {failed or said}")
    return spans[WARM_UP:]


@contextmanager
def served_by_fuse(directory: Path) -> Iterator[str]:
    """A document, numbered and dated anew at each read, and the name of its proxy. Raises HindsightError."""
    directory.mkdir()
    command = [sys.executable, str(HERE / "fuse_proxy.py"), str(directory), json.dumps(DOCUMENT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 5
        while not directory.is_mount():
            if server.poll() is not None or time.monotonic() > until:
                raise HindsightError("the file system did not come up: FUSE, mfusepy or libfuse is missing")
            time.sleep(0.01)
        yield f"fuse:{directory}"
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False, capture_output=True)
        server.terminate()
        server.wait()


def figure(what: str, spans: list[float], most: float | None) -> Figure:
    """The line of one proxy."""
    middle, late = median(spans), quantiles(spans, n=100)[98]
    met = None if most is None else middle <= most
    required = "" if most is None else f"≤ {most:g} ms"
    value = f"{middle:.2f} ms (99 % within {late:.2f} ms)"
    return Figure(what, value, required, met, {"median_ms": middle, "p99_ms": late, "ms": spans})


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each recording (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    missing: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hindsight-benchmark-") as temporary:
        where = Path(temporary)
        arms: list[tuple[str, AbstractContextManager[str], float]] = [
            ("sysfs, a disk (blockdev)", nullcontext(f"blockdev:{devices()[0]}"), 1.0),
            ("procfs, memory", nullcontext("memory"), 1.0),
            ("FUSE, a document", served_by_fuse(where / "served"), 1.0),
            ("eBPF, readahead", nullcontext("readahead"), 3.0),
        ]
        for number, (what, proxy, most) in enumerate(arms):
            try:
                with proxy as name:
                    spans = timed(name, arguments.seconds, where / f"raw{number}")
                figures.append(figure(what, spans, most))
            except HindsightError as error:
                missing.append(f"{what}: {error}")
    if arguments.json:
        print(json.dumps({"figures": [asdict(f) for f in figures], "not_measured": missing}, indent=1))
    else:
        for line in figures:
            mark = {True: "met", False: "NOT MET", None: ""}[line.met]
            print(f"{line.name:28} {line.value:36} {line.required:8} {mark}")
        for text in missing:
            print(f"not measured: {text}")
    return 3 if missing else int(any(line.met is False for line in figures))


if __name__ == "__main__":
    sys.exit(main())
