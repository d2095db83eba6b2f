"""Counters out of the kernel's text files: pure functions from text to counts.

Formats: Documentation/filesystems/proc.rst, Documentation/accounting/psi.rst,
Documentation/admin-guide/iostats.rst and Documentation/admin-guide/cgroup-v2.rst of Linux 6.18. What a kernel
adds is taken as it is; a line that is none of the format is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_I64 = 1 << 63


class Count(NamedTuple):
    """One counter: ``total`` True when it only ever grows, False for a level that rises and falls.

    ``scope`` as in the table ``counters``. ``unit`` is the kernel's own.
    """

    scope: str
    name: str
    value: int
    unit: str
    total: bool


def number(text: str) -> int | None:
    """A whole number that fits the column; None for others (``max``, a fraction, more than 63 bits)."""
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
        return None
    value = int(text)
    return value if -_I64 <= value < _I64 else None


_VMSTAT_LEVELS = ("nr_", "workingset_nodes")
_VMSTAT_TOTALS = ("nr_dirtied", "nr_written", "nr_throttled_written", "nr_vmscan_write",
                  "nr_vmscan_immediate_reclaim", "nr_foll_pin_acquired", "nr_foll_pin_released")  # fmt: skip
_VMSTAT_TLB = "nr_tlb_"


def vmstat(text: str) -> Iterator[Count]:
    """/proc/vmstat: ``nr_…`` are levels in pages (but for those that count events), all else grows."""
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        value = number(rest)
        if value is None:
            continue
        counts = name in _VMSTAT_TOTALS or name.startswith(_VMSTAT_TLB)
        level = name.startswith(_VMSTAT_LEVELS) and not counts
        pages = name.startswith("nr_") and not name.startswith(_VMSTAT_TLB)
        yield Count("", name, value, "pages" if pages else "events", not level)


def meminfo(text: str) -> Iterator[Count]:
    """/proc/meminfo: levels, in kB where it says so."""
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        value = number(words[0]) if colon and words else None
        if value is not None:
            yield Count("", name, value, "KiB" if words[1:] == ["kB"] else "", False)


_DISKSTATS = (
    ("reads", "requests"), ("reads_merged", "requests"), ("sectors_read", "512 bytes"), ("read_time", "ms"),
    ("writes", "requests"), ("writes_merged", "requests"), ("sectors_written", "512 bytes"),
    ("write_time", "ms"), ("in_flight", "requests"), ("io_time", "ms"), ("weighted_io_time", "ms"),
    ("discards", "requests"), ("discards_merged", "requests"), ("sectors_discarded", "512 bytes"),
    ("discard_time", "ms"), ("flushes", "requests"), ("flush_time", "ms"),
)  # fmt: skip


def diskstats(text: str) -> Iterator[Count]:
    """/proc/diskstats: scope is the device as major:minor; ``in_flight`` is a level, all else grow."""
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or number(words[0]) is None or number(words[1]) is None:
            continue
        for (name, unit), word in zip(_DISKSTATS, words[3:], strict=False):
            value = number(word)
            if value is not None:
                yield Count(f"{words[0]}:{words[1]}", name, value, unit, name != "in_flight")


def pressure(text: str, scope: str, resource: str) -> Iterator[Count]:
    """A file of pressure stall information: ``total`` grows, averages are in hundredths of a percent."""
    for line in text.splitlines():
        kind, *fields = line.split() or [""]
        for field in fields:
            key, _, word = field.partition("=")
            whole, dot, part = word.partition(".")
            value = number(whole + part) if dot and len(part) == 2 else number(word)
            if value is not None:
                unit = "us" if key == "total" else "0.01 %"
                yield Count(scope, f"{resource}.{kind}.{key}", value, unit, key == "total")


_STAT = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
_STAT_LEVELS = ("procs_running", "procs_blocked")
_STAT_ONCE = ("ctxt", "processes", "intr", "softirq", *_STAT_LEVELS)


def stat(text: str) -> Iterator[Count]:
    """/proc/stat: processor time in ticks (scope ``cpuN``, empty = all), switches, forks, interrupts."""
    for line in text.splitlines():
        name, *words = line.split() or [""]
        if name.startswith("cpu"):
            for key, word in zip(_STAT, words, strict=False):
                value = number(word)
                if value is not None:
                    yield Count("" if name == "cpu" else name, key, value, "ticks", True)
        elif name in _STAT_ONCE and words:
            value = number(words[0])  # what follows are single interrupts
            if value is not None:
                level = name in _STAT_LEVELS
                yield Count("", "softirqs" if name == "softirq" else name, value, "events", not level)


def flat(text: str, scope: str, prefix: str, unit: str, totals: bool) -> Iterator[Count]:
    """Lines ``name value``, as many files of a cgroup have them; a file of one value has no name.

    A time says its unit in its name (``usage_usec``), the others are in ``unit``.
    """
    for line in text.splitlines():
        name, _, word = line.rpartition(" ")
        value = number(word)
        if value is not None:
            known = {"usec": "us", "time": "ns", "bursts": "events"}.get(name.rpartition("_")[2], unit)
            yield Count(scope, f"{prefix}.{name}" if name else prefix, value, known, totals)


_MEMORY_EVENTS = ("pg", "workingset_", "thp_", "swpin", "swpout", "zswpin", "zswpout", "zswpwb", "numa_")


def memory_stat(text: str, scope: str) -> Iterator[Count]:
    """``memory.stat`` of a cgroup: faults, refaults and the like grow, the others are levels in bytes."""
    for line in text.splitlines():
        name, _, word = line.partition(" ")
        value = number(word)
        if value is not None:
            counts = name.removeprefix("total_").startswith(_MEMORY_EVENTS)
            yield Count(scope, f"memory.stat.{name}", value, "events" if counts else "bytes", counts)


def by_device(text: str, scope: str, prefix: str, unit: str) -> Iterator[Count]:
    """Counters of a cgroup by device: ``8:0 Read 4096`` (version 1), ``8:0 rbytes=4096`` (version 2)."""
    for line in text.splitlines():
        device, *words = line.split() or [""]
        major, colon, minor = device.partition(":")
        if not (colon and major.isdigit() and minor.isdigit()):
            continue  # a sum of all
        pairs = [word.partition("=")[::2] for word in words if "=" in word]
        if not pairs and len(words) == 2:
            pairs = [(words[0], words[1])]
        for name, word in pairs:
            value = number(word)
            if value is not None:
                known = "bytes" if name.endswith("bytes") else unit
                yield Count(f"{scope}/{device}", f"{prefix}.{name}", value, known, True)
