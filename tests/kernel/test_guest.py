"""The harness itself: what a script in a guest sees, and what comes back."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from debian import Kernel
from guest import Result

_SCRIPT = """#!/bin/sh
uname -r
cat /given/text
cmp /dev/vdb /given/blocks && echo same >&2
mkdir sub && echo written > sub/file
echo changed > /proc/self/comm
python3 -m hindsight --version
exit 7
"""


def test_a_script_runs_under_another_kernel(
    boot: Callable[..., Result], debian_kernel: Kernel, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(range(256)) * 4096)
    files = {"/given/text": b"hello\n", "/given/blocks": disk}
    result = boot(_SCRIPT, files=files, disks=[disk])
    assert result.status == 7, result.explain()
    release, text, version = result.stdout.splitlines()
    assert (release, text) == (debian_kernel.release, "hello")
    assert version.startswith("hindsight ")
    assert result.stderr == "same\n"
    assert (result.files / "sub" / "file").read_text() == "written\n"
    assert sorted(path.name for path in result.files.iterdir()) == ["sub"]


@pytest.mark.slow
def test_what_a_guest_cannot_end_is_ended(boot: Callable[..., Result]) -> None:
    result = boot("#!/bin/sh\necho begun\nsleep 1000\n", timeout_s=2)
    assert result.status not in (0, None), result.explain()
    assert result.stdout == "begun\n"


@pytest.mark.slow
def test_a_guest_that_dies_says_why(boot: Callable[..., Result]) -> None:
    result = boot("#!/bin/sh\necho 1 > /proc/sys/kernel/sysrq\necho c > /proc/sysrq-trigger\nsleep 60\n")
    assert result.status is None
    assert "sysrq triggered crash" in result.console


@pytest.mark.slow
def test_a_file_system_on_a_disk(boot: Callable[..., Result], tmp_path: Path) -> None:
    disk, tree = tmp_path / "disk.img", tmp_path / "tree"
    tree.mkdir()
    (tree / "data").write_bytes(b"x" * 70000)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(tree), str(disk), "8M"], check=True, capture_output=True)
    result = boot(
        "#!/bin/sh\nmount /dev/vdb /mnt && wc -c < /mnt/data && echo new > /mnt/new\n", disks=[disk]
    )
    assert (result.status, result.stdout) == (0, "70000\n"), result.explain()
    listing = subprocess.run(["debugfs", "-R", "cat /new", str(disk)], capture_output=True, text=True)
    assert listing.stdout == "new\n"
