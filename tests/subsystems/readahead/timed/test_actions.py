"""What may be recommended, and the trivial rule."""

import numpy as np
import pytest

from hindsight.subsystems.contract import KEEP
from hindsight.subsystems.readahead import actions
from hindsight.subsystems.readahead.features import FEATURES
from hindsight.subsystems.readahead.rule import rule


def test_every_action_sets_what_it_says():
    ra_pages, random = actions.table()
    assert ra_pages.tolist() == [4, 16, 32, 64, 128, 256, 512, 1024, 2048, actions.KEEP_RA]
    assert random.tolist() == [0] * 9 + [1]
    for i, pages in enumerate(actions.RA_PAGES):
        assert actions.ACTIONS[i].name == f"ra_pages={pages}"
        assert actions.ACTIONS[i].encoding == (np.log2(pages), 0.0)
        assert actions.index_of_limit(pages) == i


def test_zero_pages_are_never_recommended():
    assert min(actions.RA_PAGES) > 0
    with pytest.raises(ValueError):
        actions.index_of_limit(0)


def test_encodings_differ_and_have_one_length():
    encodings = [a.encoding for a in actions.ACTIONS] + [actions.KEEP_ENCODING]
    assert len(set(encodings)) == len(encodings)
    assert {len(e) for e in encodings} == {2}


@pytest.mark.parametrize(
    ("share", "action"), [(1.0, actions.index_of_limit(512)), (0.5, KEEP), (0.0, actions.EXACT)]
)
def test_the_rule_looks_at_sequential_reads(share, action):
    features = np.zeros(len(FEATURES), np.float32)
    features[[f.name for f in FEATURES].index("sequential")] = share
    assert rule(features) == action
