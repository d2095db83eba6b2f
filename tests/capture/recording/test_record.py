"""Live: what the recorder does with users, signals, losses, devices and failures, and that it cleans up."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hindsight.capture import devices, host, owner, profiles
from hindsight.capture.conversion.convert import convert
from hindsight.capture.recording.record import Recording, RecordOptions, record
from hindsight.capture.recording.tracers import Tracers
from hindsight.capture.segments.files import file_facts
from hindsight.capture.segments.segment import open_segment
from hindsight.command import main
from hindsight.errors import NotPermittedError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def no_instance_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "live" in request.fixturenames:
        left = list((request.getfixturevalue("live") / "instances").glob(f"hindsight-{owner.own()}-*"))
        assert left == []


def rows(recording: Recording | Path, out: Path, table: str, **options: Any) -> list[dict[str, Any]]:
    path = recording if isinstance(recording, Path) else recording.path
    convert([path], out, **options)
    files = list(out.glob(f"host=*/date=*/{table}/*.parquet"))
    return pq.read_table(files[0]).to_pylist() if files else []


def segments(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if not path.name.startswith(".")]


def drain_late(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Make the recorder drain on a slow timer alone, whatever its ring buffers hold."""
    monkeypatch.setattr(Tracers, "pause", lambda *_: seconds)
    monkeypatch.setattr(Tracers, "descriptors", [])


def cat(path: Path, block: int = 4096) -> tuple[str, ...]:
    return ("dd", f"if={path}", "of=/dev/null", f"bs={block}", "status=none")


def cold_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    return path


def test_command(live: Path, tmp_path: Path) -> None:
    file = cold_file(tmp_path / "file", 1 << 20)
    recording = record(RecordOptions(tmp_path / "raw", cat(file), label="one file"))
    assert (recording.status, recording.lost) == (0, 0)
    (capture,) = rows(recording, tmp_path / "out", "captures")
    assert (capture["program"], capture["label"], capture["profile"]) == ("dd", "one file", "readahead")
    assert recording.path.name.startswith(capture["capture"])
    assert capture["start_ns"] < capture["end_ns"]
    anchors = rows(recording, tmp_path / "out", "clock_anchors")
    assert [a["ts"] for a in anchors] == [capture["start_ns"], capture["end_ns"]]
    assert abs(anchors[0]["realtime_ns"] - capture["realtime_start_ns"]) == 0
    (exec_row,) = rows(recording, tmp_path / "out", "sched_process_exec")
    (task,) = rows(recording, tmp_path / "out", "tasks")
    assert exec_row["target_pid"] == task["pid"] == task["tgid"]
    inode = os.stat(file).st_ino
    reads = [r for r in rows(recording, tmp_path / "out", "page_cache_sync_ra") if r["i_ino"] == inode]
    assert reads and reads[0]["index"] == 0
    counts = [r["count"] for r in rows(recording, tmp_path / "out", "sys_enter_read") if r["fd"] == 0]
    assert counts.count(4096) >= 256
    (fact,) = [r for r in rows(recording, tmp_path / "out", "files") if r["i_ino"] == inode]
    assert (fact["size"], fact["path"]) == (1 << 20, None)
    everything = [recording.path, *recording.path.rglob("*")]
    assert {stat.S_IMODE(p.stat().st_mode) for p in everything if p.is_dir()} == {0o700}
    assert {stat.S_IMODE(p.stat().st_mode) for p in everything if p.is_file()} == {0o600}


def test_paths_only_when_asked_for(live: Path, tmp_path: Path) -> None:
    file = cold_file(tmp_path / "secret-name", 1 << 16)
    plain = record(RecordOptions(tmp_path / "plain", cat(file)))
    assert "secret-name" not in "".join(p.read_text() for p in plain.path.glob("*.json"))
    cold_file(file, 1 << 16)
    named = record(RecordOptions(tmp_path / "named", cat(file), paths=True))
    assert str(file) in [r["path"] for r in rows(named, tmp_path / "out", "files")]


def test_descriptors_that_the_command_inherits(live: Path, tmp_path: Path, hindsight: Run) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"x" * 10_000)
    with open(file, "rb") as stdin:
        stdin.seek(100)
        done = hindsight("capture", "record", "-o", tmp_path / "raw", "--", "cat", stdin=stdin)
    assert done.returncode == 0
    (segment,) = segments(tmp_path / "raw")
    found = rows(segment, tmp_path / "out", "descriptors")
    (row,) = [r for r in found if r["fd"] == 0]
    assert (row["i_ino"], row["pos"]) == (os.stat(file).st_ino, 100)


def test_children_are_followed(live: Path, tmp_path: Path) -> None:
    file = cold_file(tmp_path / "file", 1 << 16)
    script = f"for i in 1 2; do ({' '.join(cat(file))}) & wait; done"
    recording = record(RecordOptions(tmp_path / "raw", ("sh", "-c", script)))
    pids = {r["target_pid"] for r in rows(recording, tmp_path / "out", "sched_process_exec")}
    assert len(pids) == 3
    created = {r["child_pid"] for r in rows(recording, tmp_path / "out", "task_newtask")}
    readers = {r["pid"] for r in rows(recording, tmp_path / "out", "sys_enter_read")}
    assert len(created) >= 2 and len(readers & created) == 2


def test_whole_host_without_the_recorder(live: Path, tmp_path: Path) -> None:
    file = cold_file(tmp_path / "file", 1 << 18)
    raw = tmp_path / "raw"
    command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(raw)]
    recorder = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert recorder.stderr is not None
    assert "whole host" in recorder.stderr.readline()
    reader = subprocess.Popen(cat(file))
    reader.wait()
    time.sleep(0.2)  # let it drain at least once while it records
    recorder.send_signal(signal.SIGINT)
    assert recorder.wait(20) == 0
    recorder.stderr.close()
    assert recorder.stdout is not None
    recorder.stdout.close()
    (segment,) = segments(raw)
    execs = rows(segment, tmp_path / "out", "sched_process_exec")
    assert reader.pid in {r["target_pid"] for r in execs}
    for table in tmp_path.glob("out/host=*/date=*/*"):
        if table.name.startswith(("sys_", "page_cache", "mm_filemap_get")):
            assert recorder.pid not in pq.read_table(table)["pid"].to_pylist(), table.name
    looked = rows(segment, tmp_path / "out", "tasks")
    assert {recorder.pid, os.getpid()} <= {r["tgid"] for r in looked}
    assert list((live / "instances").glob(f"hindsight-*-{recorder.pid}-*")) == []


def test_own_files_are_not_in_the_trace(live: Path, tmp_path: Path) -> None:
    """Pages of the recorder's files that leave the page cache are no events; those of other files are."""
    other = cold_file(tmp_path / "other", 1 << 16)
    raw = tmp_path / "raw"
    command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(raw), "--rotate-every", "1"]
    recorder = subprocess.Popen(
        [*command, "--", "sh", "-c", f"cat {other}; dd if=/dev/zero of=/dev/null bs=1 count=50000; sleep 2"],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    inodes: set[int] = set()
    while recorder.poll() is None:
        for path in [*raw.glob("*/raw/*/*.pages"), *raw.glob(".recording-*/raw/*/*.pages"), other]:
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDWR)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                inodes.add(os.fstat(fd).st_ino)
                os.close(fd)
        time.sleep(0.1)
    assert recorder.returncode == 0
    assert len(segments(raw)) >= 2 and len(inodes) > 3
    removed = {
        row["i_ino"]
        for path in segments(raw)
        for row in rows(path, tmp_path / path.name, "mm_filemap_delete_from_page_cache")
    }
    assert removed & inodes == {os.stat(other).st_ino}


def test_duration_ends_the_command(live: Path, tmp_path: Path) -> None:
    recording = record(RecordOptions(tmp_path / "raw", ("sleep", "100"), duration=0.3))
    assert recording.status == -signal.SIGTERM
    (capture,) = rows(recording, tmp_path / "out", "captures")
    assert capture["end_ns"] - capture["start_ns"] >= 3e8


def test_sigterm_seals(live: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(tmp_path / "raw")]
    recorder = subprocess.Popen(
        [*command, "--", "sh", "-c", "echo ready; exec sleep 100"], stdout=subprocess.PIPE
    )
    assert recorder.stdout is not None
    assert recorder.stdout.readline() == b"ready\n"
    recorder.send_signal(signal.SIGTERM)
    assert recorder.wait(20) == 0
    recorder.stdout.close()
    (segment,) = segments(tmp_path / "raw")
    open_segment(segment)


def test_abandoned_instances_are_removed(live: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = owner.Owner(owner.own().namespace, gone.pid, 1)
    abandoned = live / "instances" / f"hindsight-{dead}-tasks"
    abandoned.mkdir()
    record(RecordOptions(tmp_path / "raw", ("true",)))
    assert not abandoned.exists()


def test_losses_are_counted(live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that is too small loses events; kept + lost is what the kernel counted, in every interval."""
    calls = 20_000
    drain_late(monkeypatch, 0.3)
    recording = record(
        RecordOptions(
            tmp_path / "raw", ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", f"count={calls}"), buffer_kb=64
        )
    )
    assert recording.lost > 0
    losses = rows(recording, tmp_path / "out", "losses")
    assert {r["cause"] for r in losses} == {"ring full"}
    assert sum(r["count_lower"] for r in losses) == sum(r["count_upper"] for r in losses) == recording.lost
    (capture,) = rows(recording, tmp_path / "out", "captures")
    assert all(capture["start_ns"] <= r["from_ns"] < r["to_ns"] <= capture["end_ns"] + 10**9 for r in losses)
    facts = open_segment(recording.path).facts
    stats = [s for i in facts["instances"].values() for s in i["stats_after"].values()]
    assert sum(s["dropped events"] for s in stats) == recording.lost
    kept = sum(
        pq.read_metadata(path).num_rows
        for path in (tmp_path / "out").glob("host=*/date=*/*/*.parquet")
        if path.parent.name in {t.rpartition("/")[2] for t in profiles.profile("readahead").tracepoints}
    )
    assert kept == recording.events == sum(s["read events"] for s in stats)
    assert kept + recording.lost >= 4 * calls


def test_device_filter(live: Path, tmp_path: Path) -> None:
    file = cold_file(tmp_path / "file", 1 << 16)
    number = os.stat(file).st_dev
    own = (os.major(number), os.minor(number))
    taken = record(RecordOptions(tmp_path / "raw", cat(file), devices=(own,)))
    devices_seen = {
        (r["s_dev_major"], r["s_dev_minor"]) for r in rows(taken, tmp_path / "out", "mm_filemap_get_pages")
    }
    assert devices_seen == {own}
    cold_file(file, 1 << 16)
    other = record(RecordOptions(tmp_path / "raw2", cat(file), devices=((own[0], own[1] + 77),)))
    assert rows(other, tmp_path / "out2", "mm_filemap_get_pages") == []
    assert rows(other, tmp_path / "out2", "block_rq_issue") == []
    assert rows(other, tmp_path / "out2", "sys_enter_read")


@pytest.mark.parametrize("through", ["--user", "SUDO_UID"])
def test_privileges_are_dropped(live: Path, tmp_path: Path, hindsight: Run, through: str) -> None:
    nobody = pwd.getpwnam("nobody")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SUDO_")}
    options = ["--user", "nobody"] if through == "--user" else []
    if through == "SUDO_UID":
        environment["SUDO_UID"] = str(nobody.pw_uid)
    done = hindsight(
        "capture", "record", "-o", tmp_path / "raw", *options, "--",
        "sh", "-c", 'id -u; id -g; id -G; echo "$USER $LOGNAME $HOME"', env=environment,
    )  # fmt: skip
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == str(nobody.pw_uid)
    assert lines[1] == lines[2] == str(nobody.pw_gid)
    assert lines[3] == f"nobody nobody {nobody.pw_dir}"
    assert "runs as nobody" in done.stderr


def test_root_stays_and_says_so(live: Path, tmp_path: Path, hindsight: Run) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SUDO_")}
    done = hindsight("capture", "record", "-o", tmp_path / "raw", "--", "id", "-u", env=environment)
    assert done.stdout.splitlines()[0] == "0"
    assert "runs as root" in done.stderr


def test_status_of_the_command(live: Path, tmp_path: Path, hindsight: Run) -> None:
    done = hindsight("capture", "record", "-o", tmp_path / "raw", "--", "sh", "-c", "exit 7")
    assert done.returncode == 0
    assert "status 7" in done.stderr
    assert Path(done.stdout.strip()).is_dir()


def test_command_that_cannot_start(live: Path, tmp_path: Path, hindsight: Run) -> None:
    done = hindsight("capture", "record", "-o", tmp_path / "raw", "--", "/does/not/exist")
    assert done.returncode == 1
    assert "/does/not/exist: No such file" in done.stderr
    assert list((tmp_path / "raw").iterdir()) == []


def test_nobody_reads_what_it_prints(live: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(tmp_path / "raw")]
    read, write = os.pipe()
    recorder = subprocess.Popen(
        [*command, "--rotate-every", "0.2", "--", "sleep", "0.8"], stdout=write, stderr=write
    )
    os.close(write)
    os.close(read)
    assert recorder.wait(30) == 0
    for segment in segments(tmp_path / "raw"):
        open_segment(segment)


def test_unknown_user(live: Path, tmp_path: Path, hindsight: Run) -> None:
    done = hindsight("capture", "record", "-o", tmp_path / "raw", "--user", "no-such-user", "--", "true")
    assert done.returncode == 3
    assert "no user 'no-such-user'" in done.stderr


def test_unwritable_output(live: Path, tmp_path: Path, hindsight: Run) -> None:
    (tmp_path / "file").write_text("")
    done = hindsight("capture", "record", "-o", tmp_path / "file" / "raw", "--", "true")
    assert done.returncode == 3
    assert "cannot be written" in done.stderr


def test_without_privilege(tmp_path: Path) -> None:
    """In a fork, since another user may not be able to execute this Python."""
    tmp_path.chmod(0o777)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.dup2(write, 2)
            sys.stderr = os.fdopen(2, "w")
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            status = main(["capture", "record", "-o", str(tmp_path / "raw"), "--", "true"])
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        pytest.skip("every user may trace on this host")
    assert status == 4, said
    assert re.search("sudo hindsight|mount -t tracefs", said)
    assert not (tmp_path / "raw").exists()


WITHOUT_TRACEFS = (
    "while umount $(awk '$3 == \"tracefs\" {print $2; exit}' /proc/self/mounts); do :; done 2>&-"
)
"""Others may have mounted it as well, in the place that it has in debugfs."""


def in_own_mounts(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a script where mounting and unmounting affects nobody else; `$R` records `true`."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    command = f"{sys.executable} -m hindsight capture record -o {tmp_path / 'raw'} -- true"
    script = f"set -e; R='{command}'; {script}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if "unshare failed" in done.stderr:
        pytest.skip("no mount namespaces here")
    return done


def test_tracefs_is_mounted_when_it_is_not(live: Path, tmp_path: Path) -> None:
    script = f"{WITHOUT_TRACEFS}; $R"
    done = in_own_mounts(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(segments(tmp_path / "raw")) == 1


def test_kernel_without_tracefs(live: Path, tmp_path: Path) -> None:
    script = f"{WITHOUT_TRACEFS}; mount -t tmpfs none /sys/kernel; $R"
    done = in_own_mounts(script, tmp_path)
    assert done.returncode == 4, done.stderr
    assert "no tracefs" in done.stderr and "CONFIG_TRACING" in done.stderr


def test_tracepoints_that_the_kernel_lacks(
    live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = ("syscalls/sys_enter_read", "syscalls/sys_enter_nothing", "block/block_rq_issue", "block/such")
    monkeypatch.setitem(profiles.CHOICES, "some", profiles.Choice("", events))
    monkeypatch.setitem(profiles.CHOICES, "absent", profiles.Choice("", ("none/such",)))
    said: list[str] = []
    recording = record(RecordOptions(tmp_path / "raw", ("cat", "/etc/passwd"), profile="some"), said.append)
    assert any("does not have: syscalls/sys_enter_nothing, block/such" in line for line in said)
    assert rows(recording, tmp_path / "out", "sys_enter_read")
    with pytest.raises(NotPermittedError, match="none of the tracepoints"):
        record(RecordOptions(tmp_path / "raw", ("true",), profile="absent"), said.append)


@pytest.mark.parametrize(
    "arguments",
    [["record"], ["record", "-o", "x", "--device", "8"], ["record", "-o", "x", "--buffer-kb", "1"],
     ["record", "-o", "x", "--duration", "0"], ["record", "-o", "x", "--user", "nobody"],
     ["record", "-o", "x", "--profile", "none", "--", "true"],
     ["record", "-o", "x", "--flight", "--rotate-every", "1m"], ["record", "-o", "x", "--duty", "30s"],
     ["record", "-o", "x", "--rotate-size", "0"], ["record", "-o", "x", "--max-cpu", "much"],
     ["record", "-o", "x", "--psi", "memory:some:2s/1s"], ["convert", "x"], ["info"]],
)  # fmt: skip
def test_usage(hindsight: Run, arguments: list[str], tmp_path: Path) -> None:
    assert hindsight("capture", *arguments, cwd=tmp_path).returncode == 2


def test_pseudonyms(tmp_path: Path) -> None:
    key = host.host_key(tmp_path, tmp_path / "etc" / "host.key")
    assert stat.S_IMODE((tmp_path / "etc" / "host.key").stat().st_mode) == 0o600
    assert host.host_key(tmp_path, tmp_path / "etc" / "host.key") == key
    (tmp_path / "blocked").write_text("")
    other = host.host_key(tmp_path, tmp_path / "blocked" / "host.key")
    assert other == (tmp_path / ".host.key").read_bytes() != key
    assert re.fullmatch("[0-9a-f]{12}", host.pseudonym(key, "name"))
    assert host.pseudonym(key, "name") != host.pseudonym(other, "name")


def test_throttle_of_a_block_cgroup(live: Path, tmp_path: Path) -> None:
    mounts = devices._cgroup_mounts()
    if "blkio" not in mounts:
        pytest.skip("no block cgroup of version 1 here")
    number = os.stat(tmp_path).st_dev
    device = devices.whole_disk((os.major(number), os.minor(number)))
    if not devices.is_block(device):
        pytest.skip("the temporary directory is not on a block device")
    group = mounts["blkio"] / f"hindsight-test-{os.getpid()}"
    group.mkdir()
    try:
        for kind, value in (("iops", 5000), ("bps", 100 << 20)):
            (group / f"blkio.throttle.read_{kind}_device").write_text(f"{device[0]}:{device[1]} {value}")
        script = f"echo $$ > {group}/cgroup.procs; sleep 0.6"
        recording = record(RecordOptions(tmp_path / "raw", ("sh", "-c", script), devices=(device,)))
        found = rows(recording, tmp_path / "out", "devices")
        (row,) = [r for r in found if (r["dev_major"], r["dev_minor"]) == device]
        assert (row["throttle_read_iops"], row["throttle_read_bps"]) == (5000, 100 << 20)
        queue = devices._sysfs(device) / "queue"
        assert row["read_ahead_kb"] == int((queue / "read_ahead_kb").read_text())
    finally:
        for _ in range(50):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def test_files_that_cannot_be_found(live: Path, tmp_path: Path) -> None:
    number = os.stat(tmp_path).st_dev
    device = (os.major(number), os.minor(number))
    assert file_facts([(device, 999_999_999), ((4000, 1), 5), (device, 1 << 40)], [], paths=True) == []
    with open(tmp_path / "open", "wb") as file:
        file.write(b"12345")
        file.flush()
        inode = (device, os.stat(file.name).st_ino)
        (row,) = file_facts([inode], [], paths=True)
        assert (row["size"], row["path"]) == (5, file.name)


def test_host_key_and_names_stay_out_of_the_tables(live: Path, tmp_path: Path) -> None:
    program = tmp_path / "verysecret"
    program.write_text("#!/bin/sh\ntrue\n")
    program.chmod(0o755)
    recording = record(RecordOptions(tmp_path / "raw", ("sh", "-c", str(program)), comm=True))
    convert([recording.path], tmp_path / "hashed")
    convert([recording.path], tmp_path / "plain", comm=True)

    def comms(directory: Path) -> set[str]:
        (path,) = directory.glob("host=*/date=*/task_rename/*.parquet")
        return set(pq.read_table(path)["newcomm"].to_pylist())

    assert "verysecret" in comms(tmp_path / "plain")
    assert all(re.fullmatch("[0-9a-f]{12}", name) for name in comms(tmp_path / "hashed"))
    assert len(comms(tmp_path / "hashed")) == len(comms(tmp_path / "plain"))
    facts = json.loads((recording.path / "facts.json").read_text())
    assert os.uname().nodename not in facts["tables"]["captures"][0]["host"]
