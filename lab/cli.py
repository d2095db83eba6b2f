"""``hindsight lab``: throttled devices, real workloads, the sample dataset, predictions held against runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hindsight.errors import ConfigurationError, UsageError
from hindsight.lab import advice_command
from hindsight.lab.fuzz import command as fuzz

EXAMPLES = """examples:
  hindsight lab workloads                                      what can be run
  sudo hindsight lab record-sample -o /tmp/sample              every workload, both devices, two passes
  sudo hindsight lab record-sample -o /tmp/quick --passes 1 --profile P2 --only fio-runs --only sqlite3-scan
  sudo hindsight lab device create mine --profile P1 --size 2G
  sudo hindsight lab device create slow --iops 500 --bandwidth 40M --size 512M --cache 256M
  sudo hindsight lab device remove mine slow
  sudo hindsight lab validate readahead --quick                predict, then run; about 20 minutes
  sudo hindsight lab fuzz-readahead --seed 1 --seeds 20        random programs, replay against kernel
  sudo hindsight lab delay -o /tmp/delay --samples 100         how late advice is, and what it costs
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of ``hindsight lab``."""
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _configure_sample(commands)
    _configure_device(commands)
    _configure_validate(commands)
    workloads = commands.add_parser(
        "workloads", help="list the workloads", description="List the workloads, one per line."
    )
    workloads.set_defaults(run=_workloads)
    fuzz.configure(commands)
    advice_command.configure(commands)


def _configure_sample(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sample = commands.add_parser(
        "record-sample",
        help="record real workloads on throttled devices",
        description="Make the throttled devices, run the workloads on them from dropped caches, record each "
        "run, convert the recordings to Parquet, and write down how it was done. Needs root; everything "
        "that it makes besides the output is removed at the end.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sample.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("data/sample"),
        metavar="DIR",
        help="dataset to write; replaces an earlier one (default: %(default)s)",
    )
    sample.add_argument(
        "--profile",
        default="P1,P2",
        metavar="NAMES",
        help="device profiles, separated by commas (default: %(default)s)",
    )
    sample.add_argument(
        "--passes", type=int, default=2, metavar="N", help="runs of each (default: %(default)s)"
    )
    sample.add_argument(
        "--seconds",
        type=float,
        default=8.0,
        metavar="S",
        help="how long a run should last at most, roughly (default: %(default)s)",
    )
    sample.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="this workload instead of the sample's; may be repeated",
    )
    sample.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of the first pass (default: %(default)s)"
    )
    sample.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="S",
        help="wait so long altogether for moments when the machine is quiet (default: %(default)s)",
    )
    sample.add_argument("--keep-raw", type=Path, metavar="DIR", help="leave the raw recordings there")
    sample.add_argument("--images", type=Path, metavar="DIR", help="where the images of the devices are put")
    sample.set_defaults(run=_record_sample)  # fmt: skip


def _size(text: str) -> int:
    """Bytes; ``text`` is a number with K, M or G (of 1,024), a number alone is in MiB."""
    import re

    match = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 512M or 2G")
    return int(match[1]) << {"K": 10, "M": 20, "G": 30}[match[2].upper() or "M"]


def _configure_device(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    device = commands.add_parser("device", help="create, list and remove throttled devices")
    actions = device.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="set one up; it stays until it is removed")
    create.add_argument("name")
    create.add_argument("--profile", metavar="NAME", help="P1 or P2 (default: P1)")
    create.add_argument("--iops", type=int, metavar="N", help="reads per second, instead of a profile")
    create.add_argument(
        "--bandwidth", type=_size, metavar="B", help="bytes read per second, instead of a profile"
    )
    create.add_argument(
        "--size", type=_size, default=1 << 30, metavar="S", help="of the device (default: 1024M)"
    )
    create.add_argument(
        "--cache", type=_size, default=0, metavar="S", help="memory of its programs, page cache included"
    )
    create.add_argument(
        "--images", type=Path, metavar="DIR", help="where its image is put (default: /var/tmp)"
    )
    create.set_defaults(run=_create)
    listing = actions.add_parser("list", help="show the devices that exist")
    listing.set_defaults(run=_list)
    remove = actions.add_parser("remove", help="remove devices, whatever state they are in")
    remove.add_argument("names", nargs="*", metavar="NAME")
    remove.add_argument("--all", action="store_true", help="every device of the lab")
    remove.set_defaults(run=_remove)


def _configure_validate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    validate = commands.add_parser(
        "validate",
        help="predict what settings will do, then run them",
        description="Record workloads under stock on throttled devices, write down what other settings of "
        "readahead will come to, then run them live, each beside stock in every round, and hold the "
        "predictions against what was measured. Goes on where it was if it was interrupted: repeat the "
        "command. Needs root.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    validate.add_argument("suite", metavar="SUITE", help="readahead, patterns or programs")
    validate.add_argument("--quick", action="store_true", help="a part of it that takes 20 minutes")
    validate.add_argument(
        "--rounds", type=int, metavar="N", help="of every setting (default: the suite's, 10)"
    )
    validate.add_argument("--seed", type=int, default=1, metavar="N", help="of files, accesses and order")
    validate.add_argument(
        "--package", type=Path, metavar="DIR", help="model package (default: the newest in models/exported)"
    )
    validate.add_argument(
        "--work", type=Path, metavar="DIR", help="journal and recordings (default: build/validate/SUITE)"
    )
    validate.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="of the result (default: data/measured/SUITE)"
    )
    validate.add_argument(
        "--images", type=Path, metavar="DIR", help="where the images of the devices are put"
    )
    validate.add_argument("--json", action="store_true", help="print the summary as JSON")
    validate.set_defaults(run=_validate)


def _validate(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import replace

    from hindsight.lab.device import IMAGES
    from hindsight.lab.measured import terminal
    from hindsight.lab.suites import find_suite
    from hindsight.lab.validate import ValidateOptions, validate

    suite = find_suite(arguments.suite, arguments.quick)
    if arguments.rounds is not None:
        suite = replace(suite, rounds=arguments.rounds)
    packages = sorted(Path("models/exported").glob("readahead-*/manifest.json"))
    found = packages[-1].parent if packages else None
    result = validate(
        ValidateOptions(
            suite=suite,
            work=arguments.work or Path("build/validate") / suite.name,
            output=arguments.output or Path("data/measured") / suite.name,
            seed=arguments.seed,
            package=arguments.package or found,
            images=arguments.images or IMAGES,
        )
    )
    print(json.dumps(result, indent=1, sort_keys=True) if arguments.json else terminal(result))
    return 0


def _record_sample(arguments: argparse.Namespace) -> int:
    from hindsight.lab.device import IMAGES
    from hindsight.lab.sample import SampleOptions, record_sample

    size = record_sample(
        SampleOptions(
            output=arguments.output,
            profiles=tuple(name.strip() for name in arguments.profile.split(",") if name.strip()),
            passes=arguments.passes,
            seconds=arguments.seconds,
            only=None if arguments.only is None else tuple(arguments.only),
            seed=arguments.seed,
            patience=arguments.patience,
            keep_raw=arguments.keep_raw,
            images=arguments.images or IMAGES,
        )
    )
    print(f"{arguments.output}: {size / 1e6:.2f} MB")
    return 0


def _workloads(arguments: argparse.Namespace) -> int:
    from hindsight.lab.workloads import WORKLOADS

    for name, workload in WORKLOADS.items():
        print(f"{name:24} {'sample' if workload.in_sample else '-':7} {workload.meaning}")
    return 0


def _create(arguments: argparse.Namespace) -> int:
    from hindsight.errors import HindsightError, UsageError
    from hindsight.lab import device
    from hindsight.lab.throttle_check import BLOCK, LARGE, check_throttle

    limits = (arguments.iops, arguments.bandwidth)
    if limits == (None, None):
        profile = device.profile_named(arguments.profile or "P1")
    elif arguments.profile is not None:
        raise UsageError("a profile has its own limits", "Give --profile, or --iops and --bandwidth.")
    else:
        profile = device.custom_profile(arguments.iops or 0, arguments.bandwidth or 0)
    made = device.create(
        arguments.name,
        profile,
        arguments.size,
        arguments.images or device.IMAGES,
        cache_bytes=arguments.cache,
    )
    try:
        checks = [check_throttle(made, block=block) for block in (BLOCK, LARGE)]
        if not all(check.effective for check in checks):
            raise HindsightError(
                f"the throttle of {made.node} is not in force: {checks[0].iops:.0f} reads/s, "
                f"{checks[1].rate / 2**20:.0f} MiB/s",
                "Another controller may be in charge of it: see `mount | grep cgroup`.",
            )
    except BaseException:
        device.remove(made)
        raise
    print(f"{made.name}: {made.node} ({made.number}) on {made.mount_point}; throttled in {made.group}")
    if made.cache_group:
        print(f"memory of its programs: {made.cache_bytes >> 20} MiB, in {made.cache_group}")
    small, large = checks
    remark = "" if small.reached and large.reached else "; what is below it is slower than the limits"
    print(
        f"measured: {small.iops:.0f} reads/s of 4 KiB (limit {profile.read_iops or 'none'}), "
        f"{large.rate / 2**20:.0f} MiB/s in reads of 1 MiB (limit "
        f"{profile.read_bps / 2**20:.4g}){remark}"
        if profile.read_bps
        else f"measured: {small.iops:.0f} reads/s of 4 KiB (limit {profile.read_iops}){remark}"
    )
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from hindsight.lab import device

    devices, damaged = device.existing()
    for one in devices:
        print(
            f"{one.name}\t{one.profile.name}\t{one.node or '-'}\t{one.mount_point}\t{one.group}\t{one.image}"
        )
    return _damaged(damaged)


def _remove(arguments: argparse.Namespace) -> int:
    from hindsight.lab import device

    if bool(arguments.names) == arguments.all:
        raise UsageError("name the devices to remove, or say --all")
    devices, damaged = device.existing() if arguments.all else (map(device.find, arguments.names), [])
    for one in devices:
        device.remove(one)
    return _damaged(damaged)


def _damaged(states: list[ConfigurationError]) -> int:
    for error in states:
        print(f"hindsight: {error}", file=sys.stderr)
    return ConfigurationError.exit_code if states else 0
