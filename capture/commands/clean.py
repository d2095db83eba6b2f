"""``hindsight capture clean``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hindsight.errors import ExitCode, NotPermittedError


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    clean = verbs.add_parser(
        "clean",
        help="put in order what killed recorders left: segments, tracefs instances, kprobes, state files",
        description="Seal what recorders that were killed, or that a power loss ended, left unsealed; read\n"
        "and remove their tracefs instances; remove their state files. What a living recorder uses\n"
        "is left alone. Needs root. `record` does the same when it starts.",
        epilog="examples:\n"
        "  sudo hindsight capture clean -o raw\n"
        "  sudo hindsight capture clean -o raw -o /srv/traces --dry-run\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    clean.add_argument(
        "-o", "--out", metavar="DIR", type=Path, action="append", default=[],
        help="a directory of recordings to look through (repeatable; those that state files name are looked "
        "through in any case)",
    )  # fmt: skip
    clean.add_argument("--dry-run", action="store_true", help="change nothing, say what would be done")
    clean.add_argument("--json", action="store_true", help="print what was done as JSON")
    clean.set_defaults(run=_clean)


def _say(message: str) -> None:
    print(f"hindsight: {message}", file=sys.stderr, flush=True)


def _clean(args: argparse.Namespace) -> int:
    import json
    import os

    from hindsight.capture.segments.tidy import tidy
    from hindsight.errors import ConfigurationError

    if os.geteuid() != 0:
        raise NotPermittedError(
            "cleaning up needs root", "Run it as root, for instance: sudo hindsight capture clean"
        )
    for directory in args.out:
        if not directory.is_dir():
            raise ConfigurationError(
                f"{directory} is not a directory", "Name a directory of recordings: -o DIR."
            )
    done = tidy(_say, args.out, args.dry_run)
    if args.json:
        print(json.dumps(done.as_dict(), indent=1))
    else:
        for path in done.sealed:
            print(path)
    would = "would be " if args.dry_run else ""
    for name in done.instances:
        _say(f"the tracefs instance {name} {would or 'was '}removed")
    for name in done.probes:
        _say(f"the kprobe {name} {would or 'was '}removed")
    for path in done.state_files:
        _say(f"the state file {path} {would or 'was '}removed")
    if not args.json:
        for what, why in done.left:
            _say(f"{what} is left: {why}")
    return ExitCode.FAILED if done.failed else ExitCode.OK
