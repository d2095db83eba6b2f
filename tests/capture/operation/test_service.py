"""The systemd units: sound, little exposed, and enough: the recorder is run with just what they leave it."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hindsight.capture.operation import install

UNITS = Path(install.__file__).parent / "units"
FTRACE, PERF = install.UNITS
_UID = 61184  # the first one that systemd gives to a DynamicUser


def settings(name: str) -> dict[str, list[str]]:
    """The assignments of a unit's section [Service]."""
    text = (UNITS / name).read_text().partition("[Service]")[2].partition("[Install]")[0]
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def capabilities(name: str) -> list[str]:
    return [word.removeprefix("CAP_").lower() for word in settings(name)["CapabilityBoundingSet"][0].split()]


def options(name: str, runtime: Path) -> list[str]:
    """What the default configuration file asks for, with the service's directory below /run elsewhere."""
    file = settings(name)["EnvironmentFile"][0].rpartition("/")[2]
    (line,) = [x for x in (UNITS / file).read_text().splitlines() if x.startswith("HINDSIGHT_RECORD=")]
    place = f"/run/{settings(name)['RuntimeDirectory'][0]}"
    return shlex.split(line.partition("=")[2].replace(place, str(runtime)))


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image")
    install.install(root, Path("/usr"), print)
    return root / "usr/lib/systemd/system"


def test_units_are_sound(analyze: str, installed: Path) -> None:
    paths = [installed / name for name in install.UNITS]
    done = subprocess.run([analyze, "verify", "--man=no", *paths], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "most"), [(FTRACE, 2.0), (PERF, 1.7)])
def test_units_expose_little(analyze: str, installed: Path, name: str, most: float) -> None:
    command = [analyze, "security", "--offline=yes", "--no-pager", installed / name]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C.UTF-8"})
    level = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    if level is None:
        pytest.skip("this systemd cannot judge units offline")
    assert float(level[1]) <= most, done.stdout


def test_every_capability_and_limit_is_stated() -> None:
    for name in install.UNITS:
        unit = settings(name)
        for key in ("MemoryMax", "CPUQuota", "TasksMax", "IOWeight", "OOMScoreAdjust", "LimitNOFILE"):
            assert unit[key], (name, key)
        assert unit["NoNewPrivileges"] == ["yes"] and unit["PrivateNetwork"] == ["yes"]
        assert unit["Type"] == ["notify"] and unit["NotifyAccess"] == ["main"] and unit["UMask"] == ["0077"]
    assert capabilities(FTRACE) == ["dac_read_search", "sys_ptrace"]
    assert capabilities(PERF) == ["perfmon", "dac_read_search", "sys_ptrace"]


@dataclass
class Service:
    """A recorder in the surroundings of a unit, as far as they can be made without systemd."""

    process: subprocess.Popen[str]
    manager: socket.socket
    state: Path
    runtime: Path
    heard: list[str]

    def wait_for(self, text: str, seconds: float = 20) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if any(text in message for message in self.heard):
                return True
            if select.select([self.manager], [], [], 0.05)[0]:
                self.heard.append(self.manager.recv(4096).decode())
            elif self.process.poll() is not None and not select.select([self.manager], [], [], 0)[0]:
                return any(text in message for message in self.heard)
        return False

    def facts(self) -> list[dict[str, Any]]:
        return [json.loads(p.read_text()) for p in sorted(self.state.glob("raw/*-0*/facts.json"))]


# ProtectSystem=strict, ReadOnlyPaths, ProtectKernelTunables: all is read-only but tracefs and what is given.
_VIEW = """
mount --make-rprivate /
for d in {writable}; do mount --bind $d $d; done
awk '{{print $5}}' /proc/self/mountinfo | while read -r m; do
    case $m in /proc|/proc/*|/dev|/dev/*{keep}) continue ;; esac
    case " {writable} " in *" $m "*) continue ;; esac
    mount -o remount,bind,ro "$m" 2>/dev/null
done
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
touch /etc/hindsight-test 2>/dev/null && exit 98
exec "$@"
"""
_MDWE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The zip application, and a Python that every user may execute, as on a host."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    version = "import sys; sys.exit(sys.version_info < (3, 11))"
    if python is None or subprocess.run([python, "-c", version]).returncode:
        pytest.skip("no Python 3.11 that another user may execute")
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    path = tmp_path_factory.mktemp("zipapp") / "hindsight.pyz"
    command = ["make", "--no-print-directory", "zipapp", f"ZIPAPP={path}", f"PYTHON={python}"]
    subprocess.run(command, cwd=UNITS.parents[2], check=True, capture_output=True)
    path.chmod(0o755)
    return [python, "-I", "-S", str(path)]


def start(name: str, directory: Path, caps: list[str], program: list[str]) -> Service:
    state, runtime = directory / "state", directory / "hindsight-run"
    for place in (state, runtime):
        place.mkdir()
        place.chmod(0o755)
        if name == PERF:
            os.chown(place, _UID, _UID)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(directory / "notify"))
    (directory / "notify").chmod(0o777)
    for parent in (directory, *directory.parents, *Path(program[-1]).parents):
        if parent.stat().st_uid == os.geteuid() and parent.is_relative_to(tempfile.gettempdir()):
            parent.chmod(parent.stat().st_mode | 0o055)
    bound = ",".join(["-all", *(f"+{cap}" for cap in caps)])
    drop = ["setpriv", "--no-new-privs", f"--bounding-set={bound}", f"--inh-caps={bound}"]
    if name == PERF:
        drop += [f"--ambient-caps={bound}", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups"]
    keep = "|/sys/kernel/tracing" if name == FTRACE else ""
    view = _VIEW.format(writable=f"{state} {runtime}", keep=keep)
    source = ["--source", "perf", "--buffer-kb", "1024"] if name == PERF else []
    command = [
        "unshare", "--mount", "--net", "sh", "-c", view, "sh", "nice", "-n", "-10", *drop, "env", "-i",
        f"PATH={os.environ['PATH']}", f"NOTIFY_SOCKET={directory}/notify", "WATCHDOG_USEC=2000000",
        f"RUNTIME_DIRECTORY={runtime}", program[0], "-c", _MDWE,
        *program, "capture", "record", *source, "-o", str(state / "raw"), *options(name, runtime),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, umask=0o077
    )
    return Service(process, manager, state, runtime, [])


@pytest.fixture
def others_file(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process of another user that has a file open: its pid, and the file."""
    path = tmp_path / "held"
    path.write_bytes(b"x" * 5000)
    path.chmod(0o644)
    process = subprocess.Popen(
        ["sleep", "60"], stdin=path.open("rb"), user=65534, group=65534, extra_groups=[]
    )
    yield process.pid, path
    process.kill()
    process.wait()


def read_cold(path: Path) -> int:
    """Read a file that the page cache does not hold, and close it; returns its inode."""
    path.write_bytes(os.urandom(1 << 18))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with open(path, "rb") as file:
        file.read()
        return os.fstat(file.fileno()).st_ino


def recorded_with(
    name: str, directory: Path, caps: list[str], held: tuple[int, Path], program: list[str]
) -> tuple[Service, bool, bool]:
    """Record for a while; whether a closed file, and what another user has open, were found out."""
    directory.mkdir()
    service = start(name, directory, caps, program)
    try:
        ready = service.wait_for("READY=1")
        if ready:
            inode = read_cold(directory / "cold")
            assert service.wait_for("WATCHDOG=1")
            service.process.send_signal(signal.SIGTERM)
        out, err = service.process.communicate(timeout=60)
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
    if not ready:
        assert service.process.returncode != 98, "the view of the file system is not read-only"
        assert service.process.returncode != 0 and "hindsight:" in err
        return service, False, False
    assert service.process.returncode == 0, err
    assert service.wait_for("STOPPING=1", 1)
    facts = service.facts()
    assert [Path(line).name for line in out.splitlines()] == [
        f"{f['capture']}-{f['segment']:04}" for f in facts
    ]
    files = {row["i_ino"] for f in facts for row in f["tables"]["files"]}
    opened = {(row["pid"], row["i_ino"]) for f in facts for row in f["tables"]["descriptors"]}
    return service, inode in files, (held[0], held[1].stat().st_ino) in opened


@pytest.fixture
def surroundings(live: Path) -> Path:
    for program in ("unshare", "setpriv", "awk", "nice"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    done = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True)
    if done.returncode:
        pytest.skip("no mount and network namespaces here")
    return live


@pytest.mark.parametrize("name", install.UNITS)
def test_a_unit_leaves_enough_to_record(
    surroundings: Path, tmp_path: Path, others_file: tuple[int, Path], program: list[str], name: str
) -> None:
    service, found_closed, found_open = recorded_with(
        name, tmp_path / "all", capabilities(name), others_file, program
    )
    assert found_closed and found_open
    assert list(service.runtime.glob("*.json")) == []
    (metrics,) = service.runtime.glob("*.prom")
    assert "hindsight_capture_events_total" in metrics.read_text()
    assert not [n for n in os.listdir(surroundings / "instances") if f"-{service.process.pid}-" in n]
    assert sum(
        s["read events"] for f in service.facts() for i in f["instances"].values()
        for s in i["stats_after"].values()
    ) > 0  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "capability"), [(n, c) for n in install.UNITS for c in capabilities(n)])
def test_each_capability_is_needed(
    surroundings: Path,
    tmp_path: Path,
    others_file: tuple[int, Path],
    program: list[str],
    name: str,
    capability: str,
) -> None:
    fewer = [cap for cap in capabilities(name) if cap != capability]
    _, found_closed, found_open = recorded_with(name, tmp_path / "fewer", fewer, others_file, program)
    assert not (found_closed and found_open)


def allowed_calls(analyze: str, name: str) -> set[str]:
    """The system calls that the unit's filter leaves, by systemd's own lists."""
    groups: dict[str, set[str]] = {}
    text = subprocess.run([analyze, "syscall-filter", "--no-pager"], capture_output=True, text=True).stdout
    current = ""
    for line in text.splitlines():
        if line.startswith("@"):
            current = line.strip()
            groups[current] = set()
        elif line.strip() and not line.strip().startswith("#"):
            groups[current].add(line.strip())

    def expand(word: str) -> set[str]:
        if not word.startswith("@"):
            return {word}
        return set().union(*(expand(inner) for inner in groups[word]))

    allowed = expand("@default")
    for line in settings(name)["SystemCallFilter"]:
        words = set().union(*(expand(word) for word in line.lstrip("~").split()))
        allowed = allowed - words if line.startswith("~") else allowed | words
    return allowed


@pytest.mark.slow
@pytest.mark.parametrize("name", install.UNITS)
def test_a_unit_allows_every_system_call_that_is_made(
    live: Path, analyze: str, tmp_path: Path, name: str
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    source = ["--source", "perf", "--buffer-kb", "1024"] if name == PERF else []
    record = ["record", *source, "-o", tmp_path / "raw", *options(name, tmp_path), "--duration", "1.5",
              "--rotate-every", "0.7", "--paths"]  # fmt: skip
    used: set[str] = set()
    for number, verb in enumerate((record, ["clean", "-o", tmp_path / "raw"])):
        trace = tmp_path / f"calls{number}"
        command = ["strace", "-f", "-qq", "-o", trace, sys.executable, "-m", "hindsight", "capture", *verb]
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1000000"}
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert process.stderr is not None
        first = process.stderr.readline()
        if "PTRACE" in first:
            process.communicate()
            pytest.skip("strace may not trace here")
        if "whole host" in first:
            read_cold(tmp_path / "cold")
        assert process.wait(60) == 0, first + process.stderr.read()
        process.stderr.close()
        used |= set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))
    assert len(used) > 30
    assert used - allowed_calls(analyze, name) == set()
    assert {"open_by_handle_at", "setpriority"} <= used  # named in the unit because they are needed
