"""Cold data, warm metadata: what a comparison of readahead settings starts from.

Nothing of the files may be cached, since every run must ask the device for the same. The file system's own
blocks (inodes, directories, extents), by contrast, are read before the run, by a process that is not
throttled: otherwise their reads take requests from the throttle that no setting of readahead decides about.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from hindsight.errors import HindsightError
from hindsight.lab.cached import cached_pages, files_below
from hindsight.lab.device import LabDevice, remount_cold
from hindsight.lab.extents import read_metadata

PATIENCE_SECONDS = 10.0


def make_cold(device: LabDevice, directory: Path) -> None:
    """Drop what is cached of the device, then read the metadata of the files below ``directory``.

    Where another mount name space has a copy of the mount, the file system lives on, with its cache, until
    that is gone: then the files' pages are dropped one file at a time, and all is tried again for some time.
    Raises HindsightError if a page of these files is still cached then.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        remount_cold(device)
        files = files_below(directory)
        cached, _ = cached_pages(files)
        if not cached:
            break
        for path in files:
            _forget(path)
        cached, _ = cached_pages(files)
        if not cached:
            break
        if time.monotonic() > deadline:
            raise HindsightError(
                f"{cached} pages of {directory} are cached although the file system was just mounted",
                "Something else reads these files, or keeps their mount in a name space of its own: end it.",
            )
        time.sleep(0.2)
    for path in files:
        read_metadata(path)


def _forget(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
