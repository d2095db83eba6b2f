"""Reading a proxy must not stall its reader: each one is read within a budget, in a thread of its own unless
it sees to that itself."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from hindsight.capture.proxy.client import Bounded, Description, Proxy
from hindsight.capture.proxy.errors import hanging, unreadable
from hindsight.capture.proxy.records import Snapshot

BUDGET_S = 1.0
"""How long a reader waits for one answer."""


class _Call:
    """One call, made in the other thread. Once ``abandoned``, its result is dropped."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.done = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:
            self.error = error
        self.done.set()


class Guarded:
    """A proxy that answers within ``budget_s``, or raises Hanging.

    A call that does not return is abandoned: its thread stays in the kernel until the kernel lets go of it,
    and until then each further call fails at once. There is never more than one such thread for a proxy.
    """

    def __init__(self, proxy: Proxy, budget_s: float = BUDGET_S) -> None:
        self.name = proxy.name
        self._proxy = proxy
        self._budget_s = budget_s
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._abandoned: _Call | None = None
        # Now, not at the first call: a recording leaves out of the trace the threads that exist already.
        self._thread = threading.Thread(target=self._serve, name=f"proxy {self.name}"[:15], daemon=True)
        self._bounded = proxy if isinstance(proxy, Bounded) else None
        if self._bounded is None:
            self._thread.start()

    def describe(self) -> Description:
        """As in :class:`Proxy`."""
        return self._proxy.describe()

    def snapshot(self) -> Snapshot:
        """As in :class:`Proxy`; raises Hanging as well."""
        if self._bounded is not None:
            return self._bounded.snapshot_within(self._budget_s)
        found: Snapshot = self.call(self._proxy.snapshot)
        return found

    def prepare(self) -> None:
        """As in :class:`Preparable`, of a proxy that is one; raises Hanging as well."""
        self.call(self._proxy.prepare)  # type: ignore[attr-defined]

    def discard(self) -> None:
        """As in :class:`Preparable`, of a proxy that is one; raises Hanging as well."""
        self.call(self._proxy.discard)  # type: ignore[attr-defined]

    def call(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``, which runs in the proxy's thread."""
        if self._abandoned is not None and not self._abandoned.done.is_set():
            raise hanging(self.name, self._budget_s)
        self._abandoned = None
        call = _Call(work)
        self._calls.put(call)
        if not call.done.wait(self._budget_s):
            self._abandoned = call
            raise hanging(self.name, self._budget_s)
        if isinstance(call.error, OSError):
            raise unreadable(self.name, call.error) from call.error
        if call.error is not None:
            raise call.error
        return call.result

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
        self._proxy.close()

    def close(self) -> None:
        """Let go of the proxy; of one that hangs, when it answers."""
        if self._bounded is not None:
            self._bounded.close()
            return
        self._calls.put(None)
        if self._abandoned is None or self._abandoned.done.is_set():
            self._thread.join(self._budget_s)
        if self._thread.is_alive():
            self._proxy.close()
