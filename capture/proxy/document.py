"""Proxies that give a snapshot as a JSON document in a file: character device, FUSE, sysfs, procfs.

The file is opened for each snapshot, read from the beginning to its end, and closed: a document is consistent
within one open, what vanished is noticed, what was mounted can be unmounted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hindsight.capture.proxy import parsing
from hindsight.capture.proxy.client import Description, Quantity, typed
from hindsight.capture.proxy.errors import Oversized, unreadable
from hindsight.capture.proxy.records import DOCUMENT_BYTES, Snapshot

TRANSPORTS = ("char", "fuse", "sysfs")
STATE = "state"
"""The file in a directory that is a proxy: of a FUSE mount, of a kernel object."""


def read_document(path: Path) -> bytes:
    """The content of ``path``, at most 64 KiB. Raises Oversized, Gone, Refused, Hanging or HindsightError.

    A read may block in the kernel even with O_NONBLOCK: see :mod:`.guard`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            data = b""
            while len(data) <= DOCUMENT_BYTES:
                piece = os.read(descriptor, DOCUMENT_BYTES + 1 - len(data))
                if not piece:
                    return data
                data += piece
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(str(path), error) from error
    raise Oversized(f"{path}: more than {DOCUMENT_BYTES} bytes", "A snapshot has at most 64 KiB.")


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
        self._known = quantities
        self._subsystem = ""

    def describe(self) -> Description:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`; the subsystem is known after a snapshot."""
        quantities = self._known.get(self._subsystem, {})
        return Description(self.name, self._subsystem, self._transport, str(self._path), quantities)

    def snapshot(self) -> Snapshot:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        path = self._path if self._transport == "char" or not self._path.is_dir() else self._path / STATE
        found = parsing.snapshot(read_document(path))
        self._subsystem = found.subsystem
        return typed(found, self._known.get(found.subsystem, {}))

    def close(self) -> None:
        """Nothing is held open."""
