"""The proxies by the names that users give them, and those that are there."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hindsight.capture.proxy import blockdev, memory
from hindsight.capture.proxy.client import Proxy, Quantity
from hindsight.capture.proxy.document import STATE, DocumentProxy
from hindsight.errors import UsageError

BUILT_IN = ("memory", "readahead", "blockdev")
FORMS = (
    "memory", "readahead", "blockdev", "blockdev:DEVICE", "char:DEVICE", "fuse:DIR", "sysfs:FILE", "bpf:DIR",
    "mllib", "mllib:DEVICE",
)  # fmt: skip
"""What a name may look like."""
CHAR_DEVICES = "/dev/hindsight_proxy*"
KERNEL_OBJECTS = "/sys/kernel/hindsight/*/state"
PINNED = "/sys/fs/bpf/*/hs_proxy"


def known_quantities() -> Mapping[str, Mapping[str, Quantity]]:
    """Subsystem → name → what is known of it, whatever the transport."""
    from hindsight.capture.proxy import mllib, readahead

    return {
        blockdev.NAME: blockdev.QUANTITIES,
        memory.NAME: memory.QUANTITIES,
        readahead.NAME: readahead.QUANTITIES,
        mllib.NAME: mllib.QUANTITIES,
    }


def proxies(names: str) -> list[Proxy]:
    """The proxies that a list of names, separated by commas, means. Whether they are there shows later.

    Raises UsageError for what is no name.
    """
    found: list[Proxy] = []
    for name in names.split(","):
        found += _named(name.strip())
    return found


def _unknown(name: str) -> UsageError:
    return UsageError(f"{name!r} is no proxy", f"Write it like one of: {', '.join(FORMS)}.")


def _named(name: str) -> list[Proxy]:
    kind, colon, place = name.partition(":")
    if colon and not place:
        raise _unknown(name)
    if kind == blockdev.NAME:
        return [blockdev.BlockDevice(device) for device in ([place] if place else blockdev.devices())]
    if kind in ("char", "fuse", "sysfs") and place.startswith("/"):
        return [DocumentProxy(name, kind, Path(place), known_quantities())]
    if kind == "bpf" and place.startswith("/"):
        from hindsight.capture.proxy.bpfmaps import PinnedProxy

        return [PinnedProxy(name, Path(place), known_quantities())]
    if kind == "mllib" and (not place or place.startswith("/")):
        from hindsight.capture.proxy import mllib

        return [mllib.MllibDevice(name, Path(place) if place else mllib.DEVICE)]
    single: dict[str, Callable[[], Proxy]] = {"memory": memory.Memory, "readahead": _readahead}
    if name not in single:
        raise _unknown(name)
    return [single[name]()]


def _readahead() -> Proxy:
    from hindsight.capture.proxy.readahead import Readahead

    return Readahead()


def candidates() -> Iterator[str]:
    """Names of proxies that may be there, built-in ones first: only asking them shows whether they are.

    Nothing is opened that could hang.
    """
    yield "memory"
    yield "readahead"
    for device in blockdev.devices():
        yield f"{blockdev.NAME}:{device}"
    yield from (f"char:{path}" for path in sorted(glob.glob(CHAR_DEVICES)))
    if Path("/dev/mllibdev").exists():
        yield "mllib"
    yield from (f"sysfs:{path}" for path in sorted(glob.glob(KERNEL_OBJECTS)))
    yield from (f"bpf:{Path(path).parent}" for path in sorted(glob.glob(PINNED)))
    yield from (f"fuse:{path}" for path in _fuse_mounts())


def is_built_in(name: str) -> bool:
    """Whether hindsight itself makes the proxy of that name."""
    return name.partition(":")[0] in BUILT_IN


def _fuse_mounts() -> list[str]:
    """Where file systems in user space are mounted (proc_pid_mountinfo(5)); none with a comma."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            fields, _, source = line.partition(" - ")
            kind = source.split(" ", 1)[0]
            place = fields.split(" ")[4].encode().decode("unicode_escape")
            if (kind == "fuse" or kind.startswith("fuse.")) and "," not in place:
                found.append(place)
    return sorted(set(found))


__all__ = ["BUILT_IN", "FORMS", "STATE", "candidates", "is_built_in", "known_quantities", "proxies"]
