"""State files: what each running recorder tells ``status``, ``trigger`` and ``clean``, a small file each."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight.capture import host
from hindsight.capture.owner import Owner, from_dict

RUN = Path("/run/hindsight")
STATE_VERSION = 1
_MOST_BYTES = 1 << 16
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


@dataclass(frozen=True)
class State:
    """A recorder as its state file tells it. ``values`` is the whole file; ``uid`` is whose file it is."""

    path: Path
    uid: int
    capture: str
    owner: Owner
    out: Path
    boot: str
    values: Mapping[str, Any]

    @property
    def alive(self) -> bool | None:
        """Whether the recorder lives; None when that cannot be seen from this pid namespace."""
        if self.boot != host.boot_id():
            return False
        return self.owner.alive

    @property
    def sealed(self) -> Path | None:
        """The segment that it sealed last."""
        value = self.values.get("sealed")
        return Path(value) if isinstance(value, str) else None

    def number(self, name: str) -> float:
        """A number of the file, 0 when it is absent."""
        value = self.values.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else 0

    def text(self, name: str) -> str:
        """A text of the file, empty when it is absent. It is fit for a terminal: no control characters."""
        value = self.values.get(name)
        return "".join(c if c.isprintable() else "?" for c in value) if isinstance(value, str) else ""


def own_directory(environment: Mapping[str, str] | None = None) -> Path:
    """Where this process keeps its state file: what systemd made for it, /run/hindsight, or the user's own.

    Raises OSError when none of them can be written.
    """
    environment = os.environ if environment is None else environment
    candidates = []
    for name in environment.get("RUNTIME_DIRECTORY", "").split(":"):
        if Path(name).name.startswith("hindsight"):
            candidates.append(Path(name))
    candidates.append(RUN)
    if environment.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(environment["XDG_RUNTIME_DIR"]) / "hindsight")
    failed: OSError | None = None
    for path in candidates:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o755)
                os.chmod(path, 0o755)  # whatever the umask is: everybody may see that there is a recorder
            if os.access(path, os.W_OK | os.X_OK) and os.stat(path).st_uid == os.geteuid():
                return path
        except OSError as error:
            failed = error
    raise failed or PermissionError(13, "no directory for state files can be written", str(RUN))


def directories() -> list[Path]:
    """Every directory that may hold state files and that this process can look for."""
    found = [RUN, *sorted(RUN.parent.glob("hindsight-*"))]  # a service of another user has one of its own
    if os.geteuid() == 0:
        found += sorted(RUN.parent.glob("user/*/hindsight"))
    elif os.environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(os.environ["XDG_RUNTIME_DIR"]) / "hindsight")
    return [path for path in found if path.is_dir()]


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a state file (mode 0600) at once. Raises OSError."""
    replace(path, json.dumps({"version": STATE_VERSION, **values}, indent=1) + "\n", 0o600)


def replace(path: Path, text: str, mode: int) -> None:
    """Replace a file so that a reader sees the old text or the new one. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode
    )
    try:
        try:
            os.fchmod(descriptor, mode)
            data = memoryview(text.encode())
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read(path: Path) -> State | None:
    """The state in one file, None when it is gone, not readable, or not a state file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        values = json.loads(os.read(descriptor, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(descriptor)
    if not isinstance(values, dict) or values.get("version") != STATE_VERSION:
        return None
    owner = from_dict(values.get("owner"))
    capture, out, boot = values.get("capture"), values.get("out"), values.get("boot")
    if owner is None or not all(isinstance(value, str) for value in (capture, out, boot)):
        return None
    if not _NAME.fullmatch(str(capture)) or not os.path.isabs(str(out)) or "\0" in str(out):
        return None
    return State(path, status.st_uid, str(capture), owner, Path(str(out)), str(boot), values)


def running(places: Iterable[Path] | None = None) -> list[State]:
    """The recorders that have a state file, oldest first: living ones, and killed ones (``alive`` False).

    Files of other users that this process may not read are left out; a file that does not belong to the
    owner of its directory, or to root, is not believed.
    """
    found = []
    for directory in directories() if places is None else places:
        with contextlib.suppress(OSError):
            owner = os.stat(directory).st_uid
            for name in sorted(os.listdir(directory)):
                if name.startswith(".") or not name.endswith(".json"):
                    continue
                state = read(directory / name)
                if state is not None and state.uid in (owner, 0):
                    found.append(state)
    return sorted(found, key=lambda state: (state.capture, str(state.path)))
