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

    A slot holds None, a child node, the folio or shadow (in its first slot) or "sibling" of one.
    """

    def __init__(self, folios, shadows=()):
        height = 0
        for start, order in [*folios, *shadows]:
            # A folio that fills a node needs a slot one level up, also when it is alone (xas_max).
            while (start + (1 << order) - 1) >> (6 * (height + 1)) or height < order // 6:
                height += 1
        self.root_shift = 6 * height
        self.root = {}
        for start, order in folios:
            self._insert("folio", start, order)
        for start, order in shadows:
            self._insert("shadow", start, order)

    def _insert(self, what, start, order):
        level = order // 6 * 6
        node, shift = self.root, self.root_shift
        while shift > level:
            node = node.setdefault((start >> shift) & 63, {})
            shift -= 6
        slots = 1 << (order - level)
        first = (start >> level) & 63
        for i in range(slots):
            node[first + i] = (what, first) if i == 0 else ("sibling", first)

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
        if node[slot][0] == "shadow":
            return index
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
            if node.get(slot) is None or node[slot][0] == "shadow" or at < 0:
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


def split(shadow, page, order):
    """What is left of a shadow when a folio of that order comes to ``page`` in it."""
    start, size = shadow
    left = []
    while size > order:
        # A node's worth, or whole slots of the node above, are not split into anything smaller at once.
        smaller = max(order, (size - 1) // 6 * 6 if size % 6 else size - 1)
        pieces = range(start, start + (1 << size), 1 << smaller)
        (start,) = (p for p in pieces if p <= page < p + (1 << smaller))
        left += [(p, smaller) for p in pieces if p != start]
        size = smaller
    return left


change = st.tuples(
    st.sampled_from(["insert", "insert", "evict", "drop"]), st.integers(0, 511), st.integers(0, 9)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(change, max_size=40), st.integers(0, 1023), st.integers(1, 600))
def test_shadows_take_the_place_of_what_is_reclaimed(changes, index, limit):
    """In 1024 pages, so that changes meet each other."""
    cache, _ = cache_with([], 1024)
    folios, shadows = {}, {}
    for what, page, order in changes:
        start = (2 * page) >> order << order
        pages_there = range(start, start + (1 << order))
        if what == "insert":
            free = not any(s < pages_there.stop and s + (1 << o) > start for s, o in folios.items())
            assert pages.insert(cache, FILE, start, order, 0) == free
            if free:
                met = {s: o for s, o in shadows.items() if s < pages_there.stop and s + (1 << o) > start}
                for s, o in met.items():
                    del shadows[s]
                    shadows.update(split((s, o), start, order) if o > order else ())
                folios[start] = order
        else:
            last = start + (1 << order) - 1
            inside = [s for s, o in folios.items() if s >= start and s + (1 << o) - 1 <= last]
            if what == "evict":
                pages.evict(cache, FILE, start, last)
                shadows.update({s: folios[s] for s in inside})
            else:
                pages.drop(cache, FILE, start, last)
                for s in [s for s, o in shadows.items() if s >= start and s + (1 << o) - 1 <= last]:
                    del shadows[s]
            for s in inside:
                del folios[s]
    held = np.zeros(1024, np.uint8)
    for s, o in shadows.items():
        held[s : s + (1 << o)] = o + 1
    assert cache.shadow[:1024].tolist() == held.tolist()
    tree = Tree(folios.items(), shadows.items())
    for page in {
        index,
        *[s + (1 << o) - 1 for s, o in folios.items()],
        *[s + (1 << o) for s, o in folios.items()],
    }:
        if page < 1024:
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
