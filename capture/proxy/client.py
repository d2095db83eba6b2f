"""The interface of a reader of proxies, the same over every transport, and what a proxy says of itself.

Only the half that looks: ``describe``, ``snapshot``, and ``prepare``/``discard`` where the transport has a
dataset to prepare. What can change a host is not part of ``capture``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from hindsight.capture.proxy.errors import Malformed
from hindsight.capture.proxy.records import Snapshot

DTYPES: Mapping[str, tuple[int, int]] = {
    f"{sign}{bits}": (0, min((1 << bits) - 1, (1 << 63) - 1)) if sign == "u" else (-(1 << bits - 1), (1 <<
    bits - 1) - 1) for sign in "ui" for bits in (8, 16, 32, 64)
}  # fmt: skip
"""dtype → the least and the most; records hold nothing above 2^63 − 1."""


class Quantity(NamedTuple):
    """One name of a subsystem's state. ``counter``: it only rises, as long as the boot id stays."""

    name: str
    dtype: str
    unit: str
    meaning: str
    counter: bool = False


class Description(NamedTuple):
    """What is known of a proxy beforehand. A name that is not in ``quantities`` is an i64 without a unit."""

    name: str
    subsystem: str
    transport: str
    place: str
    quantities: Mapping[str, Quantity]


class Proxy(Protocol):
    """One proxy, over one transport. ``name`` is what the user calls it.

    Methods raise a :mod:`hindsight.capture.proxy.errors` error, or another HindsightError; none raises
    OSError.
    """

    name: str

    def describe(self) -> Description:
        """What is known of the proxy; needs no answer from it."""

    def snapshot(self) -> Snapshot:
        """Its state now."""

    def close(self) -> None:
        """Let go of what is held open. Twice does no harm."""


class Preparable(Proxy, Protocol):
    """A proxy whose dataset is made when it is asked for."""

    def prepare(self) -> None:
        """Have the dataset made. A second time without :meth:`discard` gives the same data."""

    def discard(self) -> None:
        """Have the dataset dropped."""


@runtime_checkable
class Bounded(Proxy, Protocol):
    """A proxy that is not waited for longer than asked, though it hang in the kernel."""

    def snapshot_within(self, budget_s: float | None) -> Snapshot:
        """Its state now. Raises Hanging when that takes longer, and at once as long as it does."""


def typed(snapshot: Snapshot, quantities: Mapping[str, Quantity]) -> Snapshot:
    """The snapshot, if each value fits the dtype of its quantity. Raises Malformed."""
    for name, value in snapshot.state.items():
        quantity = quantities.get(name)
        if quantity is not None:
            least, most = DTYPES[quantity.dtype]
            if not least <= value <= most:
                raise Malformed(f"state.{name} is no {quantity.dtype}", "The proxy has a schema of its own.")
    return snapshot


class Order:
    """Holds a proxy to its word that sequence numbers and times do not go back while the boot id stays."""

    def __init__(self) -> None:
        self._last: Snapshot | None = None

    def follow(self, snapshot: Snapshot) -> int:
        """How many snapshots are missing between the last one and this one. Raises Malformed if they go back.

        -1: it is the last one again.
        """
        last = self._last
        if last is not None and last.boot_id == snapshot.boot_id and last.proxy == snapshot.proxy:
            if snapshot.sequence < last.sequence:
                self._last = snapshot
                raise Malformed(
                    "the sequence number went back", "A proxy that begins again needs a new boot_id."
                )
            if snapshot.mono_ns < last.mono_ns:
                self._last = snapshot
                raise Malformed("the time of the snapshot went back", "mono_ns is CLOCK_MONOTONIC.")
            self._last = snapshot
            return snapshot.sequence - last.sequence - 1
        self._last = snapshot
        return 0
