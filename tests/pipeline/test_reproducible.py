from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import reproducible
from conftest import HERE, make_params
from datasets import write_dataset

from hindsight.pipeline import params, stages
from hindsight.subsystems.contract import Subsystem


@pytest.mark.slow
def test_a_lesser_processor_gives_the_same_bytes(toy: Subsystem, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        write_dataset(root / "data" / "toy", reads=300)
        make_params(root, train={"trees": 20, "depth": 4})
    for stage in reproducible.STAGES:
        stages.run(stage, params.load(first / "params.yaml"), toy)
    command = [sys.executable, str(HERE / "with_toy.py")]
    reproducible.run(second, "toy", command, reproducible.lesser_processor(tmp_path))
    found = reproducible.outputs(first, "toy")
    assert len(found) > 20
    assert reproducible.differences(found, reproducible.outputs(second, "toy")) == []


def test_the_environment_really_takes_the_vector_units_away(tmp_path: Path) -> None:
    if not reproducible.numpy_features():
        pytest.skip("this processor has nothing that could be taken away")
    line = (
        "from numpy._core import _multiarray_umath as u\n"
        "print([n for n in u.__cpu_dispatch__ if u.__cpu_features__.get(n)])\n"
        "import numba; from numba.core import codegen\n"
        "print(numba.config.CPU_NAME)"
    )
    env = reproducible.lesser_processor(tmp_path)
    done = subprocess.run([sys.executable, "-c", line], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["[]", "generic"], done.stderr
    assert os.environ.get("NUMBA_CPU_NAME") != "generic"


def test_a_difference_is_named() -> None:
    assert reproducible.differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]
