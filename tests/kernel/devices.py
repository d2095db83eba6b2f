"""Runs in a guest: uses the two character devices as a program does, and says as JSON what came of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

PROXY = "/dev/hindsight_proxy"
SYSFS = Path("/sys/class/misc/hindsight_proxy")
FAULT = Path("/sys/module/hindsight_proxy/parameters/fault")
MLLIB = "/dev/mllibdev"
CONTROL = Path("/sys/class/misc/mllibdev/ml_model1/control")


def read_all(path: str, size: int = 1 << 16) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(size), b""))


def name_of(work: Any) -> str:
    """The name of the errno that this fails with; "ok" if it does not."""
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def recommend(**changes: Any) -> list[Any]:
    now = json.loads(read_all(PROXY))
    message = {
        "schema": 1, "id": "r1", "proxy": "null", "sequence": now["sequence"], "actuator": "window",
        "target": "", "value": 64, "ttl_ns": 10**9, "confidence_ppm": 500000, "model": "m",
    } | changes  # fmt: skip

    def write() -> None:
        descriptor = os.open(PROXY, os.O_WRONLY)
        try:
            os.write(descriptor, json.dumps(message, separators=(",", ":")).encode())
        finally:
            os.close(descriptor)

    return [name_of(write), json.loads((SYSFS / "answer").read_text()), int((SYSFS / "window").read_text())]


def proxy() -> dict[str, Any]:
    found: dict[str, Any] = {
        "snapshots": [json.loads(read_all(PROXY, size)) for size in (1 << 16, 5, 1 << 16)],
        "newline": read_all(PROXY).endswith(b"\n"),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    }
    descriptor = os.open(PROXY, os.O_RDONLY)
    found["same file"] = [json.loads(os.pread(descriptor, 1 << 16, 0))["sequence"] for _ in range(2)]
    os.close(descriptor)
    found["learning"] = recommend()
    (SYSFS / "mode").write_text("recommendation")
    found["accepted"] = recommend(value=64)
    found["clamped"] = recommend(value=1 << 40)
    found["stale"] = recommend(sequence=0) if read_many() else None
    found["future"] = recommend(sequence=1 << 60)
    found["actuator"] = recommend(actuator="other")
    found["text"] = recommend(value="much")
    found["oversize"] = recommend(model="m" * 4096)
    (SYSFS / "mode").write_text("emergency")
    found["emergency"] = recommend(value=32)
    found["mode"] = name_of(lambda: (SYSFS / "mode").write_text("turbo"))
    found["faults"] = {}
    for fault in ("malformed", "oversize", "newer", "gap", "slow"):
        before = json.loads(read_all(PROXY))["sequence"]
        FAULT.write_text(fault)
        begun = time.monotonic()
        data = read_all(PROXY)
        elapsed_ms = int((time.monotonic() - begun) * 1000)
        FAULT.write_text("none")
        after = json.loads(read_all(PROXY))["sequence"]
        try:
            parsed = json.loads(data)
        except ValueError:
            parsed = None
        schema = parsed and parsed["schema"]
        found["faults"][fault] = [len(data), schema, after - before, elapsed_ms]
    FAULT.write_text("hang")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read_all(PROXY)))
    reader.start()
    reader.join(0.5)
    hung = reader.is_alive()
    FAULT.write_text("none")
    reader.join(10)
    found["hang"] = [hung, len(got)]
    found["unknown fault"] = name_of(lambda: FAULT.write_text("other"))
    return found


def read_many() -> bool:
    for _ in range(20):
        read_all(PROXY)
    return True


def control(text: str) -> str:
    return name_of(lambda: CONTROL.write_text(text))


def mllib() -> dict[str, Any]:
    descriptor = os.open(MLLIB, os.O_RDWR)

    def size() -> int:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, 0x80044D01, bytes(4)))[0])

    def data() -> str:
        return os.pread(descriptor, 4096, 0).decode()

    found: dict[str, Any] = {"mode": oct(os.stat(MLLIB).st_mode & 0o777), "before": data(), "size": size()}
    found["model"] = struct.unpack("I", fcntl.ioctl(descriptor, 0x80044D03, bytes(4)))[0]
    found["control"] = [control(text) for text in ("start", "prepare_dataset", "rubbish", "stop")]
    first = data()
    found["first"] = [len(first), first[:3], os.pread(descriptor, 10, 1020).decode() == first[1020:]]
    control("prepare_dataset")
    found["again"] = data() == first
    control("discard_dataset")
    found["discarded"] = data()
    control("prepare_dataset")
    found["next differs"] = data() != first
    fcntl.ioctl(descriptor, 0x40044D02, struct.pack("i", 100))
    found["set"] = [size(), len(data())]
    found["too large"] = name_of(lambda: fcntl.ioctl(descriptor, 0x40044D02, struct.pack("i", 2000)))
    found["unknown"] = name_of(lambda: fcntl.ioctl(descriptor, 0x4D09))
    writing = os.open(MLLIB, os.O_WRONLY)
    found["writes"] = [os.write(writing, b"r" * 1000), os.write(writing, b"r" * 1000)]
    found["full"] = name_of(lambda: os.write(writing, b"r"))
    found["apart"] = data()[:3] == first[:3].translate(str.maketrans("abcdefgh", "bcdefghi"))
    fcntl.ioctl(descriptor, 0x4D00)
    found["reset"] = [size(), data()]
    return found


print(json.dumps({"proxy": proxy(), "mllib": mllib()}))
