"""``hindsight capture info``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hindsight.capture.commands.convert import need_convert_extra


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
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


def _info(args: argparse.Namespace) -> int:
    need_convert_extra()
    from hindsight.capture.conversion.info import run

    return run(args.dataset, args.json)
