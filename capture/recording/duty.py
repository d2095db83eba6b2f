"""When a recording that runs for a part of the time is on: ``on_s`` seconds out of every ``every_s``."""

from __future__ import annotations

from hindsight.capture.options import Duty

_SECOND = 1_000_000_000


class Schedule:
    """The periods of a duty cycle that begins at ``begun_ns``; without a duty it is always on."""

    def __init__(self, duty: Duty | None, begun_ns: int) -> None:
        self._duty = duty
        self._begun_ns = begun_ns

    def on(self, now_ns: int) -> bool:
        """Whether to record now."""
        if self._duty is None:
            return True
        return (now_ns - self._begun_ns) % self._every_ns < int(self._duty.on_s * _SECOND)

    def next_ns(self, now_ns: int) -> int | None:
        """When that changes next, None = never."""
        if self._duty is None:
            return None
        into = (now_ns - self._begun_ns) % self._every_ns
        on_ns = int(self._duty.on_s * _SECOND)
        return now_ns + (on_ns - into if into < on_ns else self._every_ns - into)

    @property
    def _every_ns(self) -> int:
        assert self._duty is not None
        return int(self._duty.every_s * _SECOND)
