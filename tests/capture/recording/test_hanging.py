"""A file system whose server does not answer holds nobody who records the host."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hindsight.capture import host
from hindsight.capture.filestat import file_stat
from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.record import record

SERVER = Path(__file__).resolve().parents[1] / "proxy" / "served_files.py"


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has a file open on FUSE, whose server is stopped."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("a file system in user space needs root and /dev/fuse")
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"mfusepy or libfuse is missing ({error})")
    mount, commands = tmp_path / "mount", tmp_path / "commands"
    mount.mkdir()
    commands.mkdir()
    (commands / "bytes").write_bytes(b"x")
    server = subprocess.Popen([sys.executable, SERVER, mount, commands])
    holder = None
    try:
        for _ in range(100):
            if (mount / "state").exists():
                break
            time.sleep(0.05)
        text = "import sys; f = open(sys.argv[1], 'rb', 0); print(f.fileno(), flush=True); sys.stdin.read()"
        holder = subprocess.Popen(
            [sys.executable, "-c", text, mount / "state"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        assert int(holder.stdout.readline()) > 2
        server.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # what the kernel was told of the file holds for a second
        yield holder
    finally:
        server.send_signal(signal.SIGCONT)
        if holder is not None:
            holder.kill()
            holder.wait()
        subprocess.run(["umount", mount], check=False)
        server.kill()
        server.wait()


def test_the_whole_host_is_recorded_while_a_server_hangs(
    live: Path, stopped: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    ask = subprocess.Popen([sys.executable, "-c", f"import os; os.stat('{tmp_path / 'mount' / 'state'}')"])
    time.sleep(0.5)
    assert ask.poll() is None, "who asks the server hangs, or this proves nothing"
    try:
        begun = time.monotonic()
        rows = [row for row in host.descriptors([stopped.pid]) if row["fd"] > 2]
        assert len(rows) == 1 and time.monotonic() - begun < 5
        done = record(RecordOptions(tmp_path / "raw", duration=0.5), say=lambda text: None)
        assert done.path.is_dir() and time.monotonic() - begun < 60
    finally:
        ask.kill()
        ask.wait()


def test_file_stat_is_stat(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    os.utime(tmp_path / "file", ns=(1, 1_234_567_890_123_456_789))
    for path in (tmp_path / "file", tmp_path / "link", tmp_path, Path("/dev/null"), Path("/proc/self/exe")):
        known, found = os.stat(path), file_stat(str(path))
        assert found.device == (os.major(known.st_dev), os.minor(known.st_dev))
        assert (found.mode, found.inode, found.size) == (known.st_mode, known.st_ino, known.st_size)
        assert found.mtime_ns == known.st_mtime_ns
    assert stat.S_ISREG(file_stat(str(tmp_path / "link")).mode)
    with pytest.raises(FileNotFoundError):
        file_stat(str(tmp_path / "none"))
