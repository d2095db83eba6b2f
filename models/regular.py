"""Small files that may come from elsewhere: regular ones alone, never through a link, of bounded size."""

from __future__ import annotations

import errno
import os
import stat

from hindsight.errors import VerificationError


def read_regular(path: str | os.PathLike[str], limit: int, remedy: str) -> tuple[bytes, os.stat_result]:
    """The bytes of a file, at most ``limit``, and its status when it was opened.

    Raises VerificationError with ``remedy`` for a link, another kind of file, a larger one, or one that
    cannot be read.
    """
    name = ascii(os.path.basename(path))[1:-1]
    # O_NONBLOCK: a FIFO must not hold us up before we can see what it is.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise VerificationError(f"{name} is not a regular file", remedy)
            # One byte more than is allowed: the size may change under our eyes.
            data = file.read(limit + 1)
    except OSError as error:
        what = {
            errno.ELOOP: "is a symbolic link",
            errno.EISDIR: "is not a regular file",
            # What opening a socket ends with.
            errno.ENXIO: "is not a regular file",
        }.get(error.errno or 0, f"cannot be read: {error.strerror}")
        raise VerificationError(f"{name} {what}", remedy) from None
    if len(data) > limit:
        raise VerificationError(f"{name} has more than {limit} bytes", remedy)
    return data, status
