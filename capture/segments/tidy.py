"""Put in order what dead recorders left: unsealed segments, tracefs instances, kprobes, state files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hindsight.capture import owner
from hindsight.capture.ftrace import probes, tracefs
from hindsight.capture.operation import state
from hindsight.capture.segments.recover import recover_all
from hindsight.capture.segments.salvage import remove_instance
from hindsight.errors import NotPermittedError

_PREFIX = "hindsight-"


@dataclass
class Tidied:
    """What was done. ``left`` was not touched, with the reason; ``failed`` should have been but could not."""

    sealed: list[Path] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    instances: list[str] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)
    state_files: list[Path] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sealed": [str(path) for path in self.sealed],
            "moved_aside": [str(path) for path in self.aside],
            "instances_removed": self.instances,
            "probes_removed": self.probes,
            "state_files_removed": [str(path) for path in self.state_files],
            "left": [{"what": what, "why": why} for what, why in self.left],
            "failed": [{"what": what, "why": why} for what, why in self.failed],
        }


def tidy(say: Callable[[str], None], directories: Iterable[Path] = (), dry_run: bool = False) -> Tidied:
    """Seal what dead recorders left in ``directories`` and where their state files say; remove the rest.

    The rest: their tracefs instances, kprobes and state files. What belongs to a living recorder, or to one
    that cannot be judged from here, is left. Without root what is in tracefs is left. ``dry_run`` changes
    nothing and lists what would be done. Never raises for what it finds: it is said.
    """
    done = Tidied()
    # A state file is believed as to where to write only when it is this user's own.
    dead = [s for s in state.running() if s.alive is False and s.uid == os.geteuid()]
    keep: set[str] = set()
    places = {os.path.realpath(path): Path(path) for path in (*directories, *(s.out for s in dead))}
    for place in places.values():
        recovery = recover_all(place, say, dry_run)
        done.sealed += recovery.sealed
        done.aside += recovery.aside
        done.instances += recovery.instances
        done.left += [(str(path), why) for path, why in recovery.left]
        done.failed += [(str(path), why) for path, why in recovery.failed]
        keep |= recovery.keep
    _instances(done, keep, say, dry_run)
    _probes(done, dry_run)
    for gone in dead:
        if not dry_run:
            with contextlib.suppress(OSError):
                gone.path.unlink()
        done.state_files.append(gone.path)
    return done


def _instances(done: Tidied, keep: set[str], say: Callable[[str], None], dry_run: bool) -> None:
    try:
        root = tracefs.locate() / "instances" if os.geteuid() == 0 else None
    except NotPermittedError:
        return
    for path in sorted(root.glob(f"{_PREFIX}*")) if root is not None else ():
        who = owner.parse(path.name.removeprefix(_PREFIX).rpartition("-")[0])
        if who is None:
            done.left.append((path.name, "its name is not one that this release gives"))
        elif path.name in keep:
            done.left.append((path.name, "its ring buffers hold what is not sealed yet"))
        elif who.alive is None:
            done.left.append((path.name, "its recorder is in another pid namespace: clean up from there"))
        elif who.alive:
            done.left.append((path.name, f"its recorder, process {who.pid}, lives"))
        else:
            why = None if dry_run else remove_instance(path)
            if why is None:
                done.instances.append(path.name)
            else:
                done.failed.append((path.name, f"it could not be removed: {why}"))
                say(f"the tracefs instance {path} could not be removed: {why}")


def _probes(done: Tidied, dry_run: bool) -> None:
    """After the instances, which may use them."""
    try:
        root = tracefs.locate() if os.geteuid() == 0 else None
    except NotPermittedError:
        return
    if root is None:
        return
    left = probes.abandoned(root)
    done.probes += left if dry_run else probes.remove_abandoned(root)
    done.failed += [(name, "the kprobe is in use") for name in left if name not in done.probes]
