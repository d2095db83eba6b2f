"""Evidence → verdict and mode: a pure function, so that nobody can argue with it afterwards.

The table below is applied from the top to each evaluation; the first row that fits decides; the worst mode
over the evaluations is the verdict. ``docs/evidence.md`` shows it, and every row has a test.

====================  ======================================================================  ==============
outcome               if                                                                      mode
====================  ======================================================================  ==============
broken                an arm costs less than the proven bound, or the null model wins         emergency
unfaithful            the replay's exact share is unknown or below the threshold              emergency
no_evidence           an evaluation is missing, or has too few blocks or no interval          learning
harm                  worse than stock overall, or some workload worse without an overall     emergency
                      gain
no_difference         no significant difference to stock, or none that is shown to exceed     learning
                      what advice costs
beaten                the trivial rule is better, or the null model not beaten                learning
not_confirmed         a live check was made and is outside its error; or advice that was      learning
                      applied made it worse than none, beyond noise
gain_with_risk        gain, but one of: a workload worse, or not shown to be no worse; the    collaboration
                      rule not beaten; a single static setting better; a cost that is only
                      bounded; the model of time not calibrated; no live check; what applied
                      advice brings drifts
gain                  none of these                                                           recommendation
====================  ======================================================================  ==============

"The null model wins" means: better than stock *and* than the best single static setting. A model that
learned from shuffled labels may end up with a constant that beats a bad default; that is luck, and the row
*beaten* deals with it. It cannot honestly beat every constant: then something leaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hindsight.pipeline.evidence import wording
from hindsight.pipeline.evidence.comparisons import Finding
from hindsight.pipeline.evidence.paired import Effect
from hindsight.subsystems.contract import Label

RULE, STATIC, STATIC_EACH, NULL = "rule", "best_static", "best_static_each", "null"


NEW_HOST, LEAST_HOSTS = "new_host", 6
"""The evaluation that may be without evidence, and the fewest hosts that can give any: of five that all say
the same, chance makes 2 / 2^5, which is more than 5 %.
"""


class Mode(Enum):
    """What the evidence allows an advisor to do, from least to most."""

    EMERGENCY = "emergency"
    LEARNING = "learning"
    COLLABORATION = "collaboration"
    RECOMMENDATION = "recommendation"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return list(Mode).index(self)

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return {
            Mode.EMERGENCY: "do not use",
            Mode.LEARNING: "shadow only, or a small randomised share if the operator says so",
            Mode.COLLABORATION: "a randomised half, without the workloads at risk",
            Mode.RECOMMENDATION: "may be applied",
        }[self]


class Outcome(Enum):
    """Which row of the table decided."""

    BROKEN = "broken"
    UNFAITHFUL = "unfaithful"
    NO_EVIDENCE = "no_evidence"
    HARM = "harm"
    NO_DIFFERENCE = "no_difference"
    BEATEN = "beaten"
    NOT_CONFIRMED = "not_confirmed"
    GAIN_WITH_RISK = "gain_with_risk"
    GAIN = "gain"


MODES = {
    Outcome.BROKEN: Mode.EMERGENCY,
    Outcome.UNFAITHFUL: Mode.EMERGENCY,
    Outcome.NO_EVIDENCE: Mode.LEARNING,
    Outcome.HARM: Mode.EMERGENCY,
    Outcome.NO_DIFFERENCE: Mode.LEARNING,
    Outcome.BEATEN: Mode.LEARNING,
    Outcome.NOT_CONFIRMED: Mode.LEARNING,
    Outcome.GAIN_WITH_RISK: Mode.COLLABORATION,
    Outcome.GAIN: Mode.RECOMMENDATION,
}


@dataclass(frozen=True)
class Against:
    """The model compared with one other arm."""

    finding: Finding
    effect: Effect


@dataclass(frozen=True)
class Findings:
    """What one evaluation found. ``versus`` holds what the model was compared with besides stock.

    ``worse``, ``at_risk``, ``unknown``: names of the workloads that are significantly worse; that are not
    shown to be no worse than the margin; that have too little evidence.
    """

    evaluation: str
    stock: Against
    versus: dict[str, Against]
    null_wins: bool = False
    violations: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    at_risk: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    charge: float = 0.0
    """Processor time of advice, as a share of what stock costs."""


@dataclass(frozen=True)
class Evidence:
    """All that the verdict depends on. ``live``: whether a live check was passed; None if none was made.

    ``calibration_error``: |modelled - recorded| / recorded, held out, median; None if unknown (which only
    matters for a modelled cost). ``applied_worse``: advice that was applied cost more than none, beyond
    noise; ``drift``: warnings of what was realised, in plain words.
    """

    evaluations: tuple[Findings, ...]
    missing: tuple[str, ...]
    exact_share: float | None
    fidelity_threshold: float
    cost: str
    cost_label: Label
    hosts: int
    live: bool | None
    calibration_error: float | None
    calibration_limit: float
    margin: float
    confidence: float
    applied_worse: bool = False
    drift: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reason:
    """Why, as a word for machines and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """``line`` is the sentence to read first; ``statements`` are said whatever the verdict is."""

    outcome: Outcome
    mode: Mode
    evaluation: str | None
    line: str
    reasons: tuple[Reason, ...]
    statements: tuple[str, ...]


def decide(evidence: Evidence) -> Verdict:
    """The verdict. Pure and deterministic."""
    broken = _broken(evidence)
    if broken:
        line = "The procedure is broken: no figure on this page may be used."
        return Verdict(Outcome.BROKEN, MODES[Outcome.BROKEN], None, line, broken, ())
    if evidence.exact_share is None or evidence.exact_share < evidence.fidelity_threshold:
        return _unfaithful(evidence)
    judged = [(f, *_judge(f, evidence)) for f in evidence.evaluations]
    judged = [row for row in judged if row[1] is Outcome.HARM or not _too_few_hosts(row[0])]
    candidates: list[tuple[int, Outcome, Findings | None, tuple[Reason, ...]]] = [
        (MODES[o].rank, o, f, r) for f, o, r in judged
    ]
    if evidence.missing or not judged:
        reason = Reason(
            "evaluation_missing",
            f"No evaluation {wording.listed(evidence.missing)}: nothing is claimed there.",
        )
        candidates.append((MODES[Outcome.NO_EVIDENCE].rank, Outcome.NO_EVIDENCE, None, (reason,)))
    # The worst mode; within it the smallest gain, a missing evaluation last.
    worst = min(
        candidates, key=lambda c: (c[0], c[2] is None, c[2].stock.effect.gain if c[2] is not None else 0.0)
    )
    _, outcome, found, reasons = worst
    return Verdict(
        outcome=outcome,
        mode=MODES[outcome],
        evaluation=found.evaluation if found else None,
        line=_line(outcome, found, evidence),
        reasons=reasons,
        statements=_statements(evidence),
    )


def _too_few_hosts(found: Findings) -> bool:
    """Few hosts cannot show a gain on others: like one host, they make no claim, and no worse mode."""
    return found.evaluation == NEW_HOST and found.stock.effect.units < LEAST_HOSTS


def _broken(evidence: Evidence) -> tuple[Reason, ...]:
    out = []
    for found in evidence.evaluations:
        if found.violations:
            out.append(
                Reason(
                    "bound_violated",
                    f"Cheaper than the proven bound {wording.on(found.evaluation)}: "
                    f"{wording.listed(found.violations)}. The bound or the replay is wrong.",
                )
            )
        if found.null_wins:
            effect = found.versus[NULL].effect if NULL in found.versus else None
            cost = f" (the model against it: {wording.signed(effect.gain)})" if effect else ""
            out.append(
                Reason(
                    "null_wins",
                    "A model that learned from shuffled labels beats stock and every single static setting "
                    f"{wording.on(found.evaluation)}{cost}: something leaks.",
                )
            )
    return tuple(out)


def _unfaithful(evidence: Evidence) -> Verdict:
    wanted = f"{evidence.fidelity_threshold * 100:g} %"
    if evidence.exact_share is None:
        said = "how faithfully the replay reproduces the kernel's own decisions was not measured"
    else:
        # Cut, not rounded: 98.96 % must not be shown as the 99 % that it misses.
        cut = int(evidence.exact_share * 10_000) / 100
        said = f"the replay reproduces {cut:.2f} % of the kernel's own decisions"
    text = f"{said[0].upper()}{said[1:]}; {wanted} is needed."
    reason = Reason("replay_not_faithful", text)
    line = f"No verdict: {said}; {wanted} is needed."
    return Verdict(Outcome.UNFAITHFUL, MODES[Outcome.UNFAITHFUL], None, line, (reason,), ())


def _judge(found: Findings, evidence: Evidence) -> tuple[Outcome, tuple[Reason, ...]]:
    stock, where = found.stock, wording.on(found.evaluation)
    rule, null = found.versus.get(RULE), found.versus.get(NULL)
    if stock.finding is Finding.UNKNOWN:
        text = f"Too little data {where}: {stock.effect.blocks} blocks in {stock.effect.units} units."
        return Outcome.NO_EVIDENCE, (Reason("too_few_blocks", text),)
    if stock.finding is Finding.WORSE:
        return Outcome.HARM, (Reason("worse_overall", f"Significantly worse than stock {where}."),)
    if found.worse and stock.finding is not Finding.BETTER:
        text = f"No gain overall {where}, and worse on {wording.listed(found.worse)}."
        return Outcome.HARM, (Reason("workload_worse", text),)
    if stock.finding is Finding.SAME:
        return Outcome.NO_DIFFERENCE, (
            Reason("no_difference", f"No significant difference to stock {where}."),
        )
    if found.charge > 0 and (stock.effect.low is None or stock.effect.low <= found.charge):
        text = f"The gain is not shown to exceed what advice costs {where} ({wording.share(found.charge)})."
        return Outcome.NO_DIFFERENCE, (Reason("costs_more", text),)
    beaten = []
    if rule is not None and rule.finding is Finding.WORSE:
        beaten.append(Reason("rule_better", f"The trivial rule is better {where}: use the rule."))
    if null is not None and null.finding is not Finding.BETTER:
        text = f"Not shown to beat a model that learned from shuffled labels {where}."
        beaten.append(Reason("null_as_good", text))
    if beaten:
        return Outcome.BEATEN, tuple(beaten)
    unconfirmed = []
    if evidence.live is False:
        text = "The prediction did not come true when it was run live."
        unconfirmed.append(Reason("live_check_failed", text))
    if evidence.applied_worse:
        text = "Advice that was applied made it worse than no advice, beyond noise."
        unconfirmed.append(Reason("applied_worse", text))
    if unconfirmed:
        return Outcome.NOT_CONFIRMED, tuple(unconfirmed)
    risks = _risks(found, evidence)
    return (Outcome.GAIN_WITH_RISK, risks) if risks else (Outcome.GAIN, (Reason("gain", f"A gain {where}."),))


def _risks(found: Findings, evidence: Evidence) -> tuple[Reason, ...]:
    where, out = wording.on(found.evaluation), []
    rule, static = found.versus.get(RULE), found.versus.get(STATIC)
    if found.worse:
        out.append(Reason("workload_worse", f"Worse {where}: {wording.listed(found.worse)}."))
    if found.at_risk:
        text = f"Not shown to be within {evidence.margin * 100:g} % of stock {where}: "
        out.append(Reason("workload_at_risk", text + wording.listed(found.at_risk) + "."))
    if found.unknown:
        text = f"Too few blocks to say {where}: {wording.listed(found.unknown)}."
        out.append(Reason("workload_unknown", text))
    if rule is None or rule.finding is not Finding.BETTER:
        out.append(Reason("rule_not_beaten", f"Not shown to beat the trivial rule {where}."))
    if static is not None and static.finding is Finding.WORSE:
        text = f"One static setting for everything would have been better {where}: set that instead."
        out.append(Reason("static_better", text))
    if evidence.cost_label is Label.BOUNDED:
        out.append(Reason("bounded", "The cost is known between bounds only."))
    if evidence.cost_label is Label.MODELLED:
        error = evidence.calibration_error
        if error is None:
            out.append(Reason("not_calibrated", "How far the model of time is off was not measured."))
        elif error > evidence.calibration_limit:
            text = f"The model of time is off by {wording.share(error)} (median of held-out captures)."
            out.append(Reason("not_calibrated", text))
    if evidence.live is None:
        out.append(Reason("no_live_check", "No prediction has been checked live yet."))
    out += [Reason("drift", warning) for warning in evidence.drift]
    return tuple(out)


def _line(outcome: Outcome, found: Findings | None, evidence: Evidence) -> str:
    if found is None:
        return "Not enough evidence: an evaluation is missing."
    effect, where = found.stock.effect, wording.on(found.evaluation)
    change = wording.change(effect, evidence.cost)
    detail = f"({wording.span(effect, evidence.confidence)})"
    match outcome:
        case Outcome.NO_EVIDENCE:
            return f"Not enough evidence to say whether the model helps {where}."
        case Outcome.HARM if found.stock.finding is Finding.WORSE:
            return f"Do not use this model: it {change} {where} {detail}."
        case Outcome.HARM:
            return f"Do not use this model: no gain overall, and worse on {wording.listed(found.worse)}."
        case Outcome.NO_DIFFERENCE if found.stock.finding is Finding.BETTER:
            return f"The model {change} {where} {detail}, but not by more than its advice is shown to cost."
        case Outcome.NO_DIFFERENCE:
            seen = ""
            if effect.detectable is not None:
                seen = f"; a difference of {wording.share(effect.detectable)} would have been seen"
            return (
                f"No significant difference to stock {where}: {wording.signed(effect.gain)} {detail}{seen}."
            )
        case Outcome.BEATEN:
            rule = found.versus.get(RULE)
            if rule is not None and rule.finding is Finding.WORSE:
                return f"The model {change} {where} {detail}, but the trivial rule is better."
            simpler = "one that learned from shuffled labels"
            return f"The model {change} {where} {detail}, but is not shown to beat {simpler}."
        case Outcome.NOT_CONFIRMED:
            against = "the live check" if evidence.live is False else "what was realised live"
            return f"The replay says that the model {change} {where} {detail}; {against} disagrees."
        case Outcome.GAIN_WITH_RISK if found.worse:
            return f"The model {change} {where} {detail}, but makes {wording.listed(found.worse)} worse."
        case Outcome.GAIN_WITH_RISK:
            return f"The model {change} {where} {detail}, with reservations."
        case _:
            return f"The model {change} {where} {detail}, and no workload is worse."


def _statements(evidence: Evidence) -> tuple[str, ...]:
    """What is said whatever the verdict: of the evaluation with the smallest gain."""
    out = []
    if evidence.evaluations:
        shown = [f for f in evidence.evaluations if not _too_few_hosts(f)] or evidence.evaluations
        found = min(shown, key=lambda f: f.stock.effect.gain)
        names = {
            RULE: "the trivial rule",
            STATIC: "the best single static setting",
            STATIC_EACH: "the best static setting per workload, picked in hindsight",
        }
        for key, name in names.items():
            versus = found.versus.get(key)
            out.append(
                wording.against(
                    name,
                    versus.finding if versus else None,
                    versus.effect if versus else None,
                    evidence.confidence,
                )
            )
    if evidence.hosts <= 1:
        out.append("One host: no claim across hosts.")
    elif evidence.hosts < LEAST_HOSTS:
        out.append(f"{evidence.hosts} hosts: too few for a claim across hosts.")
    return tuple(out)
