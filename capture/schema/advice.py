"""Tables of an advisor's journal: what was recommended to a proxy, upon what, and what it brought.

The members are those of the records (:mod:`hindsight.capture.proxy.records`), plus what learning from them
takes. No recorder writes them: an advisor does, beside the tables of the capture in which it advised.
"""

from __future__ import annotations

from hindsight.capture.schema.table import Column, Table

_PROXY = Column("proxy", "str", "id of the proxy")
_ID = Column("id", "str", "id of the recommendation, unique for the proxy")
_PPM = "parts per million"


def _window(name: str, meaning: str) -> tuple[Column, ...]:
    return (
        Column(f"{name}_from_ns", "i64", f"{meaning}: begin, CLOCK_MONOTONIC", "ns"),
        Column(f"{name}_to_ns", "i64", f"{meaning}: end, CLOCK_MONOTONIC", "ns"),
        Column(f"{name}_n", "u64", f"{meaning}: operations in it"),
        Column(f"{name}_total", "i64", f"{meaning}: sum of the metric over them, in `unit`"),
    )


ADVICE = (
    Table(
        "recommendations",
        (
            Column("ts", "i64", "it was sent, CLOCK_MONOTONIC", "ns"),
            _PROXY,
            Column("subsystem", "str", "subsystem that the proxy speaks for"),
            _ID,
            Column("sequence", "u64", "the snapshot that it is based on"),
            Column("actuator", "str", "what to set"),
            Column("target", "str", "of what, within the scope of the actuator; empty: all of it"),
            Column("value", "i64", "to what"),
            Column("ttl_ns", "u64", "after this time it must not be applied any more", "ns"),
            Column("confidence_ppm", "u32", "confidence of the model", _PPM),
            Column("model", "str", "id of the model"),
            Column("action", "str", "name of the subsystem's action that it stands for"),
            Column("predicted_gain_ppm", "i64", "share of the cost that the model expected to save", _PPM),
            Column("propensity_ppm", "u32", "probability of applying it; null: not randomised", _PPM, True),
            Column("applied", "bool", "it was in force; false: shadow, hold-out, refused"),
            Column("answered_ns", "i64", "the proxy answered, CLOCK_MONOTONIC; null: never", "ns", True),
            Column("verdict", "str", "accepted, clamped, tested or refused; null: no answer", "", True),
            Column("used", "i64", "the value that was set; null: none", "", True),
            Column("read_back", "i64", "the value that was then read; null: it could not be", "", True),
            Column("reason", "str", "why it was refused, as an errno; null: it was not", "", True),
        ),
        "recommendations to proxies and their answers, in the order in which they were sent",
    ),
    Table(
        "recommendation_features",
        (
            _PROXY,
            _ID,
            Column("feature", "str", "name of the subsystem's feature"),
            Column("bits", "u32", "its value, as the 32 bits of an IEEE 754 float32: exact, NaN included"),
        ),
        "what the model saw when it recommended: one row per recommendation and feature",
    ),
    Table(
        "efficiency",
        (
            Column("ts", "i64", "the advisor had it, CLOCK_MONOTONIC", "ns"),
            _PROXY,
            _ID,
            Column("metric", "str", "what was measured"),
            Column("unit", "str", "its unit"),
            *_window("baseline", "without the recommendation"),
            *_window("treated", "with it"),
            Column("noise_ppm", "u64", "half width of the 95 % interval of the baseline", _PPM),
            Column("verdict", "str", "better, worse, same or unknown (too few)"),
            Column("effective_from_ns", "i64", "what was opened or began earlier may not be affected", "ns"),
        ),
        "what recommendations changed, as the proxy measured it",
    ),
)
