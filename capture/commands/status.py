"""``hindsight capture status``."""

from __future__ import annotations

import argparse
import sys

from hindsight.errors import ExitCode


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    status = verbs.add_parser(
        "status",
        help="show the recorders that run, and what killed ones left",
        description="Show the recorders that run on this host, and what killed ones have left. Recorders\n"
        "of other users are seen by root only. Exit status: 0 all is well (also when none runs), 1 a\n"
        "recorder died or does not answer, or left a tracefs instance.",
        epilog="examples:\n  sudo hindsight capture status\n"
        "  sudo hindsight capture status --json | jq '.recorders[].lost'\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> int:
    import json

    from hindsight.capture.operation.status import lines, survey

    found = survey()
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        for line in lines(found):
            print(line)
    for row in found["recorders"]:
        if row["remedy"] is not None:
            print(f"hindsight: {row['capture']} is {row['state']}\n  {row['remedy']}", file=sys.stderr)
    for name in found["abandoned"]:
        print(f"hindsight: a dead recorder left the tracefs instance {name}", file=sys.stderr)
    if found["abandoned"]:
        print(f"  {found['remedy']}", file=sys.stderr)
    return ExitCode.OK if found["ok"] else ExitCode.FAILED
