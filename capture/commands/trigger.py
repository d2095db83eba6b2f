"""``hindsight capture trigger``."""

from __future__ import annotations

import argparse

from hindsight.errors import ExitCode, HindsightError, UsageError


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    trigger = verbs.add_parser(
        "trigger",
        help="make a running recorder seal now what it holds",
        description="Make a running recorder seal a segment now: in flight mode what its ring buffers hold,\n"
        "in stream mode what was recorded since the last segment. Prints the path of the sealed\n"
        "segment. The same as SIGUSR1, sent to nobody but a recorder.",
        epilog="examples:\n  sudo hindsight capture trigger\n"
        "  sudo hindsight capture trigger --all --no-wait\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    trigger.add_argument(
        "capture", nargs="?", metavar="CAPTURE", help="its id (see status); not needed when one runs"
    )
    trigger.add_argument("--all", action="store_true", help="every recorder that this user may signal")
    trigger.add_argument("--no-wait", action="store_true", help="do not wait for the segment")
    trigger.add_argument(
        "--timeout", metavar="S", type=_seconds, default=60.0, help="wait so long at most (default: 60)"
    )
    trigger.set_defaults(run=_trigger)


def _trigger(args: argparse.Namespace) -> int:
    import sys

    from hindsight.capture.operation.trigger import choose, trigger

    if args.all and args.capture:
        raise UsageError("a capture and --all", "Give one of them.")
    failed: HindsightError | None = None
    for state in choose(args.capture, args.all):
        try:
            path = trigger(state, None if args.no_wait else args.timeout)
        except HindsightError as error:
            if not args.all:
                raise
            print(f"hindsight: {error}", file=sys.stderr)
            failed = error
            continue
        if path is not None:
            print(path, flush=True)
    return ExitCode.OK if failed is None else failed.exit_code
