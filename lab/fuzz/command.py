"""``hindsight lab fuzz-readahead``: random ways of reading, recorded, replayed, and compared."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hindsight.errors import ExitCode, NotPermittedError, UsageError

if TYPE_CHECKING:
    from hindsight.lab.fuzz.grammar import Wishes
    from hindsight.lab.fuzz.plan import Plan
    from hindsight.lab.fuzz.trial import Outcome

DESCRIPTION = """Draw a program from each seed that reads in random ways (every system call that reads,
advice, mappings, several descriptors, tasks and threads, files that change), run it on a real file system
while it is recorded, replay the recorded demand through the stock logic, and compare with what the kernel
decided. The same seed gives the same program. Needs root."""

EXAMPLES = """examples:
  sudo hindsight lab fuzz-readahead --seed 1                     one program
  sudo hindsight lab fuzz-readahead --seed 1 --seeds 200 --ways buffered,advice --json
  sudo hindsight lab fuzz-readahead --seed 7 --keep /tmp/seed7   leave recording, dataset and plan there
  sudo hindsight lab fuzz-readahead --seed 7 --shrink            the least that still differs
  hindsight lab fuzz-readahead --seed 7 --plan                   print what the program would do
  sudo hindsight lab fuzz-readahead --load plan.json             run a plan that was printed
"""


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    sub = commands.add_parser(
        "fuzz-readahead", help="hold the replay against the kernel on random programs",
        description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sub.add_argument("--seed", type=int, default=1, metavar="N", help="the first seed (default: %(default)s)")
    sub.add_argument("--seeds", type=int, default=1, metavar="COUNT", help="how many (default: %(default)s)")
    sub.add_argument("--ways", metavar="NAMES", help="ways of reading or families of them, instead of any")
    sub.add_argument("--list-ways", action="store_true", help="list the ways and what each does")
    sub.add_argument("--read-ahead-kb", type=int, metavar="KB", help="of the device, instead of any")
    sub.add_argument("--filesystem", default="", metavar="NAME", help="instead of any")
    sub.add_argument("--tasks", type=int, default=0, metavar="N", help="tasks at once, instead of any number")
    sub.add_argument("--evict", action="store_true", help="in a memory cgroup that is too small")
    sub.add_argument(
        "--directory", type=Path, metavar="DIR", help="where to read, instead of a new loop device"
    )
    sub.add_argument("--plan", action="store_true", help="print the program of the seed, and run nothing")
    sub.add_argument("--load", type=Path, metavar="FILE", help="run this plan instead of a seed's")
    sub.add_argument(
        "--shrink", action="store_true", help="of a plan that differs, print the least part that does"
    )
    sub.add_argument(
        "--keep", type=Path, metavar="DIR", help="leave what differs there: plan, recording, dataset"
    )
    sub.add_argument(
        "--no-open-files", action="store_true", help="tell open files apart by system calls alone"
    )
    sub.add_argument("--json", action="store_true", help="a line of JSON for each, and one for the total")
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments ask. Status 5 if a replay differs from the record."""
    from hindsight.lab.fuzz import ways

    if arguments.list_ways:
        for name in ways.NAMES:
            text = ways.CONDITIONS.get(name) or (ways.WAYS[name].draw.__doc__ or "").splitlines()[0]
            print(f"{name:14} {text}")
        return ExitCode.OK
    if arguments.seeds < 1:
        raise UsageError("--seeds is at least 1")
    plans = _plans(arguments)
    if arguments.plan:
        for plan in plans:
            print(plan.as_json())
        return ExitCode.OK
    return _try(arguments, plans)


def _plans(arguments: argparse.Namespace) -> Iterable[Plan]:
    from hindsight.lab.fuzz import grammar, plan

    if arguments.load is not None:
        return [plan.load(arguments.load)]
    wishes = _wishes(arguments)
    return (grammar.draw(seed, wishes) for seed in range(arguments.seed, arguments.seed + arguments.seeds))


def _wishes(arguments: argparse.Namespace) -> Wishes:
    from hindsight.lab.fuzz import grammar

    names = [name.strip() for name in (arguments.ways or "").split(",") if name.strip()]
    if arguments.filesystem and arguments.filesystem not in grammar.FILESYSTEMS:
        raise UsageError(
            f"there is no file system {arguments.filesystem!r} here",
            f"One of: {', '.join(grammar.FILESYSTEMS)}.",
        )
    return grammar.Wishes(
        grammar.expand(names), arguments.read_ahead_kb, arguments.filesystem, arguments.tasks, arguments.evict
    )


def _try(arguments: argparse.Namespace, plans: Iterable[Plan]) -> int:
    import os

    from hindsight.lab.fuzz import trial
    from hindsight.lab.fuzz.bench import Bench
    from hindsight.lab.interruption import interruptible

    if os.geteuid() != 0:
        raise NotPermittedError("recording a random program needs root", "Run it with sudo.")
    outcomes: list[Outcome] = []
    with interruptible(), Bench(arguments.directory) as bench:
        for plan in plans:
            keep = arguments.keep and arguments.keep / f"seed-{plan.seed}"
            outcome = trial.try_plan(plan, bench, keep, not arguments.no_open_files)
            outcomes.append(outcome)
            if arguments.json:
                print(json.dumps(outcome.as_dict()), flush=True)
            else:
                print("\n".join(_lines(outcome)), flush=True)
            if arguments.shrink and outcome.verdict == trial.DIFFERS:
                _shrink(plan, bench)
    total = totals(outcomes)
    print(json.dumps({"total": total}) if arguments.json else _total_line(total), flush=True)
    return ExitCode.VERIFICATION if total["differs"] else ExitCode.OK


def totals(outcomes: list[Outcome]) -> dict[str, Any]:
    """Sums of the counts, how many plans came out how, and the decisions that carry no verdict by reason."""
    from hindsight.lab.fuzz import trial

    counts = {name: sum(o.counts[name] for o in outcomes) for name in trial.COUNTS}
    kinds = {"exact": trial.EXACT, "differs": trial.DIFFERS, "no_verdict": trial.NO_VERDICT}
    without: dict[str, int] = {}
    for outcome in outcomes:
        for reason, entry in outcome.without_verdict.items():
            without[reason] = without.get(reason, 0) + entry["recorded"]
    return {
        "plans": len(outcomes),
        **{key: sum(o.verdict == verdict for o in outcomes) for key, verdict in kinds.items()},
        **counts,
        "exact_share": counts["matched"] / counts["recorded"] if counts["recorded"] else None,
        "without_verdict": dict(sorted(without.items())),
    }


def _shrink(plan: Plan, bench: Any) -> None:
    from hindsight.errors import HindsightError
    from hindsight.lab.fuzz import shrink, trial

    def shows(candidate: Plan) -> bool:
        try:
            found = trial.try_plan(candidate, bench).verdict == trial.DIFFERS
        except HindsightError:
            return False
        print(f"  {candidate.size()} operations: {'differs' if found else 'exact'}", file=sys.stderr)
        return found

    print(shrink.shrink(plan, shows).as_json())


def _lines(outcome: Outcome) -> Iterator[str]:
    plan, counts = outcome.plan, outcome.counts
    yield (
        f"seed {plan.seed}: {outcome.verdict}; {counts['matched']} of {counts['recorded']} decisions; "
        f"{', '.join(plan.ways)} on {plan.filesystem} at {plan.read_ahead_kb} KB"
    )
    if outcome.first_divergence:
        yield f"  first divergence: {json.dumps(outcome.first_divergence)}"
    for reason, entry in outcome.without_verdict.items():
        yield f"  no verdict on {entry['recorded']} decisions: {reason} ({entry['matched']} of them matched)"
    if outcome.lost:
        yield f"  {outcome.lost} events were lost"
    if outcome.kept:
        yield f"  kept in {outcome.kept}"


def _total_line(total: dict[str, Any]) -> str:
    share = "nothing to compare" if total["exact_share"] is None else f"{100 * total['exact_share']:.4f} %"
    return (
        f"{total['plans']} programs: {total['exact']} exact, {total['differs']} differ, "
        f"{total['no_verdict']} without a verdict; {total['matched']} of {total['recorded']} decisions "
        f"({share}), {sum(total['without_verdict'].values())} without a verdict"
    )
