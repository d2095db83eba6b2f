"""How busy the machine is, and waiting until it is not: scheduling delays would pass for device time."""

from __future__ import annotations

import time
from pathlib import Path

QUIET_PERMILLE = 250
"""Share of the time in which some task waits for a processor, up to which a machine counts as quiet."""


def processor_waits() -> int:
    """Microseconds in which some task waited for a processor (Documentation/accounting/psi.rst), else 0."""
    try:
        text = Path("/proc/pressure/cpu").read_text()
    except OSError:
        return 0
    return int(text.split("total=", 1)[1].split()[0])


class Patience:
    """A number of seconds that may be spent waiting, over a whole recording."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def wait(self, look: float = 2.0) -> None:
        """Wait until the machine was quiet for ``look`` seconds, or no patience is left."""
        while self.left > 0:
            waits, begin = processor_waits(), time.monotonic()
            time.sleep(min(look, self.left))
            spent = time.monotonic() - begin
            if (processor_waits() - waits) * 1e-3 / spent <= QUIET_PERMILLE:
                return
            self.left -= spent
