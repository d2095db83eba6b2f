"""``hindsight capture record``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hindsight.errors import ExitCode, HindsightError, UsageError


def _device(text: str) -> tuple[int, int]:
    major, colon, minor = text.partition(":")
    if not (colon and major.isdigit() and minor.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not MAJOR:MINOR (see lsblk)")
    return int(major), int(minor)


def _kib(text: str) -> int:
    if not text.isdigit() or not 64 <= int(text) <= 1 << 22:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of KiB between 64 and 4194304")
    return int(text)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _unit(name: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        from hindsight.capture import units

        try:
            return getattr(units, name)(text)
        except HindsightError as error:
            raise argparse.ArgumentTypeError(f"{error.message}: {error.remedy}") from None

    return parse


_DESCRIPTION = """\
Record kernel events of a command and its children, or of the whole host,
through private tracefs instances. Needs root; the command runs as --user, else as the
user who called sudo. Each sealed segment's path is a line on stdout.

SIGINT, SIGTERM and SIGHUP end a recording cleanly. SIGUSR1 seals what there is at once
(with --flight: keeps what the ring buffers hold)."""

_EXAMPLES = """\
examples:
  sudo hindsight capture record -o raw -- grep -r needle /srv
  sudo hindsight capture record -o raw --label nightly --user postgres -- pg_dump shop
  sudo hindsight capture record -o raw --duration 60 --device 8:0
  sudo hindsight capture record -o raw --duty 30s/10m --max-disk 20G --max-cpu 5%
  sudo hindsight capture record -o raw --flight --psi memory:some:150ms/1s
"""


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    record = verbs.add_parser(
        "record",
        help="record kernel events of a command, or of the whole host",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s -o DIR [options] [-- CMD ...]",
    )
    record.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="where recordings go")
    record.add_argument(
        "--profile", metavar="NAME[+NAME]", default="readahead",
        help="what to record: readahead, pagecache, blockio, writeback, sched, cpuidle, faults, damon; "
        "several are joined by + (default: %(default)s)",
    )  # fmt: skip
    record.add_argument(
        "--duration", metavar="T", type=_unit("duration"), help="end after this time (60, 10m)"
    )
    record.add_argument("--user", metavar="NAME", help="run the command as this user")
    record.add_argument("--label", metavar="TEXT", default="", help="your name for what is recorded")
    record.add_argument(
        "--device", metavar="MAJ:MIN", type=_device, action="append", default=[],
        help="only page-cache and block events of this device (repeatable)",
    )  # fmt: skip
    record.add_argument(
        "--buffer-kb", metavar="N", type=_kib, default=16384,
        help="ring buffer per CPU in KiB (default: %(default)s)",
    )  # fmt: skip
    record.add_argument(
        "--paths", action="store_true", help="store the paths of files (default: only inode numbers)"
    )
    record.add_argument(
        "--comm", action="store_true", help="store the names of threads and programs (default: keyed hashes)"
    )
    record.add_argument(
        "--source", choices=("ftrace", "perf"), default="ftrace",
        help="record through tracefs instances or perf_event_open (default: %(default)s)",
    )  # fmt: skip
    record.add_argument(
        "--open-files", action="store_true",
        help="record which open file each read and readahead decision belongs to, through BPF programs",
    )  # fmt: skip
    _configure_when(record)
    _configure_sampled(record)
    _configure_budgets(record)
    record.add_argument("command", nargs="*", metavar="CMD", help="the command; without one: the whole host")
    record.set_defaults(run=_record)


def _configure_when(record: argparse.ArgumentParser) -> None:
    when = record.add_argument_group("segments and times")
    when.add_argument(
        "--rotate-size", metavar="SIZE", type=_unit("size"), default=256 << 20,
        help="seal a segment after so much raw trace (default: 256M)",
    )  # fmt: skip
    when.add_argument(
        "--rotate-every", metavar="T", type=_unit("duration"), help="seal a segment after this time"
    )
    when.add_argument("--duty", metavar="ON/EVERY", type=_unit("duty"), help="record only part of the time")
    when.add_argument(
        "--flight", action="store_true",
        help="keep the latest events in memory; seal them on SIGUSR1, `hindsight capture trigger`, --psi, "
        "and at the end",
    )  # fmt: skip
    when.add_argument(
        "--psi", metavar="RES:KIND:STALL/WINDOW", type=_unit("pressure"), action="append", default=[],
        help="trigger when the host stalls this much, as memory:some:150ms/1s (repeatable)",
    )  # fmt: skip


def _configure_sampled(record: argparse.ArgumentParser) -> None:
    sampled = record.add_argument_group("sampled beside the events")
    sampled.add_argument(
        "--counters", metavar="SET[,…]", type=_names, action="extend", default=[],
        help="sets of counters: cpuidle, diskstats, meminfo, perf, psi, stat, vmstat (repeatable)",
    )  # fmt: skip
    sampled.add_argument(
        "--cgroup", metavar="PATH", action="append", default=[],
        help="counters of this control group: memory, I/O, processor time, pressure (repeatable)",
    )  # fmt: skip
    sampled.add_argument(
        "--proxy", metavar="NAME[,…]", action="append", default=[],
        help="snapshots of this proxy, as memory or blockdev:sda (repeatable; see `capture proxy list`)",
    )  # fmt: skip
    sampled.add_argument(
        "--every", metavar="S", type=_unit("duration"), default=1.0,
        help="time between two samples (default: 1s)",
    )  # fmt: skip


def _configure_budgets(record: argparse.ArgumentParser) -> None:
    budgets = record.add_argument_group("budgets: what the recorder may use")
    budgets.add_argument(
        "--max-cpu", metavar="P", type=_unit("percent"), help="its own processor time, of one processor (5%%)"
    )
    budgets.add_argument(
        "--max-disk", metavar="SIZE", type=_unit("size"), help="all recordings in DIR together (20G)"
    )
    budgets.add_argument(
        "--min-free", metavar="SIZE", type=_unit("size_or_zero"), default=64 << 20,
        help="leave so much of the file system free (default: 64M)",
    )  # fmt: skip
    budgets.add_argument(
        "--max-memory", metavar="SIZE", type=_unit("size"), help="ring buffers and the recorder itself (256M)"
    )
    budgets.add_argument(
        "--max-rate", metavar="N", type=_unit("rate"), help="recorded events a second (200k)"
    )
    budgets.add_argument(
        "--metrics", metavar="FILE", type=Path, help="write metrics for Prometheus into this textfile"
    )


def _show(path: Path) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads it any more: the recording goes on
        print(path, flush=True)


def _record(args: argparse.Namespace) -> int:
    import signal

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # too early to have anything to seal
    from hindsight.capture.options import FLIGHT, STREAM, Budgets
    from hindsight.capture.recording.record import RecordOptions, record

    if args.proxy:  # a name that is none is found before anything begins
        from hindsight.capture.proxy.registry import proxies

        for names in args.proxy:
            proxies(names)
    if args.user and not args.command:
        raise UsageError("--user without a command", "Name the command after --.")
    if args.flight and args.open_files:
        raise UsageError(
            "--open-files in flight mode",
            "What BPF programs record cannot be overwritten: leave out one of the two.",
        )
    if args.flight and args.rotate_every:
        raise UsageError(
            "--rotate-every in flight mode", "There, segments are sealed when they are asked for."
        )
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
        comm=args.comm,
        mode=FLIGHT if args.flight else STREAM,
        pressure=tuple(args.psi),
        rotate_bytes=args.rotate_size,
        rotate_s=args.rotate_every,
        duty=args.duty,
        budgets=Budgets(args.max_cpu, args.max_disk, args.min_free, args.max_memory, args.max_rate),
        metrics=args.metrics,
        source=args.source,
        counters=tuple(args.counters),
        cgroups=tuple(args.cgroup),
        every_s=args.every,
        proxies=tuple(args.proxy),
        open_files=args.open_files,
    )
    recording = record(options, sealed=_show)
    if recording.status is not None:
        ended = f"signal {-recording.status}" if recording.status < 0 else f"status {recording.status}"
        print(f"hindsight: the command ended with {ended}", file=sys.stderr)
    lost = f"; {recording.lost} events were LOST (see `losses`)" if recording.lost else "; none lost"
    if recording.unrecorded:
        lost += f" while it recorded; there are gaps (see `losses`): {', '.join(recording.unrecorded)}"
    print(f"hindsight: {recording.events} events{lost}", file=sys.stderr)
    return ExitCode.OK
