"""The built-in proxy ``blockdev:DEVICE``: a block device's counters, its queue, its limits.

/sys/block/DEVICE/stat as Documentation/block/stat.rst (Linux 6.18) has it; kernels before 4.18 and 5.5 have
fewer columns. Queue attributes as Documentation/ABI/stable/sysfs-block.
"""

from __future__ import annotations

import os
import re

from hindsight.capture.proxy.attributes import Attributes, Making
from hindsight.capture.proxy.client import Description, Quantity
from hindsight.capture.proxy.errors import Malformed
from hindsight.capture.proxy.records import Actuator, Snapshot

NAME = "blockdev"
_BLOCK = "/sys/block"
_UINT_MAX = (1 << 32) - 1


def _counters(kind: str, what: str) -> tuple[Quantity, ...]:
    return (
        Quantity(f"{kind}_ios", "u64", "requests", f"{what} that were completed", True),
        Quantity(f"{kind}_merges", "u64", "requests", f"{what} that were merged into one in the queue", True),
        Quantity(f"{kind}_sectors", "u64", "512 bytes", f"{what}: amount", True),
        Quantity(f"{kind}_ticks", "u64", "ms", f"{what}: time from start to completion, summed", True),
    )


STAT = (
    *_counters("read", "reads"),
    *_counters("write", "writes"),
    Quantity("in_flight", "u64", "requests", "requests under way"),
    Quantity("io_ticks", "u64", "ms", "time with requests under way", True),
    Quantity("time_in_queue", "u64", "ms", "time of all requests, summed", True),
    *_counters("discard", "discards"),
    Quantity("flush_ios", "u64", "requests", "flushes that were completed", True),
    Quantity("flush_ticks", "u64", "ms", "flushes: time from start to completion, summed", True),
)
"""The columns of ``stat``, in order."""
_LEAST_COLUMNS = 11
QUEUE = (
    Quantity("read_ahead_kb", "u32", "KiB", "readahead limit of files opened from now on"),
    Quantity("max_sectors_kb", "u32", "KiB", "largest request"),
    Quantity("max_hw_sectors_kb", "u32", "KiB", "largest request that the hardware takes"),
    Quantity("nr_requests", "u32", "requests", "depth of the queue"),
    Quantity("wbt_lat_usec", "i64", "us", "latency that writeback throttling aims at; 0: off"),
    Quantity("optimal_io_size", "u32", "bytes", "the device's own optimum; 0: none"),
    Quantity("minimum_io_size", "u32", "bytes", "smallest request without a penalty"),
    Quantity("logical_block_size", "u32", "bytes", "unit of addressing"),
    Quantity("physical_block_size", "u32", "bytes", "unit of storage"),
    Quantity("rotational", "u8", "", "1: the device says that it rotates"),
    Quantity("nomerges", "u8", "", "0: all merges are tried, 1: only simple ones, 2: none"),
    Quantity("rq_affinity", "u8", "", "where completions run"),
    Quantity("write_cache", "u8", "", "1: write back"),
)
SIZE = Quantity("size", "u64", "512 bytes", "size of the device")
QUANTITIES = {quantity.name: quantity for quantity in (*STAT, *QUEUE, SIZE)}


def devices() -> list[str]:
    """Whole block devices that hold something, by name."""
    try:
        names = sorted(os.listdir(_BLOCK))
    except OSError:
        return []
    attributes = Attributes()
    try:
        return [name for name in names if attributes.number(f"{_BLOCK}/{name}/size")]
    finally:
        attributes.close()


class BlockDevice:
    """A block device as a proxy (:class:`~hindsight.capture.proxy.client.Proxy`)."""

    def __init__(self, device: str) -> None:
        if re.fullmatch("[A-Za-z0-9_!-]{1,32}", device) is None:
            raise Malformed("the name of the device is none", "See ls /sys/block.")
        self._directory = f"{_BLOCK}/{device}"
        self._making = Making(f"{NAME}:{device.replace('!', '_')}", NAME, self._directory)
        self.name = f"{NAME}:{device}"
        self._attributes = Attributes()

    def describe(self) -> Description:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        return Description(self.name, NAME, "sysfs", self._directory, QUANTITIES)

    def snapshot(self) -> Snapshot:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        try:
            columns = self._attributes.numbers(f"{self._directory}/stat")
        except OSError as error:
            raise self._making.gone(error) from error
        if len(columns) < _LEAST_COLUMNS:
            raise Malformed(f"{self._directory}/stat: too few columns", "Report this kernel.")
        state = {quantity.name: value for quantity, value in zip(STAT, columns, strict=False)}
        for quantity in QUEUE:
            value = self._queue(quantity.name)
            if value is not None:
                state[quantity.name] = value
        size = self._attributes.number(f"{self._directory}/size")
        if size is not None:
            state["size"] = size
        return self._making.make(state, _actuators(state))

    def _queue(self, name: str) -> int | None:
        path = f"{self._directory}/queue/{name}"
        if name != "write_cache":
            return self._attributes.number(path)
        try:
            return int(self._attributes.read(path).strip() == b"write back")
        except OSError:
            return None

    def close(self) -> None:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        self._attributes.close()


def _actuators(state: dict[str, int]) -> tuple[Actuator, ...]:
    """What block/blk-sysfs.c would accept (Linux 6.18)."""
    found = []
    if "read_ahead_kb" in state:
        found.append(Actuator("read_ahead_kb", state["read_ahead_kb"], 0, _UINT_MAX, "device"))
    if "max_sectors_kb" in state and "max_hw_sectors_kb" in state:
        least, most = os.sysconf("SC_PAGE_SIZE") >> 10, state["max_hw_sectors_kb"]
        found.append(Actuator("max_sectors_kb", state["max_sectors_kb"], min(least, most), most, "device"))
    return tuple(found)
