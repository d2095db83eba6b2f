#!/usr/bin/env python3
"""How often the interval of a gain covers the truth, on data with a planted effect of 20 %.

The data are those of ``pipeline/evidence/synthetic.py``: costs of blocks that depend on the block before
(their correlation is a column), noise of 25 % in each block. The interval is that of the verdict. Prints the
table of docs/evidence.md.

    .venv/bin/python benchmarks/coverage.py
    .venv/bin/python benchmarks/coverage.py --datasets 100
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from hindsight.pipeline.evidence import synthetic
from hindsight.pipeline.evidence.paired import bootstrap
from hindsight.pipeline.evidence.panel import panels
from hindsight.pipeline.evidence.synthetic import Workload
from hindsight.pipeline.parallel import each

GAIN = 0.2
TIME = (
    (1, 10, 0.0),
    (1, 12, 0.5),
    (1, 40, 0.0),
    (1, 40, 0.5),
    (1, 40, 0.8),
    (1, 120, 0.5),
    (10, 12, 0.5),
    (10, 40, 0.8),
)
"""Captures, blocks of each, correlation."""
PROGRAMS = (4, 10, 20)
DRAWS = 500


def covers(seed: int, captures: int, blocks: int, memory: float) -> bool:
    """Whether the interval of one dataset, drawn over time, has the truth in it."""
    workloads = [Workload(f"w{i}", "p", blocks=blocks) for i in range(captures)]
    table = synthetic.blocks(workloads, seed, {"model": GAIN}, evaluations=("tomorrow",), memory=memory)
    effect = bootstrap(panels(table, ["cost_ns"])[0], draws=DRAWS, seed=1).effect("model")
    return effect.low is not None and effect.high is not None and effect.low <= GAIN <= effect.high


def covers_programs(seed: int, programs: int) -> bool:
    """The same, drawn over programs whose own gains differ around it."""
    import numpy as np

    rng = np.random.Generator(np.random.PCG64([seed, programs]))
    own = GAIN + 0.1 * rng.standard_normal(programs)
    workloads = [
        Workload(f"w{i}", f"p{i}", gains={"model": float(gain)}) for i, gain in enumerate(own.tolist())
    ]
    table = synthetic.blocks(workloads, seed, {"model": GAIN}, evaluations=("new_workload",))
    effect = bootstrap(panels(table, ["cost_ns"])[0], draws=DRAWS, seed=1, unit="program").effect("model")
    return effect.low is not None and effect.high is not None and effect.low <= GAIN <= effect.high


def share(found: Iterable[bool]) -> str:
    values = list(found)
    return f"{100.0 * sum(values) / len(values):.0f} %"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, default=400)
    args = parser.parse_args()
    seeds = list(range(args.datasets))
    print("| drawn again | units | correlation | covered |\n|---|---|---|---|")
    for captures, blocks, memory in TIME:
        found = each(lambda s, c=captures, b=blocks, m=memory: covers(s, c, b, m), seeds, "time")
        units = f"{blocks} blocks" if captures == 1 else f"{captures} captures of {blocks} blocks"
        print(f"| time | {units} | {memory:g} | {share(found)} |")
    for programs in PROGRAMS:
        found = each(lambda s, p=programs: covers_programs(s, p), seeds, "programs")
        print(f"| programs | {programs} | | {share(found)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
