"""What the comparison of a replay with the record says of one file."""

from __future__ import annotations

from typing import Any

import pytest

from hindsight.errors import ConfigurationError
from hindsight.pipeline.fidelity import of_file, total


def stream(file: str, recorded: int, emitted: int, matched: int, reason: str = "") -> dict[str, Any]:
    return {"file": file, "reason": reason, "recorded": recorded, "emitted": emitted, "matched": matched}


def capture(*streams: dict[str, Any], first: str | None = None) -> dict[str, Any]:
    names = ("recorded", "compared", "matched", "missing", "extra", "unattributed")
    return {
        **dict.fromkeys(names, 100),
        "exact_share": 1.0,
        "one_step": 100,
        "first_divergence": {"file": first} if first else None,
        "per_stream": [*streams, {"stream": None, "reason": "not caused by a read call", "recorded": 7}],
    }


def test_the_streams_of_one_file_are_counted() -> None:
    one, other = "7:1/12", "7:1/13"
    captures = {
        "a": capture(stream(one, 10, 11, 9), stream(one, 5, 5, 5), stream(other, 80, 80, 80), first=one),
        "b": capture(stream(other, 3, 3, 2), first=other),
        "c": capture(stream(one, 4, 4, 4, "written or truncated while traced"), first=other),
    }
    found = of_file({"total": total(captures), "captures": captures}, one)
    assert set(found["captures"]) == {"a", "c"}
    assert found["captures"]["a"]["first_divergence"] == {"file": one}
    assert found["captures"]["c"]["first_divergence"] is None
    assert found["captures"]["c"]["exact_share"] is None, "it carries no verdict"
    counts = {k: found["total"][k] for k in ("recorded", "compared", "matched", "missing", "extra")}
    assert counts == {"recorded": 15, "compared": 16, "matched": 14, "missing": 1, "extra": 2}
    with pytest.raises(ConfigurationError, match="7:1/14"):
        of_file({"total": {}, "captures": captures}, "7:1/14")
