"""Convert in children that can be killed: import everything once, then fork a child per line of input.

Usage: converting.py RAW SLICE_BYTES. Each line read, "convert OUT" or "command OUT", starts a conversion; its
process id is printed, and its exit status (negative: the signal) when it has ended.
"""

import os
import sys
import tempfile
from pathlib import Path

from hindsight.capture.conversion.convert import convert
from hindsight.command import main


def serve(raw: Path, slice_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as warm:  # compiled code is loaded before the first fork
        convert([raw], Path(warm), jobs=1, slice_bytes=slice_bytes)
    print("ready", flush=True)
    for line in sys.stdin:
        what, out = line.split()
        child = os.fork()
        if child == 0:
            if what == "command":
                os._exit(main(["capture", "convert", str(raw), "-o", out, "--jobs", "2"]))
            convert([raw], Path(out), jobs=2, slice_bytes=slice_bytes)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
