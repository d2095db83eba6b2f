"""What every proxy must do, whatever its transport, and what its reader makes of one that does not.

A transport is something real that serves a proxy (see served.py); each case is a function of one. Nothing but
the standard library and hindsight is needed. Where a kernel module serves a character device, run it by hand:

    PYTHONPATH=… python3 tests/capture/proxy/conformance.py /dev/hindsight_proxy
"""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from hindsight.capture.proxy import parsing
from hindsight.capture.proxy.client import Order, Proxy
from hindsight.capture.proxy.document import DocumentProxy
from hindsight.capture.proxy.errors import Gone, Hanging, Malformed, NewerSchema, Oversized
from hindsight.capture.proxy.guard import Guarded
from hindsight.capture.proxy.records import Snapshot
from hindsight.errors import HindsightError

GOLDEN: dict[str, Any] = {
    "schema": 1,
    "proxy": "golden",
    "subsystem": "conformance",
    "boot_id": "01234567-89ab-cdef-0123-456789abcdef",
    "sequence": 0,
    "mono_ns": 0,
    "mode": "learning",
    "dataset": {"type": "structure", "state": "extracted_partially", "offset": 512, "size": 4096},
    "state": {"hits": 7, "balance": -3, "most": (1 << 63) - 1, "least": -(1 << 63), "a.b:c-d_e": 0},
    "actuators": [
        {"name": "window", "current": 128, "min": 4, "max": 4096, "scope": "device"},
        {"name": "offset", "current": -1, "min": -10, "max": 0, "scope": "file"},
    ],
    "lost": {"events": 2},
}
NUMBERED = ("sequence", "mono_ns", "boot_id")
"""What differs from snapshot to snapshot, or is the kernel's to say."""


class Impossible(Exception):
    """This transport cannot do that; the message says why."""


class Transport(Protocol):
    """Something that serves a proxy. What it cannot do raises :class:`Impossible`."""

    name: str

    def proxy(self) -> Proxy:
        """A reader of the proxy that is served."""

    def give(self, document: dict[str, Any]) -> None:
        """Serve this document from now on; its sequence and time go on by themselves."""

    def give_bytes(self, data: bytes) -> None:
        """Serve these bytes from now on."""

    def advance(self) -> None:
        """Make the next snapshot, where that does not happen by itself."""

    def hang(self) -> None:
        """Answer no read from now on."""

    def resume(self) -> None:
        """Answer again."""

    def vanish(self) -> None:
        """Be gone."""

    def appear(self) -> None:
        """Be there again, as before."""


def plain(snapshot: Snapshot) -> dict[str, Any]:
    """What does not differ from snapshot to snapshot."""
    found: dict[str, Any] = parsing.as_json(snapshot)
    return {name: value for name, value in found.items() if name not in NUMBERED}


def expect(kind: type[HindsightError], work: Callable[[], Any]) -> HindsightError:
    """The error that this must raise, which tells what to do about it."""
    try:
        found = work()
    except kind as error:
        assert error.remedy, f"{error.message}: there is no remedy"
        return error
    raise AssertionError(f"no {kind.__name__}, but {found}")


def golden(transport: Transport) -> None:
    """The golden snapshot arrives as it is."""
    transport.give(GOLDEN)
    proxy = transport.proxy()
    try:
        assert plain(proxy.snapshot()) == {k: v for k, v in GOLDEN.items() if k not in NUMBERED}
        known = proxy.describe()
        assert (known.name, known.subsystem) == (proxy.name, "conformance")
    finally:
        proxy.close()


def monotone(transport: Transport) -> None:
    """Sequence numbers rise by one, times do not go back and are this kernel's; the boot id stays."""
    transport.give(GOLDEN)
    proxy = transport.proxy()
    found = []
    begun = time.monotonic_ns()
    for _ in range(20):
        transport.advance()
        found.append(proxy.snapshot())
    proxy.close()
    ended = time.monotonic_ns()
    order = Order()
    assert [order.follow(snapshot) for snapshot in found] == [0] * 20
    assert all(begun <= snapshot.mono_ns <= ended for snapshot in found)
    assert len({snapshot.boot_id for snapshot in found}) == 1


def newer(transport: Transport) -> None:
    """A newer schema is said to be one, whatever else the document holds; the older one is read again."""
    proxy = transport.proxy()
    for more in ({"schema": 2}, {"schema": 7, "state": "other", "new": [1.5]}):
        try:
            transport.give(GOLDEN | more)
        except Impossible:
            transport.give(GOLDEN | {"schema": more["schema"]})
        error = expect(NewerSchema, proxy.snapshot)
        assert f"version {more['schema']}" in error.message
    transport.give(GOLDEN)
    assert proxy.snapshot().schema == 1
    proxy.close()


def oversized(transport: Transport) -> None:
    """More than 64 KiB is refused as such, without reading all of it."""
    transport.give_bytes(b"[" + b" " * (1 << 20) + b"]\n")
    proxy = transport.proxy()
    expect(Oversized, proxy.snapshot)
    transport.give(GOLDEN)
    assert proxy.snapshot().proxy == "golden"
    proxy.close()


def damaged() -> Iterator[tuple[str, bytes]]:
    """Documents that are no snapshot, by what is wrong with them."""
    text = json.dumps(GOLDEN)

    def change(*path: Any, value: Any = None, remove: bool = False) -> bytes:
        document = copy.deepcopy(GOLDEN)
        at: Any = document
        for step in path[:-1]:
            at = at[step]
        if remove:
            del at[path[-1]]
        else:
            at[path[-1]] = value
        return json.dumps(document).encode()

    yield "empty", b""
    yield "torn", text[: len(text) // 2].encode()
    yield "trailing", text.encode() + b"{}\n"
    yield "not UTF-8", text.replace("golden", "gold\udcffen").encode("utf-8", "surrogateescape")
    yield "not an object", b"[1]\n"
    yield "a name twice", text.replace('"proxy"', '"schema": 1, "proxy"').encode()
    yield "a fraction", text.replace('"hits": 7', '"hits": 7.0').encode()
    yield "an exponent", text.replace('"hits": 7', '"hits": 7e0').encode()
    yield "infinite", text.replace('"hits": 7', '"hits": Infinity').encode()
    yield "no number", text.replace('"hits": 7', '"hits": NaN').encode()
    yield "too many digits", text.replace('"hits": 7', '"hits": ' + "7" * 5000).encode()
    yield "deep", text.replace('"hits": 7', '"hits": ' + "[" * 20000 + "]" * 20000).encode()
    yield "above 2^63", change("state", "hits", value=1 << 63)
    yield "true for 1", change("state", "hits", value=True)
    yield "null state", change("state", value=None)
    yield "an unknown member", change("more", value=1)
    yield "a missing member", change("dataset", remove=True)
    yield "schema 0", change("schema", value=0)
    yield "schema as text", change("schema", value="1")
    yield "negative sequence", change("sequence", value=-1)
    yield "unknown mode", change("mode", value="turbo")
    yield "unknown dataset", change("dataset", "type", value="blob")
    yield "an empty name", change("state", "", value=1)
    yield "a long name", change("state", "n" * 65, value=1)
    yield "a name with a newline", change("state", "n\n", value=1)
    yield "a path for a name", change("proxy", value="../x")
    yield "too many values", change("state", value={f"n{i}": i for i in range(513)})
    yield "min above max", change("actuators", 0, "min", value=5000)
    yield "an actuator twice", change("actuators", 1, "name", value="window")
    yield "negative loss", change("lost", "events", value=-1)


def malformed(transport: Transport) -> None:
    """Each is refused, with the same words each time; the next sound one is read."""
    proxy = transport.proxy()
    for what, data in damaged():
        transport.give_bytes(data)
        first = expect(Malformed, proxy.snapshot)
        assert first.message == expect(Malformed, proxy.snapshot).message, what
        assert len(str(first)) < 400, what
    transport.give(GOLDEN)
    assert proxy.snapshot().proxy == "golden"
    proxy.close()


def slow(transport: Transport) -> None:
    """A read that hangs costs its budget once and is then refused at once; it works again afterwards."""
    transport.give(GOLDEN)
    guarded = Guarded(transport.proxy(), budget_s=0.2)
    threads = threading.active_count()
    assert guarded.snapshot().proxy == "golden"
    transport.hang()
    try:
        begun = time.monotonic()
        expect(Hanging, guarded.snapshot)
        first = time.monotonic() - begun
        begun = time.monotonic()
        for _ in range(50):
            expect(Hanging, guarded.snapshot)
        others = time.monotonic() - begun
        assert 0.2 <= first < 5 and others < first, (first, others)
        assert threading.active_count() == threads
    finally:
        transport.resume()
    for _ in range(100):
        try:
            found = guarded.snapshot()
            break
        except Hanging:
            time.sleep(0.05)
    assert found.proxy == "golden"
    guarded.close()


def vanishing(transport: Transport) -> None:
    """A proxy that is gone is said to be gone; when it is back, it is read again."""
    transport.give(GOLDEN)
    proxy = transport.proxy()
    assert proxy.snapshot().proxy == "golden"
    transport.vanish()
    expect(Gone, proxy.snapshot)
    expect(Gone, proxy.snapshot)
    transport.appear()
    transport.give(GOLDEN)
    assert proxy.snapshot().proxy == "golden"
    proxy.close()


CASES: dict[str, Callable[[Transport], None]] = {
    case.__name__: case for case in (golden, monotone, newer, oversized, malformed, slow, vanishing)
}


class Device:
    """A character device that a module serves: it says what it likes, so it is held to its own text.

    ``fault``: a module parameter that makes it misbehave: none, malformed, oversize, newer, hang.
    """

    name = "char"
    FAULTS = Path("/sys/module/hindsight_proxy/parameters/fault")

    def __init__(self, path: Path) -> None:
        self.path = path

    def proxy(self) -> Proxy:
        return DocumentProxy(f"char:{self.path}", "char", self.path, {})

    def fault(self, which: str) -> None:
        if not self.FAULTS.exists():
            raise Impossible(f"there is no {self.FAULTS}")
        try:
            self.FAULTS.write_text(which)
        except OSError as error:
            raise Impossible(f"the module does not know the fault {which}: {error.strerror}") from error


def device_golden(device: Device) -> None:
    """What is parsed is what another program reads; the document is JSON that ends in a newline."""
    assert stat.S_ISCHR(os.stat(device.path).st_mode), f"{device.path} is no character device"
    text = subprocess.run(["cat", str(device.path)], capture_output=True, check=True, timeout=30).stdout
    assert text.endswith(b"\n")
    told = {name: value for name, value in json.loads(text).items() if name not in NUMBERED}
    found = plain(device.proxy().snapshot())
    assert found.keys() == told.keys()
    # What it counts may have gone on between the two reads.
    assert {k: v for k, v in found.items() if k not in ("state", "lost", "dataset")} == {
        k: v for k, v in told.items() if k not in ("state", "lost", "dataset")
    }
    assert found["state"].keys() == told["state"].keys() and found["lost"].keys() == told["lost"].keys()
    with open(device.path, "rb", buffering=0) as file:
        pieces = b"".join(iter(lambda: file.read(7), b""))
    assert json.loads(pieces)["proxy"] == found["proxy"], "read in small pieces it is another document"


def device_monotone(device: Device) -> None:
    """Sequence numbers rise, times do not go back and are this kernel's."""
    proxy, order = device.proxy(), Order()
    begun = time.monotonic_ns()
    found = [proxy.snapshot() for _ in range(50)]
    ended = time.monotonic_ns()
    assert all(order.follow(snapshot) >= 0 for snapshot in found), "a sequence number came twice"
    assert begun <= found[0].mono_ns <= found[-1].mono_ns <= ended


def device_faults(device: Device) -> None:
    """Each way in which it can misbehave is told from the others; afterwards it is read again."""
    proxy = device.proxy()
    try:
        for which, kind in (("malformed", Malformed), ("oversize", Oversized), ("newer", NewerSchema)):
            device.fault(which)
            expect(kind, proxy.snapshot)
    finally:
        device.fault("none")
    proxy.snapshot()


def device_hang(device: Device) -> None:
    """A read that hangs is abandoned."""
    proxy = device.proxy()
    proxy.snapshot()  # the process that reads it has started
    guarded = Guarded(proxy, budget_s=0.5)
    device.fault("hang")
    try:
        expect(Hanging, guarded.snapshot)
        expect(Hanging, guarded.snapshot)
    finally:
        device.fault("none")
    guarded.close()


DEVICE_CASES = (device_golden, device_monotone, device_faults, device_hang)


def main(path: str) -> int:
    """Run the cases of a character device; a line for each; the exit status is how many failed."""
    failed = 0
    device = Device(Path(path))
    for case in DEVICE_CASES:
        try:
            case(device)
            print(f"ok      {case.__name__}", flush=True)
        except Impossible as error:
            print(f"skipped {case.__name__}: {error}", flush=True)
        except (AssertionError, HindsightError, OSError):
            failed += 1
            print(f"FAILED  {case.__name__}", flush=True)
            traceback.print_exc()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "/dev/hindsight_proxy"))
