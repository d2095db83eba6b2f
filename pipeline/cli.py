"""``hindsight pipeline``: the stages that `dvc repro` runs, and questions that need no stage."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hindsight.subsystems.contract import Subsystem

STAGES = {
    "ingest": "read the dataset: manifest, demand, factual replay of the stock logic",
    "featurize": "split in time, calibrate, label the states of the stock policy",
    "train": "train the model, one without each program and each host, and the null model",
    "evaluate": "run all arms on the captures kept back, and assess them",
    "package": "write the model with its evidence to models/exported/",
    "report": "render the report to reports/SUBSYSTEM/",
}

EXAMPLES = """examples:
  hindsight pipeline headroom data/sample
  hindsight pipeline replay captures --arm stock --emit emitted.parquet
  hindsight pipeline fidelity captures --emitted emitted.parquet
  dvc repro && hindsight pipeline show
  hindsight pipeline compare main HEAD
  hindsight pipeline verify models/exported/NAME-VERSION
  hindsight pipeline calibrate --draws 200
"""

COMPARE_EXAMPLES = """examples:
  hindsight pipeline compare models/exported/NAME-1.0.0 models/exported/NAME-1.1.0
  hindsight pipeline compare main HEAD --markdown > comment.md
  hindsight pipeline compare NAME#prod NAME@v1.2.0 --html comparison.html
  hindsight pipeline compare old new --across-data --json | jq '.evaluations[].overall'
"""

VERIFY_EXAMPLES = """examples:
  hindsight pipeline verify models/exported/NAME-VERSION
  dvc artifacts get . NAME --rev v1.2.0 && hindsight pipeline verify NAME-1.2.0

Runs the stages in a temporary directory: this takes as long as `dvc repro` from nothing. Ends with
status 3 if the data, the parameters or the code are not those of the package, and with 5 if what comes
out differs.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, run: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--subsystem", help="the kernel decision (default: the only one that is installed)")
        sub.set_defaults(run=run)
        return sub

    def params(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--params",
            type=Path,
            default=Path("params.yaml"),
            metavar="FILE",
            help="parameters; relative paths start from where it is (default: params.yaml)",
        )

    def dataset(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "dataset", type=Path, metavar="DATASET", help="what `hindsight capture convert` wrote"
        )

    for name, text in STAGES.items():
        params(add(name, text, _stage))

    sub = add("replay", "replay the stock logic without reading what the kernel decided", _replay)
    dataset(sub)
    sub.add_argument("--arm", choices=["stock"], default="stock", help="whose decisions (default: stock)")
    sub.add_argument("--emit", type=Path, required=True, metavar="FILE", help="where to write them (Parquet)")

    sub = add("fidelity", "compare emitted decisions with those that the kernel recorded", _fidelity)
    dataset(sub)
    sub.add_argument("--emitted", type=Path, required=True, metavar="FILE", help="what `replay --emit` wrote")
    sub.add_argument("--dev", metavar="MAJ:MIN", help="only the file with this device and --inode")
    sub.add_argument("--inode", type=int, metavar="N", help="only the file with this number on --dev")
    sub.add_argument("--json", action="store_true", help="everything, as JSON")

    sub = add(
        "headroom", "what was there to win, per device, program and file; no model is needed", _headroom
    )
    dataset(sub)
    params(sub)
    sub.add_argument("--top", type=int, default=20, metavar="N", help="so many lines (default: 20)")
    sub.add_argument("--json", action="store_true", help="everything, as JSON")

    sub = add(
        "calibrate",
        "how often the rules declare what is not there, and find what is, on real data",
        _calibrate,
    )
    params(sub)
    sub.add_argument("--draws", type=int, default=2000, metavar="N", help="of each case (default: 2000)")
    sub.add_argument("--arm", default="model", help="compared with stock (default: model)")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--markdown", action="store_true", help="the tables of docs/evidence.md")

    sub = add("show", "print the verdict of the last run and where its report is", _show)
    params(sub)
    sub.add_argument("--json", action="store_true", help="the whole report, as JSON")

    sub = add("compare", "compare versions of a model on the same blocks, each with the first", _compare)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.epilog = COMPARE_EXAMPLES
    sub.add_argument(
        "versions",
        nargs="+",
        metavar="VERSION",
        help="a package directory, a revision of this repository, NAME@v1.2.0 or NAME#STAGE; at least two",
    )
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--markdown", action="store_true", help="Markdown, for a pull request")
    sub.add_argument("--html", type=Path, metavar="FILE", help="write a page that opens offline, too")
    sub.add_argument(
        "--across-data",
        action="store_true",
        help="compare gains over stock where the data are not the same; every line says so",
    )

    sub = add(
        "verify", "make the report of a package again from the data, and compare byte for byte", _verify
    )
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.epilog = VERIFY_EXAMPLES
    sub.add_argument("package", type=Path, metavar="PACKAGE", help="directory of the package")
    params(sub)
    sub.add_argument("--json", action="store_true", help="the result, as JSON")


def _subsystem(name: str | None) -> Subsystem:
    from hindsight.errors import UsageError
    from hindsight.subsystems import contract

    installed = contract.names()
    if name is None and len(installed) != 1:
        raise UsageError(
            f"{len(installed)} subsystems are installed: {', '.join(installed)}",
            "choose one with --subsystem",
        )
    return contract.load(name or installed[0])


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


def _stage(args: argparse.Namespace) -> int:
    from hindsight.pipeline import stages
    from hindsight.pipeline.params import load

    for line in stages.run(args.command, load(args.params), _subsystem(args.subsystem)):
        print(line, file=sys.stderr)
    return 0


def _replay(args: argparse.Namespace) -> int:
    from hindsight.pipeline.replay import replay_dataset

    count = replay_dataset(args.dataset, _subsystem(args.subsystem), args.emit)
    print(f"{count} decisions in {args.emit}", file=sys.stderr)
    return 0


def _fidelity(args: argparse.Namespace) -> int:
    from hindsight.errors import UsageError
    from hindsight.pipeline import table
    from hindsight.pipeline.fidelity import compare_dataset, of_file

    if (args.dev is None) != (args.inode is None):
        raise UsageError("--dev and --inode name a file together")
    result = compare_dataset(args.dataset, _subsystem(args.subsystem), args.emitted)
    if args.dev is not None:
        result = of_file(result, f"{args.dev}/{args.inode}")
    if args.json:
        _print_json(result)
    else:
        print(table.fidelity(result))
    return 0


def _headroom(args: argparse.Namespace) -> int:
    from hindsight.pipeline import table
    from hindsight.pipeline.headroom import headroom
    from hindsight.pipeline.params import headroom_params

    decision, horizon_ns = headroom_params(args.params)
    result = headroom(args.dataset, _subsystem(args.subsystem), decision, horizon_ns)
    if args.json:
        _print_json(result)
    else:
        print(table.headroom(result, args.top))
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from hindsight.errors import ExitCode
    from hindsight.pipeline import calibrate
    from hindsight.pipeline.params import load

    result = calibrate.calibrate(load(args.params), _subsystem(args.subsystem), args.draws, args.arm)
    if args.json:
        _print_json(result)
    else:
        print(calibrate.markdown(result) if args.markdown else calibrate.terminal(result))
    return int(ExitCode.FAILED if result["outside"] else ExitCode.OK)


def _show(args: argparse.Namespace) -> int:
    from hindsight.pipeline.params import Layout, load
    from hindsight.pipeline.report import terminal
    from hindsight.pipeline.store import read_json

    layout = Layout(load(args.params).root, _subsystem(args.subsystem).name)
    report = read_json(layout.evaluate / "report.json")
    if args.json:
        _print_json(report)
    else:
        print(terminal(report))
        print(f"report: {layout.report / 'report.html'}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from hindsight.pipeline import compare
    from hindsight.pipeline.store import write_bytes

    subsystem, here = _subsystem(args.subsystem).name, Path.cwd()
    versions = [compare.find_version(text, subsystem, here) for text in args.versions]
    comparison = compare.compare(versions, args.across_data)
    if args.html:
        write_bytes(args.html, compare.page(comparison).encode())
        print(f"page: {args.html}", file=sys.stderr)
    if args.json:
        _print_json(comparison)
    else:
        print((compare.markdown if args.markdown else compare.terminal)(comparison), end="")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from hindsight.pipeline.params import load
    from hindsight.pipeline.verify import verify

    result = verify(args.package, load(args.params), _subsystem(args.subsystem), _progress)
    if args.json:
        _print_json(result)
    else:
        print(f"{result['name']} {result['version']}: made again, the same bytes ({result['files']} files)")
    return 0


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
