"""``hindsight lab delay``: how late advice is on this machine, and what it costs."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """Follow a program that reads a file, let the packaged model decide at each of its reads, and
advise its open file: how long that takes from the kernel's event until the advice is in force, once with the
processors idle otherwise and once with one spinning process on each, and what it costs in processor time.
Needs root; takes about half a minute."""

EXAMPLES = """examples:
  sudo hindsight lab delay -o delay                            500 pieces of advice in each condition
  sudo hindsight lab delay -o delay --samples 100 --json       a shorter one, for a program
  sudo hindsight lab delay -o delay --patience 60              wait for a quiet moment first
"""


def configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    delay = commands.add_parser(
        "delay", help="measure how late advice is, and what it costs", description=DESCRIPTION,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    delay.add_argument(
        "-o", "--output", type=Path, default=Path("data/measured/advice"), metavar="DIR",
        help="of the result (default: %(default)s)",
    )  # fmt: skip
    delay.add_argument(
        "--samples", type=int, default=500, metavar="N",
        help="pieces of advice in each condition (default: %(default)s)",
    )  # fmt: skip
    delay.add_argument(
        "--package", type=Path, metavar="DIR", help="model package (default: the newest in models/exported)"
    )
    delay.add_argument(
        "--files", type=Path, metavar="DIR", help="where the file is put, not tmpfs (default: /var/tmp)"
    )
    delay.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of pauses and features (default: %(default)s)"
    )
    delay.add_argument(
        "--patience", type=float, default=0.0, metavar="S",
        help="wait so long at most for a moment when the machine is quiet (default: %(default)s)",
    )  # fmt: skip
    delay.add_argument("--json", action="store_true", help="print the summary as JSON")
    delay.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from hindsight.lab.advice_delay import DelayOptions, measure
    from hindsight.lab.advice_result import terminal
    from hindsight.lab.device import IMAGES
    from hindsight.pipeline.store import canonical_json

    packages = sorted(Path("models/exported").glob("readahead-*/manifest.json"))
    result = measure(
        DelayOptions(
            output=arguments.output,
            samples=arguments.samples,
            package=arguments.package or (packages[-1].parent if packages else None),
            files=arguments.files or IMAGES,
            seed=arguments.seed,
            patience=arguments.patience,
        )
    )
    print(canonical_json(result).decode() if arguments.json else terminal(result), end="\n"[arguments.json :])
    return 0
