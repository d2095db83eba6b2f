"""The programs that the lab runs: where they are, which version, and how to get them."""

from __future__ import annotations

import os
import shutil
import subprocess

from hindsight.errors import ConfigurationError

_PACKAGES = {
    "db_bench": "rocksdb-tools",
    "fio": "fio",
    "sqlite3": "sqlite3",
    "git": "git",
    "grep": "grep",
    "tar": "tar",
    "losetup": "mount",
    "mount": "mount",
    "umount": "mount",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.ext2": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
}
"""Debian package of each program."""

_SEARCH = os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))


def path_of(program: str) -> str | None:
    """Absolute path of a program, None if it is not installed (sbin is searched, whatever PATH says)."""
    return shutil.which(program) or shutil.which(program, path=_SEARCH)


def require(*programs: str) -> None:
    """Raise ConfigurationError, naming the packages to install, if any of ``programs`` is missing."""
    missing = [program for program in programs if path_of(program) is None]
    if missing:
        packages = sorted({_PACKAGES.get(program, program) for program in missing})
        raise ConfigurationError(
            f"not installed: {', '.join(missing)}", f"Install: `apt-get install {' '.join(packages)}`."
        )


def version_of(program: str) -> str:
    """What the program says of its version, in one line; empty if it is not installed."""
    path = path_of(program)
    if path is None:
        return ""
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = (result.stdout or result.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""
