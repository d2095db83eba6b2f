"""In which order reads at the same time went on: the one that explains what was added."""

import numpy as np
import pytest

from hindsight.subsystems.readahead import demand as d
from hindsight.subsystems.readahead import ordering, replay
from hindsight.subsystems.readahead.demand import TABLES
from hindsight.subsystems.readahead.history import History

PAGE = 4096


def told(story, window):
    """Two threads read one open file; the second one begins before the call of the first one returns, and
    asks for the page after what that one has read: it opens a window if that was noted by then.
    """
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    s.fork(1, 2, 0x10F00)
    s.begin(1, "pread64", fd=3, count=PAGE, pos=500 * PAGE)
    s.page("mm_filemap_add_to_page_cache", 1, 9, 500, order=0)
    s.now += 5000
    s.page("mm_filemap_get_pages", 1, 9, 500, last_index=500)
    s.now += 1000
    s.begin(2, "pread64", fd=3, count=PAGE, pos=501 * PAGE)
    s.now += 2000
    s.end(1, "pread64", PAGE)
    s.now += 200
    for page in range(501, 505 if window else 502):
        s.now += 10
        s.page("mm_filemap_add_to_page_cache", 2, 9, page, order=0)
    s.page("mm_filemap_get_pages", 2, 9, 501, last_index=501)
    s.now += 3000
    s.end(2, "pread64", PAGE)
    return s.tables()


@pytest.mark.parametrize("window", [False, True])
def test_what_was_added_tells_who_was_first(story, window):
    found = d.build(told(story, window))
    events = replay.run(found)
    opened = events["event"][(events["pid"] == 2) & (events["index"] == 501)].tolist()
    assert ("page_cache_ra_order" in opened) == window
    assert replay.added_otherwise(found).sum() == 0


def test_where_all_explain_it_the_measured_pace_stays(story):
    tables = told(story, True)
    found = d.build(tables)
    history = History({name: tables[name] for name in TABLES if name in tables})
    calls = np.flatnonzero(history.stream >= 0)
    orders = ordering.hypotheses(history, found["ops"], calls)
    # A position that is noted long before the call returns explains the window; as measured, it does not.
    early = orders[ordering.HYPOTHESES.index((1.0, 1.0, 3.0, False))]
    assert replay.added_otherwise({**found, "steps": early}).sum() == 0
    assert replay.added_otherwise({**found, "steps": orders[0]}).sum() > 0
    chosen = ordering.choose(found, [early, orders[0], early])
    assert all((chosen[name] == early[name]).all() for name in chosen)


def test_without_reads_at_the_same_time_there_is_nothing_to_choose(story):
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    s.pread(1, 3, 9, 0)
    assert len(d.build(s.tables())["steps"]["op"]) == 0
