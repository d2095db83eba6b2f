"""State files are read as what they are: files that somebody else may have damaged or made up."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindsight.capture import host, owner
from hindsight.capture.operation import state


def values(**changes: Any) -> dict[str, Any]:
    found = {
        "capture": "20260101T000000Z-00000000",
        "owner": owner.own().as_dict(),
        "out": "/raw",
        "boot": host.boot_id(),
    }
    return found | changes


def test_living_and_dead_recorders(tmp_path: Path) -> None:
    gone = subprocess.Popen(["sleep", "60"])
    dead = owner.Owner(owner.own().namespace, gone.pid, owner._start_ticks(gone.pid) or 0)
    state.write(tmp_path / "a.json", values(capture="a"))
    state.write(tmp_path / "b.json", values(capture="b", owner=dead.as_dict()))
    state.write(tmp_path / "c.json", values(capture="c", boot="another"))
    state.write(tmp_path / "d.json", values(capture="d", owner=owner.Owner(1, os.getpid(), 1).as_dict()))
    assert [s.alive for s in state.running([tmp_path])] == [True, True, False, None]
    gone.kill()
    gone.wait()
    assert [s.alive for s in state.running([tmp_path])] == [True, False, False, None]


def test_only_state_files_are_believed(tmp_path: Path) -> None:
    state.write(tmp_path / "good.json", values())
    state.write(tmp_path / ".hidden.json", values())
    (tmp_path / "link.json").symlink_to(tmp_path / "good.json")
    (tmp_path / "directory.json").mkdir()
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "large.json").write_text(json.dumps(values(version=1, label="x" * (1 << 17))))
    (tmp_path / "torn.json").write_text('{"version": 1, "capt')
    (tmp_path / "deep.json").write_text("[" * 60_000)
    state.write(tmp_path / "escape.json", values(capture="../../etc/passwd"))
    state.write(tmp_path / "relative.json", values(out="raw"))
    if os.geteuid() == 0:
        state.write(tmp_path / "stranger.json", values())
        os.chown(tmp_path / "stranger.json", 65534, 65534)
    assert [s.path.name for s in state.running([tmp_path])] == ["good.json"]
    assert state.running([tmp_path / "none"]) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    ),
    st.sampled_from(["owner", "out", "capture", "boot", "sealed", "recorded", "state", None]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_json_is_a_state_or_none(tmp_path: Path, junk: Any, at: str | None) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(junk if at is None else {"version": 1, **values(**{at: junk})}))
    for found in state.running([tmp_path]):
        assert found.alive in (True, False, None)
        assert found.sealed is None or isinstance(found.sealed, Path)
        assert isinstance(found.number("recorded"), int | float)
        assert found.text("state").isprintable()


def test_a_writer_never_shows_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    state.write(path, values())
    before = path.stat().st_ino
    state.write(path, values(label="y"))
    assert path.stat().st_ino != before and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(OSError):
        state.write(tmp_path / "none" / "x.json", values())


def test_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RUN", tmp_path / "no" / "such")
    environment = {"RUNTIME_DIRECTORY": f"/run/other:{tmp_path}/hindsight", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert state.own_directory(environment) == tmp_path / "hindsight"
    assert (tmp_path / "hindsight").stat().st_mode & 0o777 == 0o755
    assert state.own_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "hindsight"
    with pytest.raises(OSError):
        state.own_directory({})
