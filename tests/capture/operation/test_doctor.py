"""``doctor`` tells the truth about this host, as root and as nobody, and leaves no trace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hindsight.capture import profiles
from hindsight.capture.bpf import libbpf, open_files
from hindsight.capture.ftrace import tracefs
from hindsight.capture.operation import check_host, check_tracing
from hindsight.capture.operation.check import NO, OK, WARN
from hindsight.capture.operation.doctor import diagnose
from hindsight.errors import ExitCode

Run = Callable[..., subprocess.CompletedProcess[str]]


def as_nobody(arguments: list[str], directory: Path) -> tuple[int, str, str]:
    """Run the command in a fork as another user, who may not be able to execute this Python."""
    directory.chmod(0o777)
    for parent in directory.parents:
        if parent.is_relative_to(tempfile.gettempdir()) and parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    out, err = directory / "stdout", directory / "stderr"
    child = os.fork()
    if child == 0:
        status = 99
        try:
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.chdir(directory)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            from hindsight.command import main

            status = main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, out.read_text(), err.read_text()


def host_state(live: Path) -> dict[str, Any]:
    return {
        "instances": sorted(n for n in os.listdir(live / "instances") if n.endswith("-doctor")),
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if "tracefs" in line],
        "on": (live / "tracing_on").read_text(),
        "key": check_host.host.KEY_PATH.exists(),
    }


def test_root_can_record_in_full_and_nothing_is_left(live: Path, hindsight: Run, tmp_path: Path) -> None:
    before = host_state(live)
    done = hindsight("capture", "doctor", "--json", cwd=tmp_path)
    assert host_state(live) == before
    assert list(tmp_path.iterdir()) == []
    found = json.loads(done.stdout)
    checks = {check["id"]: check for check in found["checks"]}
    assert len(checks) == len(found["checks"])
    assert {"user", "tracefs", "instances", "clock", "notrace", "filters", "splice", "disk", "perf"} <= set(
        checks
    )
    lacking = [e for e in profiles.profile("readahead").tracepoints if not (live / "events" / e).exists()]
    assert done.returncode == (1 if found["missing"] else 0)
    assert bool(found["missing"]) == any(not e.startswith("syscalls/") for e in lacking)
    assert found["can"]["ftrace stream"] and found["can"]["ftrace flight"]
    assert all(check["remedy"] for check in checks.values() if check["state"] != OK)
    assert set(checks["splice"]) == {"id", "state", "what", "why", "remedy", "blocks"}


def test_what_doctor_allows_can_be_recorded(live: Path, hindsight: Run, tmp_path: Path) -> None:
    can = json.loads(hindsight("capture", "doctor", "--json").stdout)["can"]
    for source in ("ftrace", "perf"):
        done = hindsight("capture", "record", "-o", tmp_path / source, "--source", source, "--", "true")
        assert (done.returncode == 0) == can[f"{source} stream"], done.stderr
    done = hindsight("capture", "record", "-o", tmp_path / "files", "--open-files", "--", "true")
    assert (done.returncode == 0) == can["open files"], done.stderr


def test_what_open_files_lack_is_said(live: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = diagnose("readahead", tmp_path)
    monkeypatch.setattr(open_files, "OBJECT", "not-built.bpf.o")
    found = diagnose("readahead", tmp_path)
    (check,) = (c for c in found.checks if c.id == "bpf-files")
    assert check.state == NO and "make bpf" in check.remedy and not found.can["open files"]
    monkeypatch.undo()
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf-of-nobody.so.1")
    (check,) = (c for c in diagnose("readahead", tmp_path).checks if c.id == "bpf-files")
    assert check.state == NO
    # Nothing else depends on it.
    assert found.exit_code == before.exit_code and found.can | {"open files": True} == before.can | {
        "open files": True
    }


def test_text_for_a_terminal(live: Path, hindsight: Run) -> None:
    text = hindsight("capture", "doctor").stdout
    assert "tracepoints syscalls:*" in text
    assert "can be recorded" in text.splitlines()[-1]


def test_nobody_is_told_what_root_would_see(tmp_path: Path) -> None:
    code, out, err = as_nobody(["capture", "doctor", "--json"], tmp_path)
    found = json.loads(out)
    if found["can"]["ftrace stream"] or found["can"]["perf stream"]:
        pytest.skip("every user may trace on this host")
    assert code == 4 and err == ""
    checks = {check["id"]: check for check in found["checks"]}
    assert checks["user"]["state"] == NO
    assert any("sudo" in check["remedy"] for check in checks.values())
    if check_tracing._BTF.exists():
        assert "(by BTF)" in checks["events-filemap"]["why"]


def test_nobody_cannot_record_and_learns_why(tmp_path: Path) -> None:
    if as_nobody(["capture", "doctor"], tmp_path)[0] != 4:
        pytest.skip("every user may trace on this host")
    for source in ("ftrace", "perf"):
        raw = tmp_path / "raw"
        code, out, err = as_nobody(
            ["capture", "record", "-o", str(raw), "--source", source, "--", "true"], tmp_path
        )
        assert code == 4 and out == ""
        assert len(err.splitlines()) >= 2, err  # what is wrong, and what to do
        assert not raw.exists() or not any(raw.iterdir())


def test_type_information_agrees_with_tracefs(live: Path) -> None:
    events = [e for e in profiles.profile("readahead").tracepoints if not e.startswith("syscalls/")]
    events += ["none/no_such_event", "filemap/filemap"]
    lacks = check_tracing.btf_lacks(events)
    if lacks is None:
        pytest.skip("this kernel has no BTF")
    assert lacks == [event for event in events if not (live / "events" / event).exists()]


def test_missing_tracepoints_and_what_follows(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = ("syscalls/sys_enter_read", "readahead/no_such", "none/x", "block/block_rq_issue")
    monkeypatch.setitem(profiles.CHOICES, "some", profiles.Choice("", events))
    found = diagnose("some", Path("."))
    checks = {check.id: check for check in found.checks}
    assert checks["events-readahead"].state == WARN
    assert "no verdict" in checks["events-readahead"].remedy
    assert found.missing == ["readahead", "none"]
    assert found.exit_code == ExitCode.FAILED
    monkeypatch.setitem(profiles.CHOICES, "nothing", profiles.Choice("", ("none/x",)))
    assert diagnose("nothing", Path(".")).exit_code == ExitCode.NOT_PERMITTED


def test_system_calls_that_a_machine_never_had() -> None:
    events = ["syscalls/sys_enter_open", "syscalls/sys_enter_openat"]
    assert check_tracing.event_check("syscalls", events, events[:1]).state == OK
    assert check_tracing.event_check("syscalls", events, events).state == WARN


def test_without_tracefs(live: Path) -> None:
    """In mount namespaces of its own: not mounted, and not in the kernel."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    run = f"{sys.executable} -m hindsight capture doctor --json"
    unmount = f"while umount {live} 2>&- || umount /sys/kernel/debug 2>&-; do :; done"
    script = f"{unmount}; {run}; mount -t tmpfs none /sys/kernel; {run} || echo $?"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if "unshare failed" in done.stderr:
        pytest.skip("no mount namespaces here")
    decoder = json.JSONDecoder()
    unmounted, end = decoder.raw_decode(done.stdout)
    gone, end = decoder.raw_decode(done.stdout, end + 1)
    assert next(c for c in unmounted["checks"] if c["id"] == "tracefs")["state"] == WARN
    assert unmounted["can"]["ftrace stream"]
    assert next(c for c in gone["checks"] if c["id"] == "tracefs")["state"] == NO
    assert not any(gone["can"].values()) and done.stdout.rstrip().endswith("\n4")


def test_disk(tmp_path: Path) -> None:
    assert check_host.disk(tmp_path / "not" / "yet", 0).state in (OK, WARN)
    assert check_host.disk(tmp_path, 1 << 62).state == NO
    (tmp_path / "file").write_text("")
    assert check_host.disk(tmp_path / "file" / "x", 0).state == NO
    assert check_host.disk(Path("/proc"), 0).state == NO


def test_memory() -> None:
    assert check_host.memory(64, 1).state == OK
    assert check_host.memory(1 << 40, 1).state == NO


def test_usage(hindsight: Run) -> None:
    assert hindsight("capture", "doctor", "--profile", "none").returncode == 2


def test_no_instance_outlives_a_failing_check(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tracefs.Instance, "read", fail)
    found = diagnose("readahead", Path("."))
    assert any("could not be looked at" in check.why for check in found.checks)
    assert not any(name.endswith("-doctor") for name in os.listdir(live / "instances"))
