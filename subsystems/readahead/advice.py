"""Advice on its way to an open file, and what it does there when it arrives."""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.world import (
    ADVICE_DELAY,
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
def give_advice(world: World, state: State, dirty: Dirty, stream: int, action: int, now: int) -> None:
    """Send an action to a stream at ``now`` (ns); it arrives after the advice delay. It replaces one on its
    way.
    """
    s = np.uint64(stream)
    touch_stream(dirty, stream)
    if state.streams[s, ADVISED] != NO_ADVICE and state.streams[s, DUE] <= now:
        take_advice(world, state, stream)
    state.streams[s, ADVISED] = action
    state.streams[s, DUE] = now + world.settings[ADVICE_DELAY]
