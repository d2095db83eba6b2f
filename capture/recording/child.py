"""The traced command: started stopped, as the right user, and let go once tracing is on."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
from collections.abc import Sequence
from typing import NamedTuple

from hindsight.errors import ConfigurationError, HindsightError, NotPermittedError


class Identity(NamedTuple):
    """The user that the command runs as."""

    name: str
    uid: int
    gid: int
    home: str


def choose_identity(user: str | None) -> tuple[Identity | None, str]:
    """Whom the command runs as (None = as we are), and a sentence about it for the user.

    As root: ``user`` when given, else the user who called sudo, else root itself. Raises NotPermittedError
    when a user is asked for without root, and ConfigurationError when there is no such user.
    """
    if os.geteuid() != 0:
        if user is not None and user != _own_name():
            raise NotPermittedError("only root can run the command as another user", "Leave out --user.")
        return None, ""
    if user is None:
        sudo = os.environ.get("SUDO_UID", "")
        if not sudo.isdigit() or int(sudo) == 0:
            return None, "the command runs as root (no --user, and not called through sudo)"
        try:
            entry = pwd.getpwuid(int(sudo))
        except KeyError:
            raise ConfigurationError(
                f"SUDO_UID={sudo} is not a user of this host", "Name one: --user."
            ) from None
    else:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise ConfigurationError(f"there is no user {user!r} on this host") from None
    identity = Identity(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)
    return identity, f"the command runs as {identity.name}"


def _own_name() -> str | None:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None


class CommandNotStarted(HindsightError):
    """The command to be traced could not be executed."""


class StoppedCommand:
    """A child process that waits, its privileges already dropped, until :meth:`release`.

    ``released``: it executes the command.
    """

    def __init__(self, argv: Sequence[str], identity: Identity | None) -> None:
        self._argv = list(argv)
        go_read, self._go = os.pipe2(os.O_CLOEXEC)
        self._failure, failure_write = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            os.close(self._failure)
            _become_command(self._argv, identity, go_read, failure_write)
        os.close(go_read)
        os.close(failure_write)
        self.pidfd = os.pidfd_open(self.pid)
        self._status: int | None = None
        self.released = False

    def release(self) -> None:
        """Let it execute. Raises CommandNotStarted when it cannot."""
        os.write(self._go, b"g")
        os.close(self._go)
        self._go = -1
        with os.fdopen(self._failure, "rb") as pipe:
            message = pipe.read()
        self._failure = -1
        if message:
            self.wait()
            raise CommandNotStarted(f"{self._argv[0]}: {message.decode()}", "Nothing was recorded.")
        self.released = True

    def poll(self) -> int | None:
        """Its exit status once it has ended (negative: the signal that ended it)."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        if self._status is None:
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Release what it holds; a command that was never let go, or still runs, is ended."""
        if self._go >= 0:
            os.close(self._go)
            self._go = -1
            self.wait()
        elif self.poll() is None:
            self.signal(signal.SIGKILL)
            self.wait()
        for descriptor in (self._failure, self.pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._failure = self.pidfd = -1


def _become_command(argv: list[str], identity: Identity | None, go: int, failure: int) -> None:
    """Runs in the child and never returns: everything but execve happens before the trace begins."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        environment = dict(os.environ)
        if identity is not None:
            os.initgroups(identity.name, identity.gid)
            os.setgid(identity.gid)
            os.setuid(identity.uid)
            environment |= {"HOME": identity.home, "USER": identity.name, "LOGNAME": identity.name}
        if os.read(go, 1):
            os.execvpe(argv[0], argv, environment)
    except BaseException as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        os.write(failure, text.encode())
    os._exit(127)
