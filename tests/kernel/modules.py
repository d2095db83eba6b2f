"""Build the kernel modules of this folder against Debian's headers, where they were unpacked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from debian import Kernel, Unavailable

HERE = Path(__file__).parent
NAMES = ("hindsight_proxy", "hindsight_mllib")


def build(kernel: Kernel, directory: Path) -> dict[str, Path]:
    """The modules, by name, built in ``directory``. Raises Unavailable without make or a compiler.

    Debian's headers consist of two folders, of which the smaller one names the other by its installed path;
    giving make the other one's Makefile says the same without it.
    """
    if shutil.which("make") is None or shutil.which("gcc-12") is None:
        raise Unavailable("modules are built with make and gcc-12 (Debian: build-essential)")
    common = next(kernel.headers.parent.glob("linux-headers-*-common"))
    directory.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        shutil.copy(HERE / f"{name}.c", directory)
    (directory / "Kbuild").write_text("".join(f"obj-m += {name}.o\n" for name in NAMES))
    run = subprocess.run(
        [
            "make",
            "-C",
            str(kernel.headers),
            "-f",
            str(common / "Makefile"),
            f"M={directory}",
            "W=1",
            "modules",
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, f"the modules do not compile:\n{run.stdout}\n{run.stderr}"
    warnings = [line for line in (run.stdout + run.stderr).splitlines() if "warning:" in line]
    assert not [line for line in warnings if any(name in line for name in NAMES)], warnings
    return {name: directory / f"{name}.ko" for name in NAMES}
