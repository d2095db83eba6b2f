"""The page cache and the walk through its tree, held against an explicit tree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.subsystems.readahead import pages

FILE = np.uint64(0)
PAGES = 9000  # three levels: 64 * 64 < 9000


def cache_with(folios, pages_in_file=PAGES):
    cache = pages.page_cache(np.array([pages_in_file << 12], np.int64), np.array([9], np.uint8))
    placed = []
    for page, order in folios:
        start = page >> order << order
        if pages.insert(cache, FILE, start, order, 0):
            placed.append((start, order))
    return cache, placed


class Tree:
    """An explicit tree of 64-slot nodes with a cursor, as the description of the walk has it.

    A slot holds None, a child node, the folio (in its first slot) or "sibling" of one.
    """

    def __init__(self, folios):
        self.folios = {}
        height = 0
        for start, order in folios:
            # A folio that fills a node needs a slot one level up, also when it is alone (xas_max).
            while (start + (1 << order) - 1) >> (6 * (height + 1)) or height < order // 6:
                height += 1
        self.root_shift = 6 * height
        self.root = {}
        for start, order in folios:
            self._insert(start, order)

    def _insert(self, start, order):
        level = order // 6 * 6
        node, shift, path = self.root, self.root_shift, []
        while shift > level:
            node = node.setdefault((start >> shift) & 63, {})
            shift -= 6
        slots = 1 << (order - level)
        first = (start >> level) & 63
        for i in range(slots):
            node[first + i] = ("folio", first) if i == 0 else ("sibling", first)
        del path

    def walk(self, index, limit, step):
        """(where the first miss is met or None, cursor index at the end)."""
        if index >> (self.root_shift + 6):
            return index
        stack = []  # (node, slot in its parent)
        node, shift = self.root, self.root_shift
        slot = (index >> shift) & 63
        while isinstance(node.get(slot), dict):
            stack.append((node, slot))
            node, shift = node[slot], shift - 6
            slot = (index >> shift) & 63
        entry = node.get(slot)
        if entry is None:
            return index
        slot = entry[1]
        at = index
        edge = 0 if step < 0 else 63
        for _ in range(limit - 1):
            at += step
            if shift == 0 and slot != edge:
                slot += step
            else:
                if slot != (at >> shift) & 63:
                    slot += step
                while slot < 0 or slot > 63:
                    if not stack:
                        return at
                    node, parent_slot = stack.pop()
                    slot, shift = parent_slot + step, shift + 6
                while isinstance(node.get(slot), dict):
                    stack.append((node, slot))
                    node, shift = node[slot], shift - 6
                    slot = (at >> shift) & 63
            if node.get(slot) is None or at < 0:
                return at
        return at if step < 0 else index + limit


folio = st.tuples(st.integers(0, PAGES - 512), st.integers(0, 9))
run = st.builds(
    lambda start, orders: [(start + sum(1 << o for o in orders[:i]), o) for i, o in enumerate(orders)],
    st.integers(0, PAGES - 2048),
    st.lists(st.integers(0, 7), max_size=14),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(folio, max_size=30),
    st.lists(run, max_size=4),
    st.integers(0, PAGES - 1),
    st.integers(1, 2048),
)
def test_the_walk_agrees_with_an_explicit_tree(folios, runs, index, limit):
    cache, placed = cache_with([f for r in runs for f in r] + folios)
    tree = Tree(placed)
    # Begin at places where the walk goes far, too: the ends of cached folios.
    starts = {index} | {s + (1 << o) - 1 for s, o in placed[:8]} | {s for s, o in placed[:8]}
    for page in sorted(starts):
        assert pages.previous_miss(cache, FILE, page, limit) == tree.walk(page, limit, -1)
        assert pages.next_miss(cache, FILE, page, limit) == tree.walk(page, limit, 1)


@given(st.sets(st.integers(0, 299)), st.integers(0, 299), st.integers(1, 400))
@settings(deadline=None)
def test_single_pages_are_counted_truly(cached, index, limit):
    cache, _ = cache_with([(p, 0) for p in cached], 300)
    back = next((p for p in range(index, index - limit, -1) if p not in cached), index - limit + 1)
    ahead = next((p for p in range(index, index + limit) if p not in cached), index + limit)
    assert pages.previous_miss(cache, FILE, index, limit) == back
    assert pages.next_miss(cache, FILE, index, limit) == ahead


def test_a_large_folio_is_undercounted_by_the_drift():
    cache, _ = cache_with([(0, 2)])
    # From its last page the cursor stands on its first slot: one step back leaves the file.
    assert pages.previous_miss(cache, FILE, 3, 32) == 2
    cache, _ = cache_with([(60, 2), (56, 2)])
    assert pages.previous_miss(cache, FILE, 63, 32) == 58


def test_insert_refuses_what_overlaps_or_leaves_the_file():
    cache, _ = cache_with([(8, 2)], 20)
    before = cache.start.copy()
    assert not pages.insert(cache, FILE, 8, 0, 0)
    assert not pages.insert(cache, FILE, 8, 3, 0)
    assert not pages.insert(cache, FILE, 16, 3, 0)
    assert (cache.start == before).all()
    assert pages.insert(cache, FILE, 12, 2, 1)
    assert cache.mark[12] == 1 and cache.start[15] == 12 and cache.order[14] == 2


@given(st.lists(folio, max_size=20), st.integers(0, PAGES), st.integers(0, PAGES))
@settings(deadline=None)
def test_drop_takes_whole_folios_only(folios, first, last):
    cache, placed = cache_with(folios)
    gone = [(s, o) for s, o in placed if s >= first and s + (1 << o) - 1 <= last]
    assert pages.drop(cache, FILE, first, last) == sum(1 << o for _, o in gone)
    left = {p for s, o in placed if (s, o) not in gone for p in range(s, s + (1 << o))}
    assert set(np.flatnonzero(cache.start != pages.ABSENT).tolist()) == left


@pytest.mark.parametrize("size,count", [(0, 0), (1, 1), (4096, 1), (4097, 2)])
def test_a_file_has_as_many_pages_as_it_needs(size, count):
    cache = pages.page_cache(np.array([size, 1], np.int64), np.zeros(2, np.uint8))
    assert pages.pages_of(cache, FILE) == count
    assert not pages.is_cached(cache, FILE, 0)
