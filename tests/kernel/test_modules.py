"""The character devices of this folder's modules, built against Debian's headers and loaded in a guest."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import debian
import modules
import pytest
from guest import Result

HERE = Path(__file__).parent
CONFORMANCE = HERE.parent / "capture" / "proxy" / "conformance.py"
LOG = "dmesg | grep -E 'BUG:|WARNING:|Oops:|Call Trace' >&2"
_ADAPTER = """
import json
from hindsight.capture.proxy.mllib import MllibDevice

device, found = MllibDevice(), []
for step in (lambda: None, device.prepare, device.discard):
    step()
    snapshot = device.snapshot()
    found.append([[snapshot.dataset.type, snapshot.dataset.size], dict(snapshot.state)])
print(json.dumps(found))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(debian_kernel: debian.Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    try:
        return modules.build(debian_kernel, tmp_path_factory.mktemp("modules"))
    except debian.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def used(
    debian_kernel: debian.Kernel, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What a program in a guest found that used the devices."""
    import guest

    script = (
        f"#!/bin/sh\npython3 /test/devices.py || exit 1\n{LOG}\n"
        "rmmod hindsight_proxy hindsight_mllib || exit 2\n"
        "[ ! -e /dev/mllibdev ] && [ ! -e /dev/hindsight_proxy ]\n"
    )
    result = guest.boot(
        debian_kernel, script, tmp_path_factory.mktemp("devices"), cpus=2,
        files={"/test/devices.py": HERE / "devices.py"}, modules=[*built.values()],
    )  # fmt: skip
    assert (result.status, result.stderr) == (0, ""), result.explain()
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_snapshot_has_the_form_of_the_contract(used: dict[str, Any]) -> None:
    found = used["proxy"]
    first, second, third = found["snapshots"]
    assert list(first) == [
        "schema", "proxy", "subsystem", "boot_id", "sequence", "mono_ns", "mode", "dataset", "state",
        "actuators", "lost",
    ]  # fmt: skip
    assert (first["schema"], first["proxy"], first["subsystem"], first["mode"]) == (
        1,
        "null",
        "test",
        "learning",
    )
    assert first["boot_id"] == found["boot_id"]
    assert first["dataset"] == {"type": "structure", "state": "clean", "offset": 0, "size": 4096}
    assert [actuator["name"] for actuator in first["actuators"]] == ["window"]
    assert [s["sequence"] for s in (first, second, third)] == [1, 2, 3]
    assert first["mono_ns"] < second["mono_ns"] < third["mono_ns"]
    assert 0 < first["state"]["free_pages"] < first["state"]["total_pages"]
    assert found["newline"]
    assert found["same file"] == [5, 6], "each read at position 0 prepares a snapshot"


def test_a_recommendation_is_answered(used: dict[str, Any]) -> None:
    found = used["proxy"]

    def told(case: str) -> tuple[Any, ...]:
        error, answer, window = found[case]
        return error, answer["verdict"], answer["used"], answer["read_back"], answer["reason"], window

    assert told("learning") == ("ok", "tested", None, None, None, 128)
    assert told("accepted") == ("ok", "accepted", 64, 64, None, 64)
    assert told("clamped") == ("ok", "clamped", 4096, 4096, None, 4096)
    assert told("stale") == ("ESTALE", "refused", None, None, "ESTALE", 4096)
    assert told("future") == ("ESTALE", "refused", None, None, "ESTALE", 4096)
    assert told("actuator") == ("ENOENT", "refused", None, None, "ENOENT", 4096)
    assert told("text") == ("EINVAL", "refused", None, None, "EINVAL", 4096)
    assert told("emergency") == ("EPERM", "refused", None, None, "EPERM", 4096)
    assert found["oversize"][0] == "EMSGSIZE"
    assert found["mode"] == "EINVAL"


def test_it_misbehaves_when_it_is_told_to(used: dict[str, Any]) -> None:
    faults = used["proxy"]["faults"]
    assert faults["malformed"][1] is None and faults["malformed"][0] > 100
    assert faults["oversize"][0] == 1 << 20
    assert faults["newer"][1] == 2
    assert [faults[name][2] for name in ("malformed", "newer", "gap", "slow")] == [2, 2, 4, 2]
    assert faults["slow"][3] >= 200
    assert used["proxy"]["hang"] == [True, 1]
    assert used["proxy"]["unknown fault"] == "EINVAL"


def test_the_test_device_of_the_rfc(used: dict[str, Any]) -> None:
    assert used["mllib"] == {
        "mode": "0o600", "before": "", "size": 1024, "model": 1,
        "control": ["ok", "ok", "ENOTSUP", "ok"], "first": [1024, "bcd", True], "again": True,
        "discarded": "", "next differs": True, "set": [100, 100], "too large": "EINVAL", "unknown": "ENOTTY",
        "writes": [1000, 24], "full": "ENOSPC", "apart": True, "reset": [1024, ""],
    }  # fmt: skip


def test_the_proxy_conforms(boot: Callable[..., Result], built: dict[str, Path]) -> None:
    """The conformance suite of all transports, in the guest."""
    script = (
        "#!/bin/sh\npython3 /test/conformance.py /dev/hindsight_proxy || exit 1\n"
        f"python3 /test/adapter.py || exit 2\n{LOG}\nexit 0\n"
    )
    files = {"/test/conformance.py": CONFORMANCE, "/test/adapter.py": _ADAPTER.encode()}
    result = boot(script, files=files, modules=[*built.values()], cpus=2)
    assert (result.status, result.stderr) == (0, ""), result.explain()
    *lines, adapter = result.stdout.splitlines()
    assert len(lines) >= 4 and all(line.startswith("ok ") for line in lines), result.explain()
    empty, full, gone = json.loads(adapter)
    crc = zlib.crc32(bytes(ord("a") + (i + 1) % 26 for i in range(1024)))
    assert empty == [["empty", 0], {"size": 1024, "dataset_bytes": 0, "dataset_crc32": 0, "model_id": 1}]
    assert full == [
        ["stream", 1024],
        {"size": 1024, "dataset_bytes": 1024, "dataset_crc32": crc, "model_id": 1},
    ]
    assert gone == empty
