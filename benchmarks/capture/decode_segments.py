#!/usr/bin/env python3
"""Decode every field of every event of recordings, slice by slice as a conversion does; print how many.

decode_segments.py DIR…            nothing is verified, nothing is written
"""

import sys
from pathlib import Path

from hindsight.capture.conversion.columns import Layout, Rows
from hindsight.capture.conversion.events import index_segment
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.segments.segment import check_facts, find_segments, open_segment


def decode(path: Path) -> dict[str, int]:
    """Rows by table."""
    segment = open_segment(path, raw=False)
    check_facts(segment)
    rows: dict[str, int] = {}
    for instance in index_segment(segment, verify=False):
        plans = {k.number: k.plan for k in instance.kinds if k.table is not None}
        memory = Scratch()
        for events, _ in instance.slices(scratch=memory):
            for kind in instance.kinds:
                table = events.table(kind)
                if kind.table is None or not table.rows:
                    continue
                columns = Rows(kind.table.columns, table.rows, memory, kind.table.name)
                table.into(Layout(kind.format, plans[kind.number], columns), slice(0, table.rows), 0)
                rows[kind.table.name] = rows.get(kind.table.name, 0) + table.rows
    return rows


def main() -> None:
    total = 0
    for path in find_segments([Path(word) for word in sys.argv[1:]]):
        total += sum(decode(path).values())
    print(total)


if __name__ == "__main__":
    main()
