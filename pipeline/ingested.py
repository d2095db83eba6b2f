"""What the stage ingest left for the later ones: captures, with their facts and their demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hindsight.pipeline.params import Layout
from hindsight.pipeline.store import read_json, read_tables
from hindsight.subsystems.contract import Simulation, Subsystem

if TYPE_CHECKING:
    from hindsight.pipeline.demand import Demand

Calibration = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Ingested:
    """One capture. ``facts``: capture, host, workload, program, device, start_ns, end_ns (wall clock)."""

    facts: Mapping[str, Any]
    demand: Demand

    @property
    def id(self) -> str:
        """Id of the capture."""
        return str(self.facts["capture"])

    def simulation(
        self, subsystem: Subsystem, calibration: Calibration, decision: Mapping[str, Any], **changed: int
    ) -> Simulation:
        """A simulation at its beginning; ``changed`` replaces parameters of the decision."""
        return subsystem.simulation(self.demand, calibration, {**decision, **changed})


def load(layout: Layout) -> list[Ingested]:
    """All ingested captures, by start."""
    manifest = read_json(layout.ingest / "manifest.json")
    return [
        Ingested(facts, read_tables(layout.ingest / "demand" / facts["capture"]))
        for facts in manifest["captures"]
    ]
