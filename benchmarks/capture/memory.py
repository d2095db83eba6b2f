"""Peak memory of converting 1 GB of raw pages: recorded pages, repeated with times that go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import children
import numpy as np
import recorders
from figures import Figure

from hindsight.capture.formats import parse_header_page
from hindsight.capture.segments.checksum import Checksum, checksum
from hindsight.capture.segments.segment import (
    FACTS,
    FORMATS,
    MANIFEST,
    SEGMENT_VERSION,
    Segment,
    find_segments,
    open_segment,
)

GIGABYTE = 10**9


def repeat_segment(segment: Segment, target: Path, least_bytes: int) -> int:
    """A sealed segment whose pages are those of ``segment``, repeatedly, each time later; returns bytes."""
    layout = parse_header_page(segment.formats["header_page"])
    raw = {name: entry["bytes"] for name, entry in segment.files.items() if name.startswith("raw/")}
    times = -(-least_bytes // sum(raw.values()))
    (capture,) = segment.facts["tables"]["captures"]
    span = capture["end_ns"] - capture["start_ns"] + 10**6
    files: dict[str, dict[str, Any]] = {}
    for name in raw:
        pages = (
            np.frombuffer((segment.path / name).read_bytes(), "<u8")
            .copy()
            .reshape(-1, layout.page_bytes // 8)
        )
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        digest = Checksum()
        with open(target / name, "wb") as file:
            for _ in range(times):
                file.write(pages.data)
                digest.update(pages.data)
                pages[:, 0] += np.uint64(span)
        files[name] = {"bytes": raw[name] * times, "crc32": digest.hexdigest()}
    facts = json.loads(json.dumps(segment.facts))
    facts["tables"]["captures"][0]["end_ns"] += span * times
    for instance in facts["instances"].values():
        for cpu, after in instance["stats_after"].items():
            before = instance["stats_before"].get(cpu, {}).get("read events", 0)
            after["read events"] = before + (after["read events"] - before) * times
    for name, content in ((FACTS, facts), (FORMATS, segment.formats)):
        data = json.dumps(content).encode()
        (target / name).write_bytes(data)
        files[name] = {"bytes": len(data), "crc32": checksum(data)}
    (target / MANIFEST).write_text(json.dumps({"segment_version": SEGMENT_VERSION, "files": files}))
    return sum(raw.values()) * times


def measure(directory: Path, segments: Path) -> list[Figure]:
    """The figure, on the largest of the segments given."""
    found = [open_segment(path, verify=False) for path in find_segments([segments])]
    source = max(found, key=lambda s: sum(entry["bytes"] for entry in s.files.values()))
    target = directory / source.name
    size = repeat_segment(source, target, GIGABYTE)
    out = directory / "out"
    command = [*recorders.HINDSIGHT, "capture", "convert", "--json", "-o", str(out), str(target)]
    result = children.run(command)
    (converted,) = json.loads(result.output)
    if converted["lost"]:
        raise children.ChildFailed("the repeated pages were not converted completely")
    shutil.rmtree(target)
    shutil.rmtree(out)
    peak = result.peak_rss_bytes
    what = f"{size / 1e9:.2f} GB raw, {converted['events'] / 1e6:.1f} M events, {result.wall_s:.0f} s"
    value = f"{peak / 1e6:.0f} MB ({what})"
    details = {"raw_bytes": size, "peak_rss_bytes": peak, "wall_s": result.wall_s, "cpu_s": result.cpu_s}
    return [Figure("converting 1 GB of raw pages: peak memory", value, "≤ 1 GB", peak <= GIGABYTE, details)]
