"""``hindsight capture convert``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hindsight.errors import ConfigurationError, ExitCode


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    convert = verbs.add_parser(
        "convert",
        help="turn recordings into Parquet tables",
        description="Turn recordings into Parquet tables: OUT/host=…/date=…/TABLE/SEGMENT.parquet.\n"
        "What OUT already holds is left alone: after an interruption, convert again and it goes on.",
        epilog="examples:\n"
        "  hindsight capture convert raw -o captures\n"
        "  hindsight capture convert raw -o captures --jobs 1 --json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument(
        "segments", nargs="+", metavar="DIR", type=Path, help="a recording, or a directory of them"
    )
    convert.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help="the dataset to add to")
    convert.add_argument("--comm", action="store_true", help="keep names of programs (default: keyed hashes)")
    convert.add_argument("--force", action="store_true", help="convert again what OUT already holds")
    convert.add_argument(
        "--jobs",
        metavar="N",
        type=jobs,
        help="threads (default: the processors available); the result does not depend on it",
    )
    convert.add_argument("--json", action="store_true", help="print what was done as JSON")
    convert.set_defaults(run=_convert)


def jobs(text: str) -> int:
    """A number of threads, for argparse."""
    value = int(text)
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError("between 1 and 1024")
    return value


def need_convert_extra() -> None:
    """Raise ConfigurationError unless the packages that conversion needs are installed."""
    from importlib.util import find_spec

    missing = [name for name in ("numpy", "numba", "pyarrow", "isal", "zstandard") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"this needs {', '.join(missing)}, which a host that only records does not",
            "pip install 'kernel-hindsight[convert]'",
        )


def _convert(args: argparse.Namespace) -> int:
    import gc
    import json

    need_convert_extra()
    from hindsight.capture.conversion.convert import Converted, convert
    from hindsight.capture.conversion.progress import Progress

    gc.freeze()  # what was imported stays: it need not be looked through again and again

    def done(result: Converted) -> None:
        what = f"{result.events} events in {len(result.tables)} tables"
        lost = f", at least {result.lost} lost" if result.lost else ""
        print(
            f"hindsight: {result.segment}: {what + lost if result.converted else 'already there'}",
            file=sys.stderr,
        )

    results = convert(
        args.segments,
        args.out,
        comm=args.comm,
        force=args.force,
        jobs=args.jobs,
        progress=Progress(wanted=not args.json),
        done=done,
    )
    if args.json:
        print(json.dumps([result.as_dict() for result in results], indent=1))
    return ExitCode.OK
