"""What a stream asked for and what was fetched for it, over time."""

import numpy as np

from hindsight.subsystems.readahead.metrics import PAGES_FETCHED, PAGES_WASTED


def rows(table):
    return list(zip(*(table[name].tolist() for name in table), strict=True))


def test_windows_belong_to_the_reads_that_caused_them(make, drive):
    """Sixteen pages at the start open a window of 32; the next read meets the mark, and 32 more come."""
    simulation = make([64]).read(1000, 0, 16).read(2_000_000, 16, 16).simulation()
    drive(simulation)
    found = simulation.course(0)
    assert rows(found["asked"]) == [(1000, 0, 16), (2_000_000, 16, 32)]
    assert rows(found["fetched"]) == [(1000, 0, 32, 32), (2_000_000, 32, 64, 0)]


def test_it_agrees_with_the_account(busy, drive):
    simulation = busy.simulation()
    drive(simulation, lambda simulation, stream: stream)
    account = simulation.stream_account()
    for stream in range(3):
        fetched = simulation.course(stream)["fetched"]
        assert (np.diff(fetched["ts"]) >= 0).all() and (fetched["end"] > fetched["begin"]).all()
        pages = int((fetched["end"] - fetched["begin"]).sum())
        if stream != 0:  # (some of its pages are dropped and fetched again)
            assert pages == account[stream, PAGES_FETCHED]
            assert pages - int(fetched["used"].sum()) == account[stream, PAGES_WASTED]


def test_a_stream_that_never_read_has_no_course(make, drive):
    simulation = make([64, 64]).read(1000, 0, 16).simulation()
    drive(simulation)
    assert {name: len(table["ts"]) for name, table in simulation.course(1).items()} == {
        "asked": 0,
        "fetched": 0,
    }
