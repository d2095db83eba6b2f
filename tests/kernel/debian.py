"""Debian's kernels for the guests: downloaded with apt and unpacked below build/, never installed.

Run as a program (``make system-packages`` does) it fetches what is missing and says what could not be had.
"""

from __future__ import annotations

import fcntl
import lzma
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "build" / "kernel"

KERNEL = "linux-image-cloud-amd64"
"""The meta package. The cloud kernel is a third of the size of the other, and traces as much."""
HEADERS = "linux-headers-cloud-amd64"
SHELL = "busybox-static"


class Unavailable(Exception):
    """A kernel, or a program that the harness needs, is not to be had here; the reason."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: ``release`` as ``uname -r`` says it, ``tree`` what its packages hold."""

    release: str
    tree: Path

    @property
    def image(self) -> Path:
        """What is booted."""
        return self.tree / "boot" / f"vmlinuz-{self.release}"

    @property
    def headers(self) -> Path:
        """The folder against which modules are built."""
        return self.tree / "usr" / "src" / f"linux-headers-{self.release}"

    def modules(self, name: str) -> list[Path]:
        """The files of one of its modules and of those that it needs, in the order in which they are loaded.

        None when it is built in. Raises Unavailable when the kernel has no such module.
        """
        folder = self.tree / "lib" / "modules" / self.release
        builtin = (folder / "modules.builtin").read_text().split()
        if name in {_name(Path(line)) for line in builtin}:
            return []
        paths = {_name(path): path for path in sorted(folder.rglob("*.ko*"))}
        try:
            path = paths[name]
        except KeyError:
            raise Unavailable(f"Linux {self.release} has no module {name}") from None
        # The section .modinfo: NUL-terminated words.
        needs = re.search(rb"\0depends=([\w,-]*)\0", plain(path))
        names = needs[1].decode().replace("-", "_").split(",") if needs else []
        found = [module for need in names if need for module in self.modules(need)]
        return [*dict.fromkeys(found), path]


def _name(module: Path) -> str:
    return module.name.split(".")[0].replace("-", "_")


def plain(module: Path) -> bytes:
    """A module's file, decompressed."""
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data


def kernel() -> Kernel:
    """Debian's kernel, with its headers; downloaded if it is missing. Raises Unavailable with the reason."""
    return _unpacked("stable", _packages)


def busybox() -> Path:
    """A static busybox. Raises Unavailable with the reason."""
    found = _store("busybox", lambda: [SHELL]) / "bin" / "busybox"
    if not found.exists():
        raise Unavailable(f"the package {SHELL} holds no busybox")
    return found


def _packages() -> list[str]:
    image, headers = _depends(KERNEL, "linux-image-"), _depends(HEADERS, "linux-headers-")
    more = [name for name in _dependencies(headers) if re.match(r"linux-(headers|kbuild)-", name)]
    return [image, headers, *more]


def _depends(meta: str, prefix: str) -> str:
    for name in _dependencies(meta):
        if name.startswith(prefix):
            return name
    raise Unavailable(f"apt knows no kernel behind {meta}")


def _dependencies(package: str) -> list[str]:
    if shutil.which("apt-cache") is None:
        raise Unavailable("no apt: the kernels of the guests are Debian's")
    run = subprocess.run(["apt-cache", "depends", "--important", package], capture_output=True, text=True)
    return re.findall(r"^\s+(?:Pre)?Depends: ([\w.+-]+)", run.stdout, re.M)


def _unpacked(name: str, packages: Callable[[], list[str]]) -> Kernel:
    tree = _store(name, packages)
    images = sorted(tree.glob("boot/vmlinuz-*"))
    if not images:
        raise Unavailable(f"{tree} holds no kernel")
    return Kernel(images[-1].name.removeprefix("vmlinuz-"), tree)


def _store(name: str, packages: Callable[[], list[str]]) -> Path:
    """The folder with what some packages hold; made at once or not at all."""
    tree = STORE / name
    STORE.mkdir(parents=True, exist_ok=True)
    with open(STORE / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.is_dir():
            half = STORE / f".{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            (half / "deb").mkdir(parents=True)
            wanted = packages()
            _run(["apt-get", "download", *wanted], half / "deb", f"{wanted[0]} … could not be downloaded")
            for package in sorted((half / "deb").glob("*.deb")):
                _run(["dpkg-deb", "-x", str(package), str(half)], half, f"{package.name} cannot be unpacked")
            shutil.rmtree(half / "deb")
            half.rename(tree)
    return tree


def _run(command: list[str], directory: Path, failure: str) -> None:
    try:
        run = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{failure}: {error}") from error
    if run.returncode:
        raise Unavailable(f"{failure}: {(run.stderr.strip().splitlines() or ['no reason given'])[-1]}")


def main() -> int:
    """Fetch what is missing; 0 even when something cannot be had (its tests are skipped)."""
    if os.uname().machine != "x86_64":
        return 0
    try:
        busybox()
        kernel()
    except Unavailable as error:
        print(f"{error}: the tests in guests will be skipped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
