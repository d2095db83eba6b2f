"""Where the kernel describes its tracepoints, for who may only read them."""

from __future__ import annotations

from pathlib import Path

from hindsight.errors import NotPermittedError

_PLACES = (Path("/sys/kernel/tracing/events"), Path("/sys/kernel/debug/tracing/events"))
HEADERS = ("header_page", "header_event")


def locate(places: tuple[Path, ...] = _PLACES) -> Path:
    """The directory ``events`` of tracefs, read only; nothing is mounted.

    Raises NotPermittedError, with the remedy, when there is none that this process may read.
    """
    there = None
    for place in places:
        try:
            (place / HEADERS[0]).read_bytes()
            return place
        except PermissionError:
            there = place
        except OSError:
            continue
    if there is not None:
        raise NotPermittedError(
            f"the descriptions of tracepoints in {there} may not be read",
            "Grant CAP_DAC_READ_SEARCH, or give a group access, as root: "
            "mount -o remount,mode=0750,gid=GROUP /sys/kernel/tracing",
        )
    raise NotPermittedError(
        "tracefs, where the kernel describes its tracepoints, is not mounted",
        "As root: mount -t tracefs nodev /sys/kernel/tracing",
    )


def number(events: Path, event: str) -> int | None:
    """The id of a tracepoint (``system/event``), None when this kernel lacks it."""
    try:
        return int((events / event / "id").read_text())
    except (OSError, ValueError):
        return None


def describe(events: Path, names: list[str]) -> dict[str, str]:
    """The kernel's text of each tracepoint's layout, and of the headers of ftrace's ring buffer.

    Raises NotPermittedError when they cannot be read.
    """
    try:
        texts = {event: (events / event / "format").read_text() for event in sorted(names)}
        return texts | {name: (events / name).read_text() for name in HEADERS}
    except OSError as error:
        raise NotPermittedError(f"the layout of a tracepoint cannot be read: {error}") from error
