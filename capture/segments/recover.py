"""Seal what recorders that died have left in a directory: killed ones, and those of a boot that is over.

A recorder that was killed leaves files that are whole, and ring buffers that the kernel still holds: they are
read, and the kernel's last counters make the ledger exact. After a power loss the files end anywhere beyond
what was made durable: each sub-buffer there is checked, and from the first that cannot be what the kernel
wrote on the file is cut. What may be missing is in ``losses``. What cannot be sealed is moved aside, never
deleted. All of it may be interrupted and repeated.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from hindsight.capture.segments.abandoned import Abandoned, Recovery
from hindsight.capture.segments.segment import UNSEALED, load_json
from hindsight.capture.segments.unsealed import FULL, OPENING, lock_directory
from hindsight.errors import HindsightError


def recover(directory: Path, say: Callable[[str], None]) -> list[Path]:
    """Seal what dead recorders left unsealed in ``directory``; returns the sealed segments.

    Those of living recorders, of other users, or that another process is about to recover are left alone.
    Never raises for what it finds there: it is said.
    """
    return recover_all(directory, say).sealed


def unsealed(directory: Path) -> list[Path]:
    """The unsealed segments in a directory, in the order in which they were recorded."""

    def order(path: Path) -> tuple[str, int]:
        capture, _, number = path.name.rpartition("-")
        return (capture, int(number)) if number.isdecimal() and number.isascii() else (path.name, 0)

    with contextlib.suppress(OSError):
        return sorted((p for p in directory.iterdir() if p.name.startswith(UNSEALED)), key=order)
    return []


def recover_all(directory: Path, say: Callable[[str], None], dry_run: bool = False) -> Recovery:
    """:func:`recover`, and what became of the others; ``dry_run`` changes nothing and lists what would."""
    done = Recovery()
    for path in unsealed(directory):
        try:
            lock = lock_directory(path, wait=False)
        except OSError as error:
            done.left.append((path, error.strerror or str(error)))
            continue
        if lock is None:
            done.keep |= _instance_names(path)
            done.left.append((path, "it is being recorded, or recovered by another process"))
            continue
        try:
            if not path.is_dir() or os.fstat(lock.descriptor).st_ino != path.stat().st_ino:
                continue  # sealed meanwhile
            Abandoned(path, lock.held, say, done).recover(dry_run)
        except HindsightError as error:
            done.failed.append((path, str(error)))
            say(str(error))
        except OSError as error:
            text = f"{path} could not be recovered: {error.strerror or error}"
            if error.errno in FULL:
                text += f"\n  Make space, then: hindsight capture clean -o {directory}"
            done.failed.append((path, text))
            say(text)
        finally:
            lock.release()
    return done


def _instance_names(path: Path) -> set[str]:
    try:
        return {str(instance["path"]) for instance in load_json(path / OPENING)["instances"].values()}
    except (KeyError, TypeError, AttributeError, HindsightError):
        return set()
