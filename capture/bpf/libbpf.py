"""Load a BPF object into the kernel with libbpf, through ctypes: the standard library alone.

The object was compiled once, for any kernel: libbpf moves its accesses to where this kernel's BTF says that
the fields are (CO-RE). Everything that is loaded is gone when its descriptors are closed, at the latest with
the process. Functions: libbpf.h of libbpf 1.1.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Any

from hindsight.errors import HindsightError, NotPermittedError

LIBRARY = "libbpf.so.1"
BTF = Path("/sys/kernel/btf/vmlinux")
_WARN = 0
_TRACE_RAW_TP = 23
"""enum bpf_attach_type of include/uapi/linux/bpf.h."""
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_POINTERS = (
    "bpf_object__open_mem",
    "bpf_object__find_map_by_name",
    "bpf_object__next_program",
    "bpf_object__find_program_by_name",
    "bpf_program__attach",
    "bpf_program__attach_iter",
    "bpf_map__initial_value",
)


def library() -> ctypes.CDLL:
    """The library. Raises NotPermittedError, with the remedy, when it is absent."""
    try:
        found = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError:
        raise NotPermittedError(
            f"{LIBRARY}, which loads BPF programs, is not installed", "Debian: apt-get install libbpf1"
        ) from None
    for name in _POINTERS:
        getattr(found, name).restype = ctypes.c_void_p
    found.bpf_program__name.restype = found.bpf_program__section_name.restype = ctypes.c_char_p
    return found


class Messages:
    """What libbpf warns of while this is open; at other times it prints nothing."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._texts: list[str] = []
        self._callback = _PRINT(self._note)
        self._format = ctypes.CDLL(None).vsnprintf
        library.libbpf_set_print(self._callback)

    def _note(self, level: int, text: bytes, arguments: int) -> int:
        if level == _WARN and len(self._texts) < 64:
            buffer = ctypes.create_string_buffer(4096)
            self._format(buffer, len(buffer), text, ctypes.c_void_p(arguments))
            self._texts.append(buffer.value.decode("utf-8", "replace").strip())
        return 0

    def close(self) -> str:
        """The last line of the first warning that names a program, or of the first."""
        self._library.libbpf_set_print(None)
        short = [text for text in self._texts if "\n" not in text]
        return short[0].removeprefix("libbpf: ") if short else ""


class BpfObject:
    """A BPF object. :meth:`load` comes after what changes its maps and constants, :meth:`attach` after it.

    Raises NotPermittedError when libbpf or the kernel's BTF is absent, or when it is no BPF object.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._library = library()
        if not BTF.exists():
            raise NotPermittedError(
                f"this kernel does not describe its types ({BTF} is absent)",
                "A kernel with CONFIG_DEBUG_INFO_BTF.",
            )
        self._links: list[int] = []
        self._messages = Messages(self._library)
        self._object = self._library.bpf_object__open_mem(data, ctypes.c_size_t(len(data)), None)
        if not self._object:
            self._refuse(ctypes.get_errno(), f"the BPF object {name} cannot be read")

    def _refuse(self, number: int, what: str) -> None:
        why = self._messages.close()
        self.close()
        number = abs(number)
        if number in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
            raise NotPermittedError(
                "this process may not load BPF programs",
                "Run it as root, or grant it CAP_BPF and CAP_PERFMON.",
            )
        raise NotPermittedError(
            f"{what}: {os.strerror(number)}{f' ({why})' if why else ''}",
            "`hindsight capture doctor` says what this kernel lacks; record without --open-files.",
        )

    def _map(self, name: str) -> int:
        found = self._library.bpf_object__find_map_by_name(ctypes.c_void_p(self._object), name.encode())
        if not found:
            raise HindsightError(f"the BPF object has no map {name}", "Build it again: make bpf")
        return int(found)

    def constants(self, name: str, layout: type[ctypes.Structure]) -> Any:
        """The variables of a read-only section, to be set before :meth:`load`."""
        size = ctypes.c_size_t()
        place = self._library.bpf_map__initial_value(ctypes.c_void_p(self._map(name)), ctypes.byref(size))
        if not place or size.value < ctypes.sizeof(layout):
            raise HindsightError(f"the BPF object's section {name} is too small", "Build it again: make bpf")
        return layout.from_address(place)

    def shared(self, name: str, size: int) -> mmap.mmap:
        """A data section or an array map after :meth:`load`, shared with the programs. Raises OSError."""
        return mmap.mmap(self.descriptor(name), -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)

    def resize(self, name: str, entries: int, value_bytes: int = 0) -> None:
        """Give a map room for so many entries, and each of these so many bytes (0 = as it was)."""
        place = ctypes.c_void_p(self._map(name))
        self._library.bpf_map__set_max_entries(place, ctypes.c_uint32(entries))
        if value_bytes:
            self._library.bpf_map__set_value_size(place, ctypes.c_uint32(value_bytes))

    def descriptor(self, name: str) -> int:
        """The descriptor of a map; it belongs to the object."""
        return int(self._library.bpf_map__fd(ctypes.c_void_p(self._map(name))))

    def load(self) -> None:
        """Have the kernel verify and take it. Raises NotPermittedError when it does not."""
        result = self._library.bpf_object__load(ctypes.c_void_p(self._object))
        if result:
            self._refuse(result, "this kernel refuses the BPF programs")

    def programs(self) -> list[str]:
        """Their names, in the order of the object."""
        names = []
        at = self._library.bpf_object__next_program(ctypes.c_void_p(self._object), None)
        while at:
            names.append(self._library.bpf_program__name(ctypes.c_void_p(at)).decode())
            at = self._library.bpf_object__next_program(ctypes.c_void_p(self._object), ctypes.c_void_p(at))
        return names

    def _program(self, name: str) -> int:
        found = self._library.bpf_object__find_program_by_name(ctypes.c_void_p(self._object), name.encode())
        if not found:
            raise HindsightError(f"the BPF object has no program {name}", "Build it again: make bpf")
        return int(found)

    def tracepoint_exists(self, program: str) -> bool:
        """Whether this kernel has the tracepoint that a program is made for."""
        section = self._library.bpf_program__section_name(ctypes.c_void_p(self._program(program)))
        name = section.partition(b"/")[2]
        return int(self._library.libbpf_find_vmlinux_btf_id(name, _TRACE_RAW_TP)) > 0

    def leave_out(self, name: str) -> None:
        """Do not load a program."""
        self._library.bpf_program__set_autoload(ctypes.c_void_p(self._program(name)), ctypes.c_bool(False))

    def attach(self, name: str) -> None:
        """Let a program run where its section says. Raises NotPermittedError when the kernel refuses."""
        link = self._library.bpf_program__attach(ctypes.c_void_p(self._program(name)))
        if not link:
            self._refuse(ctypes.get_errno(), f"the BPF program {name} cannot be attached")
        self._links.append(int(link))

    def iterate(self, name: str) -> bytes:
        """Run an iterator over all that it visits; returns what it printed. Raises OSError."""
        link = self._library.bpf_program__attach_iter(ctypes.c_void_p(self._program(name)), None)
        if not link:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            descriptor = self._library.bpf_iter_create(self._library.bpf_link__fd(ctypes.c_void_p(link)))
            if descriptor < 0:
                raise OSError(-descriptor, os.strerror(-descriptor))
            with os.fdopen(descriptor, "rb") as file:
                return file.read()
        finally:
            self._library.bpf_link__destroy(ctypes.c_void_p(link))

    def close(self) -> None:
        """Detach and unload everything."""
        links, self._links = self._links, []
        for link in links:
            self._library.bpf_link__destroy(ctypes.c_void_p(link))
        if self._object:
            self._library.bpf_object__close(ctypes.c_void_p(self._object))
            self._object = None
        self._messages.close()
