"""Which recorders run on this host, how they fare, and what killed ones have left."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hindsight.capture import owner
from hindsight.capture.operation.state import State, running

_INSTANCES = (Path("/sys/kernel/tracing/instances"), Path("/sys/kernel/debug/tracing/instances"))
_PREFIX = "hindsight-"
_STALE_S = 10.0
CLEAN = "sudo hindsight capture clean"


def survey() -> dict[str, Any]:
    """What runs and what was left, for JSON. ``ok`` is False when something wants attention.

    ``recorders``: each state file, with ``alive`` (null: in another pid namespace), ``lag_s`` since it last
    published, and ``remedy`` when something is wrong. ``abandoned``: tracefs instances of dead recorders.
    """
    states = running()
    recorders = [_row(state) for state in states]
    left = [path.name for path in abandoned_instances()]
    fine = not left and all(row["remedy"] is None for row in recorders)
    return {
        "ok": fine,
        "recorders": recorders,
        "abandoned": left,
        "remedy": CLEAN if left else None,
        "sees_instances": any(os.access(path, os.R_OK | os.X_OK) for path in _INSTANCES),
    }


def abandoned_instances() -> Iterator[Path]:
    """The tracefs instances whose recorder is dead, as far as this process may look."""
    for directory in _INSTANCES:
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(directory))
            for name in names:
                who = owner.parse(name.removeprefix(_PREFIX).rpartition("-")[0])
                if name.startswith(_PREFIX) and who is not None and who.alive is False:
                    yield directory / name
            return


def _row(state: State) -> dict[str, Any]:
    alive = state.alive
    lag = max(time.time() - state.number("updated"), 0.0) if state.number("updated") else None
    remedy = None
    if alive is False:
        remedy = f"{CLEAN} -o {state.out}"
    elif alive and lag is not None and lag > _STALE_S:
        remedy = f"it has not been heard of for {lag:.0f} s: look at process {state.owner.pid}"
    values = {name: value for name, value in state.values.items() if name not in ("version", "boot")}
    return values | {
        "alive": alive,
        "state": "dead" if alive is False else state.text("state") or "unknown",
        "lag_s": None if lag is None else round(lag, 3),
        "unsealed": unsealed(state),
        "remedy": remedy,
    }


def unsealed(state: State) -> list[str]:
    """The segments of this capture that are not sealed (yet), by name, ascending."""
    prefix = f".recording-{state.capture}-"
    with contextlib.suppress(OSError):
        return sorted(name[11:] for name in os.listdir(state.out) if name.startswith(prefix))
    return []


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The survey for a terminal."""
    for row in found["recorders"]:
        yield from _recorder(row)
    if not found["recorders"]:
        yield "no recorder runs"


def _recorder(row: dict[str, Any]) -> Iterator[str]:
    def number(name: str) -> float:
        value = row.get(name)
        return value if isinstance(value, int | float) else 0

    yield f"{_printable(row['capture'])}  {_printable(row['state'])}"
    elapsed = max(time.time() - number("started"), 1e-9)
    since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(number("started")))
    recorded, lost, rate = (f"{number(name):,.0f}" for name in ("recorded", "lost", "rate"))
    mean = number("cpu_ns") / 1e7 / elapsed
    facts = [
        ("since", f"{since} ({_span(elapsed)})"),
        ("process", ", ".join(str(row.get(name)) for name in ("pid", "profile", "mode", "source"))),
        ("out", row["out"]),
        ("events", f"{recorded} recorded, {lost} lost, {rate}/s"),
        ("trace", f"{_size(number('raw_bytes'))} raw, {_size(number('lag_bytes'))} wait in the ring buffers"),
        ("own cost", f"{number('cpu_percent'):.2f} % of a processor, {mean:.2f} % on average"),
        ("memory", f"{_size(number('rss_bytes'))} resident, {_size(number('ring_bytes'))} ring buffers"),
        ("disk", f"{_size(number('disk_bytes'))} of recordings, {_size(number('free_bytes'))} free"),
        ("segments", f"{number('segments'):.0f} sealed, last {row.get('sealed') or '-'}"),
    ]  # fmt: skip
    if isinstance(row.get("shed"), list) and row["shed"]:
        facts.append(("shed", ", ".join(map(str, row["shed"]))))
    if row["alive"] is False and row["unsealed"]:
        facts.append(("unsealed", ", ".join(row["unsealed"])))
    for name, text in facts:
        yield f"  {name:9} {_printable(text)}"


def _printable(text: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(text))


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _span(seconds: float) -> str:
    parts: Iterable[tuple[int, str]] = ((86400, "d"), (3600, "h"), (60, "min"))
    for length, unit in parts:
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
