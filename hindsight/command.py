"""The ``hindsight`` command: one sub-command per room, loaded only when it is asked for.

A room offers itself by a module ``hindsight.<room>.cli`` with ``configure(parser)``, which adds its own
sub-commands and sets ``run`` (a function of the parsed arguments that returns an exit status) as a default
of each. That module imports the standard library alone at its top level: ``--help`` stays instant.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from hindsight import __version__
from hindsight.errors import ExitCode, HindsightError

ROOMS = {
    "capture": "record kernel events on this host and turn them into Parquet",
    "lab": "run real workloads on a throttled device",
    "pipeline": "ingest, featurize, train, evaluate, package, report; replay and headroom",
    "models": "inspect, check and sign model packages",
    "advisor": "decide whether a package may be used on this host",
}


def build_parser(room: str | None) -> argparse.ArgumentParser:
    """The parser, with the sub-commands of ``room`` only (the others as one-line stubs)."""
    parser = argparse.ArgumentParser(
        prog="hindsight",
        description="Would a machine-learned advisor have made this kernel subsystem better than the "
        "human-written logic that is there, on the workloads that your hosts really run?",
        epilog="examples:\n"
        "  sudo hindsight capture record -o raw -- grep -r needle /srv\n"
        "  hindsight capture convert raw -o captures\n"
        "  hindsight pipeline headroom captures\n"
        "  dvc repro\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hindsight {__version__}")
    rooms = parser.add_subparsers(dest="room", metavar="COMMAND", required=True)
    for name, summary in ROOMS.items():
        sub = rooms.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == room:
            importlib.import_module(f"hindsight.{name}.cli").configure(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (see :class:`hindsight.errors.ExitCode`)."""
    args = list(sys.argv[1:] if argv is None else argv)
    room = next((word for word in args if not word.startswith("-")), None)
    parsed = build_parser(room if room in ROOMS else None).parse_args(args)
    try:
        status = int(parsed.run(parsed))
        sys.stdout.flush()
        return status
    except HindsightError as error:
        print(f"hindsight: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("hindsight: interrupted", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
