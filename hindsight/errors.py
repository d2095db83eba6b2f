"""The errors that reach a user, and the exit codes that they end the command with.

Every room raises these; only ``hindsight.command`` catches them. The table in
``docs/exit-codes.md`` is generated from :class:`ExitCode`.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of the ``hindsight`` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    NOT_PERMITTED = 4
    VERIFICATION = 5
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """One line for the documentation."""
        return {
            ExitCode.OK: "the command did what it was asked",
            ExitCode.FAILED: "the command failed; the message says why",
            ExitCode.USAGE: "the command line could not be understood",
            ExitCode.CONFIGURATION: "a parameter file, a dataset or an environment setting is unusable",
            ExitCode.NOT_PERMITTED: "not permitted, or not supported by this kernel",
            ExitCode.VERIFICATION: "a hash, a signature, a schema or a recomputed figure did not verify",
            ExitCode.INTERRUPTED: "interrupted by the user",
        }[self]


class HindsightError(Exception):
    """Something failed. ``remedy`` says what the user can do about it."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UsageError(HindsightError):
    """The command line asks for something that makes no sense."""

    exit_code = ExitCode.USAGE


class ConfigurationError(HindsightError):
    """A parameter file, a dataset or an environment setting is unusable."""

    exit_code = ExitCode.CONFIGURATION


class NotPermittedError(HindsightError):
    """The process lacks a privilege, or the kernel lacks a feature."""

    exit_code = ExitCode.NOT_PERMITTED


class VerificationError(HindsightError):
    """A hash, a signature, a schema or a recomputed figure did not verify."""

    exit_code = ExitCode.VERIFICATION
