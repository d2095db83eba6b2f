"""The passphrase of a private key: from a file, from standard input, or asked for at a terminal without echo.

Never from the command line or the environment, where others can see it.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models.regular import read_regular

MAX_PASSPHRASE_BYTES = 1023
"""What OpenSSL reads of one."""

STANDARD_INPUT = "-"


def read_passphrase(path: str | os.PathLike[str]) -> bytes:
    """The passphrase in a file that its owner alone can read, or on standard input ("-"), without the end of
    its line.

    Raises ConfigurationError if it cannot be read, others can read it, it is empty, too long, or has several
    lines.
    """
    if os.fspath(path) == STANDARD_INPUT:
        return _checked(sys.stdin.buffer.read(MAX_PASSPHRASE_BYTES + 2), "the passphrase on standard input")
    name = f"the passphrase file {os.fspath(path)}"
    try:
        # A line feed may follow, and another character shows that it is too long.
        data, status = read_regular(path, MAX_PASSPHRASE_BYTES + 2, _REMEDY)
    except VerificationError as error:
        raise ConfigurationError(f"the passphrase file {error.message}", error.remedy) from None
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"{name} is open to others than its owner", f"chmod 600 {os.fspath(path)}")
    return _checked(data, name)


def ask_passphrase(key: str, new: bool = False) -> bytes:
    """Ask for the passphrase of the key in the file ``key`` at the terminal, for a ``new`` one twice.

    Raises ConfigurationError if there is no terminal, or what is typed is no passphrase.
    """
    if not at_terminal():
        raise ConfigurationError(
            f"the key {key} has a passphrase, and there is no terminal to ask for it",
            "give it with --passphrase-file FILE, or --passphrase-file - for standard input",
        )
    try:
        typed = getpass.getpass(f"passphrase of {key}: ")
        if new and typed and getpass.getpass("the same again: ") != typed:
            raise ConfigurationError("the two passphrases differ", "start again; nothing was written")
    except EOFError:
        raise ConfigurationError("no passphrase was given", _REMEDY) from None
    return _checked(typed.encode("utf-8", "surrogateescape"), "the passphrase")


def at_terminal() -> bool:
    """Whether someone can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


_REMEDY = "give one line of text, with --passphrase-file or at the terminal"


def _checked(data: bytes, name: str) -> bytes:
    text = data.removesuffix(b"\n").removesuffix(b"\r")
    if not text:
        raise ConfigurationError(
            f"{name} is empty", f"{_REMEDY}; a key without one: hindsight models keygen --no-passphrase"
        )
    if len(text) > MAX_PASSPHRASE_BYTES or b"\n" in text or b"\0" in text:
        raise ConfigurationError(f"{name} is not one line of at most {MAX_PASSPHRASE_BYTES} bytes", _REMEDY)
    return text
