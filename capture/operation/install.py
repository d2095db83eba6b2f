"""Put the command's surroundings on a host: units, configuration, manual page, shell completion."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hindsight.capture import host
from hindsight.errors import ConfigurationError, HindsightError, NotPermittedError

UNITS = ("hindsight-capture.service", "hindsight-capture-perf.service")
_SHARED = {
    "hindsight-capture.1": "share/man/man1/hindsight-capture.1",
    "hindsight.bash": "share/bash-completion/completions/hindsight",
    "_hindsight": "share/zsh/site-functions/_hindsight",
    "hindsight.fish": "share/fish/vendor_completions.d/hindsight.fish",
}
_CONFIGURATION = ("capture.conf", "capture-perf.conf")
_PLACEHOLDER = "@HINDSIGHT@"

Say = Callable[[str], None]


@dataclass(frozen=True)
class File:
    """A file to install at ``path`` (as the host will see it). ``kept``: an administrator may change it."""

    path: Path
    data: bytes
    mode: int = 0o644
    kept: bool = False


def files(prefix: Path) -> list[File]:
    """Everything that an installation below ``prefix`` consists of."""
    if not prefix.is_absolute() or ".." in prefix.parts:
        raise ConfigurationError(f"the prefix {prefix} is not an absolute path", "Use --prefix /usr/local.")
    found = []
    archive = running_archive()
    if archive is None:
        command = [sys.executable, "-I", "-m", "hindsight"]
    else:
        # The file that runs is the program: it is copied, and run with nothing but the standard library.
        program = prefix / "bin" / "hindsight"
        found.append(File(program, archive.read_bytes(), 0o755))
        command = [sys.executable, "-I", "-S", str(program)]
    package = resources.files("hindsight.capture.operation")
    for name in UNITS:
        text = (package / "units" / name).read_text(encoding="utf-8")
        text = text.replace(_PLACEHOLDER, shlex.join(command).replace("%", "%%"))
        found.append(File(prefix / "lib/systemd/system" / name, text.encode()))
    for name in _CONFIGURATION:
        data = (package / "units" / name).read_bytes()
        found.append(File(Path("/etc/hindsight") / name, data, kept=True))
    found.append(
        File(prefix / "lib/tmpfiles.d/hindsight.conf", (package / "units/hindsight.tmpfiles").read_bytes())
    )
    found += [
        File(prefix / where, (package / "share" / name).read_bytes()) for name, where in _SHARED.items()
    ]
    return found


def running_archive() -> Path | None:
    """The zip application that this program runs from, None when it is installed as a package."""
    loader = sys.modules["hindsight"].__spec__
    origin = Path(loader.origin) if loader is not None and loader.origin else None
    for place in origin.parents if origin is not None else ():
        if place.is_file():
            return place if zipfile.is_zipfile(place) else None
    return None


def install(root: Path, prefix: Path, say: Say, dry_run: bool = False) -> list[Path]:
    """Install below ``root``; returns the paths written. What is there already and the same is left alone.

    A changed configuration file is kept: the new one goes beside it as ``.new``. Raises NotPermittedError
    when something cannot be written.
    """
    written = []
    for file in files(prefix):
        target = below(root, file.path)
        current = _content(target)
        if current == file.data and stat.S_IMODE(target.stat().st_mode) == file.mode:
            continue
        if file.kept and current is not None:
            new = target.with_name(f"{target.name}.new")
            if _content(new) == file.data:
                continue
            say(f"{target} was changed here and is kept; the new one is {new}")
            target = new
        if not dry_run:
            _write(target, file.data, file.mode)
        written.append(target)
    if root == Path("/") and not dry_run:
        with contextlib.suppress(OSError):
            host.host_key(Path("/etc/hindsight"))  # an image gets none: each host has a key of its own
    return written


def uninstall(root: Path, prefix: Path, say: Say, dry_run: bool = False) -> list[Path]:
    """Remove what :func:`install` put there; recordings, the host's key and changed configuration stay."""
    removed = []
    for file in files(prefix):
        target = below(root, file.path)
        targets = [target, target.with_name(f"{target.name}.new")] if file.kept else [target]
        for path in targets:
            current = _content(path)
            if current is None:
                continue
            if file.kept and path == target and current != file.data:
                say(f"{path} was changed here and is kept")
                continue
            if not dry_run:
                _unlink(path)
            removed.append(path)
    for left in (below(root, Path("/etc/hindsight/host.key")), below(root, Path("/var/lib/hindsight"))):
        if left.exists():
            say(f"{left} is kept; remove it yourself when nothing needs it any more")
    return removed


def below(root: Path, path: Path) -> Path:
    """Where an absolute ``path`` of the host lies when its root is ``root``."""
    return root / path.relative_to("/")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error) from error


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise _refused(path, error) from error


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> HindsightError:
    message = f"{path} cannot be written: {error.strerror}"
    if isinstance(error, PermissionError):
        return NotPermittedError(message, "sudo hindsight capture install, or --root DIR for an image.")
    return HindsightError(message, "Choose another --prefix or --root.")
