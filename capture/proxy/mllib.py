"""An adapter for the test device of the kernel RFC "Machine Learning (ML) library in Linux kernel".

``/dev/mllibdev`` gives the bytes of a dataset, at most 1024, without a form of their own: a snapshot holds
how many there are and their CRC-32. The dataset is prepared and discarded through the attribute ``control``
of the model's kernel object, below that of the device. The device takes recommendations and never applies
them; nothing here writes any. Numbers: V. Dubeyko's RFC of February 2026 (ioctl magic 'M').
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import zlib
from pathlib import Path

from hindsight.capture.proxy.attributes import Making
from hindsight.capture.proxy.client import Description, Quantity
from hindsight.capture.proxy.errors import Malformed, Refused, unreadable
from hindsight.capture.proxy.records import Dataset, Snapshot

NAME = "mllib"
DEVICE = Path("/dev/mllibdev")
RESET = 0x4D00
GETSIZE = 0x80044D01
SETSIZE = 0x40044D02
GETMODELID = 0x80044D03
BUFFER_BYTES = 1024
_SETTING = "prepare_dataset", "discard_dataset"

QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("size", "u32", "bytes", "size of the dataset, as the device says it"),
        Quantity("dataset_bytes", "u32", "bytes", "of the dataset that could be read"),
        Quantity("dataset_crc32", "u32", "", "CRC-32 of them"),
        Quantity("model_id", "u32", "", "id of the model (newer trees)"),
    )
}


class MllibDevice:
    """The test device as a proxy that can be prepared (:class:`~hindsight.capture.proxy.client.Preparable`).

    ``control``: the attribute; None: it is looked for below the device's kernel object.
    """

    def __init__(self, name: str = NAME, path: Path = DEVICE, control: Path | None = None) -> None:
        self.name = name
        self._path = path
        self._control = control
        self._making = Making(NAME, NAME, str(path))

    def describe(self) -> Description:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        return Description(self.name, NAME, "char", str(self._path), QUANTITIES)

    def snapshot(self) -> Snapshot:
        """As in :class:`~hindsight.capture.proxy.client.Proxy`."""
        try:
            with self._open() as descriptor:
                size = _integer(descriptor, GETSIZE)
                model = None
                with contextlib.suppress(OSError):  # EINVAL, ENOTTY: an older tree
                    model = _integer(descriptor, GETMODELID)
                data = b""
                while piece := os.read(descriptor, BUFFER_BYTES + 1 - len(data)):
                    data += piece
                    if len(data) > BUFFER_BYTES:
                        raise Malformed(f"{self._path} holds more than {BUFFER_BYTES} bytes", _NOT_IT)
        except OSError as error:
            if error.errno == errno.ENOTTY:
                raise Malformed(
                    f"{self._path} does not know the ioctls of the test device", _NOT_IT
                ) from error
            raise unreadable(str(self._path), error) from error
        state = {"size": size & 0xFFFFFFFF, "dataset_bytes": len(data), "dataset_crc32": zlib.crc32(data)}
        if model is not None:
            state["model_id"] = model & 0xFFFFFFFF
        made = self._making.make(state)
        # The device says no type and no state: what can be read is a value, and nothing to read is empty.
        kind, how = ("stream", "clean") if data else ("empty", "allocated")
        return made._replace(dataset=Dataset(kind, how, 0, len(data)))

    def prepare(self) -> None:
        """Have the dataset made. Raises Refused, Gone or HindsightError."""
        self._write(_SETTING[0])

    def discard(self) -> None:
        """Have the dataset dropped. Raises Refused, Gone or HindsightError."""
        self._write(_SETTING[1])

    @contextlib.contextmanager
    def _open(self):  # type: ignore[no-untyped-def]
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
                raise Malformed(f"{self._path} is no character device", _NOT_IT)
            yield descriptor
        finally:
            os.close(descriptor)

    def _write(self, command: str) -> None:
        path = self._control or self._find_control()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, command.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise Refused(f"{path}: the device does not know {command}", "An older tree.") from error
            raise unreadable(str(path), error) from error

    def _find_control(self) -> Path:
        try:
            device = os.stat(self._path).st_rdev
        except OSError as error:
            raise unreadable(str(self._path), error) from error
        directory = Path(f"/sys/dev/char/{os.major(device)}:{os.minor(device)}")
        found = sorted(directory.glob("*/control"))
        found = [path for path in found if path.parent.name != "power"]
        if not found:
            raise Refused(
                f"{self._path} has no attribute `control`", "A model must be registered: see the RFC."
            )
        return found[0]

    def close(self) -> None:
        """Nothing is held open."""


_NOT_IT = "This is not the RFC's test device."


def _integer(descriptor: int, request: int) -> int:
    value: int = struct.unpack("=i", fcntl.ioctl(descriptor, request, b"\0\0\0\0"))[0]
    return value
