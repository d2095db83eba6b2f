"""What a subsystem offers to the engine. The engine knows this module and no subsystem by name.

A subsystem is a package ``hindsight.subsystems.<name>`` that has an attribute ``SUBSYSTEM`` which implements
:class:`Subsystem`. :func:`load` finds it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import ConfigurationError

Columns = Mapping[str, NDArray[Any]]
"""One table: column name -> 1-D array; all of one length; strings as object arrays."""

Tables = Mapping[str, Columns]
"""Table name -> columns, as ``capture.schema`` names them. A table without rows is absent."""

KEEP = -1
"""The action that leaves the kernel's own setting (and the application's own advice) as it is."""


class Label(Enum):
    """What kind of number a metric is; every figure carries one, in code, in JSON and on the page."""

    EXACT = "exact"
    BOUNDED = "bounded"
    MODELLED = "modelled"
    MEASURED = "measured"


@dataclass(frozen=True)
class Feature:
    """One input of a model: known at the moment of the decision, nothing from the future."""

    name: str
    unit: str
    low: float
    high: float
    meaning: str


@dataclass(frozen=True)
class Action:
    """One thing that may be recommended; ``encoding`` is appended to the features of a candidate."""

    name: str
    meaning: str
    encoding: tuple[float, ...]


@dataclass(frozen=True)
class Metric:
    """One figure of efficiency; the first of a subsystem is the cost that decides."""

    name: str
    unit: str
    label: Label
    meaning: str
    lower_is_better: bool = True


@dataclass(frozen=True)
class Fidelity:
    """Emitted against recorded decisions. ``exact_share`` = matched / recorded."""

    recorded: int
    compared: int
    matched: int
    missing: int
    extra: int
    unattributed: int
    first_divergence: dict[str, Any] | None
    per_stream: tuple[dict[str, Any], ...]
    one_step: int | None = None
    """Of the recorded ones how many come out if each begins with the recorded state; None: not looked at."""

    @property
    def exact_share(self) -> float:
        """Share of the recorded decisions that the replay reproduced; 1.0 where none was recorded."""
        return self.matched / self.recorded if self.recorded else 1.0


class Simulation(Protocol):
    """The demand of one capture, replayed in simulated time under any policy.

    Deterministic: the same calls give the same integers. Not thread-safe; different simulations may run in
    different threads (the compiled parts release the GIL).
    """

    def reset(self, static: int = KEEP) -> None:
        """Back to the beginning; ``static`` is the action in force for every stream from its opening."""

    def advance(self) -> int:
        """Run to the next decision epoch; returns the stream that may decide, -1 at the end of the demand."""

    def features(self, out: NDArray[np.float32]) -> None:
        """Write the features of the stream at whose epoch the simulation stands (shape (n_features,))."""

    def act(self, action: int) -> None:
        """Take an action (index into ``Subsystem.actions``, or KEEP) for that stream, effective after the
        advice delay."""

    def rollout(self, action: int, horizon_ns: int) -> int:
        """The cost (first metric, all streams of the capture) of the demand of the next ``horizon_ns`` of
        recorded time if that stream takes ``action`` now and nobody is advised afterwards (streams with an
        earlier advice keep it). The simulation stands afterwards where it stood before."""

    def account(self) -> NDArray[np.int64]:
        """Metrics so far per time block: shape (n_blocks, n_metrics). A piece of demand belongs to the block
        of its *recorded* time, whatever the policy; only eligible streams count."""

    def stream_account(self) -> NDArray[np.int64]:
        """Metrics so far per stream: shape (n_streams, n_metrics)."""

    def course(self, stream: int) -> dict[str, Columns]:
        """What a stream has asked for and what the kernel did for it so far, to be drawn over time.

        ``asked`` has ``ts`` (recorded, ns), ``begin``, ``end`` (in units of the subsystem, ``end`` not
        included), ``fetched`` the same and ``used``, how many of its units were asked for by somebody.
        """

    def bound(self) -> int:
        """A proven lower bound of the cost of the whole capture under the model of this simulation."""


class Subsystem(Protocol):
    """One kernel decision."""

    name: str
    summary: str
    tables: tuple[str, ...]
    """Trace tables from which the demand comes (any may be absent); never a decision table."""
    decision_tables: tuple[str, ...]
    """What the kernel decided; read by :meth:`compare` alone."""
    actions: tuple[Action, ...]
    keep_encoding: tuple[float, ...]
    """Encoding of :data:`KEEP`, as long as those of the actions."""
    features: tuple[Feature, ...]
    metrics: tuple[Metric, ...]
    course_unit: str
    """Unit of :meth:`Simulation.course`."""
    reasons: tuple[str, ...]
    """Why a stream carries no verdict; index 0 is "" (it does carry one)."""
    rule_name: str
    """The trivial rule in words."""

    def demand(self, tables: Tables) -> dict[str, Columns]:
        """The exogenous demand of one capture, as flat tables that the engine stores as they are.

        ``streams`` is always among them, one row per stream, with at least ``device`` (str), ``program``
        (str), ``file`` (str, a name that tells files apart), ``eligible`` (bool), ``reason`` (u8, index into
        ``reasons``), ``recorded_ns`` (i64, time that its demand took when recorded).
        Raises ConfigurationError if the tables hold no demand, saying which are missing.
        """

    def replay(self, demand: Mapping[str, Columns]) -> Columns:
        """Decisions of the kernel's own logic, driven by the demand alone, in recorded order."""

    def compare(self, emitted: Columns, recorded: Tables, demand: Mapping[str, Columns]) -> Fidelity:
        """Hold emitted decisions against the recorded ones (``decision_tables``)."""

    def calibrate(self, demands: Sequence[Mapping[str, Columns]]) -> dict[str, dict[str, int]]:
        """Parameters of the model of time per device, fitted to recorded durations (integers only)."""

    def calibration_error(
        self, demand: Mapping[str, Columns], calibration: Mapping[str, Mapping[str, int]]
    ) -> tuple[int, int]:
        """(modelled, recorded) time in ns that the demand of one capture took under the stock policy."""

    def simulation(
        self,
        demand: Mapping[str, Columns],
        calibration: Mapping[str, Mapping[str, int]],
        params: Mapping[str, Any],
    ) -> Simulation:
        """A simulation at its beginning. ``params``: ``epoch_ns``, ``epoch_reads``, ``block_ns``, and
        ``advice_delay_ns``, a number or a list of which each piece of advice takes one, in a way that depends
        on where in the demand it is given and on nothing else."""

    def rule(self, features: NDArray[np.float32]) -> int:
        """The trivial rule: two lines from features to an action (or KEEP)."""


def names() -> tuple[str, ...]:
    """Names of the installed subsystems, sorted."""
    import hindsight.subsystems as package

    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg))


def load(name: str) -> Subsystem:
    """The subsystem of that name; ConfigurationError, naming those that exist, if there is none."""
    if name not in names():
        raise ConfigurationError(
            f"there is no subsystem {name!r}", f"installed subsystems: {', '.join(names()) or 'none'}"
        )
    subsystem: Subsystem = importlib.import_module(f"hindsight.subsystems.{name}").SUBSYSTEM
    return subsystem
