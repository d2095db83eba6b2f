"""Recording that cannot hurt: what a recorder gives up when it nears what it may use; when that comes back.

Pure: a :class:`Governor` is stepped with the recorder's :class:`Vitals` at each look and answers with what is
to be done; time comes from the vitals alone, so that equal vitals give equal actions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from hindsight.capture.options import Budgets
from hindsight.capture.recording.rates import Estimator, Unit
from hindsight.capture.recording.vitals import Vitals
from hindsight.errors import ConfigurationError

_SECOND = 1_000_000_000
_KIB = 1024
_MIB = 1 << 20

RATE_WINDOW_NS = 1 * _SECOND
CPU_WINDOW_NS = 5 * _SECOND
MEMORY_WINDOW_NS = 1 * _SECOND
NEAR = 0.5
"""From this share of a budget on, sub-buffers are looked at: below, the governor costs nothing."""
NEAR_PAGES = 2
"""So many per instance and look, as long as nothing has to be shed."""
TARGET = 0.9
"""Shedding aims at this share of the budget."""
ROOM = 0.95
"""Nothing comes back while more than this share of the budget is used."""
LONGEST_S = 600
"""The longest back-off of shedding; also how long all must be quiet until back-off begins at 1 s again."""
LONGEST_PAUSE_S = 60
"""The longest back-off of pauses for disk and memory, whose end is seen without trying."""

FACTS_BYTES = 1 * _MIB
"""Kept free for what a segment holds besides raw trace: formats, tasks, descriptors, hashes."""
SMALLEST_DISK = 8 * _MIB
"""Two open segments, with what they keep in reserve, and room to record."""
SMALLEST_BUFFER_KB = 64
RSS_GROWTH_BYTES = 8 * _MIB
"""What the recorder may grow by after its buffers were allocated."""


@dataclass(frozen=True)
class Shed:
    """Stop recording these events (``system/event``), because of ``budget``: rate or cpu."""

    events: tuple[str, ...]
    budget: str


@dataclass(frozen=True)
class Restore:
    """Record these events, shed before, again."""

    events: tuple[str, ...]


@dataclass(frozen=True)
class Pause:
    """Stop recording because of ``budget``: disk, memory, rate or cpu. Pauses add up."""

    budget: str


@dataclass(frozen=True)
class Resume:
    """The pause because of ``budget`` is over; record again when no other is left."""

    budget: str


Action = Shed | Restore | Pause | Resume


class _Window:
    """A counter's rise over a sliding window of ``span_ns``."""

    def __init__(self, span_ns: int) -> None:
        self.span_ns = span_ns
        self._seen: deque[tuple[int, int]] = deque()

    def clear(self) -> None:
        """Begin anew with the next value: what is under way now was caused before."""
        self._seen.clear()

    def add(self, now_ns: int, value: int) -> None:
        self._seen.append((now_ns, value))
        while len(self._seen) > 2 and self._seen[1][0] <= now_ns - self.span_ns:
            self._seen.popleft()

    @property
    def _rise(self) -> tuple[int, int]:
        (begin, low), (end, high) = self._seen[0], self._seen[-1]
        return max(high - low, 0), end - begin

    @property
    def full(self) -> bool:
        """Whether it has been watched for a whole window."""
        return bool(self._seen) and self._rise[1] >= self.span_ns

    @property
    def used(self) -> float:
        """Rise per second, taken over no less than the window: a short burst is not yet a rate."""
        if not self._seen:
            return 0.0
        rise, elapsed = self._rise
        return rise * _SECOND / max(elapsed, self.span_ns)

    @property
    def rate(self) -> float:
        """Rise per second of the time that was watched."""
        if not self._seen:
            return 0.0
        rise, elapsed = self._rise
        return rise * _SECOND / elapsed if elapsed else 0.0


class _Backoff:
    """1, 2, 4 … ``longest_s`` seconds between giving something up and trying again."""

    def __init__(self, longest_s: int) -> None:
        self._longest_s = longest_s
        self._level = 0
        self._eased = False
        self._last_ns: int | None = None
        self._until_ns = 0

    def hold(self, now_ns: int) -> bool:
        """Something is given up. Returns whether it had been quiet for so long that this counts afresh."""
        quiet = self._last_ns is None or now_ns - self._last_ns >= LONGEST_S * _SECOND
        if quiet:
            self._level = 0
        elif self._eased:
            self._level += 1
        self._eased = False
        self._last_ns = now_ns
        self._until_ns = now_ns + min(1 << min(self._level, 30), self._longest_s) * _SECOND
        return quiet

    def ease(self, now_ns: int) -> None:
        """Something came back."""
        self._eased = True
        self._last_ns = now_ns

    def due(self, now_ns: int) -> bool:
        """Whether it may be tried again."""
        return now_ns >= self._until_ns


class Governor:
    """Decides what a recorder gives up.

    ``events``: instance → event id → ``system/event``, all that is recorded. Raises ConfigurationError for a
    budget that no recording fits into.
    """

    def __init__(self, budgets: Budgets, events: Mapping[str, Mapping[int, str]]) -> None:
        if budgets.max_disk is not None and budgets.max_disk < SMALLEST_DISK:
            raise ConfigurationError(
                f"recordings cannot be kept within {budgets.max_disk} bytes",
                f"Use a --max-disk of at least {SMALLEST_DISK // _MIB} MiB.",
            )
        self._budgets = budgets
        self._estimator = Estimator(events)
        self._rate = _Window(RATE_WINDOW_NS)
        self._cpu = _Window(CPU_WINDOW_NS)
        self._load = _Backoff(LONGEST_S)
        self._pauses: dict[str, _Backoff] = {}  # of those that ever were
        self._paused: set[str] = set()
        self._held: dict[Unit, float] = {}  # rate when it was shed
        self._failures: dict[Unit, int] = {}
        self._trial: tuple[Unit, ...] = ()
        self._trial_until_ns = 0
        self._batch = 1
        self._memory_below_ns: int | None = None
        self._raw_bytes: int | None = None

    @property
    def shed(self) -> tuple[str, ...]:
        """The events that are shed now, sorted."""
        return tuple(sorted(event for unit in self._held for event in unit.events))

    @property
    def paused(self) -> tuple[str, ...]:
        """The budgets because of which recording pauses now, sorted."""
        return tuple(sorted(self._paused))

    def step(self, vitals: Vitals) -> list[Action]:
        """Look at the vitals; returns what is to be done, in order."""
        actions: list[Action] = [*self._step_disk(vitals), *self._step_memory(vitals)]
        if self._budgets.max_rate is None and self._budgets.max_cpu is None:
            return actions
        for budget in sorted(self._paused & {"rate", "cpu"}):
            if self._load.due(vitals.now_ns):
                self._paused.remove(budget)
                self._load.ease(vitals.now_ns)
                actions.append(Resume(budget))
        if self._paused or actions:
            self._rate.clear()
            self._cpu.clear()
            return actions
        return self._step_load(vitals)

    def no_space(self, now_ns: int) -> None:
        """A write failed for lack of space: recording pauses as if ``Pause("disk")`` had been returned.

        What the file system says of its free space need not show that (quotas). A ``Resume`` follows.
        """
        if "disk" not in self._paused:
            self._pauses.setdefault("disk", _Backoff(LONGEST_PAUSE_S)).hold(now_ns)
            self._paused.add("disk")

    # Disk and memory: pause, and come back when there is room.

    def _hold_or_release(self, budget: str, now_ns: int, above: bool, room: bool) -> list[Action]:
        backoff = self._pauses.setdefault(budget, _Backoff(LONGEST_PAUSE_S))
        if budget not in self._paused and above:
            backoff.hold(now_ns)
            self._paused.add(budget)
            return [Pause(budget)]
        if budget in self._paused and room and backoff.due(now_ns):
            backoff.ease(now_ns)
            self._paused.remove(budget)
            return [Resume(budget)]
        return []

    def _step_disk(self, vitals: Vitals) -> list[Action]:
        # What is in the rings must still fit, what comes until the next look, and the facts.
        growth = vitals.raw_bytes - (vitals.raw_bytes if self._raw_bytes is None else self._raw_bytes)
        self._raw_bytes = vitals.raw_bytes
        margin = vitals.lag_bytes + 2 * growth + FACTS_BYTES
        limit, least = self._budgets.max_disk, self._budgets.min_free
        spare = vitals.free_bytes - least - margin
        wanted = min(max(least // 20, 16 * _MIB), max(least, 2 * _MIB))
        above, room = spare <= 0, spare >= wanted
        if limit is not None:
            spare = limit - vitals.disk_bytes - margin
            wanted = min(max(limit // 20, 16 * _MIB), limit // 4)
            above, room = above or spare <= 0, room and spare >= wanted
        return self._hold_or_release("disk", vitals.now_ns, above, room)

    def _step_memory(self, vitals: Vitals) -> list[Action]:
        limit = self._budgets.max_memory
        if limit is None:
            return []
        used = vitals.rss_bytes + vitals.ring_bytes
        if used <= limit or self._memory_below_ns is None:
            self._memory_below_ns = vitals.now_ns
        lasting = vitals.now_ns - self._memory_below_ns >= MEMORY_WINDOW_NS  # not for a moment's peak
        return self._hold_or_release(
            "memory", vitals.now_ns, used > limit and lasting, used <= limit - limit // 20
        )

    # Rate and processor time: shed, try again.

    def _step_load(self, vitals: Vitals) -> list[Action]:
        now = vitals.now_ns
        # What the kernel lost was asked of it as well; in flight mode it is all that tells the rate.
        self._rate.add(now, vitals.recorded + vitals.lost)
        self._cpu.add(now, vitals.cpu_ns)
        used: dict[str, float] = {}
        keep = total = self._rate.rate
        if self._budgets.max_rate is not None:
            used["rate"] = self._rate.used / self._budgets.max_rate
            if used["rate"] > 1:
                keep = min(keep, TARGET * self._budgets.max_rate)
        if self._budgets.max_cpu is not None:
            allowed = self._budgets.max_cpu / 100 * _SECOND
            used["cpu"] = self._cpu.used / allowed
            if (
                used["cpu"] > 1
            ):  # its time is taken to be in proportion to the events; if not, it is shed again
                keep = min(keep, total * TARGET * allowed / self._cpu.rate)
        most = max(used.values())
        if NEAR <= most <= 1:
            self._estimator.look(vitals, NEAR_PAGES)
        if most > 1:
            self._estimator.look(vitals)
            return [self._give_up(now, max(used, key=lambda name: used[name]), total, keep)]
        if self._held and most <= ROOM and self._load.due(now) and self._watched():
            return [self._bring_back(now, total, most)]
        return []

    def _watched(self) -> bool:
        windows = [self._rate] if self._budgets.max_rate is not None else []
        windows += [self._cpu] if self._budgets.max_cpu is not None else []
        return all(window.full for window in windows)

    def _give_up(self, now_ns: int, budget: str, total: float, keep: float) -> Action:
        if self._load.hold(now_ns):
            self._failures.clear()
        self._batch = 1
        self._rate.clear()
        self._cpu.clear()
        rates = self._estimator.rates(total, self._held) if total > 0 else {}
        if not rates:
            self._paused.add(budget)
            return Pause(budget)
        trial = {
            unit: rates[unit] for unit in self._trial if unit in rates and now_ns <= self._trial_until_ns
        }
        if trial and not self._estimator.sighted:
            chosen = list(trial)  # what came back last is the best guess
        elif total - sum(trial.values()) <= keep:
            chosen = _choose(trial, total, keep)
        else:
            chosen = _choose(rates, total, keep)
        for unit in chosen:
            if unit in trial:
                self._failures[unit] = self._failures.get(unit, 0) + 1
            self._held[unit] = rates[unit]
        self._trial = ()
        return Shed(_events(chosen), budget)

    def _bring_back(self, now_ns: int, total: float, used: float) -> Action:
        order = sorted(
            self._held, key=lambda u: (self._failures.get(u, 0), -u.rank, self._held[u], u.name, u.events)
        )
        chosen = [order[0]]
        room = total * (TARGET / used - 1) if used > 0 else float("inf")
        room -= self._held[order[0]]
        for unit in order[1:]:
            room -= self._held[unit]
            if len(chosen) < self._batch and room >= 0:
                chosen.append(unit)
        for unit in chosen:
            del self._held[unit]
        self._batch *= 2
        self._load.ease(now_ns)
        self._rate.clear()
        self._cpu.clear()
        self._trial = tuple(chosen)
        longest = CPU_WINDOW_NS if self._budgets.max_cpu is not None else RATE_WINDOW_NS
        self._trial_until_ns = now_ns + longest + _SECOND
        return Restore(_events(chosen))


def _choose(rates: Mapping[Unit, float], total: float, keep: float) -> list[Unit]:
    """What to shed so that no more than ``keep`` of ``total`` is left: by rank, the highest rate first.

    What turns out not to be needed after all is taken back, identity first, so that an avalanche of new
    processes does not cost the reads as well.
    """
    chosen: list[Unit] = []
    left = total
    for unit in sorted(rates, key=lambda u: (u.rank, -rates[u], u.name, u.events)):
        if left <= keep:
            break
        chosen.append(unit)
        left -= rates[unit]
    for unit in sorted(chosen, key=lambda u: (-u.rank, rates[u], u.name, u.events)):
        if len(chosen) > 1 and left + rates[unit] <= keep:
            chosen.remove(unit)
            left += rates[unit]
    return chosen


def _events(units: list[Unit]) -> tuple[str, ...]:
    return tuple(sorted(event for unit in units for event in unit.events))


def fit_buffers(budgets: Budgets, wanted_kb: Mapping[str, int], cpus: int, rss_bytes: int) -> dict[str, int]:
    """The ring buffers, KiB per CPU by instance, that fit into ``max_memory`` beside the recorder itself.

    ``wanted_kb`` where that fits; else what is left is divided in proportion, at least 64 KiB each (or what
    was wanted, if less). ``rss_bytes``: the recorder's resident memory before they are allocated. Raises
    ConfigurationError when not even the least fits.
    """
    if budgets.max_memory is None:
        return dict(wanted_kb)
    own = rss_bytes + RSS_GROWTH_BYTES
    spare_kb = 8 * len(wanted_kb)  # each buffer has a reader page, and the kernel's list of pages
    left_kb = (budgets.max_memory - own) // (_KIB * cpus) - spare_kb
    fitted = {name: min(wanted, SMALLEST_BUFFER_KB) for name, wanted in wanted_kb.items()}
    if sum(fitted.values()) > left_kb:
        least = own + (sum(fitted.values()) + spare_kb) * _KIB * cpus
        raise ConfigurationError(
            f"ring buffers for {cpus} processors do not fit into {budgets.max_memory // _MIB} MiB of memory",
            f"Use a --max-memory of at least {-(-least // _MIB)}M.",
        )
    extra_kb = {name: wanted_kb[name] - fitted[name] for name in wanted_kb}
    share = min((left_kb - sum(fitted.values())) / max(sum(extra_kb.values()), 1), 1.0)
    # Whole pages: the kernel rounds up.
    return {
        name: wanted_kb[name] if share == 1.0 else fitted[name] + int(extra_kb[name] * share) // 4 * 4
        for name in wanted_kb
    }
