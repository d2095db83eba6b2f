"""Tell the service manager how a recorder fares: the protocol of sd_notify(3), without its library."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends to the socket that the service manager named in ``NOTIFY_SOCKET``; without one it does nothing.

    ``watchdog_ns`` is how often the manager wants to hear from this process (``WATCHDOG_USEC``), None when it
    does not watch it. A manager that cannot be reached never disturbs the recording.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self.address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_ns = _watchdog_ns(environment)
        self._socket: socket.socket | None = None
        if self.address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, wait: float = 0.0, **values: str | int) -> bool:
        """Send assignments (``READY=1``, ``STATUS=…``) as one datagram; whether it left this process.

        Waits at most ``wait`` seconds for a manager whose queue is full (net.unix.max_dgram_qlen).
        """
        if self._socket is None:
            return False
        self._socket.settimeout(wait)
        lines = (f"{name}={str(value).replace(chr(10), ' ')}" for name, value in values.items())
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(), address)
            return True
        return False

    def close(self) -> None:
        """Close the socket; later calls of :meth:`send` do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog_ns(environment: Mapping[str, str]) -> int | None:
    microseconds = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if pid and pid != str(os.getpid()):  # meant for another process: a parent's environment
        return None
    return int(microseconds) * 1000
