"""The command line of ``hindsight capture``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hindsight.errors import ConfigurationError, ExitCode, UsageError


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


def configure(parser: argparse.ArgumentParser) -> None:
    """Add record, convert and info."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _configure_record(verbs)
    _configure_convert(verbs)
    _configure_info(verbs)


def _configure_record(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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


def _configure_convert(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = verbs.add_parser(
        "convert",
        help="turn recordings into Parquet tables",
        description="Turn recordings into Parquet tables: OUT/host=…/date=…/TABLE/SEGMENT.parquet.\n"
        "A recording that OUT already holds is left alone.",
        epilog="example:\n  hindsight capture convert raw -o captures\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument(
        "segments", nargs="+", metavar="DIR", type=Path, help="a recording, or a directory of them"
    )
    convert.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help="the dataset to add to")
    convert.add_argument("--comm", action="store_true", help="keep names of programs (default: keyed hashes)")
    convert.add_argument("--force", action="store_true", help="convert again what OUT already holds")
    convert.add_argument("--json", action="store_true", help="print what was done as JSON")
    convert.set_defaults(run=_convert)


def _configure_info(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    info = verbs.add_parser(
        "info",
        help="say what a dataset or a recording holds, and what was lost",
        description="Say what a dataset of Parquet tables, or a directory of recordings, holds and lost.",
        epilog="example:\n  hindsight capture info captures --json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    info.add_argument("dataset", metavar="OUT", type=Path, help="a dataset, or a directory of recordings")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)


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


def _need_convert_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("numpy", "numba", "pyarrow") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"this needs {', '.join(missing)}, which a host that only records does not",
            "pip install 'kernel-hindsight[convert]'",
        )


def _convert(args: argparse.Namespace) -> int:
    import json

    _need_convert_extra()
    from hindsight.capture.convert import convert

    results = convert(args.segments, args.out, comm=args.comm, force=args.force)
    if args.json:
        print(json.dumps([result.as_dict() for result in results], indent=1))
    for result in results:
        what = (
            f"{result.events} events in {len(result.tables)} tables" if result.converted else "already there"
        )
        print(f"hindsight: {result.segment}: {what}", file=sys.stderr)
    return ExitCode.OK


def _info(args: argparse.Namespace) -> int:
    _need_convert_extra()
    from hindsight.capture.info import run

    return run(args.dataset, args.json)
