"""The decision how much to read ahead, as ``subsystems.contract.Subsystem`` asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.contract import Columns, Fidelity, Tables
from hindsight.subsystems.readahead import (
    actions,
    features,
    fidelity,
    metrics,
    replay,
    rule,
    state,
    verdict,
)
from hindsight.subsystems.readahead import (
    calibration as fitting,
)
from hindsight.subsystems.readahead import (
    demand as demands,
)
from hindsight.subsystems.readahead.simulation import ReadaheadSimulation


class Readahead:
    """Per open file and epoch: a readahead limit, or exact reads."""

    name = "readahead"
    course_unit = "pages"
    summary = "how many pages the kernel reads ahead of a file that is read"

    def __init__(self) -> None:
        self.tables: tuple[str, ...] = tuple(demands.TABLES)
        self.decision_tables: tuple[str, ...] = tuple(state.DECISION_TABLES)
        self.actions = actions.ACTIONS
        self.keep_encoding: tuple[float, ...] = actions.KEEP_ENCODING
        self.features = features.FEATURES
        self.metrics = metrics.METRICS
        self.reasons: tuple[str, ...] = tuple(verdict.REASONS)
        self.rule_name = rule.NAME

    def demand(self, tables: Tables) -> dict[str, Columns]:
        """What was asked of which open file; see ``demand.build``."""
        return dict(demands.build({name: dict(columns) for name, columns in tables.items()}))

    def replay(self, demand: Mapping[str, Columns]) -> Columns:
        """Decisions of the stock logic, driven by the demand alone; see ``replay.run``."""
        return replay.run(demand)

    def compare(self, emitted: Columns, recorded: Tables, demand: Mapping[str, Columns]) -> Fidelity:
        """Emitted against recorded decisions; see ``fidelity.compare``."""
        return fidelity.compare(emitted, recorded, demand)

    def calibrate(self, demands: Sequence[Mapping[str, Columns]]) -> dict[str, dict[str, int]]:
        """Parameters of the model of time per device; see ``calibration.calibrate``."""
        return fitting.calibrate(demands)

    def calibration_error(
        self, demand: Mapping[str, Columns], calibration: Mapping[str, Mapping[str, int]]
    ) -> tuple[int, int]:
        """(modelled, recorded) time of the reads of one capture under the stock policy, in ns."""
        return fitting.calibration_error(demand, calibration)

    def simulation(
        self,
        demand: Mapping[str, Columns],
        calibration: Mapping[str, Mapping[str, int]],
        params: Mapping[str, Any],
    ) -> ReadaheadSimulation:
        """A ``simulation.ReadaheadSimulation`` at its beginning."""
        return ReadaheadSimulation(demand, calibration, params)

    def rule(self, features: NDArray[np.float32]) -> int:
        """Two lines from features to an action; see ``rule.rule``."""
        return rule.rule(features)
