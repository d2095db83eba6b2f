"""Captures to test on: told call by call, recorded in a fixture, or recorded live on a scratch file
system.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from hindsight.capture import schema
from hindsight.pipeline.dataset import find_captures, read_tables

HERE = Path(__file__).parent
PAGE = 4096


class Story:
    """A capture told call by call: every call takes 10 ns, 10 ns after the one before it."""

    def __init__(self, device=True):
        self.rows = defaultdict(list)
        self.now = 1000
        self.cached = set()
        self.positions = {}
        self.row("captures", capture="c", machine="x86_64", program="prog", start_ns=0)
        if device:
            self.row(
                "devices", dev_major=7, dev_minor=1, fstype="ext4", read_ahead_kb=128, max_sectors_kb=1280
            )

    def row(self, table, **columns):
        unknown = columns.keys() - {c.name for c in schema.TABLES[table].columns}
        assert not unknown, unknown
        self.rows[table].append({"ts": self.now, **columns})

    def size(self, ino, size):
        self.row("files", s_dev_major=7, s_dev_minor=1, i_ino=ino, size=size)
        return self

    def page(self, table, pid, ino, index, **columns):
        self.row(table, pid=pid, i_ino=ino, s_dev_major=7, s_dev_minor=1, index=index, **columns)

    def begin(self, pid, name, **arguments):
        self.now += 10
        self.row(f"sys_enter_{name}", pid=pid, **arguments)

    def end(self, pid, name, ret):
        self.now += 10
        self.row(f"sys_exit_{name}", pid=pid, ret=ret)

    def call(self, pid, name, ret=0, **arguments):
        self.begin(pid, name, **arguments)
        self.end(pid, name, ret)

    def open(self, pid, fd, flags=0):
        self.call(pid, "openat", fd, dfd=-100, flags=flags)

    def touch(self, pid, ino, pos, count, ret, add=True):
        """Page-cache rows of a read: pages are added the first time, and met."""
        self.now += 2
        for page in range(pos // PAGE, -(-(pos + ret) // PAGE)):
            if add and (ino, page) not in self.cached:
                self.cached.add((ino, page))
                self.page("mm_filemap_add_to_page_cache", pid, ino, page, order=0)
        self.page("mm_filemap_get_pages", pid, ino, pos // PAGE, last_index=-(-(pos + count) // PAGE) - 1)

    def pread(self, pid, fd, ino, pos, count=PAGE, ret=None, add=True):
        ret = count if ret is None else ret
        self.begin(pid, "pread64", fd=fd, count=count, pos=pos)
        if ret > 0:
            self.touch(pid, ino, pos, count, ret, add)
        self.end(pid, "pread64", ret)

    def read(self, pid, fd, ino, at, count=PAGE, ret=None):
        """A read() that is served from byte ``at``: what the kernel would do, and must be found out."""
        ret = count if ret is None else ret
        self.begin(pid, "read", fd=fd, count=count)
        if ret > 0:
            self.touch(pid, ino, at, count, ret)
        self.end(pid, "read", ret)

    def fork(self, pid, child, flags=0):
        self.row("task_newtask", pid=pid, child_pid=child, comm="prog", clone_flags=flags)

    def tables(self):
        tables = {}
        for name, rows in self.rows.items():
            tables[name] = {}
            for column in schema.TABLES[name].columns:
                empty = None if column.nullable else "" if column.dtype == "str" else 0
                values = [row.get(column.name, empty) for row in rows]
                plain = object if any(v is None for v in values) else schema.numpy_dtype(column)
                tables[name][column.name] = np.array(values, plain)
        return tables


@pytest.fixture
def story():
    """A new capture to tell."""
    return Story


def load(dataset):
    """All tables of the one capture of a dataset."""
    (capture,) = find_captures(dataset)
    return read_tables(capture, schema.TABLES)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Tables of a capture of access.py, kind "all" (fixtures/README.md). Do not change them."""
    directory = tmp_path_factory.mktemp("recorded")
    with zipfile.ZipFile(HERE / "fixtures" / "access.zip") as archive:
        archive.extractall(directory)
    return load(directory)


def _run(*command, **kwargs):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, **kwargs)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout.strip()


class Scratch:
    """A scratch ext4 on a loop device: files of odd sizes that are not cached when a recording begins."""

    def __init__(self, directory):
        self.image, self.mount, self.node = directory / "image", directory / "mnt", ""
        self.mount.mkdir()

    def make(self):
        _run("truncate", "-s", "220M", self.image)
        self.node = _run("losetup", "--find", "--show", self.image)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.node)
        _run("mount", self.node, self.mount)
        for name, size in (("big", (64 << 20) + 12345), ("odd", 333_333)):
            (self.mount / name).write_bytes(os.urandom(size))
        _run("umount", self.mount)

    def remove(self):
        subprocess.run(["umount", str(self.mount)], capture_output=True)
        if self.node:
            _run("losetup", "-d", self.node)

    def record(self, out, kind, seed, reads, read_ahead_kb):
        """Record access.py; returns the dataset."""
        queue = Path("/sys/block") / Path(self.node).name
        (queue / "queue" / "read_ahead_kb").write_text(str(read_ahead_kb))
        hindsight = (sys.executable, "-m", "hindsight", "capture")
        _run("mount", self.node, self.mount)
        try:
            device = (queue / "dev").read_text().strip()
            command = ("/usr/bin/env", "python3", HERE / "access.py", self.mount, kind, seed, reads)
            _run(*hindsight, "record", "--comm", "-o", out / "raw", "--device", device, "--", *command)
        finally:
            _run("umount", self.mount)
        _run(*hindsight, "convert", out / "raw", "-o", out / "data", "--comm")
        return out / "data"


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A :class:`Scratch`; skips where one cannot be made or recording is not possible."""
    if os.geteuid() != 0:
        pytest.skip("recording and loop devices need root")
    if not Path("/sys/kernel/tracing/events/readahead").is_dir():
        pytest.skip("this kernel has no readahead tracepoints, or tracefs is not mounted")
    missing = [p for p in ("losetup", "mkfs.ext4", "mount", "umount") if shutil.which(p) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if not Path("/dev/loop-control").exists():
        pytest.skip("there are no loop devices")
    device = Scratch(tmp_path_factory.mktemp("scratch"))
    try:
        device.make()
        yield device
    finally:
        device.remove()
