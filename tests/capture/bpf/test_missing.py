"""What the BPF programs need and do not find is said with its remedy; nothing of them is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from followed import FORMATS, KINDS, Reader, count, decoded

from hindsight.capture.bpf import libbpf, open_files, records
from hindsight.capture.bpf.calls import READ_CALLS
from hindsight.capture.bpf.tracer import OpenFilesTracer
from hindsight.capture.profiles import FILES
from hindsight.capture.schema import openfiles
from hindsight.errors import ExitCode, NotPermittedError, UsageError


def test_layouts_are_those_of_the_program() -> None:
    """Sizes are in the C source; fields in it are checked by every test above."""
    source = Path(open_files.__file__).with_name("open_files.bpf.c").read_text()
    sizes = {
        "opens": "OPENED_BYTES",
        "file_releases": "RELEASED_BYTES",
        "file_reads": "READ_BYTES",
        "file_readahead": "DECISION_BYTES",
    }
    for kind in FORMATS:
        (size,) = (
            int(line.split()[2])
            for line in source.splitlines()
            if line.startswith(f"#define {sizes[kind.name]} ")
        )
        assert size % 8 == 4 and 0 <= size - kind.payload_bytes <= 1
    assert (*(call.name for call in READ_CALLS), "io_uring") == openfiles.FILE_READ_CALLS
    assert {f"{records.SYSTEM}/{name}" for name in KINDS} == set(records.EVENTS)


def refused(monkeypatch: pytest.MonkeyPatch, *change: Any) -> NotPermittedError:
    if change:
        monkeypatch.setattr(*change)
    with pytest.raises(NotPermittedError) as caught:
        OpenFilesTracer(FILES, 64, records.EVENTS)
    assert caught.value.exit_code == ExitCode.NOT_PERMITTED
    return caught.value


def test_without_libbpf(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, libbpf, "LIBRARY", "libbpf-of-nobody.so.1")
    assert "not installed" in error.message and "apt-get install libbpf1" in str(error.remedy)


def test_without_types_of_the_kernel(allowed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = refused(monkeypatch, libbpf, "BTF", tmp_path / "absent")
    assert "does not describe its types" in error.message and "CONFIG_DEBUG_INFO_BTF" in str(error.remedy)


def test_without_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, open_files, "OBJECT", "not-built.bpf.o")
    assert "were not built" in error.message and "make bpf" in str(error.remedy)


def test_programs_that_are_none(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, open_files, "compiled", lambda: b"\x7fELF and nothing more")
    assert "cannot be read" in error.message


def test_on_a_kernel_without_some_tracepoints(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libbpf.BpfObject, "tracepoint_exists", lambda *_: False)
    tracer = tracer_of()
    assert tracer.missing == [records.DECISIONS] and records.DECISIONS not in tracer.events
    assert set(tracer.formats()) == set(tracer.events)
    reader = Reader(data, 10)
    tracer.follow([reader.pid])
    tracer.on()
    reader.go()
    reader.wait()
    tracer.off()
    tracer.finish()
    found = count(decoded(tmp_path / "raw0"))
    assert found["file_reads"] == 11 and found["file_readahead"] == 0


def test_tracepoints_are_found_or_not(allowed: None, tracer_of: Callable[..., OpenFilesTracer]) -> None:
    programs = tracer_of()._files.object
    there = {p.name for p in Path("/sys/kernel/tracing/events/readahead").glob("page_cache_*")}
    assert programs.tracepoint_exists("sync_decision") == ("page_cache_sync_ra" in there)
    assert programs.tracepoint_exists("read_call")


def test_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, open_files.platform, "machine", lambda: "riscv64")
    assert "riscv64" in error.message


def test_without_privilege(allowed: None) -> None:
    code = (
        "import os\nfrom hindsight.capture.bpf import records, tracer\n"
        "from hindsight.errors import HindsightError\nos.setgid(65534); os.setuid(65534)\n"
        "try:\n    tracer.OpenFilesTracer('files', 64, records.EVENTS)\n"
        "except HindsightError as error:\n    print(int(error.exit_code), error.message, '|', error.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("4 "), done
    assert "may not load BPF programs" in done.stdout and "CAP_BPF" in done.stdout


def test_flight_mode_is_refused(hindsight: Callable[..., Any], tmp_path: Path) -> None:
    done = hindsight("capture", "record", "-o", tmp_path / "raw", "--flight", "--open-files")
    assert done.returncode == ExitCode.USAGE and "--open-files" in done.stderr
    with pytest.raises(UsageError):
        OpenFilesTracer(FILES, 64, records.EVENTS, overwrite=True)


def test_nothing_is_left(allowed: None, tmp_path: Path) -> None:
    """Programs and memory are gone when a tracer is closed."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        tracer = OpenFilesTracer(FILES, 64, records.EVENTS)
        (tmp_path / "raw").mkdir(exist_ok=True)
        for path in (tmp_path / "raw").iterdir():
            path.unlink()
        tracer.open(tmp_path / "raw")
        tracer.on()
        tracer.off()
        tracer.close()
    assert len(os.listdir("/proc/self/fd")) == before
