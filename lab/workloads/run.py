"""Running a program to prepare files: quietly, and with an error that says what it said."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hindsight.errors import HindsightError
from hindsight.lab.programs import path_of, require

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "TZ": "UTC",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "Lab",
    "GIT_AUTHOR_EMAIL": "lab@example.org",
    "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "Lab",
    "GIT_COMMITTER_EMAIL": "lab@example.org",
    "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
}
"""The whole environment of every program that the lab starts: nothing of the user's gets in."""


def run(*argv: str, cwd: Path | None = None, stdin: str | None = None) -> str:
    """Run a program to its end and return its standard output.

    Raises ConfigurationError if it is not installed, HindsightError if it fails.
    """
    require(argv[0])
    result = subprocess.run(
        [path_of(argv[0]) or argv[0], *argv[1:]],
        cwd=cwd, input=stdin, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise HindsightError(f"{argv[0]} failed with {result.returncode}: {said[-1] if said else ''}")
    return result.stdout
