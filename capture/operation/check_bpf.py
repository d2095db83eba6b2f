"""Whether open files can be told apart by BPF programs: ``--open-files``."""

from __future__ import annotations

from hindsight.capture.bpf import libbpf, open_files
from hindsight.capture.bpf.open_files import OpenFiles
from hindsight.capture.bpf.ring import RingMemory
from hindsight.capture.operation.check import NO, OK, Check
from hindsight.capture.perf.rings import online_cpus
from hindsight.errors import HindsightError

BLOCKS = "open files"
_WHAT = "telling open files apart (--open-files)"
_RING_KB = 64


def told_apart() -> list[Check]:
    """Load and attach the programs, as a recording does, and let go of them: they never record."""
    memory = RingMemory(_RING_KB, max(online_cpus()) + 1)
    try:
        OpenFiles([], memory).close()
    except HindsightError as error:
        return [Check("bpf-files", NO, _WHAT, error.message, error.remedy or "", (BLOCKS,))]
    finally:
        memory.close()
    size = len(open_files.compiled())
    why = f"{libbpf.LIBRARY} loads the programs ({size >> 10} KiB), this kernel takes them"
    return [Check("bpf-files", OK, _WHAT, why)]
