"""The permission to record through perf events."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from hindsight.capture.perf.tracer import PerfTracer
from hindsight.capture.profiles import TASKS
from hindsight.errors import NotPermittedError

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def allowed() -> None:
    """Skips the test when this process may not record through perf events."""
    try:
        tracer = PerfTracer(TASKS, 64, ["syscalls/sys_enter_lseek"])
        tracer.open(Path("/nonexistent"))
        tracer.follow([os.getpid()])
    except NotPermittedError as error:
        pytest.skip(f"perf events are not possible here: {error.message}")
    except OSError as error:
        assert error.errno == errno.ENOENT  # the events could be opened; there is no directory for the files
        tracer.close()
