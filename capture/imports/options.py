"""The options of trace.dat: what the recorder says of the machine, the clock and what was lost.

Numbers: lib/trace-cmd/include/private of trace-cmd 3.1, trace-cmd.dat.v7(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hindsight.capture.imports.foreign import Cursor, as_text

DONE, DATE, CPUSTAT, BUFFER, TRACECLOCK, UNAME = range(6)
OFFSET, CPUCOUNT, VERSION, TRACEID, TIME_SHIFT, GUEST, TSC2NSEC = 7, 8, 9, 11, 12, 13, 14
HEADERS, FTRACE_FORMATS, EVENT_FORMATS = 16, 17, 18
_MAX_STATS = 1 << 17
_TIMES_SHIFTED = {OFFSET: "OFFSET", TIME_SHIFT: "TIME_SHIFT", GUEST: "GUEST"}


@dataclass
class Options:
    """What the options say. ``stats``: by buffer and processor, the kernel's counters when tracing stopped.

    ``date_ns``: CLOCK_REALTIME minus the trace clock; ``shifted``: options that say how to put the times on
    another machine's clock, or move them.
    """

    clock: str = ""
    uname: str = ""
    tool: str = ""
    trace_id: int | None = None
    cpus: int | None = None
    date_ns: int | None = None
    tsc2nsec: bool = False
    shifted: list[str] = field(default_factory=list)
    stats: dict[str, dict[int, dict[str, int]]] = field(default_factory=dict)
    sections: dict[int, int] = field(default_factory=dict)
    buffers: list[bytes] = field(default_factory=list)
    _buffer: str = ""
    _stats: int = 0

    def add(self, number: int, data: bytes, cursor: Cursor) -> None:
        """Take in one option; those that are not known are passed over."""
        if number == TRACECLOCK:
            found = re.search(r"\[([^\]]{1,32})\]", as_text(data[:4096]))
            self.clock = found[1] if found else ""
        elif number == UNAME:
            self.uname = as_text(data[:1024]).rstrip("\0\n")
        elif number == VERSION:
            self.tool = as_text(data[:256]).rstrip("\0\n").split(" ")[0]
        elif number == TRACEID and len(data) >= 8:
            self.trace_id = int.from_bytes(data[:8], "little")
        elif number == CPUCOUNT and len(data) >= 4:
            self.cpus = int.from_bytes(data[:4], "little")
        elif number == DATE:
            text = as_text(data[:64]).rstrip("\0\n ")
            if re.fullmatch("0x[0-9a-f]{1,16}", text):
                self.date_ns = int(text, 16) * 1000
        elif number == TSC2NSEC:
            self.tsc2nsec = True
        elif number in _TIMES_SHIFTED:
            name = _TIMES_SHIFTED[number]
            if name not in self.shifted:
                self.shifted.append(name)
        elif number == CPUSTAT:
            self._add_stats(as_text(data[:4096]).rstrip("\0"))
        elif number == BUFFER:
            if len(self.buffers) >= 1 << 12:
                raise cursor.source.damaged("more than 4096 buffers")
            self.buffers.append(data)
        elif number in (HEADERS, FTRACE_FORMATS, EVENT_FORMATS) and len(data) >= 8:
            self.sections[number] = int.from_bytes(data[:8], "little")

    def _add_stats(self, text: str) -> None:
        if text.startswith("Buffer:"):
            self._buffer = text.partition(":")[2].strip()
            return
        counters = {
            name.strip(): int(value)
            for name, value in re.findall(r"^([A-Za-z ]{1,32}):[ \t]*([0-9]{1,19})$", text, re.MULTILINE)
        }
        cpu = counters.pop("CPU", None)
        if cpu is not None and self._stats < _MAX_STATS:
            self._stats += 1
            self.stats.setdefault(self._buffer, {})[cpu] = counters
