"""The real command, with the toy subsystem installed: python with_toy.py pipeline …"""

from __future__ import annotations

import sys
from pathlib import Path

import hindsight.subsystems

hindsight.subsystems.__path__.append(str(Path(__file__).parent / "subsystems"))

if __name__ == "__main__":
    from hindsight.command import main

    sys.exit(main())
