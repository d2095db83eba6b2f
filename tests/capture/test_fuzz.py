"""A small share of `make fuzz`: damaged inputs for every parser (tests/fuzz); and that it would notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNNER = Path(__file__).resolve().parent.parent / "fuzz" / "run.py"


def test_a_share_of_every_target() -> None:
    """A million cases times this share, and at least a batch of each target."""
    command = [sys.executable, str(RUNNER), "--share", "0.002", "--seed", "7", "--quick"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    *targets, total = result.stdout.splitlines()
    assert len(targets) >= 8
    assert int(total.split()[1]) >= 3000


def test_a_wrong_row_is_noticed(tmp_path: Path) -> None:
    """With a decoder that is wrong in one bit of one time in the batch, the target fails and says where."""
    program = f"""
import sys
sys.path[:0] = [{str(RUNNER.parent)!r}, {str(Path(__file__).parent)!r}]
import raw_pages
from target import Failed

sound = raw_pages.decode_cpu
def wrong(*args):
    found = sound(*args)
    if found.ts.size:
        found.ts[found.ts.size // 2] ^= 1
    return found
raw_pages.decode_cpu = wrong
try:
    raw_pages.RawPages().check(1, 0, 4)
except Failed as failed:
    print(failed.case, sorted(failed.inputs))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert result.stdout == "0 ['cpu0.pages', 'cpu1.pages', 'cpu2.pages', 'page']\n", result.stderr
