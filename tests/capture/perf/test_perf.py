"""Live: events through perf_event_open, held against programs of known calls, and ftrace."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from caller import ENTER, EXIT, MAGIC, Caller

from hindsight.capture.formats import EventFormat, parse_event
from hindsight.capture.perf import event as perf
from hindsight.capture.perf import ring, rings, tracepoints
from hindsight.capture.perf.records import decode_records
from hindsight.capture.perf.ring import Ring, data_pages
from hindsight.capture.perf.rings import online_cpus
from hindsight.capture.perf.tracer import PerfTracer
from hindsight.capture.profiles import DEVICES, TASKS
from hindsight.capture.recording.rates import count_events
from hindsight.errors import NotPermittedError, UsageError


@pytest.fixture
def tracer_of(allowed: None, tmp_path: Path) -> Iterator[Callable[..., PerfTracer]]:
    """Makes tracers whose files are in ``raw0`` and closes them."""
    made: list[PerfTracer] = []

    def make(buffer_kb: int, events: list[str], name: str = TASKS, **kwargs: Any) -> PerfTracer:
        tracer = PerfTracer(name, buffer_kb, events, **kwargs)
        made.append(tracer)
        (tmp_path / "raw0").mkdir(exist_ok=True)
        tracer.open(tmp_path / "raw0")
        return tracer

    yield make
    for tracer in made:
        tracer.close()


def kinds_of(tracer: PerfTracer) -> list[EventFormat]:
    texts = tracer.formats()
    return [parse_event(event.split("/")[0], texts[event]) for event in tracer.events]


def decoded(directory: Path, kinds: list[EventFormat]) -> dict[int, Any]:
    import numpy as np

    found = {}
    for path in directory.glob("cpu*.perf"):
        events = decode_records(int(path.stem[3:]), np.fromfile(path, "<u4"), kinds)
        assert not events.problems
        if events.events:
            found[events.cpu] = events
    return found


def _read(stats: dict[int, dict[str, int]]) -> dict[int, int]:
    return {cpu: counters["read events"] for cpu, counters in stats.items()}


def total(stats: dict[int, dict[str, int]], counter: str) -> int:
    return sum(counters[counter] for counters in stats.values())


def test_every_call_is_recorded(tracer_of: Callable[..., PerfTracer], tmp_path: Path) -> None:
    tracer = tracer_of(4096, [ENTER, EXIT])
    caller = Caller(5000)
    tracer.follow([caller.pid])
    before = time.monotonic_ns()
    tracer.on()
    caller.go()
    caller.wait()
    tracer.off()
    assert tracer.finish() > 0
    after = time.monotonic_ns()
    stats = tracer.stats()
    assert total(stats, "read events") == 10_000 and total(stats, "dropped events") == 0
    assert total(stats, "bytes") == 0 and tracer.stats() == stats
    kinds = kinds_of(tracer)
    events = decoded(tmp_path / "raw0", kinds)
    assert {cpu: e.events for cpu, e in events.items()} == {
        cpu: counters["read events"] for cpu, counters in stats.items() if counters["read events"]
    }
    offset, pid = kinds[0].fields["offset"].offset, kinds[0].fields["common_pid"].offset
    for e in events.values():
        assert ((before < e.ts) & (e.ts < after)).all()
        at = e.at[e.span(0)]
        assert set(e.words[at + pid // 4].tolist()) == {caller.pid}
        assert set(e.words[at + offset // 4 + 1].tolist()) == {MAGIC >> 32}


@pytest.mark.parametrize("children", [0, 3])
def test_recorded_and_lost_are_all(
    tracer_of: Callable[..., PerfTracer], tmp_path: Path, children: int
) -> None:
    """A ring buffer too small for a program of known calls; children's are counted too."""
    tracer = tracer_of(16, [ENTER])
    caller = Caller(20_000, children)
    tracer.follow([caller.pid])
    tracer.on()
    caller.go()
    while caller.running():
        tracer.drain()
        looked = tracer.stats()
        time.sleep(0.003)
    tracer.off()
    tracer.finish()
    stats = tracer.stats()
    lost = total(stats, "dropped events")
    assert lost > 100
    assert total(stats, "read events") + lost == 20_000 * (children + 1)
    events = decoded(tmp_path / "raw0", kinds_of(tracer))
    assert {cpu: e.events for cpu, e in events.items()} == {
        cpu: counters["read events"] for cpu, counters in stats.items() if counters["read events"]
    }
    assert total(looked, "dropped events") <= lost


@pytest.mark.parametrize("fallback", [False, True])
def test_cuts_while_events_go_on(
    tracer_of: Callable[..., PerfTracer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fallback: bool
) -> None:
    """Each file holds exactly what the counters say was read between two cuts, while a program runs on."""
    if fallback:

        def nowhere(*_: object) -> None:
            raise OSError(errno.EINVAL, "no such processor")

        monkeypatch.setattr(rings.os, "sched_setaffinity", nowhere)
    tracer = tracer_of(128, [ENTER])
    calls = 150_000
    caller = Caller(calls, 1)
    tracer.follow([caller.pid])
    tracer.on()
    cuts = [tracer.stats()]
    caller.go()
    while caller.running() and len(cuts) < 40:
        tracer.drain()
        time.sleep(0.002)
        tracer.drain()
        tracer.finish()
        cuts.append(tracer.stats())
        directory = tmp_path / f"raw{len(cuts) - 1}"
        directory.mkdir()
        tracer.rotate(directory)
        assert _read(tracer.stats()) == _read(cuts[-1])
    with contextlib.suppress(ChildProcessError):
        caller.wait()
    tracer.off()
    tracer.finish()
    cuts.append(tracer.stats())
    assert len(cuts) > 4
    assert total(cuts[-1], "read events") + total(cuts[-1], "dropped events") == 2 * calls
    kinds = kinds_of(tracer)
    for number, (before, after) in enumerate(pairwise(cuts)):
        events = decoded(tmp_path / f"raw{number}", kinds)
        for cpu, counters in after.items():
            held = events[cpu].events if cpu in events else 0
            assert held == counters["read events"] - before[cpu]["read events"], (number, cpu)


def test_full_disk(
    tracer_of: Callable[..., PerfTracer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that takes no more ends with a whole record, which the counters say; it goes on later."""
    tracer = tracer_of(1024, [ENTER])
    caller = Caller(3000)
    tracer.follow([caller.pid])
    tracer.on()
    caller.go()
    caller.wait()
    writev = os.writev
    room = [12_345]

    def full(descriptor: int, parts: list[memoryview]) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "full")
        written = writev(descriptor, [parts[0][: room[0]]])
        room[0] -= written
        return written

    monkeypatch.setattr(ring.os, "writev", full)
    with pytest.raises(OSError, match="full"):
        tracer.drain()
    tracer.off()
    held = sum(e.events for e in decoded(tmp_path / "raw0", kinds_of(tracer)).values())
    assert 100 < held < 3000
    assert total(tracer.stats(), "read events") == held
    room[0] = 1 << 30
    tracer.finish()
    assert total(tracer.stats(), "read events") == 3000
    assert sum(e.events for e in decoded(tmp_path / "raw0", kinds_of(tracer)).values()) == 3000


def test_shed_and_restored(tracer_of: Callable[..., PerfTracer], tmp_path: Path) -> None:
    tracer = tracer_of(4096, [ENTER, EXIT])
    caller = Caller(1000)
    second = Caller(1000)
    tracer.follow([caller.pid, second.pid])
    tracer.on()
    tracer.shed([EXIT])
    caller.go()
    caller.wait()
    tracer.restore([EXIT])
    second.go()
    second.wait()
    tracer.off()
    tracer.finish()
    kinds = kinds_of(tracer)
    rows = Counter[str]()
    for e in decoded(tmp_path / "raw0", kinds).values():
        rows += Counter({kind.name: e.rows(number) for number, kind in enumerate(kinds)})
    assert rows == {"sys_enter_lseek": 2000, "sys_exit_lseek": 1000}
    pages = tracer.recent(3)
    assert 0 < len(pages) <= 3
    for page in pages:
        seen = count_events(page)
        assert seen is not None and set(seen.counts) <= {kind.id for kind in kinds}


def test_whole_host_without_own_threads(tracer_of: Callable[..., PerfTracer], tmp_path: Path) -> None:
    tracer = tracer_of(8192, [ENTER])
    tracer.ignore([os.getpid()])
    assert tracer.followed() is None
    caller = Caller(700)
    tracer.on()
    with open("/proc/self/exe", "rb") as file:
        for _ in range(500):
            os.lseek(file.fileno(), MAGIC, os.SEEK_SET)
    caller.go()
    caller.wait()
    tracer.off()
    tracer.finish()
    kinds = kinds_of(tracer)
    pids = Counter[int]()
    for e in decoded(tmp_path / "raw0", kinds).values():
        pids.update(e.words[e.at + kinds[0].fields["common_pid"].offset // 4].tolist())
    assert pids[caller.pid] == 700
    assert pids[os.getpid()] == 0


def test_followed_processes(tracer_of: Callable[..., PerfTracer]) -> None:
    tracer = tracer_of(64, [ENTER])
    caller = Caller(300_000, 2)
    tracer.follow([caller.pid])
    assert tracer.followed() == [caller.pid]
    caller.go()
    until = time.monotonic() + 30
    while len(tracer.followed() or []) < 3 and time.monotonic() < until:
        time.sleep(0.001)
    assert len(tracer.followed() or []) == 3
    caller.wait()
    assert tracer.followed() == []


def test_devices_are_filtered(tracer_of: Callable[..., PerfTracer]) -> None:
    tracer = tracer_of(256, ["filemap/mm_filemap_add_to_page_cache"], DEVICES, wanted=[(4095, 1)])
    assert tracer.filters == {"filemap/mm_filemap_add_to_page_cache": f"s_dev == {4095 << 20 | 1}"}
    tracer.on()
    Path(os.environ.get("TMPDIR", "/tmp"), f"perf-filter-{os.getpid()}").write_bytes(b"x" * 100_000)
    Path(os.environ.get("TMPDIR", "/tmp"), f"perf-filter-{os.getpid()}").unlink()
    tracer.off()
    assert total(tracer.stats(), "read events") == 0


def test_what_is_missing_and_refused(allowed: None, tmp_path: Path) -> None:
    tracer = PerfTracer(TASKS, 100, [ENTER, "nothing/there"])
    assert (tracer.events, tracer.missing) == ([ENTER], ["nothing/there"])
    assert tracer.buffer_kb == 64
    assert set(tracer.formats()) == {ENTER, "header_page", "header_event"}
    with pytest.raises(UsageError, match="flight"):
        PerfTracer(TASKS, 64, [ENTER], overwrite=True)
    with pytest.raises(NotPermittedError) as raised:
        tracepoints.locate((tmp_path,))
    assert "mount -t tracefs" in str(raised.value)
    assert data_pages(1) == 1 and data_pages(16384) * os.sysconf("SC_PAGE_SIZE") == 16384 << 10


@pytest.mark.parametrize(
    ("number", "buffer_kb", "remedy"),
    [
        (errno.EACCES, 0, "CAP_PERFMON"),
        (errno.EPERM, 4096, "CAP_IPC_LOCK"),
        (errno.ENOMEM, 4096, "smaller --buffer-kb"),
        (errno.EINVAL, 0, "PERF_FORMAT_LOST"),
        (errno.EIO, 0, "--source ftrace"),
    ],
)
def test_remedies(number: int, buffer_kb: int, remedy: str) -> None:
    assert remedy in str(perf.refused(OSError(number, "refused"), "x/y", buffer_kb))


def test_online_processors(tmp_path: Path) -> None:
    file = tmp_path / "online"
    file.write_text("0-2,5,7-8\n")
    assert online_cpus(file) == [0, 1, 2, 5, 7, 8]
    assert len(online_cpus()) == os.sysconf("SC_NPROCESSORS_ONLN")


def test_ring_is_unmapped(allowed: None) -> None:
    attr = perf.attribute(
        perf.TYPE_SOFTWARE,
        perf.COUNT_SW_DUMMY,
        sampled=True,
        read_format=perf.FORMAT_LOST,
        flags=perf.DISABLED,
    )
    descriptor = perf.open_event(attr, os.getpid(), -1)
    mapped = Ring(descriptor, 8)
    assert (mapped.size, mapped.head, mapped.pending) == (8192, 0, 0)
    mapped.close()
    os.close(descriptor)
    assert mapped.map.closed
