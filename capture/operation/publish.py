"""Publish how a recorder fares while it runs: state file, metrics, word to the service manager."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight.capture import host
from hindsight.capture.operation import metrics, state
from hindsight.capture.operation.notify import Notifier
from hindsight.capture.options import RecordOptions
from hindsight.capture.owner import Owner
from hindsight.capture.recording.vitals import Vitals
from hindsight.errors import ConfigurationError

_EVERY_NS = 10**9
_WAIT_S = 0.1
"""What must be heard is worth waiting for, a little: the rings are not drained meanwhile."""


@dataclass(frozen=True)
class Activity:
    """What a recorder does at the moment.

    ``state`` is ``recording``, ``resting`` (duty), or ``paused: `` and the budget; ``mode`` is stream or
    flight. ``shed`` are the tracepoints that are switched off to keep a budget; ``segments`` have been sealed
    so far, ``sealed`` last.
    """

    state: str
    mode: str
    shed: tuple[str, ...]
    segments: int
    sealed: Path | None


class Publisher:
    """Publishes for one recorder; :meth:`publish` at every look, it limits itself to once a second.

    A change of activity is published at once. What cannot be written is left out and counted in ``failed``:
    the recording goes on. Raises ConfigurationError when ``options.metrics`` is in no directory that can be
    written.
    """

    def __init__(self, options: RecordOptions, capture: str, owner: Owner) -> None:
        self.failed = 0
        self._options = options
        self._notifier = Notifier()
        self._published: tuple[Vitals, Activity] | None = None
        self._rate = 0.0
        self._share = 0.0
        self._watched_ns = 0
        self._started = time.time()
        self._facts: dict[str, Any] = {
            "capture": capture,
            "owner": owner.as_dict(),
            "pid": owner.pid,
            "boot": host.boot_id(),
            "out": os.path.abspath(options.out),
            "profile": options.profile,
            "source": options.source,
            "mode": options.mode,
            "label": options.label,
            "state": "starting",
            "started": round(self._started, 3),
        }
        if options.metrics is not None:
            parent = options.metrics.absolute().parent
            if options.metrics.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
                raise ConfigurationError(
                    f"metrics cannot be written to {options.metrics}",
                    "Name a file in a directory that exists and that this user may write (--metrics FILE).",
                )
        self._info = {"capture": capture, "profile": options.profile, "source": options.source}
        self.path: Path | None = None
        try:
            self.path = state.own_directory() / f"{capture}.json"
            state.write(self.path, self._facts)
        except OSError:
            self.path = None
            self.failed += 1

    def publish(self, vitals: Vitals, activity: Activity) -> None:
        """Tell how it fares. Cheap when nothing is due."""
        interval = self._notifier.watchdog_ns
        if interval is not None and vitals.now_ns - self._watched_ns >= min(interval // 4, 10 * _EVERY_NS):
            self._watched_ns = vitals.now_ns
            self._notifier.send(WATCHDOG=1)
        if self._published is not None:
            before, known = self._published
            elapsed = vitals.now_ns - before.now_ns
            if activity == known and elapsed < _EVERY_NS:
                return
            if elapsed >= _EVERY_NS // 4:
                self._rate = (vitals.recorded - before.recorded) * 1e9 / elapsed
                self._share = (vitals.cpu_ns - before.cpu_ns) / elapsed
        self._published = (vitals, activity)
        self._write(vitals, activity)
        self._notifier.send(STATUS=self._sentence(vitals, activity))

    def ready(self) -> None:
        """Tracing is on."""
        self._notifier.send(_WAIT_S, READY=1, STATUS="recording")

    def stopping(self) -> None:
        """Tracing ends; what was recorded is being sealed."""
        self._notifier.send(_WAIT_S, STOPPING=1, STATUS="sealing")

    def close(self) -> None:
        """The recorder has ended: no state file is left, the metrics say ``ended``."""
        if self._published is not None:
            vitals, activity = self._published
            self._write_metrics(
                vitals, Activity("ended", activity.mode, (), activity.segments, activity.sealed)
            )
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self.path = None
        self._notifier.close()

    def _write(self, vitals: Vitals, activity: Activity) -> None:
        self._write_metrics(vitals, activity)
        if self.path is None:
            return
        values = self._facts | {
            "state": activity.state,
            "mode": activity.mode,
            "shed": list(activity.shed),
            "segments": activity.segments,
            "sealed": os.path.abspath(activity.sealed) if activity.sealed is not None else None,
            "updated": round(time.time(), 3),
            "updated_ns": vitals.now_ns,
            "recorded": vitals.recorded,
            "lost": vitals.lost,
            "rate": round(self._rate, 1),
            "cpu_percent": round(100 * self._share, 2),
            "raw_bytes": vitals.raw_bytes,
            "lag_bytes": vitals.lag_bytes,
            "cpu_ns": vitals.cpu_ns,
            "rss_bytes": vitals.rss_bytes,
            "ring_bytes": vitals.ring_bytes,
            "disk_bytes": vitals.disk_bytes,
            "free_bytes": vitals.free_bytes,
        }
        try:
            state.write(self.path, values)
        except OSError:
            self.failed += 1

    def _write_metrics(self, vitals: Vitals, activity: Activity) -> None:
        if self._options.metrics is None:
            return
        text = metrics.render(
            self._options.metrics.stem,
            self._info | {"mode": activity.mode},
            vitals,
            activity,
            self._options.budgets,
            self._started,
            time.time(),
        )
        try:
            state.replace(self._options.metrics.absolute(), text, 0o644)
        except OSError:
            self.failed += 1

    def _sentence(self, vitals: Vitals, activity: Activity) -> str:
        parts = [activity.state, f"{vitals.recorded} events", f"{self._rate:.0f}/s", f"{vitals.lost} lost"]
        if activity.shed:
            parts.append(f"{len(activity.shed)} tracepoints shed")
        return ", ".join([*parts, f"{activity.segments} segments"])
