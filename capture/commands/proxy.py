"""``hindsight capture proxy``."""

from __future__ import annotations

import argparse
from typing import Any

from hindsight.errors import ExitCode, UsageError


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    proxy = verbs.add_parser(
        "proxy",
        help="list the proxies of this host, or show one's state",
        description="List the proxies of this host, or show the state of some. A proxy speaks for a\n"
        "subsystem of the kernel: its counters, and what of it could be set. Nothing is set here.\n"
        "NAME: memory, readahead, blockdev, blockdev:DEVICE, char:DEVICE, fuse:DIR, sysfs:FILE,\n"
        "bpf:DIR, mllib. Exit status: 0 all were read, 1 some were not.",
        epilog="examples:\n  hindsight capture proxy list\n  hindsight capture proxy show memory\n"
        "  sudo hindsight capture proxy show readahead blockdev:sda --json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    proxy.add_argument("what", choices=("list", "show"), help="which are there, or the state of those named")
    proxy.add_argument("names", metavar="NAME", nargs="*", help="a proxy, for show")
    proxy.add_argument("--json", action="store_true", help="print JSON")
    proxy.set_defaults(run=_proxy)


def _proxy(args: argparse.Namespace) -> int:
    if args.what == "show" and not args.names:
        raise UsageError(
            "show what?", "Name a proxy; `hindsight capture proxy list` shows those that are there."
        )
    if args.what == "list" and args.names:
        raise UsageError("list takes no names", f"To see one: hindsight capture proxy show {args.names[0]}")
    return _list(args.json) if args.what == "list" else _show(args.names, args.json)


def _list(as_json: bool) -> int:
    import json

    from hindsight.capture.proxy.look import look_around

    found = look_around()
    if as_json:
        print(json.dumps([look.as_dict() for look in found], indent=1))
        return ExitCode.OK
    width = max(len(look.name) for look in found)
    for look in found:
        how = f"{look.snapshot.subsystem}, {len(look.snapshot.state)} values" if look.snapshot else look.why
        print(f"{look.name:{width}}  {look.transport:6}  {how}")
    return ExitCode.OK


def _show(names: list[str], as_json: bool) -> int:
    import json

    from hindsight.capture.proxy.look import Look, look_at
    from hindsight.capture.proxy.registry import proxies

    found = [look_at(proxy) for text in names for proxy in proxies(text)]
    if as_json:
        print(json.dumps([look.as_dict() for look in found], indent=1))
    else:
        for look in found:
            _print(look)
    failed: list[Look] = [look for look in found if look.error is not None]
    if len(failed) == 1 == len(found):
        assert failed[0].error is not None
        raise failed[0].error
    return ExitCode.FAILED if failed else ExitCode.OK


def _print(look: Any) -> None:
    print(f"{look.name} ({look.transport}, {look.place})")
    snapshot = look.snapshot
    if snapshot is None:
        print(f"  {look.why}")
        return
    print(f"  proxy {snapshot.proxy}, subsystem {snapshot.subsystem}, snapshot {snapshot.sequence}")
    print(f"  mode {snapshot.mode}; dataset {snapshot.dataset.type}, {snapshot.dataset.state}")
    width = max(map(len, snapshot.state), default=0)
    for name in sorted(snapshot.state):
        quantity = look.quantities.get(name)
        about = f"  {quantity.unit:9}  {quantity.meaning}" if quantity is not None else ""
        print(f"  {name:{width}}  {snapshot.state[name]:>20}{about}".rstrip())
    for actuator in sorted(snapshot.actuators):
        bounds = f"{actuator.min} … {actuator.max}"
        print(f"  can be set: {actuator.name} = {actuator.current} ({bounds}; scope {actuator.scope})")
    for name in sorted(snapshot.lost):
        print(f"  lost: {name} = {snapshot.lost[name]}")
