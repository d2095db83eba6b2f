"""Advice on its way to an open file, and what it does there when it arrives."""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.world import (
    ADVISED,
    DUE,
    NO_ADVICE,
    Dirty,
    State,
    World,
    touch_stream,
)


@step
def take_advice(world: World, state: State, stream: int) -> None:
    """The advice on its way to a stream arrives: as fadvise on the open file does."""
    s = np.uint64(stream)
    action = np.uint64(state.streams[s, ADVISED])
    state.streams[s, ADVISED] = NO_ADVICE
    if world.action_random[action] != 0:
        state.files.random[s] = 1
    else:
        state.files.ra_pages[s] = world.action_ra[action]
        state.files.random[s] = 0


@step
def give_advice(
    world: World, state: State, dirty: Dirty, stream: int, action: int, now: int, op: int
) -> None:
    """Send an action to a stream at ``now`` (ns), where its operation ``op`` is about to begin; it arrives
    after the delay of that operation. It replaces one on its way.
    """
    s = np.uint64(stream)
    touch_stream(dirty, stream)
    if state.streams[s, ADVISED] != NO_ADVICE and state.streams[s, DUE] <= now:
        take_advice(world, state, stream)
    state.streams[s, ADVISED] = action
    state.streams[s, DUE] = now + delay_at(world, op)


@step
def delay_at(world: World, op: int) -> int:
    """The delay (ns) of advice given before operation ``op``: one of ``World.delays``, each as likely, and
    the same whoever advises, so that policies are compared under the same delays. (The finalizer of
    SplitMix64: Steele, Lea, Flood 2014.)
    """
    x = np.uint64(op) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return world.delays[x % np.uint64(world.delays.shape[0])]  # type: ignore[no-any-return]
