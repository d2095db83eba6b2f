"""One plan: run while recording, converted, replayed from its demand, and compared with the record."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hindsight.capture.bpf.open_files import compiled
from hindsight.errors import HindsightError
from hindsight.lab.cgroup import cache_group
from hindsight.lab.fuzz.bench import Bench
from hindsight.lab.fuzz.plan import Plan
from hindsight.lab.recording import run_recorder

BUFFER_KB = 16384
LIMIT_SECONDS = 60.0
COUNTS = ("recorded", "compared", "matched", "missing", "extra", "unattributed")
EXACT, DIFFERS, NO_VERDICT = "exact", "differs", "no verdict"


@dataclass(frozen=True)
class Outcome:
    """What came of a plan."""

    plan: Plan
    counts: dict[str, int]
    """:data:`COUNTS`, over the streams that carry a verdict."""
    first_divergence: dict[str, Any] | None
    without_verdict: dict[str, dict[str, int]]
    """Reason -> streams, recorded decisions, and how many of those the replay gave nevertheless."""
    one_step: dict[str, int] = field(default_factory=dict)
    """What the comparison says of single steps, where it does."""
    did: tuple[str, ...] = ()
    """What the program says that it did."""
    lost: int = 0
    kept: str = ""

    @property
    def exact_share(self) -> float | None:
        """Matched / recorded; None where nothing was recorded that carries a verdict."""
        return self.counts["matched"] / self.counts["recorded"] if self.counts["recorded"] else None

    @property
    def decisions(self) -> int:
        """All that were recorded, with a verdict or without."""
        return self.counts["recorded"] + sum(r["recorded"] for r in self.without_verdict.values())

    @property
    def verdict(self) -> str:
        """EXACT, DIFFERS, or NO_VERDICT: nothing could be compared."""
        counts = self.counts
        if counts["missing"] or counts["extra"] or counts["unattributed"]:
            return DIFFERS
        return EXACT if counts["matched"] else NO_VERDICT

    def as_dict(self) -> dict[str, Any]:
        """The outcome for JSON, without the operations of the plan."""
        return {
            "seed": self.plan.seed,
            "ways": self.plan.ways,
            "filesystem": self.plan.filesystem,
            "read_ahead_kb": self.plan.read_ahead_kb,
            "operations": self.plan.size(),
            "verdict": self.verdict,
            **self.counts,
            "exact_share": self.exact_share,
            **self.one_step,
            "first_divergence": self.first_divergence,
            "without_verdict": self.without_verdict,
            "lost": self.lost,
            "kept": self.kept,
        }


def try_plan(plan: Plan, bench: Bench, keep: Path | None = None, open_files: bool = True) -> Outcome:
    """Run ``plan`` and compare; with ``keep``, the recording, the dataset and the plan stay there.

    ``open_files``: BPF programs tell open files apart; without them the system calls alone do.

    Raises NotPermittedError if the BPF programs were not built, HindsightError if the program or the recorder
    fails.
    """
    if open_files:
        compiled()
    place = bench.place(plan.filesystem)
    home = Path(tempfile.mkdtemp(prefix="hindsight-fuzz-"))
    try:
        (home / "plan.json").write_text(plan.as_json())
        place.prepare(plan)
        major, minor = place.number()
        log = home / "did.txt"
        log.touch()
        program = [
            sys.executable, "-m", "hindsight.lab.fuzz.program", str(home / "plan.json"),
            str(place.directory), str(log),
        ]  # fmt: skip
        outcome = _record(plan, program, (major, minor), home / "raw", open_files)
        if outcome["status"] != 0:
            raise HindsightError(f"seed {plan.seed}: the program failed: {outcome['said']}")
        found = compare(home, Path(outcome["path"]))
        kept = ""
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            kept = str(keep)
            for path in home.iterdir():
                shutil.move(path, keep / path.name)
            log = keep / "did.txt"
        return _outcome(plan, found, tuple(log.read_text().splitlines()), int(outcome["lost"]), kept)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _record(
    plan: Plan, program: list[str], device: tuple[int, int], raw: Path, open_files: bool
) -> dict[str, Any]:
    options = {
        "out": str(raw), "command": program, "label": f"seed {plan.seed}", "devices": [list(device)],
        "profile": "readahead+faults", "user": "root", "buffer_kb": BUFFER_KB, "duration": LIMIT_SECONDS,
        "open_files": open_files,
    }  # fmt: skip
    if not plan.memory_kb:
        return run_recorder(list, options)
    with cache_group(f"hindsight-fuzz-{os.getpid()}", plan.memory_kb << 10) as group:
        options["command"] = group.command(program)
        return run_recorder(list, options)


def compare(home: Path, segment: Path) -> dict[str, Any]:
    """Convert a recording below ``home`` and hold the replay of its demand against it.

    The result of :func:`hindsight.pipeline.fidelity.compare_capture`.
    """
    from hindsight.capture.conversion.convert import convert
    from hindsight.pipeline.dataset import find_captures
    from hindsight.pipeline.demand import read_demand
    from hindsight.pipeline.fidelity import compare_capture
    from hindsight.pipeline.replay import emit
    from hindsight.subsystems.contract import load

    convert([segment], home / "data", comm=True)
    subsystem = load("readahead")
    (capture,) = find_captures(home / "data")
    demand = read_demand(subsystem, capture)
    return compare_capture(subsystem, capture, demand, emit(subsystem, capture.id, demand))


def _outcome(plan: Plan, found: dict[str, Any], did: tuple[str, ...], lost: int, kept: str) -> Outcome:
    without: dict[str, dict[str, int]] = {}
    for stream in found["per_stream"]:
        if stream["reason"]:
            entry = without.setdefault(stream["reason"], {"streams": 0, "recorded": 0, "matched": 0})
            entry["streams"] += stream["stream"] is not None
            entry["recorded"] += stream["recorded"]
            entry["matched"] += stream.get("matched", 0)
    return Outcome(
        plan,
        {name: found[name] for name in COUNTS},
        found["first_divergence"],
        dict(sorted(without.items())),
        {k: v for k, v in found.items() if k.startswith("one_step") and isinstance(v, int)},
        did,
        lost,
        kept,
    )
