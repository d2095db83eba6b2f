"""Run `python -m hindsight` as the `hindsight` command."""

import sys

from hindsight.command import main

sys.exit(main())
