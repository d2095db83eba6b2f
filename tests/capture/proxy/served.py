"""The transports of the conformance suite, each served by something real on this kernel.

procfs: /proc/PID/environ of a process that overwrites the memory behind it. FUSE: a file system in user
space (mfusepy). eBPF: maps pinned in a BPF file system. A character device is served by a module in a guest.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conformance import Impossible

from hindsight.capture.bpf import libbpf, maps
from hindsight.capture.proxy.bpfmaps import ACTUATOR, LOST, NAME, PROXY, STATE, PinnedProxy
from hindsight.capture.proxy.client import Proxy
from hindsight.capture.proxy.document import DocumentProxy
from hindsight.capture.proxy.records import DATASET_STATES, DATASET_TYPES, MODES

HERE = Path(__file__).parent
_U32 = struct.Struct("=I")
_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, place: Path) -> None:
    """Mount a file system of the kernel. Raises Impossible."""
    if _libc.mount(kind.encode(), os.fsencode(place), kind.encode(), 0, None) != 0:
        raise Impossible(f"{kind} cannot be mounted: {os.strerror(ctypes.get_errno())}")


def unmount(place: Path) -> None:
    _libc.umount2(os.fsencode(place), 2)


class Procfs:
    """A text in procfs. ``size``: bytes that it has, padded."""

    name = "procfs"

    def __init__(self, directory: Path) -> None:
        self._link = directory / "state"
        self._child: subprocess.Popen[str] | None = None
        self._size = 0
        self._document: dict[str, Any] = {}
        self._sequence = 0

    def proxy(self) -> Proxy:
        return DocumentProxy("sysfs:procfs", "sysfs", self._link, {})

    def _serve(self, data: bytes) -> None:
        if self._child is None or len(data) > self._size or self._size > 2 * len(data) + 4096:
            self.close()
            # One string of the environment has at most 128 KiB.
            wanted = {f"X{n}": "x" * 100_000 for n in range(len(data) // 100_000)}
            wanted["Y"] = "y" * (len(data) % 100_000)
            self._child = subprocess.Popen(
                [sys.executable, "-S", "-E", str(HERE / "served_memory.py")], env=wanted, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert self._child.stdout is not None
            self._size = int(self._child.stdout.readline())
            with contextlib.suppress(FileNotFoundError):
                self._link.unlink()
            self._link.symlink_to(f"/proc/{self._child.pid}/environ")
        assert self._child.stdin is not None and self._child.stdout is not None
        print(json.dumps(data.decode("utf-8", "surrogateescape")), file=self._child.stdin, flush=True)
        assert self._child.stdout.readline() == "ok\n"

    def give(self, document: dict[str, Any]) -> None:
        self._document = document
        self.advance()

    def give_bytes(self, data: bytes) -> None:
        self._serve(data)

    def advance(self) -> None:
        self._sequence += 1
        numbers = {"sequence": self._sequence, "mono_ns": time.monotonic_ns()}
        self._serve(json.dumps(self._document | numbers).encode())

    def hang(self) -> None:
        raise Impossible("no attribute of this kernel can be made to block")

    def resume(self) -> None:
        raise AssertionError

    def vanish(self) -> None:
        self.close()

    def appear(self) -> None:
        self.advance()

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


class Fuse:
    """A file system in user space. Raises Impossible without FUSE, mfusepy or libfuse."""

    name = "fuse"

    def __init__(self, directory: Path) -> None:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise Impossible("/dev/fuse cannot be opened")
        try:
            import mfusepy  # noqa: F401
        except (ImportError, OSError) as error:
            raise Impossible(f"mfusepy or libfuse is missing ({error}): apt-get install fuse3") from error
        self._mount = directory / "mount"
        self.commands = directory / "commands"
        self._mount.mkdir()
        self.commands.mkdir()
        self._child: subprocess.Popen[bytes] | None = None
        self.appear()

    def proxy(self) -> Proxy:
        return DocumentProxy(f"fuse:{self._mount}", "fuse", self._mount, {})

    @property
    def place(self) -> Path:
        return self._mount

    def _put(self, name: str, data: bytes) -> None:
        temporary = self.commands / f".{name}"
        temporary.write_bytes(data)
        temporary.rename(self.commands / name)

    def give(self, document: dict[str, Any]) -> None:
        self._put("document", json.dumps(document).encode())
        with contextlib.suppress(FileNotFoundError):
            (self.commands / "bytes").unlink()

    def give_bytes(self, data: bytes) -> None:
        self._put("bytes", data)

    def advance(self) -> None:
        pass

    def hang(self) -> None:
        self._put("hang", b"")

    def resume(self) -> None:
        (self.commands / "hang").unlink()

    def vanish(self) -> None:
        """Its server is killed: the mount stays and is dead."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()
        self._child = None

    def appear(self) -> None:
        unmount(self._mount)
        command = [sys.executable, str(HERE / "served_files.py"), str(self._mount), str(self.commands)]
        self._child = subprocess.Popen(command)
        for _ in range(500):
            if os.path.ismount(self._mount):
                return
            time.sleep(0.01)
        raise AssertionError("the file system did not come up")

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.resume()
        unmount(self._mount)
        if self._child is not None:
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


def create(kind: int, key: int, value: int, entries: int) -> maps.Map:
    """A map of the kernel. Raises Impossible."""
    library = libbpf.library()
    descriptor = library.bpf_map_create(kind, b"hs_test", key, value, entries, None)
    if descriptor < 0:
        raise Impossible(f"maps cannot be made: {os.strerror(-descriptor)}")
    return maps.described(descriptor)


class Bpf:
    """Maps pinned in a BPF file system of its own. Raises Impossible without libbpf or the permission."""

    name = "bpf"
    per_cpu = True

    def __init__(self, directory: Path) -> None:
        try:
            libbpf.library()
        except Exception as error:
            raise Impossible(str(error)) from error
        self._root = directory / "bpf"
        self._root.mkdir()
        mount("bpf", self._root)
        self._pins = self._root / "golden"

    def proxy(self) -> Proxy:
        return PinnedProxy(f"bpf:{self._pins}", self._pins, {})

    @property
    def place(self) -> Path:
        return self._pins

    def give(self, document: dict[str, Any]) -> None:
        if not isinstance(document["state"], dict):
            raise Impossible("maps have one form")
        self.vanish()
        self._pins.mkdir()
        names = [(STATE, *entry) for entry in document["state"].items()]
        names += [(LOST, *entry) for entry in document["lost"].items()]
        dataset, actuators = document["dataset"], document["actuators"]
        proxy = PROXY.pack(
            document["schema"], MODES.index(document["mode"]), DATASET_TYPES.index(dataset["type"]) + 1,
            DATASET_STATES.index(dataset["state"]) + 1, dataset["offset"], dataset["size"],
            document["proxy"].encode(), document["subsystem"].encode(),
        )  # fmt: skip
        entries = [ACTUATOR.pack(a["name"].encode(), a["scope"].encode(), a["current"], a["min"], a["max"])
                   for a in actuators]  # fmt: skip
        self._pin("hs_names", maps.ARRAY, [NAME.pack(kind, 0, name.encode()) for kind, name, _ in names], 3)
        kind = maps.PERCPU_ARRAY if self.per_cpu else maps.ARRAY
        self._pin("hs_values", kind, [self._spread(value) for _, _, value in names], 3)
        self._pin("hs_actuators", maps.ARRAY, entries, 1)
        self._pin("hs_proxy", maps.ARRAY, [proxy], 0)

    def _spread(self, value: int) -> bytes:
        """A value that is the sum of what the processors counted."""
        if not self.per_cpu:
            return struct.pack("=q", value)
        cpus = maps.possible_cpus()
        parts = [value // cpus] * cpus
        parts[-1] += value - sum(parts)
        return struct.pack(f"={cpus}q", *parts)

    def _pin(self, name: str, kind: int, values: list[bytes], spare: int) -> None:
        size = 8 if name == "hs_values" else len(values[0])
        made = create(kind, 4, size, len(values) + spare)
        for position, value in enumerate(values):
            made.update(_U32.pack(position), value)
        made.pin(self._pins / name)
        made.close()

    def replace(self, name: str, made: maps.Map) -> None:
        """Pin another map in the place of one."""
        (self._pins / name).unlink()
        made.pin(self._pins / name)
        made.close()

    def give_bytes(self, data: bytes) -> None:
        raise Impossible("maps have one form: test_bpf_proxies.py damages them")

    def advance(self) -> None:
        pass

    def hang(self) -> None:
        raise Impossible("a look-up in a map cannot block")

    def resume(self) -> None:
        raise AssertionError

    def vanish(self) -> None:
        if self._pins.exists():
            for path in self._pins.iterdir():
                path.unlink()
            self._pins.rmdir()

    def appear(self) -> None:
        pass

    def close(self) -> None:
        self.vanish()
        unmount(self._root)
        shutil.rmtree(self._root, ignore_errors=True)


class PlainBpf(Bpf):
    """The same with an array instead of a per-CPU array."""

    name = "bpf, plain array"
    per_cpu = False


TRANSPORTS = {transport.name: transport for transport in (Procfs, Fuse, Bpf, PlainBpf)}
