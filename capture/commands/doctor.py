"""``hindsight capture doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    doctor = verbs.add_parser(
        "doctor",
        help="find out what this host can record, and what to do about the rest",
        description="Find out what this host can record, why not the rest, and what to do about it. Changes\n"
        "nothing: as root it tries a tracefs instance of its own and removes it. Exit status: 0 all\n"
        "of the profile can be recorded, 1 a part of it, 4 nothing.",
        epilog="examples:\n  sudo hindsight capture doctor\n"
        "  sudo hindsight capture doctor --json -o /srv/traces\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument(
        "--profile", metavar="NAME[+NAME]", default="readahead",
        help="what to record: readahead, pagecache, blockio, writeback, sched, cpuidle, faults, damon; "
        "several are joined by + (default: %(default)s)",
    )  # fmt: skip
    doctor.add_argument(
        "-o", "--out", metavar="DIR", type=Path, default=Path("."), help="where recordings would go"
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    import json

    from hindsight.capture.operation.doctor import diagnose, lines

    found = diagnose(args.profile, args.out)
    if args.json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        for line in lines(found):
            print(line)
    return found.exit_code
