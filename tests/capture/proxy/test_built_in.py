"""The built-in proxies say what the kernel says elsewhere: diskstats, ioctls, vmstat, its own trace."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conformance import expect

from hindsight.capture.bpf import libbpf
from hindsight.capture.ftrace import tracefs
from hindsight.capture.proxy import blockdev, memory, mllib, parsing, readahead
from hindsight.capture.proxy.attributes import Attributes
from hindsight.capture.proxy.blockdev import BlockDevice
from hindsight.capture.proxy.client import typed
from hindsight.capture.proxy.errors import Gone, Malformed, Oversized, Refused
from hindsight.capture.proxy.memory import Memory
from hindsight.capture.proxy.mllib import MllibDevice
from hindsight.capture.proxy.readahead import Readahead
from hindsight.errors import HindsightError, NotPermittedError

LOOP_CTL_ADD, LOOP_CTL_REMOVE = 0x4C80, 0x4C81
BLKGETSIZE64, BLKRAGET = 0x80081272, 0x1263


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A loop device of its own on a file of 8 MiB; gone afterwards, if the test has not removed it."""
    if os.geteuid() != 0:
        pytest.skip("a loop device needs root")
    number = 700 + secrets.randbelow(200)
    with open("/dev/loop-control", "rb") as control:
        try:
            fcntl.ioctl(control, LOOP_CTL_ADD, number)
        except OSError as error:
            pytest.skip(f"no loop device can be added: {error.strerror}")
        name = f"loop{number}"
        file = tmp_path / "image"
        file.write_bytes(os.urandom(1 << 20) * 8)
        node = tmp_path / name  # devtmpfs may not be mounted
        os.mknod(node, 0o600 | 0o060000, os.makedev(7, number))
        subprocess.run(["losetup", node, file], check=True)
        yield name
        subprocess.run(["losetup", "-d", node], stderr=subprocess.DEVNULL)
        remove(control.fileno(), number)


@pytest.fixture
def disk(loop: str) -> Iterator[BlockDevice]:
    """The proxy of that device; it holds nothing of it afterwards."""
    with closing(BlockDevice(loop)) as proxy:
        yield proxy


def remove(control: int, number: int) -> None:
    for _ in range(100):
        try:
            fcntl.ioctl(control, LOOP_CTL_REMOVE, number)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                return
            time.sleep(0.05)


def diskstats(device: str) -> list[int]:
    for line in Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if fields[2] == device:
            return [int(field) for field in fields[3:]]
    raise AssertionError(f"{device} is not in /proc/diskstats")


def test_a_block_device_is_what_diskstats_and_ioctls_say(
    loop: str, disk: BlockDevice, tmp_path: Path
) -> None:
    before = disk.snapshot()
    node = tmp_path / loop
    descriptor = os.open(node, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        assert len(os.pread(descriptor, 4 << 20, 0)) == 4 << 20
        time.sleep(0.05)
        after = disk.snapshot()
        told = diskstats(loop)
        size = struct.unpack("=Q", fcntl.ioctl(descriptor, BLKGETSIZE64, b"\0" * 8))[0]
        pages = struct.unpack("=Q", fcntl.ioctl(descriptor, BLKRAGET, b"\0" * 8))[0]
    finally:
        os.close(descriptor)
    assert [after.state[quantity.name] for quantity in blockdev.STAT] == told
    read = (after.state["read_sectors"] - before.state["read_sectors"]) * 512
    assert 4 << 20 <= read <= 8 << 20
    assert after.state["size"] * 512 == size == 8 << 20
    assert after.state["read_ahead_kb"] * 2 == pages  # the ioctl counts sectors
    (actuator,) = [a for a in after.actuators if a.name == "read_ahead_kb"]
    assert (actuator.current, actuator.scope) == (after.state["read_ahead_kb"], "device")
    assert (before.sequence, after.sequence) == (1, 2)
    assert typed(after, blockdev.QUANTITIES).state.keys() <= blockdev.QUANTITIES.keys()
    assert parsing.snapshot(parsing.encode(after)) == after


def test_a_block_device_that_is_removed_is_gone(loop: str, disk: BlockDevice, tmp_path: Path) -> None:
    assert disk.snapshot().proxy == f"blockdev:{loop}"
    subprocess.run(["losetup", "-d", tmp_path / loop], check=True)
    with open("/dev/loop-control", "rb") as control:
        remove(control.fileno(), int(loop.removeprefix("loop")))
    expect(Gone, disk.snapshot)


def test_attributes_are_opened_once_and_made_anew(loop: str, disk: BlockDevice, tmp_path: Path) -> None:
    place = Path(f"/sys/block/{loop}").resolve()

    def held() -> int:
        links = (Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
        return sum(place in link.resolve().parents for link in links)

    seen = []
    for limit in (64, 512):
        (place / "queue/read_ahead_kb").write_text(f"{limit}\n")
        seen.append((disk.snapshot().state["read_ahead_kb"], held()))
    assert seen == [(64, seen[0][1]), (512, seen[0][1])] and seen[0][1] >= 10
    # Another device in the place of the one that was removed.
    subprocess.run(["losetup", "-d", tmp_path / loop], check=True)
    number = int(loop.removeprefix("loop"))
    with open("/dev/loop-control", "rb") as control:
        remove(control.fileno(), number)
        expect(Gone, disk.snapshot)
        fcntl.ioctl(control, LOOP_CTL_ADD, number)
    (place / "queue/read_ahead_kb").write_text("32\n")
    assert disk.snapshot().state["read_ahead_kb"] == 32
    disk.close()
    assert held() == 0


def test_a_long_attribute_is_whole() -> None:
    attributes = Attributes()
    for _ in range(2):
        # The kernel gives a file of records in pieces.
        found = attributes.read("/proc/vmstat")
        assert [line.split()[0] for line in found.splitlines()] == [
            line.split()[0] for line in Path("/proc/vmstat").read_bytes().splitlines()
        ]
    expect(Oversized, lambda: attributes.read("/proc/kallsyms"))
    assert attributes.number("/proc/nothing") is None
    attributes.close()


@pytest.mark.parametrize("name", ["../../etc", "", "a/b", "x" * 40, "a\0b"])
def test_a_name_that_is_no_device(name: str) -> None:
    expect(Malformed, lambda: BlockDevice(name))


def test_counters_of_memory_are_those_of_vmstat() -> None:
    """What only rises lies between what vmstat said before and after."""

    def vmstat() -> dict[str, int]:
        lines = Path("/proc/vmstat").read_text().splitlines()
        return {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}

    before = vmstat()
    with closing(Memory()) as proxy:
        snapshot = proxy.snapshot()
    after = vmstat()
    counters = [name for name, q in memory.QUANTITIES.items() if q.counter and name in before]
    assert len(counters) >= 20
    assert all(before[name] <= snapshot.state[name] <= after[name] for name in counters)
    assert {n for n in before if n.startswith("workingset_")} <= snapshot.state.keys()
    assert snapshot.state.keys() <= memory.QUANTITIES.keys()
    (swappiness,) = [a for a in snapshot.actuators if a.name == "swappiness"]
    assert swappiness.current == int(Path("/proc/sys/vm/swappiness").read_text())
    assert typed(snapshot, memory.QUANTITIES) and parsing.snapshot(parsing.encode(snapshot)) == snapshot


@pytest.mark.skipif(not os.path.exists("/proc/pressure/io"), reason="no pressure stall information")
def test_pressure_is_what_the_kernel_prints() -> None:
    text = Path("/proc/pressure/io").read_text()
    found = memory.pressure(Attributes(), "io")
    (total,) = re.findall(r"some .*total=(\d+)", text)
    (average,) = re.findall(r"full avg10=([\d.]+)", text)
    assert int(total) <= found["psi_io_some_total"] <= int(total) + 10**6
    assert abs(found["psi_io_full_avg10"] - round(float(average) * 100)) <= 2000
    assert memory.pressure(Attributes(), "nothing") == {}


@pytest.fixture
def programs() -> Iterator[Readahead]:
    if not readahead.OBJECT.exists():
        pytest.skip(f"{readahead.OBJECT.name} is not compiled: make bpf")
    try:
        libbpf.library()
        proxy = Readahead()
        proxy.snapshot()
    except NotPermittedError as error:
        pytest.skip(error.message)
    yield proxy
    proxy.close()


def test_readahead_counts_what_the_kernel_traces(programs: Readahead, live: Path, tmp_path: Path) -> None:
    """For one file: requests and windows as in the kernel's own text of the same tracepoints."""
    file = tmp_path / "data"
    file.write_bytes(os.urandom(1 << 20) * 16)
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    status = os.fstat(descriptor)
    instance = tracefs.Instance(live, "proxy-test")
    try:
        instance.write("buffer_size_kb", "4096")
        for name in ("sync_ra", "async_ra", "ra_order"):
            instance.write(f"events/readahead/page_cache_{name}/filter", f"i_ino == {status.st_ino}")
            instance.write(f"events/readahead/page_cache_{name}/enable", "1")
        instance.on()
        for offset in (*range(0, 4 << 20, 16 << 10), 9 << 20, 12 << 20, 6 << 20):
            os.pread(descriptor, 16 << 10, offset)
        instance.off()
        text = instance.read("trace")
    finally:
        os.close(descriptor)
        instance.remove()
    found = programs.snapshot()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    base = f"file.{device}.{status.st_ino}"
    lines = [
        line for line in text.splitlines() if f"ino={status.st_ino:x} " in line or f"{status.st_ino}" in line
    ]
    counts = {
        name: sum(f" page_cache_{name}: " in line for line in lines)
        for name in ("sync_ra", "async_ra", "ra_order")
    }
    assert min(counts.values()) >= 2, text[-2000:]
    assert found.state[f"{base}.sync"] == counts["sync_ra"]
    assert found.state[f"{base}.async"] == counts["async_ra"]
    assert found.state[f"{base}.windows"] == counts["ra_order"]
    last = [line for line in lines if " page_cache_ra_order: " in line][-1]
    for name in ("size", "async_size", "ra_pages"):
        match = re.search(rf"\b{name}=(\d+)", last)
        assert match and found.state[f"{base}.{name}"] == int(match[1]), (name, last)
    assert found.state["sync"] >= counts["sync_ra"]
    buckets = sum(v for k, v in found.state.items() if k.startswith("window_log2_"))
    # Others decide while the values are read, one after the other.
    assert abs(buckets - found.state["windows"]) <= 1000
    assert typed(found, readahead.QUANTITIES) and parsing.snapshot(parsing.encode(found)) == found


def test_many_files_are_counted_and_the_last_ones_named(programs: Readahead, tmp_path: Path) -> None:
    inodes = []
    for number in range(1200):
        path = tmp_path / f"f{number}"
        path.write_bytes(b"x" * 20000)
        inodes.append(path.stat().st_ino)
    os.sync()
    before = programs.snapshot()
    for number in range(1200):
        descriptor = os.open(tmp_path / f"f{number}", os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(descriptor, 10, 0)
        os.close(descriptor)
    found = programs.snapshot()
    named = {name.split(".")[2] for name in found.state if name.startswith("file.")}
    assert len(named) <= readahead.FILES
    assert str(inodes[-1]) in named
    assert found.state["files_new"] - before.state["files_new"] >= 1200
    assert found.lost["files_dropped"] >= 1200 - 1024


def test_programs_are_gone_when_the_proxy_is_closed(programs: Readahead) -> None:
    bpftool = shutil.which("bpftool", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if bpftool is None:
        pytest.skip("bpftool is not installed")

    def loaded() -> set[str]:
        """The identifiers: programs of a recorder that just ended may still be there, and go."""
        listing = subprocess.run([bpftool, "prog", "list"], check=True, capture_output=True, text=True)
        return set(re.findall(r"^(\d+):.* name (?:sync_ra|async_ra|ra_order)\b", listing.stdout, re.M))

    held = "".join(file.read_text() for file in Path("/proc/self/fdinfo").iterdir() if file.exists())
    own = loaded() & set(re.findall(r"^prog_id:\s*(\d+)", held, re.M))
    assert len(own) == 3
    programs.close()
    for _ in range(100):  # the kernel frees them after a grace period
        if not loaded() & own:
            return
        time.sleep(0.05)
    raise AssertionError(f"{loaded() & own} are still loaded")


def test_the_adapter_refuses_what_is_not_the_test_device(tmp_path: Path) -> None:
    expect(Malformed, MllibDevice("mllib", Path("/dev/null")).snapshot)
    file = tmp_path / "file"
    file.write_bytes(b"x")
    expect(Malformed, MllibDevice("mllib", file).snapshot)
    expect(Gone, MllibDevice("mllib", tmp_path / "none").snapshot)
    expect(HindsightError, MllibDevice("mllib", tmp_path / "none").prepare)
    expect(Refused, MllibDevice("mllib", Path("/dev/null")).prepare)


@pytest.mark.skipif(
    not mllib.DEVICE.exists(), reason="no /dev/mllibdev: run conformance.py --mllib where it is"
)
def test_the_test_device() -> None:
    import conformance

    assert conformance.main_mllib(str(mllib.DEVICE)) == 0
