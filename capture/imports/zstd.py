"""zstd as compiled code calls it: the library in the package zstandard, at its address in this process."""

from __future__ import annotations

import llvmlite.binding
from numba import types

from hindsight.errors import ConfigurationError

try:
    from zstandard import _cffi  # type: ignore[attr-defined]
except ImportError:
    raise ConfigurationError(
        "the package zstandard is not as it comes from PyPI: it lacks what calls zstd itself",
        "Install it anew: pip install --force-reinstall --only-binary :all: zstandard cffi",
    ) from None

_SYMBOL = "hindsight_zstd_decompress"
_ffi, _lib = _cffi.ffi, _cffi.lib
llvmlite.binding.add_symbol(_SYMBOL, int(_ffi.cast("uintptr_t", _ffi.addressof(_lib, "ZSTD_decompressDCtx"))))

decompress = types.ExternalFunction(_SYMBOL, types.uintp(*[types.uintp] * 5))
"""ZSTD_decompressDCtx: unpack a chunk with a context (:class:`Context`) into ``room`` (an address) of so many
bytes, from an address, of so many bytes; how many bytes that makes, or a number that :func:`reason` tells."""


class Context:
    """What unpacking needs; of one thread at a time. ``address``: where it is."""

    def __init__(self) -> None:
        self._owner = _ffi.gc(_lib.ZSTD_createDCtx(), _lib.ZSTD_freeDCtx)
        if self._owner == _ffi.NULL:
            raise MemoryError
        self.address = int(_ffi.cast("uintptr_t", self._owner))


def reason(result: int) -> str:
    """Why a chunk cannot be unpacked; empty when ``result`` (u64) is a number of bytes."""
    return _ffi.string(_lib.ZSTD_getErrorName(result)).decode() if _lib.ZSTD_isError(result) else ""
