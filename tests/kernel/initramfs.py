"""The file system of a guest: a cpio archive ("newc") with busybox, this Python and what a test adds.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of Linux 6.18. The kernel unpacks several
archives one after another, so that what all guests share is written once.
"""

from __future__ import annotations

import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from debian import ROOT, busybox

_UNUSED = ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "pydoc_data")
_OPTIMISED = (".opt-1.pyc", ".opt-2.pyc")
_ROOMS = ("capture", "subsystems", "models", "pipeline", "advisor", "lab")
PYTHON = "/usr/bin/python3"
SITE = "/usr/lib/hindsight"


class Archive:
    """A cpio archive that is being built; :meth:`bytes` gives it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._directories: set[str] = set()
        self._inode = 1

    def add(self, name: str, data: bytes, mode: int = 0o644, mtime: int = 0) -> None:
        """Add a file; the folders above it are made."""
        self._parents(name)
        self._entry(name, 0o100000 | mode, data, mtime)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._parents(name)
        self._entry(name, 0o120777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._parents(name)
        self._entry(name, 0o020600, b"", device=(major, minor))

    def directory(self, name: str) -> None:
        """Add an empty folder."""
        self._parents(name + "/")

    def tree(self, path: Path, name: str, skip: tuple[str, ...] = ()) -> None:
        """Add a file, or a folder with all that is in it (but names in ``skip``)."""
        if path.is_dir():
            self.directory(name)
            for child in sorted(path.iterdir()):
                if child.name not in skip and not child.name.endswith(_OPTIMISED):
                    self.tree(child, f"{name}/{child.name}", skip)
        else:
            status = path.stat()
            self.add(name, path.read_bytes(), status.st_mode & 0o777, int(status.st_mtime))

    def bytes(self) -> bytes:
        """The archive, padded so that another one may follow."""
        data = b"".join(self._parts) + _header("TRAILER!!!", 0, 0, b"")
        return data + bytes(-len(data) % 512)

    def _parents(self, name: str) -> None:
        parts = name.strip("/").split("/") if name.endswith("/") else name.strip("/").split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            directory = "/".join(parts[:depth])
            if directory not in self._directories:
                self._directories.add(directory)
                self._entry(directory, 0o040755, b"")

    def _entry(
        self, name: str, mode: int, data: bytes, mtime: int = 0, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        self._parts.append(_header(name.lstrip("/"), self._inode, mode, data, mtime, device))


def _header(
    name: str, inode: int, mode: int, data: bytes, mtime: int = 0, device: tuple[int, int] = (0, 0)
) -> bytes:
    path = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, mtime, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def base() -> bytes:
    """What all guests have: busybox, this Python with its standard library, this package."""
    archive = Archive()
    for directory in ("proc", "sys", "dev", "tmp", "run", "mnt", "root", "out"):
        archive.directory(directory)
    archive.device("dev/console", 5, 1)
    shell = busybox()
    archive.add("bin/busybox", shell.read_bytes(), 0o755)
    for applet in subprocess.run([shell, "--list"], capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")
    _python(archive)
    _package(archive)
    return archive.bytes()


def _python(archive: Archive) -> None:
    interpreter = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}").resolve()
    library = Path(sysconfig.get_path("stdlib"))
    skip = (*_UNUSED, *(path.name for path in library.glob("config-*")))
    archive.tree(library, str(library), skip)
    archive.add(str(interpreter), interpreter.read_bytes(), 0o755)
    archive.link(PYTHON, str(interpreter))
    libraries = _libraries([interpreter, *sorted((library / "lib-dynload").glob("*.so"))])
    # The C library loads this one itself when a thread ends.
    libc = next(path for path in libraries if path.name.startswith("libc.so"))
    unwinder = libc.with_name("libgcc_s.so.1")
    for path in (*libraries, *([unwinder] if unwinder.exists() else [])):
        archive.add(str(path), path.read_bytes(), 0o755)


def _libraries(binaries: list[Path]) -> list[Path]:
    """The shared libraries that these need, at the paths where the loader looks for them."""
    found = set()
    for binary in binaries:
        text = subprocess.run(["ldd", str(binary)], capture_output=True, text=True).stdout
        found |= set(re.findall(r"(?:=> |^\s*)(/\S+) \(0x", text, re.M))
    return sorted(map(Path, found))


def _package(archive: Archive) -> None:
    """This package as it is installed, compiled: a guest takes seconds to do so."""
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch, "hindsight")
        shutil.copytree(ROOT / "hindsight", site, ignore=shutil.ignore_patterns("__pycache__"))
        for room in _ROOMS:
            shutil.copytree(ROOT / room, site / room, ignore=shutil.ignore_patterns("__pycache__"))
        for source in site.rglob("*.py"):
            py_compile.compile(
                str(source), dfile=f"{SITE}/{source.relative_to(scratch)}", doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )  # fmt: skip
        archive.tree(site, f"{SITE}/hindsight")
