"""Golden predictions: one table of one form; a model that gives other bits, or no answer, is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost

from hindsight.advisor import golden
from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models import apart
from hindsight.models.package import read_package

from .conftest import NAMES, Content, Shelf, parquet


def refused(shelf: Shelf, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        golden.reproduce(read_package(shelf.package))
    assert caught.value.remedy


def test_every_row_is_reproduced(shelf: Shelf) -> None:
    assert golden.reproduce(read_package(shelf.package)) == 48


def _off(content: Content) -> bytes:
    content.columns["margin"][7] = np.nextafter(content.columns["margin"][7], np.float32(np.inf))
    return parquet(content.columns)


def _null(content: Content) -> bytes:
    table = pa.table(content.columns)
    gap = pa.array([None, *content.columns["gap"][1:].tolist()], pa.float32())
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(2, "gap", gap), sink)
    return bytes(sink.getvalue().to_pybytes())


def _renamed(content: Content) -> bytes:
    names = ["reads", "gap", "streak", "action_0", "margin"]
    return parquet(dict(zip(names, content.columns.values(), strict=True)))


def _last_renamed(content: Content) -> bytes:
    return parquet(dict(zip([*NAMES[:3], "choice", "margin"], content.columns.values(), strict=True)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_off, "1 of 48 differ; row 7"),
        (_null, "has a null"),
        (_renamed, "do not name the same inputs"),
        (_last_renamed, "do not name the same inputs"),
        (lambda c: parquet({k: v.astype(np.float64) for k, v in c.columns.items()}), "not float32"),
        (lambda c: parquet({k: v[:0] for k, v in c.columns.items()}), "has no row"),
        (lambda c: parquet({k: v for k, v in c.columns.items() if k != "gap"}), "has not 4 inputs"),
        (lambda c: parquet({k: v for k, v in c.columns.items() if k != "margin"}), "has not 4 inputs"),
        (lambda c: parquet(c.columns | {"zz": c.columns["gap"]}), "has not 4 inputs"),
        (lambda c: c.files["golden.parquet"][:-9], "cannot be read"),
        (lambda c: b"", "cannot be read"),
        (lambda c: b"PAR1" * 100, "cannot be read"),
    ],
)
def test_a_table_that_is_not_the_one_meant(
    shelf: Shelf, content: Content, table: Callable[[Content], bytes], message: str
) -> None:
    content.columns["margin"] = content.columns["margin"].copy()
    shelf.put("golden.parquet", table(content))
    refused(shelf, message)


def test_another_model_is_refused(shelf: Shelf) -> None:
    rows = np.random.default_rng(9).normal(size=(100, 4)).astype(np.float32)
    matrix = xgboost.DMatrix(rows, rows[:, 0], feature_names=NAMES, nthread=1)
    booster = xgboost.train({"nthread": 1, "base_score": 0}, matrix, 2)
    shelf.put("model.ubj", bytes(booster.save_raw("ubj")))
    refused(shelf, "48 of 48 differ; row 0")


@pytest.mark.parametrize("model", [b"", b"{", b"{}", b"no model", b"{" + b"\xff" * 1000, b"\0" * 4096])
def test_what_is_no_model_is_refused(shelf: Shelf, model: bytes) -> None:
    shelf.put("model.ubj", model)
    refused(shelf, "model")


def test_a_manifest_of_another_model_is_refused(shelf: Shelf) -> None:
    shelf.restate(lambda m: m.update(xgboost_version="1.0.0"))
    refused(shelf, "the manifest says 1.0.0")
    shelf.restate(lambda m: m["features"].reverse())
    refused(shelf, "do not name the same inputs")
    shelf.restate(lambda m: m["features"].pop())
    refused(shelf, "has not 3 inputs")


BROKEN = [
    ("kill -SEGV $$", "SIGSEGV"),
    ("kill -KILL $$", "SIGKILL"),
    ("echo no >&2; exit 3", r"process that loaded it \(no\)"),
    ("printf 'bad \\033[2J' >&2; exit 1", r"\(bad \[2J\)"),
    ("exit 7", "exit status 7"),
    ("exit 0", "gave no answer"),
    ("echo junk", "gave no answer"),
    ("echo '[1]'", "gave no answer"),
    ("echo '{}'", "gave no answer"),
    ("""echo '{"rows": true}'""", "gave no answer"),
    ("""echo '{"rows": 0}'""", "gave no answer"),
    ("""echo '{"rows": 48}'; echo more""", "gave no answer"),
    ("""echo '{"rows": "48"}'""", "gave no answer"),
    ("printf '\\377\\376'", "gave no answer"),
    ("head -c 100000 /dev/zero | tr '\\0' '['", "gave no answer"),
    ("head -c 60000 /dev/zero | tr '\\0' '['", "gave no answer"),
    ("""printf '{"error": "a\\\\u001b[2Jb", "remedy": 5}'""", r"a\[2Jb"),
]


@pytest.mark.parametrize(("script", "message"), BROKEN, ids=[script[:20] for script, _ in BROKEN])
def test_whatever_becomes_of_the_child_the_parent_answers(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    # A child that an attacker has taken over may do and say anything.
    child = tmp_path / "child"
    child.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    child.chmod(0o700)
    monkeypatch.setattr(apart.sys, "executable", str(child))
    refused(shelf, message)


def test_a_child_that_hangs(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child"
    child.write_text(f"#!{shutil.which('sh')}\nexec sleep 600\n")
    child.chmod(0o700)
    monkeypatch.setattr(apart.sys, "executable", str(child))
    monkeypatch.setattr(apart, "TIMEOUT_S", 0.05)
    refused(shelf, "did not load within")


def test_a_host_that_starts_no_process(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart.sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="no process"):
        golden.reproduce(read_package(shelf.package))


def test_the_child_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "greedy.py").write_text(
        "import json, resource as r\n"
        "from hindsight.models.apart import answer\n"
        "def work(request):\n"
        "    kinds = (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_CORE)\n"
        "    print('noise on standard output')\n"
        "    try:\n"
        "        bytearray(8 << 30)\n"
        "    except MemoryError:\n"
        "        return {'limits': [r.getrlimit(k)[1] for k in kinds], 'request': request.decode()}, b''\n"
        "    return {'error': 'there was room', 'remedy': None}, b''\n"
        "answer(work)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    reply, _ = apart.ask("greedy", json.dumps("asked").encode())
    limits = reply["limits"]
    assert isinstance(limits, list)
    for found, wanted in zip(limits, (apart.MEMORY_BYTES, apart.TIMEOUT_S, apart.FILE_BYTES, 0), strict=True):
        assert 0 <= found <= wanted
    assert reply["request"] == '"asked"'
