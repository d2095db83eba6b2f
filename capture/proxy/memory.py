"""The built-in proxy ``memory``: page cache, reclaim, workingset and pressure of the host.

/proc/vmstat (mm/vmstat.c), /proc/pressure/* (Documentation/accounting/psi.rst), vm.*
(Documentation/admin-guide/ sysctl/vm.rst), Linux 6.18. What a kernel lacks is left out.
"""

from __future__ import annotations

import re

from hindsight.capture.proxy.attributes import Attributes, Making
from hindsight.capture.proxy.client import Description, Quantity
from hindsight.capture.proxy.errors import Malformed
from hindsight.capture.proxy.records import Actuator, Snapshot

NAME = "memory"
_VMSTAT = "/proc/vmstat"
_PRESSURE = "/proc/pressure"

_PAGES = {
    "nr_free_pages": "free",
    "nr_inactive_anon": "anonymous, on the inactive list",
    "nr_active_anon": "anonymous, on the active list",
    "nr_inactive_file": "of files, on the inactive list",
    "nr_active_file": "of files, on the active list",
    "nr_unevictable": "that cannot be reclaimed",
    "nr_file_pages": "in the page cache",
    "nr_anon_pages": "anonymous",
    "nr_mapped": "of files, mapped",
    "nr_shmem": "of shared memory and tmpfs",
    "nr_dirty": "dirty",
    "nr_writeback": "being written",
    "nr_slab_reclaimable": "of slab caches that can shrink",
    "nr_slab_unreclaimable": "of other slab caches",
    "workingset_nodes": "of shadows of what was evicted (nodes)",
}
_EVENTS = {
    "workingset_refault_anon": ("pages", "anonymous, evicted and needed again"),
    "workingset_refault_file": ("pages", "of files, evicted and needed again"),
    "workingset_activate_anon": ("pages", "anonymous, activated at once because they came back soon"),
    "workingset_activate_file": ("pages", "of files, activated at once because they came back soon"),
    "workingset_restore_anon": ("pages", "anonymous, that were active when they were evicted"),
    "workingset_restore_file": ("pages", "of files, that were active when they were evicted"),
    "workingset_nodereclaim": ("nodes", "of shadows reclaimed"),
    "pgpgin": ("KiB", "read from block devices"),
    "pgpgout": ("KiB", "written to block devices"),
    "pswpin": ("pages", "swapped in"),
    "pswpout": ("pages", "swapped out"),
    "pgfault": ("faults", "page faults"),
    "pgmajfault": ("faults", "page faults that needed I/O"),
    "pgactivate": ("pages", "activated"),
    "pgdeactivate": ("pages", "deactivated"),
    "pgrefill": ("pages", "of active lists looked at"),
    "pgscan_kswapd": ("pages", "looked at by background reclaim"),
    "pgscan_direct": ("pages", "looked at by tasks that needed memory"),
    "pgsteal_kswapd": ("pages", "reclaimed in the background"),
    "pgsteal_direct": ("pages", "reclaimed by tasks that needed memory"),
    "allocstall_normal": ("times", "a task had to reclaim"),
    "allocstall_movable": ("times", "a task had to reclaim for movable memory"),
    "pgrotated": ("pages", "moved to the tail because they were written"),
    "kswapd_low_wmark_hit_quickly": ("times", "the low watermark was hit soon after reclaim"),
    "oom_kill": ("processes", "killed for lack of memory"),
    "nr_dirtied": ("pages", "made dirty"),
    "nr_written": ("pages", "written"),
}
_SYSCTLS = {
    "swappiness": (0, 200),
    "vfs_cache_pressure": (0, (1 << 31) - 1),
    "dirty_ratio": (0, 100),
    "dirty_background_ratio": (0, 100),
    "watermark_scale_factor": (1, 3000),
    "page-cluster": (0, 31),
}
"""vm.* → the least and the most that kernel/sysctl.c and mm/ accept."""
_RESOURCES = ("cpu", "io", "memory")
_PSI = re.compile(
    rb"(some|full) avg10=(\d{1,3})\.(\d\d) avg60=(\d{1,3})\.(\d\d) avg300=\d{1,3}\.\d\d total=(\d{1,19})"
)

QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        *(Quantity(name, "u64", "pages", what) for name, what in _PAGES.items()),
        *(Quantity(name, "u64", unit, what, True) for name, (unit, what) in _EVENTS.items()),
        *(
            Quantity(f"psi_{resource}_{kind}_{name}", dtype, unit, what, name == "total")
            for resource in _RESOURCES
            for kind in ("some", "full")
            for name, dtype, unit, what in (
                ("avg10", "u16", "0.01 %", f"{kind} tasks waited for {resource}, over 10 s"),
                ("avg60", "u16", "0.01 %", f"{kind} tasks waited for {resource}, over 60 s"),
                ("total", "u64", "us", f"{kind} tasks waited for {resource}, in all"),
            )
        ),
        Quantity("lru_gen", "u16", "", "multi-generational LRU: its feature bits, 0 = off"),
    )
}


def pressure(attributes: Attributes, resource: str) -> dict[str, int]:
    """What /proc/pressure says of a resource, by quantity; empty: this kernel, or this boot, has none.

    Raises Malformed.
    """
    path = f"{_PRESSURE}/{resource}"
    try:
        lines = attributes.read(path).splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        match = _PSI.fullmatch(line)
        if match is None:
            raise Malformed(f"{path}: not the lines that the kernel documents", "Report this kernel.")
        kind = match[1].decode()
        found[f"psi_{resource}_{kind}_avg10"] = int(match[2] + match[3])
        found[f"psi_{resource}_{kind}_avg60"] = int(match[4] + match[5])
        found[f"psi_{resource}_{kind}_total"] = int(match[6])
    return found


def _lru_gen(attributes: Attributes) -> int | None:
    try:
        return int(attributes.read("/sys/kernel/mm/lru_gen/enabled"), 16)
    except (OSError, ValueError):
        return None


class Memory:
    """The host's memory as a proxy (:class:`~hindsight.capture.proxy.client.Proxy`)."""

    name = NAME

    def __init__(self) -> None:
        self._making = Making(NAME, NAME, _VMSTAT)
        self._attributes = Attributes()

    def describe(self) -> Description:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        return Description(NAME, NAME, "procfs", _VMSTAT, QUANTITIES)

    def snapshot(self) -> Snapshot:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        try:
            state = self._attributes.table(_VMSTAT, (*_PAGES, *_EVENTS))
        except OSError as error:
            raise self._making.gone(error) from error
        for resource in _RESOURCES:
            state |= pressure(self._attributes, resource)
        generations = _lru_gen(self._attributes)
        if generations is not None:
            state["lru_gen"] = generations
        actuators = []
        for name, (least, most) in _SYSCTLS.items():
            value = self._attributes.number(f"/proc/sys/vm/{name}")
            if value is not None:
                actuators.append(Actuator(name, value, least, most, "host"))
        return self._making.make(state, tuple(actuators))

    def close(self) -> None:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        self._attributes.close()
