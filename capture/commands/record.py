"""``hindsight capture record``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hindsight.errors import ExitCode, UsageError


def _device(text: str) -> tuple[int, int]:
    major, colon, minor = text.partition(":")
    if not (colon and major.isdigit() and minor.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not MAJOR:MINOR (see lsblk)")
    return int(major), int(minor)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _kib(text: str) -> int:
    if not text.isdigit() or not 64 <= int(text) <= 1 << 22:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of KiB between 64 and 4194304")
    return int(text)


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    record = verbs.add_parser(
        "record",
        help="record kernel events of a command, or of the whole host",
        description="Record kernel events of a command and its children, or of the whole host,\n"
        "through private tracefs instances. Needs root; the command runs as --user, else as the\n"
        "user who called sudo.",
        epilog="examples:\n"
        "  sudo hindsight capture record -o raw -- grep -r needle /srv\n"
        "  sudo hindsight capture record -o raw --label nightly --user postgres -- pg_dump shop\n"
        "  sudo hindsight capture record -o raw --duration 60 --device 8:0\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s -o DIR [options] [-- CMD ...]",
    )
    record.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="where recordings go")
    record.add_argument("--profile", default="readahead", help="what to record (default: %(default)s)")
    record.add_argument("--duration", metavar="S", type=_positive, help="end after so many seconds")
    record.add_argument("--user", metavar="NAME", help="run the command as this user")
    record.add_argument("--label", metavar="TEXT", default="", help="your name for what is recorded")
    record.add_argument(
        "--device", metavar="MAJ:MIN", type=_device, action="append", default=[],
        help="only page-cache and block events of this device (repeatable)",
    )  # fmt: skip
    record.add_argument(
        "--buffer-kb",
        metavar="N",
        type=_kib,
        default=16384,
        help="ring buffer per CPU in KiB (default: %(default)s)",
    )
    record.add_argument(
        "--paths", action="store_true", help="store the paths of files (default: only inode numbers)"
    )
    record.add_argument("command", nargs="*", metavar="CMD", help="the command; without one: the whole host")
    record.set_defaults(run=_record)


def _record(args: argparse.Namespace) -> int:
    from hindsight.capture.record import RecordOptions, record

    if args.user and not args.command:
        raise UsageError("--user without a command", "Name the command after --.")
    options = RecordOptions(
        out=args.out,
        command=tuple(args.command),
        profile=args.profile,
        duration=args.duration,
        user=args.user,
        label=args.label,
        devices=tuple(args.device),
        buffer_kb=args.buffer_kb,
        paths=args.paths,
    )
    recording = record(options)
    if recording.status is not None:
        ended = f"signal {-recording.status}" if recording.status < 0 else f"status {recording.status}"
        print(f"hindsight: the command ended with {ended}", file=sys.stderr)
    lost = f"; {recording.lost} events were LOST (see `losses`)" if recording.lost else "; none lost"
    print(f"hindsight: {recording.events} events{lost}", file=sys.stderr)
    print(recording.path)
    return ExitCode.OK
