"""Stage train: one regressor of the relative cost of each action, and the same with each program left out,
and with each host where there are several.

Every model learns from the states of featurize and then, in rounds, from the states that it reaches itself
(Ross, Gordon, Bagnell 2011: dataset aggregation), on training captures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import ConfigurationError
from hindsight.pipeline.evidence.splits import check_new_host, check_new_workload
from hindsight.pipeline.featurize import read_decisions
from hindsight.pipeline.ingested import Calibration, Ingested, load
from hindsight.pipeline.labels import Labeller, States, join, relative
from hindsight.pipeline.parallel import each
from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.policies import ModelPolicy, candidates
from hindsight.pipeline.realised import Realised, rows_to_learn
from hindsight.pipeline.realised import load as load_realised
from hindsight.pipeline.realised import summary as realised_summary
from hindsight.pipeline.split import Split, hosts, programs, tomorrow, without_host, without_program
from hindsight.pipeline.store import read_json, rounded, write_bytes, write_json
from hindsight.subsystems.contract import Subsystem

if TYPE_CHECKING:
    import xgboost

Parts = tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]
"""Facts of captures: (training, test)."""
Check = Callable[[Iterable[Mapping[str, Any]], Iterable[Mapping[str, Any]]], None]
"""Of (training, test): raises VerificationError if the test leaks."""


@dataclass(frozen=True)
class Examples:
    """What a regressor sees: one row per state and candidate (KEEP among them).

    inputs (n, n_features + n_encoding) f32, targets (n,) f32, weights (n,) f32.
    """

    inputs: NDArray[np.float32]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]


def examples(subsystem: Subsystem, states: States, labels: Mapping[str, Any]) -> Examples:
    """States as rows. A state weighs as the square root of its cost: what matters counts, but the one slow
    device doesn't drown the others."""
    rows = candidates(subsystem)
    n_states, n_candidates, n_features = len(states), len(rows), len(subsystem.features)
    inputs = np.tile(rows, (n_states, 1))
    inputs[:, :n_features] = np.repeat(states.features, n_candidates, axis=0)
    worth = np.sqrt((states.costs[:, -1] + int(labels["scale"])) / int(labels["scale"]))
    return Examples(
        inputs,
        relative(states.costs, labels).reshape(-1),
        np.repeat(worth.astype(np.float32), n_candidates),
    )


def with_realised(rows: Examples, subsystem: Subsystem, realised: Realised, params: Params) -> Examples:
    """``rows``, then what recommendations really changed; ``rows`` themselves if there is none of it."""
    if not len(realised):
        return rows
    inputs, targets, weights = rows_to_learn(subsystem, realised, params)
    return Examples(
        np.concatenate([rows.inputs, inputs]),
        np.concatenate([rows.targets, targets]),
        np.concatenate([rows.weights, weights]),
    )


def shuffled(rows: Examples, seed: int) -> Examples:
    """The same rows without information: targets permuted over states and actions, each with a random sign,
    so that not even the average gain of advising is left to learn."""
    generator = np.random.Generator(np.random.PCG64(seed))
    order = generator.permutation(len(rows.targets))
    signs = generator.integers(0, 2, len(rows.targets)).astype(np.float32) * 2 - 1
    return Examples(rows.inputs, rows.targets[order] * signs, rows.weights)


def fit(rows: Examples, names: Sequence[str], train: Mapping[str, Any]) -> xgboost.Booster:
    """Gradient-boosted trees; one thread and fixed seeds: the same bytes everywhere."""
    import xgboost

    options = {
        "objective": "reg:squarederror",
        "base_score": 0.0,
        "tree_method": "hist",
        "max_bin": train["max_bin"],
        "max_depth": train["depth"],
        "learning_rate": train["learning_rate"],
        "min_child_weight": train["min_child_weight"],
        "reg_lambda": train["reg_lambda"],
        "subsample": train["subsample"],
        "seed": train["seed"],
        "nthread": 1,
        "verbosity": 0,
    }
    matrix = xgboost.DMatrix(
        rows.inputs, rows.targets, weight=rows.weights, feature_names=list(names), nthread=1
    )
    return xgboost.train(options, matrix, num_boost_round=train["trees"])


def input_names(subsystem: Subsystem) -> list[str]:
    """Names of the inputs of a model: the features, then the encoding of the action."""
    width = len(subsystem.keep_encoding)
    return [f.name for f in subsystem.features] + [f"action_{i}" for i in range(width)]


@dataclass
class Trainer:
    """Trains models on some of the captures; the labels of a state are shared by all of them.

    ``realised``: of all captures; a model is given those of its own.
    """

    params: Params
    subsystem: Subsystem
    captures: Mapping[str, Ingested]
    calibration: Calibration
    labelled: Mapping[str, States]
    realised: Realised | None = None
    labellers: dict[str, Labeller] = field(default_factory=dict)

    def labeller(self, capture: str) -> Labeller:
        """The labeller of a capture, with its simulation."""
        if capture not in self.labellers:
            simulation = self.captures[capture].simulation(
                self.subsystem, self.calibration, self.params.decision
            )
            self.labellers[capture] = Labeller(
                self.subsystem, simulation, self.params["labels"]["horizon_ns"]
            )
        return self.labellers[capture]

    def realised_of(self, captures: Sequence[str]) -> Realised:
        """What a model of these captures may learn of what was realised: no other capture's rows."""
        known = self.realised
        if known is None or not self.params["train"]["realised_weight"]:
            return Realised({"capture": np.zeros(0, object)})
        return known.measured().of(captures)

    def examples(self, states: States, captures: Sequence[str]) -> Examples:
        """What a model of these captures sees of these states, and of what was realised."""
        rows = examples(self.subsystem, states, self.params["labels"])
        return with_realised(rows, self.subsystem, self.realised_of(captures), self.params)

    def train(self, captures: Sequence[str], label: str) -> tuple[bytes, States]:
        """A model (UBJSON) of these captures alone, and all the states that it learned from.

        Raises ConfigurationError if they hold no decision.
        """
        from hindsight.models import trees

        subsystem, options = self.subsystem, self.params["train"]
        parts = [self.labelled[capture] for capture in captures if capture in self.labelled]
        if not parts:
            raise ConfigurationError(
                "the training captures hold no decision: no stream lives long enough",
                "record for longer, or lower decision.epoch_ns and decision.epoch_reads in params.yaml",
            )
        names = input_names(subsystem)
        rows = self.examples(join(parts), captures)
        model = fit(rows, names, options).save_raw("ubj")
        for number in range(self.params["labels"]["rounds"]):
            forest = trees.load(bytes(model))

            def reached(capture: str, forest: trees.Forest = forest) -> States:
                policy = ModelPolicy(subsystem, forest, self.params["decision"]["min_gain"])
                return self.labeller(capture).label(policy)

            parts += each(reached, list(captures), f"{label}, round {number + 1}")
            rows = self.examples(join(parts), captures)
            model = fit(rows, names, options).save_raw("ubj")
        return bytes(model), join(parts)


def train(params: Params, subsystem: Subsystem) -> dict[str, Any]:
    """Train the model, one model per left-out program, one per left-out host where there are several, and the
    null model; returns what training.json says.

    Raises VerificationError if a left-out program or host would be learned from.
    """
    layout = Layout(params.root, subsystem.name)
    labelled = read_decisions(layout, subsystem)
    captures = {capture.id: capture for capture in load(layout)}
    facts = [capture.facts for capture in captures.values() if capture.facts["eligible_streams"]]
    division = Split.from_json(read_json(layout.featurize / "split.json"))
    calibration = read_json(layout.featurize / "calibration.json")
    trainer = Trainer(params, subsystem, captures, calibration, labelled, load_realised(layout))

    def described(model: bytes, chosen: Sequence[Mapping[str, Any]], states: States) -> dict[str, Any]:
        realised = trainer.realised_of([f["capture"] for f in chosen])
        return describe(subsystem, model, chosen, states) | realised_summary(realised)

    chosen, _ = tomorrow(facts, division)
    model, states = trainer.train([f["capture"] for f in chosen], "model")
    write_bytes(layout.train / "model.ubj", model)
    summary: dict[str, Any] = {"model": described(model, chosen, states), "without": {}}

    learned = trainer.examples(states, [f["capture"] for f in chosen])
    rows = shuffled(learned, params["train"]["seed"])
    null = bytes(fit(rows, input_names(subsystem), params["train"]).save_raw("ubj"))
    write_bytes(layout.train / "null.ubj", null)

    def leave_out(parts: Parts, what: str, file: str, check: Check) -> dict[str, Any] | None:
        """The model without a program or a host; None where nothing is left to learn from or to test on."""
        chosen, test = parts
        if not chosen or not test or not any(f["capture"] in labelled for f in chosen):
            return None
        check(chosen, test)
        model, states = trainer.train([f["capture"] for f in chosen], f"without {what}")
        write_bytes(layout.train / file, model)
        return described(model, chosen, states) | {"file": file, "test": [f["capture"] for f in test]}

    for number, program in enumerate(programs(facts)):
        parts = without_program(facts, division, program)
        fold = leave_out(parts, program, f"without/{number:02d}.ubj", check_new_workload)
        if fold:
            summary["without"][program] = fold
    if len(hosts(facts)) > 1:
        summary["without_host"] = {}
    for number, host in enumerate(hosts(facts) if len(hosts(facts)) > 1 else ()):
        parts = without_host(facts, division, host)
        fold = leave_out(parts, host, f"without/host-{number:02d}.ubj", check_new_host)
        if fold:
            summary["without_host"][host] = fold
    write_json(layout.train / "training.json", summary)
    return summary


def support(subsystem: Subsystem, states: States) -> dict[str, list[float]]:
    """The least and the greatest value of each feature that a model learned from; [] where all were NaN."""
    found = {}
    for i, feature in enumerate(subsystem.features):
        values = states.features[:, i]
        values = values[~np.isnan(values)]
        found[feature.name] = [float(values.min()), float(values.max())] if len(values) else []
    return found


def describe(
    subsystem: Subsystem, model: bytes, chosen: Sequence[Mapping[str, Any]], states: States
) -> dict[str, Any]:
    """What a model was made of, and the share of the total gain that each input brought."""
    import xgboost

    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(model))
    scores: dict[str, Any] = booster.get_score(importance_type="total_gain")
    gains = {name: float(gain) for name, gain in scores.items()}
    whole = sum(sorted(gains.values())) or 1.0
    return {
        "captures": [f["capture"] for f in chosen],
        "states": len(states),
        "trees": booster.num_boosted_rounds(),
        "importance": {n: rounded(gains.get(n, 0.0) / whole, 4) for n in input_names(subsystem)},
        "support": support(subsystem, states),
    }
