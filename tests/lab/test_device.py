from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from hindsight.errors import ConfigurationError, HindsightError, NotPermittedError, UsageError
from hindsight.lab import device as lab_device
from hindsight.lab.cgroup import Hierarchy, ThrottleGroup, find_hierarchy, rules
from hindsight.lab.throttle_check import BLOCK, LARGE, ThrottleCheck, check_throttle


def traces_of(name: str, images: Path) -> list[str]:
    """Whatever a device of that name has left on the machine."""
    loops = subprocess.run(
        ["losetup", "--list", "--noheadings"], capture_output=True, text=True, check=True
    ).stdout
    mounts = Path("/proc/self/mountinfo").read_text()
    groups = [str(path) for path in find_hierarchy().root.glob(f"hindsight-lab-{name}*")]
    files = [str(path) for path in images.glob("hindsight-lab-*")]
    state = [str(path) for path in lab_device.STATE.glob(f"{name}*")]
    return [
        *(line for line in loops.splitlines() if name in line),
        *(line for line in mounts.splitlines() if name in line),
        *groups, *files, *state,
    ]  # fmt: skip


def test_a_device_is_what_it_says_and_leaves_nothing_behind(
    lab_host: None, images: Path, device_name: str
) -> None:
    profile = lab_device.PROFILES["P2"]
    with lab_device.throttled_device(device_name, profile, 64 << 20, images) as made:
        assert lab_device.find(device_name) == made
        assert made in lab_device.existing()[0]
        assert made.mount_point.is_mount()
        assert lab_device.read_ahead(made) == 128
        sysfs = Path("/sys/dev/block") / made.number
        assert (sysfs / "loop/dio").read_text().strip() == "1"
        if made.throttle.hierarchy.version == 1:
            text = (made.throttle.path / "blkio.throttle.read_iops_device").read_text()
            assert text.split() == [made.number, "3000"]
        assert traces_of(device_name, images)
    assert traces_of(device_name, images) == []


def test_a_failure_inside_leaves_nothing_behind(lab_host: None, images: Path, device_name: str) -> None:
    profile = lab_device.PROFILES["P1"]
    with (
        pytest.raises(RuntimeError, match="inside"),
        lab_device.throttled_device(device_name, profile, 64 << 20, images) as made,
    ):
        (made.mount_point / "file").write_bytes(b"x" * 4096)
        reader = subprocess.Popen(made.throttle.command(["sleep", "600"]))
        raise RuntimeError("inside")
    assert reader.wait(timeout=10) != 0, "a process of the group was left running"
    assert traces_of(device_name, images) == []


@pytest.mark.parametrize("step", ["_attach", "mount", "set_read_ahead"])
def test_a_failure_while_it_is_made_leaves_nothing_behind(
    lab_host: None, images: Path, device_name: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise HindsightError(f"{step} failed")

    monkeypatch.setattr(lab_device, step, fail)
    with pytest.raises(HindsightError, match=f"{step} failed"):
        lab_device.create(device_name, lab_device.PROFILES["P1"], 64 << 20, images)
    assert traces_of(device_name, images) == []


def test_an_abandoned_device_is_removed_by_another_process(made: lab_device.LabDevice, images: Path) -> None:
    command = [os.sys.executable, "-m", "hindsight", "lab", "device"]  # type: ignore[attr-defined]
    listed = subprocess.run([*command, "list"], capture_output=True, text=True, check=True).stdout
    assert made.name in listed and made.node in listed
    subprocess.run([*command, "remove", made.name], check=True)
    assert traces_of(made.name, images) == []


def test_a_damaged_state_hides_no_other_device(
    made: lab_device.LabDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    shutil.copytree(lab_device.STATE / made.name, state / made.name, ignore=shutil.ignore_patterns("mnt"))
    facts = json.loads((state / made.name / "state.json").read_text())
    (state / made.name / "state.json").write_text(json.dumps(facts | {"of a newer version": 1}))
    for name, content in {"cut": "{", "other": '{"name": "other"}'}.items():
        (state / name).mkdir()
        (state / name / "state.json").write_text(content)
    monkeypatch.setattr(lab_device, "STATE", state)
    devices, damaged = lab_device.existing()
    assert devices == [made]
    assert [error.remedy for error in damaged] == ["Check `losetup -a` and remove the file."] * 2


def test_two_devices_of_one_name_are_refused(made: lab_device.LabDevice, images: Path) -> None:
    with pytest.raises(ConfigurationError, match="exists"):
        lab_device.create(made.name, made.profile, 64 << 20, images)
    assert made.mount_point.is_mount(), "the refusal must not disturb the first"


def test_no_room_is_a_clear_error(lab_host: None, images: Path, device_name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot allocate"):
        lab_device.create(device_name, lab_device.PROFILES["P1"], 1 << 60, images)
    assert traces_of(device_name, images) == []


def test_the_throttle_is_in_force(made: lab_device.LabDevice) -> None:
    check = check_throttle(made, seconds=0.5)
    assert check.effective, check
    assert check.device_reads >= check.reads >= 1
    assert not (made.mount_point / ".throttle-check").exists()


@pytest.mark.parametrize("block", [BLOCK, LARGE])
def test_a_throttle_that_is_not_in_force_is_seen(made: lab_device.LabDevice, block: int) -> None:
    made.throttle.limit(made.number, 1 << 30, 1 << 40)
    slow = replace(made, profile=lab_device.custom_profile(50, 5 << 20))  # any disk is faster
    check = check_throttle(slow, seconds=0.5, block=block)
    assert not check.effective, check


def test_the_first_and_the_last_slice_of_a_throttle_may_come_early() -> None:
    check = partial(ThrottleCheck, device_reads=1000, limit=200, device_bytes=1000 * BLOCK)
    assert check(121, elapsed_ns=502_506_895).effective
    assert check(140, elapsed_ns=502_506_895).effective
    assert not check(160, elapsed_ns=502_506_895).effective
    assert not check(1000, elapsed_ns=4_000_000_000).effective
    assert not check(100, device_reads=99, elapsed_ns=502_506_895).effective, "the page cache served one"
    assert not check(100, device_bytes=99 * BLOCK, elapsed_ns=502_506_895).effective


def test_cold_means_that_reads_reach_the_device(made: lab_device.LabDevice) -> None:
    path = made.mount_point / "file"
    path.write_bytes(os.urandom(1 << 20))
    lab_device.remount_cold(made)
    before = made.completed_reads()
    content = path.read_bytes()
    cold = made.completed_reads() - before
    assert path.read_bytes() == content
    assert cold >= 1
    assert made.completed_reads() - before == cold, "the second read is served by the cache"
    assert lab_device.read_ahead(made) == 128


def test_rules_of_both_cgroup_versions() -> None:
    assert rules(1, "7:3", 200, 1000) == [
        ("blkio.throttle.read_iops_device", "7:3 200"),
        ("blkio.throttle.read_bps_device", "7:3 1000"),
    ]
    assert rules(1, "7:3", None, None)[0] == ("blkio.throttle.read_iops_device", "7:3 0")
    assert rules(2, "7:3", 200, 1000) == [("io.max", "7:3 riops=200 rbps=1000")]
    assert rules(2, "7:3", None, None) == [("io.max", "7:3 riops=max rbps=max")]


def test_the_hierarchy_is_probed_from_the_mounts(tmp_path: Path) -> None:
    first, second = tmp_path / "blkio", tmp_path / "unified"
    for path in (first, second):
        path.mkdir()
    line = "30 25 0:26 / {} rw - {} none rw\n"
    mounts = line.format(second, "cgroup2") + line.format(first, "cgroup")
    with pytest.raises(NotPermittedError, match="no cgroup hierarchy"):
        find_hierarchy(mounts)
    (second / "cgroup.controllers").write_text("cpu io memory\n")
    assert find_hierarchy(mounts) == Hierarchy(2, second)
    (first / "blkio.throttle.read_iops_device").touch()
    assert find_hierarchy(mounts) == Hierarchy(1, first)


def test_a_group_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    group = ThrottleGroup("x", Hierarchy(1, tmp_path / "absent"))
    with pytest.raises(NotPermittedError, match="cannot make the cgroup"):
        group.create()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "x" * 60])
def test_names_that_would_leave_the_directory_are_refused(name: str, lab_host: None, images: Path) -> None:
    with pytest.raises(UsageError):
        lab_device.create(name, lab_device.PROFILES["P1"], 64 << 20, images)


def test_without_root_the_remedy_is_said(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotPermittedError, match="sudo"):
        lab_device.create("x", lab_device.PROFILES["P1"], 64 << 20, images)
