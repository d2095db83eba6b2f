"""``hindsight capture import``."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hindsight.capture.commands.convert import jobs, need_convert_extra
from hindsight.errors import ExitCode

if TYPE_CHECKING:
    from hindsight.capture.conversion.convert import Converted
    from hindsight.capture.imports.facts import Origin


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "import",
        help="turn trace.dat and perf.data into Parquet tables",
        description="Turn what trace-cmd record and perf record wrote into Parquet tables: the tables of\n"
        "recordings where the events have all they need, else tables derived from the events' formats.",
        epilog="examples:\n"
        "  hindsight capture import trace.dat -o captures\n"
        "  hindsight capture import perf.data -o captures --date 2026-11-24 --label nightly\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("files", nargs="+", metavar="FILE", type=Path, help="a trace.dat or a perf.data")
    verb.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help="the dataset to add to")
    verb.add_argument("--comm", action="store_true", help="keep names of programs (default: keyed hashes)")
    verb.add_argument("--force", action="store_true", help="import again what OUT already holds")
    verb.add_argument(
        "--date", metavar="YYYY-MM-DD", type=_date, help="when it was recorded (default: 1970-01-01)"
    )
    verb.add_argument("--label", metavar="TEXT", default="", help="a name for what was recorded")
    verb.add_argument(
        "--jobs",
        metavar="N",
        type=jobs,
        help="threads (default: the processors available); the result does not depend on it",
    )
    verb.add_argument("--json", action="store_true", help="print what was done as JSON")
    verb.set_defaults(run=_import)


def _date(text: str) -> str:
    if not re.fullmatch("[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])", text):
        raise argparse.ArgumentTypeError("a date: YYYY-MM-DD")
    return text


def _import(args: argparse.Namespace) -> int:
    import gc
    import json

    need_convert_extra()
    from hindsight.capture.conversion.progress import Progress
    from hindsight.capture.imports.importing import import_files

    gc.freeze()  # what was imported stays: it need not be looked through again and again

    def done(result: Converted, origin: Origin) -> None:
        _tell(result, origin)

    results = import_files(
        args.files,
        args.out,
        comm=args.comm,
        force=args.force,
        jobs=args.jobs,
        date=args.date or "",
        label=args.label,
        progress=Progress(wanted=not args.json),
        done=done,
    )
    if args.json:
        print(json.dumps([result.as_dict() for result in results], indent=1))
    return ExitCode.OK


def _tell(result: Converted, origin: Origin) -> None:
    if not result.converted:
        print(f"hindsight: {result.segment}: already there", file=sys.stderr)
        return
    derived = sum("." in name for name in result.tables)
    more = f", {derived} of them derived from the event's format" if derived else ""
    lost = f", at least {result.lost} lost" if result.lost else ""
    print(
        f"hindsight: {result.segment}: {result.events} events in {len(result.tables)} tables{more}{lost}",
        file=sys.stderr,
    )
    told = origin.told()
    if not told["monotonic"]:
        print(
            f"  its clock is {told['clock']}: times cannot be compared with those of other captures",
            file=sys.stderr,
        )
    if "not_applied" in told:
        what = ", ".join(told["not_applied"])
        print(f"  its times are left as they were recorded; not applied: {what}", file=sys.stderr)
    if "formats_not_understood" in told:
        what = ", ".join(told["formats_not_understood"][:5])
        print(f"  events whose format is not understood are counted as lost: {what}", file=sys.stderr)
