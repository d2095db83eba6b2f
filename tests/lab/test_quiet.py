from __future__ import annotations

from collections.abc import Callable

import pytest

from hindsight.lab import quiet


class Machine:
    """A clock, and a counter of waiting time that runs at a given rate (1/1000) until a given second."""

    def __init__(self, rate: Callable[[float], int]) -> None:
        self.now, self.waited, self.rate = 0.0, 0.0, rate

    def sleep(self, seconds: float) -> None:
        self.waited += self.rate(self.now) * 1e3 * seconds
        self.now += seconds


def _on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet.time, "sleep", machine.sleep)
    monkeypatch.setattr(quiet.time, "monotonic", lambda: machine.now)
    monkeypatch.setattr(quiet, "processor_waits", lambda: int(machine.waited))


def test_the_counter_never_goes_back() -> None:
    first = quiet.processor_waits()
    assert 0 <= first <= quiet.processor_waits()


def test_a_quiet_machine_costs_one_look_and_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lambda now: 100)
    _on(machine, monkeypatch)
    patience = quiet.Patience(60)
    patience.wait(look=2)
    assert machine.now == 2 and patience.left == 60


def test_a_busy_machine_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lambda now: 900 if now < 10 else 100)
    _on(machine, monkeypatch)
    patience = quiet.Patience(60)
    patience.wait(look=2)
    assert machine.now == 12 and patience.left == 50


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lambda now: 900)
    _on(machine, monkeypatch)
    patience = quiet.Patience(7)
    patience.wait(look=2)
    assert machine.now == 7 and patience.left == 0
    patience.wait(look=2)
    assert machine.now == 7, "nothing is left to wait with"
