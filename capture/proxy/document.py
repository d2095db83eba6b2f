"""Proxies that give a snapshot as a JSON document in a file: character device, FUSE, sysfs, procfs.

Another process reads it (:mod:`.reader`). The file is opened for each snapshot, read from the beginning to
the end of the document, and closed: a document is consistent within one open, what vanished is noticed, what
was mounted can be unmounted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hindsight.capture.proxy.client import Description, Quantity, typed
from hindsight.capture.proxy.errors import hanging, unreadable
from hindsight.capture.proxy.reader import Reader
from hindsight.capture.proxy.records import DOCUMENT_BYTES, Snapshot
from hindsight.capture.proxy.series import Series

TRANSPORTS = ("char", "fuse", "sysfs")
STATE = "state"
"""The file in a directory that is a proxy: of a FUSE mount, of a kernel object."""


class DocumentProxy:
    """The proxy at ``path``: a file, or a directory whose file ``state`` it is.

    ``quantities``: subsystem → name → what is known of it.
    """

    def __init__(
        self, name: str, transport: str, path: Path, quantities: Mapping[str, Mapping[str, Quantity]]
    ) -> None:
        self.name = name
        self._transport = transport
        self._path = path
        self._reader = Reader(path, DOCUMENT_BYTES, "" if transport == "char" else STATE)
        self._series = Series()
        self._known = quantities
        self._subsystem = ""

    def describe(self) -> Description:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`; the subsystem is known after a snapshot."""
        quantities = self._known.get(self._subsystem, {})
        return Description(self.name, self._subsystem, self._transport, str(self._path), quantities)

    def start(self) -> None:
        """Start the process that reads; otherwise the first snapshot does."""
        self._reader.start()

    def snapshot(self) -> Snapshot:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        return self.snapshot_within(None)

    def snapshot_within(self, budget_s: float | None) -> Snapshot:
        """As in :class:`~hindsight.capture.proxy.client.Bounded`."""
        try:
            data = self._reader.read(budget_s)
        except OSError as error:
            raise unreadable(str(self._path), error) from error
        if data is None:
            raise hanging(self.name, budget_s or 0)
        found = self._series.snapshot(data)
        self._subsystem = found.subsystem
        return typed(found, self._known.get(found.subsystem, {}))

    def close(self) -> None:
        """End the process that reads."""
        self._reader.close()
