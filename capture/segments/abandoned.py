"""One segment whose recorder died: its ring buffers read, its files cut to what is sound, and sealed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hindsight.capture import host
from hindsight.capture.ftrace import tracefs
from hindsight.capture.ftrace.pages import PageCheck, trusted
from hindsight.capture.options import RECORDS
from hindsight.capture.owner import from_dict
from hindsight.capture.perf.salvage import trusted_records
from hindsight.capture.segments.aftermath import (
    RECORDER_DIED,
    TRUNCATED,
    Known,
    Remains,
    Successor,
    closing_of,
    read_known,
    start_of,
)
from hindsight.capture.segments.facts import as_opened, build_facts, check_facts
from hindsight.capture.segments.journal import Journal, read
from hindsight.capture.segments.rowfiles import read_rows, row_files
from hindsight.capture.segments.salvage import Salvaged, remove_instance, salvage
from hindsight.capture.segments.segment import (
    FACTS,
    FORMATS,
    MANIFEST,
    SEGMENT_VERSION,
    UNSEALED,
    is_formats,
    load_json,
    open_segment,
)
from hindsight.capture.segments.unsealed import (
    FULL,
    JOURNAL,
    OPENING,
    RAW,
    RESERVE,
    finish_sealing,
    fsync_path,
    raw_files,
    seal,
)
from hindsight.errors import HindsightError, NotPermittedError, VerificationError

DAMAGED = ".damaged-"
"""How the name of a directory begins that could not be sealed."""
_SHAPE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
_LOST_COUNTERS = {
    "dropped events": "recorder died",
    "overrun": "ring overrun",
    "commit overrun": "ring overrun",
}
_LEDGER = {"dropped events": "ring full", "overrun": "ring overrun", "commit overrun": "ring overrun"}

Say = Callable[[str], None]


@dataclass
class Recovery:
    """What became of the unsealed segments of a directory.

    ``sealed`` and ``aside`` are where they are now; ``left`` those that were not touched, with the reason;
    ``failed`` those that could not be sealed for now, with the reason, which was said.
    ``instances`` were emptied and removed; ``keep`` are still needed: names of tracefs instances.
    """

    sealed: list[Path] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    left: list[tuple[Path, str]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    instances: list[str] = field(default_factory=list)
    keep: set[str] = field(default_factory=set)


class Abandoned:
    """One unsealed segment, locked by the caller (``locked``: as far as its file system has locks)."""

    def __init__(self, path: Path, locked: bool, say: Say, done: Recovery) -> None:
        self.path = path
        self.final = path.with_name(path.name.removeprefix(UNSEALED))
        self.locked = locked
        self.say = say
        self.done = done

    def recover(self, dry_run: bool) -> None:
        """Seal it if its recorder is dead; ``done`` gets the outcome. Raises HindsightError, OSError."""
        if self.path.lstat().st_uid != os.geteuid():
            self._leave("it belongs to another user")
            return
        try:
            opening, formats = self._load()
            reason = None
        except HindsightError as error:
            opening, formats, reason = {}, {}, error.message
        if opening:
            why = self._why_not(opening)
            if why is not None:
                self._leave(why)
                return
        elif not self.locked:
            self._leave("whether its recorder lives cannot be seen: the file system has no locks")
            return
        if dry_run:
            (self.done.aside if reason and not self._sealed_already() else self.done.sealed).append(self.path)
        elif self._sealed_already():
            finish_sealing(self.path, self.final)
            self._sealed("its recorder died while it sealed it", opening)
        elif reason is not None and self._never_begun():
            shutil.rmtree(self.path)
        elif reason is not None:
            self._aside(reason)
        elif self.final.exists():
            self._aside(f"{self.final.name} exists already")
        else:
            try:
                self._seal(opening, formats)
            except VerificationError as error:
                self._aside(error.message)
            except _SHAPE as error:  # in a place that nothing looked at before
                self._aside(f"{OPENING} or {JOURNAL} is damaged ({error!r:.200})")

    def _leave(self, why: str) -> None:
        self.done.left.append((self.path, why))

    def _aside(self, why: str) -> None:
        target = self.path.with_name(f"{DAMAGED}{self.final.name}")
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{DAMAGED}{self.final.name}.{number}")
        os.rename(self.path, target)
        fsync_path(target.parent)
        self.done.aside.append(target)
        self.say(f"{self.final.name} cannot be sealed ({why}); what there is of it is kept as {target}")

    def _sealed(self, how: str, opening: Mapping[str, Any]) -> None:
        self.done.sealed.append(self.final)
        self.say(f"{self.final} was left unsealed ({how}): it is sealed now")
        if opening and _successor(self.path, opening) is None:
            self._remove_instances(opening)

    def _sealed_already(self) -> bool:
        """Whether all that is missing is the name: the manifest is written last."""
        if not (self.path / MANIFEST).exists():
            return False
        try:
            check_facts(self.path, open_segment(self.path).facts)
        except HindsightError:
            return False
        return True

    def _load(self) -> tuple[dict[str, Any], dict[str, str]]:
        opening = load_json(self.path / OPENING)
        formats = load_json(self.path / FORMATS)
        try:
            if not is_formats(formats) or not {"header_page", "header_event"} <= formats.keys():
                raise VerificationError(f"{FORMATS} is damaged")
            if opening["segment_version"] != SEGMENT_VERSION:
                raise VerificationError(f"it is a segment of version {opening['segment_version']!s:.20}")
            PageCheck.of(formats)
            facts = build_facts(opening, (), closing_of(opening, Known(), Remains()))
        except _SHAPE as error:
            raise VerificationError(f"{OPENING} or {FORMATS} is damaged ({error!r:.200})") from None
        check_facts(self.path, facts)
        return opening, formats

    def _why_not(self, opening: Mapping[str, Any]) -> str | None:
        """Why its recorder may still live; None when it is dead."""
        owner = from_dict(opening.get("owner"))
        if self.same_boot(opening) is False:
            return None
        alive = owner.alive if owner is not None else None
        if alive:
            return f"its recorder, process {owner.pid if owner else '?'}, lives"
        if alive is None and not self.locked:
            return "its recorder is in another pid namespace, and the file system has no locks"
        return None

    def same_boot(self, opening: Mapping[str, Any]) -> bool | None:
        """Whether it was recorded under this boot; None when the key is gone with which that was written."""
        directory = self.path.parent
        with contextlib.suppress(OSError):
            if host.KEY_PATH.exists() or (directory / ".host.key").exists():
                key = host.host_key(directory)
                return bool(opening.get("boot") == host.pseudonym(key, f"boot:{host.boot_id()}"))
        return None

    def _instances(self, opening: Mapping[str, Any]) -> dict[str, Path]:
        """The tracefs instances that the recorder left, by name. Raises NotPermittedError."""
        owner = from_dict(opening.get("owner"))
        if self.same_boot(opening) is False or owner is None:
            return {}
        named = {
            name: str(known.get("path", ""))
            for name, known in opening["instances"].items()
            if known["source"] == "ftrace" and known.get("path") == tracefs.instance_name(owner, name)
        }
        root = tracefs.locate() / "instances" if named else Path()
        return {name: root / path for name, path in named.items() if (root / path).is_dir()}

    def _remove_instances(self, opening: Mapping[str, Any]) -> None:
        with contextlib.suppress(NotPermittedError):
            for instance in self._instances(opening).values():
                why = remove_instance(instance)
                if why is None:
                    self.done.instances.append(instance.name)
                else:
                    self.say(f"the tracefs instance {instance} could not be removed: {why}")

    def _seal(self, opening: dict[str, Any], formats: dict[str, str]) -> None:
        for name in (RESERVE, MANIFEST, FACTS):  # (the latter two of a sealing that did not get far)
            (self.path / name).unlink(missing_ok=True)
        known = read_known(self.path / JOURNAL, opening)
        if self._never_used(opening, known):
            shutil.rmtree(self.path)
            return
        opened = self._opened(opening, known)
        successor = _successor(self.path, opening)
        instances = {} if successor or known.closing else self._instances(opening)
        names = {instance.name for instance in instances.values()}
        self.done.keep |= names
        lived_on = self.same_boot(opening) is True or bool(instances)
        lasts = self._cut(opened, formats, known, lived_on)
        salvaged = {}
        for name, instance in sorted(instances.items()):
            size = opening["instances"][name]["subbuffer_bytes"]
            found = self._salvage(instance, name, size)
            if found is not None:
                salvaged[name] = found
        raw_bytes = sum(file.stat().st_size for file in raw_files(self.path, opening))
        closing = known.closing
        if closing is None:
            remains = Remains(lasts, salvaged, successor, not lived_on, raw_bytes)
            closing = closing_of(opened, known, remains)
            closing["losses"] += _rows_lost(self.path, opened, closing["end_ns"], not lived_on)
        elif known.late:
            closing = {**closing, "losses": [*closing["losses"], *known.late.values()]}
        try:
            check_facts(self.path, build_facts(opening, known.kept, closing))
        except _SHAPE as error:
            raise VerificationError(f"{JOURNAL} is damaged ({error!r:.200})") from None
        with contextlib.closing(Journal(self.path / JOURNAL)) as journal:

            def tell() -> None:
                if known.closing is None:
                    journal.append({"kind": "closing", "closing": closing})
                    journal.sync()

            here = self.same_boot(opening) is True
            seal(self.path, self.final, opening, formats, known.kept, closing, tell, here)
        self.done.keep -= names
        self._sealed("its recorder died" if lived_on else "power loss", opening)

    def _never_begun(self) -> bool:
        """Whether its recorder died before it recorded anything: the opening is written before the rest."""
        raw = any(path.stat().st_size for path in (self.path / RAW).rglob("*") if path.is_file())
        return not raw and not (self.path / FACTS).exists() and not any(read(self.path / JOURNAL))

    def _never_used(self, opening: Mapping[str, Any], known: Known) -> bool:
        """Whether it was prepared for later, and later never came."""
        used = known.opened or any(file.stat().st_size for file in raw_files(self.path, opening))
        return bool(opening.get("prepared")) and not used

    def _opened(self, opening: dict[str, Any], known: Known) -> dict[str, Any]:
        try:
            opened = as_opened(opening, known.kept)
            check_facts(self.path, build_facts(opened, (), closing_of(opened, Known(), Remains())))
        except _SHAPE as error:
            raise VerificationError(f"{JOURNAL} is damaged ({error!r:.200})") from None
        return opened

    def _salvage(self, instance: Path, name: str, size: int) -> Salvaged | None:
        """What the instance holds; None when it was removed meanwhile."""
        directory = self.path / RAW / name
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return salvage(instance, directory, size)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return None
            then = f"hindsight capture clean -o {self.path.parent}"
            raise HindsightError(
                f"the ring buffers of {instance.name} could not be read into {self.path}: {error.strerror}",
                f"Make space, then: {then}" if error.errno in FULL else f"Later: {then}",
            ) from error

    def _cut(
        self,
        opening: dict[str, Any],
        formats: dict[str, str],
        known: Known,
        lived_on: bool,
    ) -> dict[tuple[str, str], int]:
        """Cut the files to what can be trusted; returns the time of the last event by instance and CPU.

        ``lived_on``: the kernel did. What was written is there then, and it has counted what was not.
        """
        check = PageCheck.of(formats)
        lasts, cuts, sizes = {}, {}, {}
        entries: list[dict[str, Any]] = []
        for file in raw_files(self.path, opening):
            instance, cpu = file.parent.name, file.stem[3:]
            name = f"{RAW}/{instance}/{file.name}"
            size = file.stat().st_size
            durable = size if lived_on else known.durable.get(name, 0)
            if opening["instances"][instance]["source"] in RECORDS:
                good, last = trusted_records(file, durable)
            else:
                good, last = trusted(file, check, opening["instances"][instance]["subbuffer_bytes"], durable)
            sizes[name] = good
            if last is not None:
                lasts[instance, cpu] = last
            if good == size:
                continue
            cuts[file] = good
            if not lived_on:
                since = start_of(opening) if last is None else last
                row: dict[str, Any] = {"instance": instance, "cpu": int(cpu), "event": None, "count_lower": 0}
                row |= {"count_upper": None, "cause": TRUNCATED}
                row |= {"from_ns": since, "to_ns": max(known.last_ns, since)}
                entries.append({"kind": "loss", "row": row})
        # Before the cut: a recovery after this one was interrupted comes to the same result.
        entries.append({"kind": "synced", "ts": known.last_ns, "bytes": sizes})
        with contextlib.closing(Journal(self.path / JOURNAL)) as journal:
            for entry in entries:
                known.take(entry)
                journal.append(entry)
            journal.sync()
        for file, good in cuts.items():
            os.truncate(file, good)
        return lasts


def _rows_lost(
    path: Path, opening: Mapping[str, Any], end_ns: int, power_lost: bool
) -> Iterator[dict[str, Any]]:
    """What was not sampled any more: from the last sample to the end of the segment."""
    for file in row_files(path):
        last = start_of(opening)
        for rows in read_rows(file):
            last = max([last, *(row["ts"] for row in rows if type(row.get("ts")) is int)])
        row: dict[str, Any] = {"instance": None, "cpu": None, "event": file.stem, "count_lower": 0}
        row |= {"count_upper": None, "cause": TRUNCATED if power_lost else RECORDER_DIED}
        yield row | {"from_ns": min(last, end_ns), "to_ns": end_ns}


def _successor(path: Path, opening: Mapping[str, Any]) -> Successor | None:
    """The segment that the same recorder opened next, sealed or not."""
    name = f"{opening['capture']}-{opening['segment'] + 1:04d}"
    following = path.with_name(f"{UNSEALED}{name}")
    try:
        facts = load_json(following / OPENING)
        known = read_known(following / JOURNAL, facts)
        if known.opened or not facts.get("prepared"):
            return Successor.of(as_opened(facts, known.kept))
    except (*_SHAPE, OSError, HindsightError):
        pass
    try:
        return Successor.of(load_json(path.with_name(name) / FACTS))
    except (*_SHAPE, HindsightError):
        return None
