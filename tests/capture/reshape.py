"""Make other segments out of a sealed one: longer by repetition, shorter by cutting."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.capture.conversion.decode import PageDecoder
from hindsight.capture.formats import parse_event, parse_header_page
from hindsight.capture.segments.checksum import checksum
from hindsight.capture.segments.segment import FACTS, FORMATS, MANIFEST, Segment, open_segment


def reseal(segment: Path) -> None:
    """Make the manifest agree with what the files now hold; files that are gone are no longer listed."""
    manifest = json.loads((segment / MANIFEST).read_text())
    manifest["files"] = {
        str(path.relative_to(segment)): {"bytes": path.stat().st_size, "crc32": digest(path)}
        for path in sorted(segment.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (segment / MANIFEST).write_text(json.dumps(manifest))


def digest(path: Path) -> str:
    return checksum(path.read_bytes())


def alter_facts(segment: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the facts of a segment in place, and seal it again."""
    facts = json.loads((segment / FACTS).read_text())
    change(facts)
    (segment / FACTS).write_text(json.dumps(facts))
    reseal(segment)


def raw_files(segment: Segment) -> list[tuple[str, int, Path]]:
    """(instance, CPU, path) of each raw file."""
    return [
        (name.split("/")[1], int(Path(name).stem[3:]), segment.path / name)
        for name in segment.files
        if name.endswith(".pages")
    ]


def repeat(source: Path, directory: Path, times: int) -> Path:
    """A segment in ``directory`` with the pages of ``source`` so many times, each time later than before."""
    segment = open_segment(source, verify=False)
    page_bytes = parse_header_page(segment.formats["header_page"]).page_bytes
    target = directory / segment.name
    (capture,) = segment.facts["tables"]["captures"]
    span = capture["end_ns"] - capture["start_ns"]
    for name in segment.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith(".pages"):
            shutil.copy(source / name, target / name)
            continue
        pages = np.fromfile(source / name, np.uint8)
        stamps = pages.reshape(-1, page_bytes)[:, :8]
        with open(target / name, "wb") as file:
            for _ in range(times):
                file.write(pages.tobytes())
                later = np.ascontiguousarray(stamps).view(np.uint64) + np.uint64(span)
                stamps[:] = later.view(np.uint8)
    shutil.copy(source / MANIFEST, target / MANIFEST)

    def scale(facts: dict[str, Any]) -> None:
        facts["tables"]["captures"][0]["end_ns"] = capture["start_ns"] + times * span
        for instance in facts["instances"].values():
            for cpu, after in instance["stats_after"].items():
                before = instance["stats_before"].get(cpu, {}).get("read events", 0)
                after["read events"] = before + times * (after["read events"] - before)

    alter_facts(target, scale)
    return target


def split(source: Path, directory: Path, parts: int) -> list[Path]:
    """Segments in ``directory`` that hold the pages of ``source`` one after the other, cut between pages.

    Facts are distributed as a recorder would: descriptors and threads at the first opening, threads at the
    last closing, files as known at each sealing (their sizes at the last one are the final ones).
    """
    segment = open_segment(source, verify=False)
    layout = parse_header_page(segment.formats["header_page"])
    whole: dict[tuple[str, int], np.ndarray] = {
        (instance, cpu): np.fromfile(path, np.uint8).reshape(-1, layout.page_bytes)
        for instance, cpu, path in raw_files(segment)
    }
    (capture,) = segment.facts["tables"]["captures"]
    counts = {key: _events(segment, key[0], pages) for key, pages in whole.items()}
    first = {key: np.ascontiguousarray(pages[:, :8]).view(np.uint64).ravel() for key, pages in whole.items()}
    times = np.sort(np.concatenate([*first.values()])).astype(np.int64)
    cuts = [
        capture["start_ns"],
        *(int(times[len(times) * n // parts]) for n in range(1, parts)),
        capture["end_ns"],
    ]
    made = []
    for number in range(parts):
        target = directory / f"{segment.facts['capture']}-{number:04d}"
        target.mkdir(parents=True)
        facts = copy.deepcopy(segment.facts)
        facts["segment"], facts["closed"] = number, "end" if number == parts - 1 else "rotation"
        row = facts["tables"]["captures"][0]
        row["start_ns"], row["end_ns"] = cuts[number], cuts[number + 1]
        row["realtime_start_ns"] += cuts[number] - cuts[0]
        middle = (cuts[0] + cuts[-1]) // 2
        if number:
            facts["tables"]["descriptors"] = []
            for file in facts["tables"]["files"]:
                file["mtime_ns"] += number
        early = [t for t in facts["tables"]["tasks"] if t["ts"] < middle]
        late = [t for t in facts["tables"]["tasks"] if t["ts"] >= middle]
        facts["tables"]["tasks"] = (early if not number else []) + (late if number == parts - 1 else [])
        for (instance, cpu), pages in whole.items():
            stamps = first[instance, cpu]
            ends = np.searchsorted(stamps, np.array(cuts[1:-1], np.uint64), "left").tolist()
            begin = [0, *ends, len(pages)][number]
            end = [0, *ends, len(pages)][number + 1]
            stats = facts["instances"][instance]
            before = stats["stats_before"].setdefault(str(cpu), {"read events": 0})
            origin = (
                segment.facts["instances"][instance]["stats_before"].get(str(cpu), {}).get("read events", 0)
            )
            before["read events"] = origin + int(counts[instance, cpu][:begin].sum())
            stats["stats_after"][str(cpu)]["read events"] = origin + int(counts[instance, cpu][:end].sum())
            if end > begin:
                path = target / "raw" / instance / f"cpu{cpu}.pages"
                path.parent.mkdir(parents=True, exist_ok=True)
                pages[begin:end].tofile(path)
        (target / FACTS).write_text(json.dumps(facts))
        shutil.copy(source / FORMATS, target / FORMATS)
        shutil.copy(source / MANIFEST, target / MANIFEST)
        reseal(target)
        made.append(target)
    return made


def _events(segment: Segment, instance: str, pages: np.ndarray) -> np.ndarray:
    """Events of each page."""
    layout = parse_header_page(segment.formats["header_page"])
    events = segment.facts["instances"][instance]["events"]
    kinds = [parse_event(event.split("/")[0], segment.formats[event]) for event in events]
    found = PageDecoder(layout, kinds).count(np.ascontiguousarray(pages).ravel().view("<u4"), 1)
    return np.asarray(found.counts.sum(axis=1))
