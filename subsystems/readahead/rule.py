"""The trivial rule against which a model has to show that it is worth its trouble."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.contract import KEEP
from hindsight.subsystems.readahead.actions import EXACT, index_of_limit
from hindsight.subsystems.readahead.features import FEATURES

NAME = "mostly sequential: 2 MiB ahead; mostly random: nothing ahead; else as it is"

_SEQUENTIAL = [feature.name for feature in FEATURES].index("sequential")
_FAR = index_of_limit(512)


def rule(features: NDArray[np.float32]) -> int:
    """From features f32[n_features] to an action, or KEEP."""
    share = float(features[_SEQUENTIAL])
    return _FAR if share >= 0.75 else EXACT if share < 0.25 else KEEP
