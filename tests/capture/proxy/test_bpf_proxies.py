"""Maps of somebody else's programs: each way in which they can be wrong is refused, and reading goes on."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import conformance
import pytest
import served
from conformance import GOLDEN, expect

from hindsight.capture.bpf import maps
from hindsight.capture.proxy.bpfmaps import ACTUATOR, NAME, PROXY
from hindsight.capture.proxy.errors import Gone, Malformed, NewerSchema, Oversized

_U32 = struct.Struct("=I")
LRU_HASH, HASH = 9, 1
SOUND = (1, 2, 3, 3, 512, 4096, b"golden", b"conformance")


@pytest.fixture
def bpf(tmp_path: Path) -> Iterator[served.Bpf]:
    if os.geteuid() != 0:
        pytest.skip("pinning maps needs root")
    try:
        serving = served.Bpf(tmp_path)
    except conformance.Impossible as error:
        pytest.skip(str(error))
    serving.give(GOLDEN)
    yield serving
    serving.close()


def array(*values: bytes) -> maps.Map:
    made = served.create(maps.ARRAY, 4, len(values[0]), len(values))
    for position, value in enumerate(values):
        made.update(_U32.pack(position), value)
    return made


def put(bpf: served.Bpf, name: str, value: bytes, position: int = 0) -> None:
    """Change one value in place, as programs do."""
    opened = maps.pinned(bpf.place / name)
    opened.update(_U32.pack(position), value)
    opened.close()


@pytest.mark.parametrize(
    ("position", "value"),
    [(1, 5), (2, 0), (2, 5), (3, 0), (3, 8), (4, 1 << 63), (5, 1 << 63),
     (6, b"x" * 32), (6, b""), (6, b"a b"),
     (6, b"\xff"), (6, b"a\0b"), (7, b"../x"), (0, 0)],
)  # fmt: skip
def test_a_damaged_description(bpf: served.Bpf, position: int, value: object) -> None:
    proxy = bpf.proxy()
    assert proxy.snapshot().mode == "learning"
    put(bpf, "hs_proxy", PROXY.pack(*SOUND[:position], value, *SOUND[position + 1 :]))
    expect(Malformed, proxy.snapshot)
    put(bpf, "hs_proxy", PROXY.pack(*SOUND))
    assert proxy.snapshot().proxy == "golden"
    proxy.close()


def test_a_newer_one(bpf: served.Bpf) -> None:
    proxy = bpf.proxy()
    put(bpf, "hs_proxy", PROXY.pack(2, *SOUND[1:]))
    expect(NewerSchema, proxy.snapshot)
    proxy.close()


@pytest.mark.parametrize(
    "entry",
    [NAME.pack(3, 0, b"x"), NAME.pack(1, 1, b"x"), NAME.pack(1, 0, b""), NAME.pack(1, 0, b"balance"),
     NAME.pack(1, 0, b"x" * 56), NAME.pack(1, 0, b"a/b"), NAME.pack(1, 0, b"a\0b"), b"\xff" * NAME.size],
)  # fmt: skip
def test_a_damaged_name(bpf: served.Bpf, entry: bytes) -> None:
    proxy = bpf.proxy()
    put(bpf, "hs_names", entry)
    expect(Malformed, proxy.snapshot)
    put(bpf, "hs_names", NAME.pack(0, 0, b""))
    assert "hits" not in proxy.snapshot().state
    proxy.close()


def test_a_negative_loss_and_sums(bpf: served.Bpf) -> None:
    proxy = bpf.proxy()
    cpus = maps.possible_cpus()
    put(bpf, "hs_values", struct.pack(f"={cpus}q", *[5] * cpus), 0)
    assert proxy.snapshot().state["hits"] == 5 * cpus
    put(bpf, "hs_values", struct.pack(f"={cpus}q", *[-1] * cpus), 5)
    expect(Malformed, proxy.snapshot)
    put(bpf, "hs_values", struct.pack(f"={cpus}q", *[1] * cpus), 5)
    assert proxy.snapshot().lost == {"events": cpus}
    if cpus > 1:  # within 64 bits on each processor, not together
        put(bpf, "hs_values", struct.pack(f"={cpus}q", *[(1 << 63) - 1] * cpus), 0)
        expect(Malformed, proxy.snapshot)
    proxy.close()


def test_damaged_actuators(bpf: served.Bpf) -> None:
    proxy = bpf.proxy()
    sound = ACTUATOR.pack(b"window", b"device", 128, 4, 4096)
    for wrong in (
        ACTUATOR.pack(b"window", b"device", 1, 5, 4),
        ACTUATOR.pack(b"window", b"", 1, 1, 4),
        ACTUATOR.pack(b"offset", b"device", 1, 1, 4),
        ACTUATOR.pack(b"x" * 32, b"host", 1, 1, 4),
    ):
        put(bpf, "hs_actuators", wrong)
        expect(Malformed, proxy.snapshot)
        put(bpf, "hs_actuators", sound)
        assert len(proxy.snapshot().actuators) == 2
    (bpf.place / "hs_actuators").unlink()
    again = bpf.proxy()
    assert again.snapshot().actuators == ()
    again.close()
    proxy.close()


def test_maps_of_another_shape(bpf: served.Bpf) -> None:
    """Each replaced in its place: a proxy that was restarted is opened again, and looked at again."""
    names = [NAME.pack(1, 0, b"a")]
    for name, made, kind in (
        ("hs_names", array(*names), Malformed),  # other length than hs_values
        ("hs_names", array(b"x" * 32), Malformed),
        ("hs_names", served.create(maps.ARRAY, 4, NAME.size, 2000), Oversized),
        ("hs_values", served.create(HASH, 4, 8, 9), Malformed),
        ("hs_values", served.create(LRU_HASH, 4, 8, 9), Malformed),
        ("hs_values", served.create(maps.ARRAY, 4, 16, 9), Malformed),
        ("hs_actuators", served.create(maps.ARRAY, 4, ACTUATOR.size, 65), Oversized),
        ("hs_proxy", array(b"x" * 8), Malformed),
    ):
        bpf.give(GOLDEN)
        proxy = bpf.proxy()
        bpf.replace(name, made)
        expect(kind, proxy.snapshot)
        bpf.give(GOLDEN)
        assert proxy.snapshot().proxy == "golden", name
        proxy.close()


def test_no_descriptor_is_left(bpf: served.Bpf) -> None:
    """Neither after failures nor after many snapshots."""
    proxy = bpf.proxy()
    proxy.snapshot()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        proxy.snapshot()
    bpf.replace("hs_names", array(b"x" * 32))
    bpf.vanish()
    for _ in range(50):
        expect(Gone, proxy.snapshot)
    bpf.give(GOLDEN)
    bpf.replace("hs_names", array(b"x" * 32))
    for _ in range(50):
        expect(Malformed, proxy.snapshot)
    proxy.close()
    assert len(os.listdir("/proc/self/fd")) <= before
