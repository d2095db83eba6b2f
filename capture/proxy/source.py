"""Proxies as sources of a recording: their snapshots become rows on the clock of the trace.

``proxy_snapshots`` has a row for each snapshot, ``proxy_values`` one for each value in it,
``proxy_quantities`` one for each name, once a recording. Snapshots that a sequence number shows to be
missing are losses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from hindsight.capture import host
from hindsight.capture.options import RecordOptions
from hindsight.capture.proxy.client import Bounded, Order, Proxy
from hindsight.capture.proxy.document import DocumentProxy
from hindsight.capture.proxy.guard import BUDGET_S
from hindsight.capture.proxy.records import Snapshot
from hindsight.capture.proxy.registry import proxies
from hindsight.capture.recording.ledger import Loss
from hindsight.capture.recording.sampler import Sampled
from hindsight.capture.segments.rowfiles import Columns, Rows

SNAPSHOTS, VALUES, QUANTITIES = "proxy_snapshots", "proxy_values", "proxy_quantities"


class ProxySource:
    """One proxy, sampled every ``every_s`` seconds (:class:`~hindsight.capture.recording.sampler.Source`).

    ``hidden`` makes a pseudonym of what identifies the boot. A proxy that hangs keeps the thread that samples
    it, and the sampler says so; one that can be waited for is asked again.
    """

    table = SNAPSHOTS

    def __init__(self, proxy: Proxy, every_s: float, hidden: Callable[[str], str]) -> None:
        self.name = f"proxy {proxy.name}"
        self.every_s = every_s
        if isinstance(proxy, DocumentProxy):
            proxy.start()  # now: a recording leaves the threads that exist when it begins out of the trace
        self._proxy = proxy
        self._snapshot = (
            partial(proxy.snapshot_within, BUDGET_S) if isinstance(proxy, Bounded) else proxy.snapshot
        )
        self._hidden = cache(hidden)
        self._order = Order()
        self._described = ""
        self._last_ns = 0

    def sample(self) -> Sampled:
        """Read the proxy once. Raises what is wrong with it."""
        begun = time.monotonic_ns()
        snapshot = self._snapshot()
        now = time.monotonic_ns()
        missing = self._order.follow(snapshot)
        if missing < 0:  # nothing new
            return Sampled({})
        losses = []
        if missing and self._last_ns:
            cause = f"{self.name}: snapshots that it made and that were not read"
            losses.append(Loss(None, None, SNAPSHOTS, self._last_ns, now, missing, missing, cause))
        self._last_ns = now
        rows: dict[str, Rows] = {}
        if self._described != snapshot.subsystem:
            self._described = snapshot.subsystem
            rows[QUANTITIES] = list(self._quantities(snapshot))
        rows[SNAPSHOTS] = [self._row(snapshot, now, now - begun)]
        rows[VALUES] = values(snapshot, now)
        return Sampled(rows, losses)

    def _row(self, snapshot: Snapshot, now: int, read_ns: int) -> dict[str, Any]:
        return {
            "ts": now,
            "proxy": snapshot.proxy,
            "subsystem": snapshot.subsystem,
            "boot_id": self._hidden(snapshot.boot_id),
            "sequence": snapshot.sequence,
            "mono_ns": snapshot.mono_ns,
            "read_ns": read_ns,
            "mode": snapshot.mode,
            "dataset_type": snapshot.dataset.type,
            "dataset_state": snapshot.dataset.state,
            "dataset_offset": snapshot.dataset.offset,
            "dataset_size": snapshot.dataset.size,
        }

    def _quantities(self, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
        for quantity in self._proxy.describe().quantities.values():
            yield {"proxy": snapshot.proxy, "subsystem": snapshot.subsystem} | quantity._asdict()

    def close(self) -> None:
        """Let go of the proxy."""
        self._proxy.close()


def values(snapshot: Snapshot, ts: int) -> Columns:
    """The rows of ``proxy_values`` of a snapshot: state, actuators, lost, each by name."""
    each = {"ts": ts, "proxy": snapshot.proxy, "sequence": snapshot.sequence}
    free = {"min": None, "max": None, "scope": None}
    state, actuators, lost = sorted(snapshot.state), sorted(snapshot.actuators), sorted(snapshot.lost)
    return Columns(
        [
            {**each, "kind": "state", "name": state, "value": [snapshot.state[n] for n in state], **free},
            {
                **each,
                "kind": "actuator",
                "name": [actuator.name for actuator in actuators],
                "value": [actuator.current for actuator in actuators],
                "min": [actuator.min for actuator in actuators],
                "max": [actuator.max for actuator in actuators],
                "scope": [actuator.scope for actuator in actuators],
            },
            {**each, "kind": "lost", "name": lost, "value": [snapshot.lost[n] for n in lost], **free},
        ]
    )


def sources(options: RecordOptions) -> list[ProxySource]:
    """The proxies that a recording reads. Raises UsageError for a wrong name, OSError without a key."""
    if not options.proxies:
        return []
    key = host.host_key(options.out)
    wanted = {proxy.name: proxy for names in options.proxies for proxy in proxies(names)}
    return [
        ProxySource(proxy, options.every_s, lambda boot: host.pseudonym(key, f"boot:{boot}"))
        for proxy in wanted.values()
    ]
