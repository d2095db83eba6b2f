"""Read files through descriptors that change hands in every way, and log which open file each read was of.

Usage: descriptor_games.py DIRECTORY LOG ROUNDS. Every read asks for another number of bytes: that names it.
The log has a line for each, ``bytes label``; a label names an open file. Standard library only.
"""

import contextlib
import ctypes
import ctypes.util
import os
import platform
import random
import socket
import sys
import threading

SIZE = 4 << 20
LEAST = 200_000
CLONE_FILES = 0x400
PIDFD_OPEN, PIDFD_GETFD, CLOSE_RANGE = 434, 438, 436
AT_FDCWD = -100
libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)


class Log:
    """The reads of this process. ``number``: the first number of its own; a child gets a range of these."""

    def __init__(self, path, number, room):
        self.path, self.number, self.end = path, number, number + room
        self.lines = []
        self.opens = 0
        self.lock = threading.Lock()

    def child(self, room):
        self.end -= room
        return Log(self.path, self.end, room)

    def open(self, path, flags=os.O_RDONLY | os.O_CLOEXEC):
        fd = os.open(path, flags)
        return fd, self.label()

    def label(self):
        with self.lock:
            self.opens += 1
            return f"{os.getpid()}.{self.number}.{self.opens}"

    def read(self, fd, label, pos=None):
        with self.lock:
            size = LEAST + self.number
            self.number += 1
            assert self.number < self.end, "no number is left"
        if pos is None:
            os.read(fd, size)
        else:
            os.pread(fd, size, pos)
        with self.lock:
            self.lines.append(f"{size} {label}\n")

    def write(self):
        with open(self.path, "a") as file:  # in one write: others write too
            file.write("".join(self.lines))
        self.lines = []


def somewhere():
    return random.randrange(SIZE // 4096 - 64) * 4096


def forget(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def several(log, path):
    """Several open files on one inode, read in turns."""
    files = [log.open(path) for _ in range(6)]
    for _ in range(24):
        fd, label = random.choice(files)
        log.read(fd, label, random.choice((None, somewhere())))
    for fd, _ in files:
        os.close(fd)


def reopened(log, path):
    """The same number and the same file, open file after open file: their memory is used again."""
    for _ in range(8):
        fd, label = log.open(path)
        for _ in range(3):
            log.read(fd, label)
        os.close(fd)


def duplicated(log, path):
    import fcntl

    (one, first), (other, second) = log.open(path), log.open(path)
    copies = [os.dup(one), fcntl.fcntl(one, fcntl.F_DUPFD, 50), fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 50)]
    for fd in copies:
        log.read(fd, first, somewhere())
    os.dup2(one, other)  # closes the second open file
    log.read(other, first)
    third, name = log.open(path)
    os.dup2(third, copies[1], inheritable=False)
    log.read(copies[1], name)
    log.read(one, first)
    for fd in (one, other, third, *copies):
        os.close(fd)
    assert second


def in_child(log, work):
    """Run ``work(log)`` in a child that shares nothing but what fork shares."""
    own = log.child(64)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            own.lines = []
            work(own)
            own.write()
            code = 0
        os._exit(code)
    return pid


def wait(pid):
    assert os.waitpid(pid, 0)[1] == 0


def forked(log, path):
    """A child shares open files; what it opens and closes is its own."""
    fd, label = log.open(path)
    kept, name = log.open(path)

    def work(own):
        for _ in range(4):
            own.read(fd, label)
        os.close(fd)
        again, other = own.open(path)
        assert again == fd
        own.read(again, other)
        own.read(kept, name, somewhere())
        own.read(again, other)

    pid = in_child(log, work)
    for _ in range(4):
        log.read(fd, label)
    wait(pid)
    log.read(fd, label)
    log.read(kept, name)
    os.close(fd)
    os.close(kept)


def executed(log, path):
    """A child executes: what is marked is closed, numbers are used again, the rest is inherited."""
    kept, label = log.open(path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    marked, _ = log.open(path)
    late, name = log.open(path)
    os.set_inheritable(late, True)

    def work(own):
        own.read(kept, label)
        own.write()
        rest = [f"{kept}:{label}", f"{late}:{name}"]
        limits = [str(own.number), str(own.end - own.number)]
        os.execv(
            sys.executable, [sys.executable, "-S", __file__, "--inherit", path, log.path, *limits, *rest]
        )

    pid = in_child(log, work)
    wait(pid)
    log.read(kept, label)
    log.read(late, name)
    for fd in (kept, marked, late):
        os.close(fd)


def inherited(path, log, given):
    for fd, label in given:
        log.read(fd, label)
    files = [log.open(path) for _ in range(4)]
    for fd, label in [*files, *given]:
        log.read(fd, label, somewhere())
    log.write()


def threads(log, path):
    """Threads share one table: numbers go from hand to hand, at the same time."""

    def churn():
        for _ in range(6):
            fd, label = log.open(path)
            for _ in range(3):
                log.read(fd, label, somewhere())
            os.close(fd)

    shared, label = log.open(path)
    both = [threading.Thread(target=churn) for _ in range(3)]
    for thread in both:
        thread.start()
    for _ in range(6):
        log.read(shared, label, somewhere())
    for thread in both:
        thread.join()
    os.close(shared)


def unshared(log, path):
    """A thread leaves the table: what it closes stays open for the others."""
    fd, label = log.open(path)
    left, back = threading.Event(), threading.Event()

    def leave():
        assert libc.unshare(CLONE_FILES) == 0
        os.close(fd)
        again, name = log.open(path)
        assert again == fd
        log.read(again, name)
        left.set()
        back.wait()
        log.read(again, name)
        os.close(again)

    thread = threading.Thread(target=leave)
    thread.start()
    left.wait()
    log.read(fd, label)
    back.set()
    thread.join()
    log.read(fd, label)
    os.close(fd)


def ranges(log, path):
    """close_range, and with CLOSE_RANGE_CLOEXEC."""
    files = [log.open(path) for _ in range(4)]
    for fd, label in files:
        log.read(fd, label)
    os.closerange(files[1][0], files[3][0] + 1)
    again, label = log.open(path)
    log.read(again, label)
    log.read(*files[0])
    os.close(again)
    os.close(files[0][0])


def passed(log, path):
    """An open file goes to another process in a message, to a number that was just closed."""
    here, there = socket.socketpair()
    fd, label = log.open(path)

    def work(own):
        old, name = own.open(path)
        own.read(old, name)
        os.close(old)
        _, given, _, _ = socket.recv_fds(there, 16, 4)
        own.read(given[0], label)
        own.read(old, label) if given[0] == old else None

    pid = in_child(log, work)
    socket.send_fds(here, [b"x"], [fd])
    wait(pid)
    log.read(fd, label)
    here.close()
    there.close()
    os.close(fd)


def taken(log, path):
    """A child takes an open file of its parent; another is opened by its handle."""
    fd, label = log.open(path)
    parent = os.getpid()

    def work(own):
        os.close(fd)
        pidfd = libc.syscall(PIDFD_OPEN, parent, 0)
        got = libc.syscall(PIDFD_GETFD, pidfd, fd, 0)
        assert got >= 0
        own.read(got, label)
        handle = ctypes.create_string_buffer(136)
        ctypes.memmove(handle, (128).to_bytes(4, "little"), 4)
        mount = ctypes.c_int()
        assert libc.name_to_handle_at(AT_FDCWD, path.encode(), handle, ctypes.byref(mount), 0) == 0
        root = os.open(os.path.dirname(path), os.O_RDONLY)
        opened = libc.open_by_handle_at(root, handle, os.O_RDONLY)
        assert opened >= 0
        own.read(opened, own.label())

    pid = in_child(log, work)
    wait(pid)
    log.read(fd, label)
    os.close(fd)


CERTAIN = (several, reopened, duplicated, forked, executed, threads, ranges, unshared)
"""Everything is in the system calls that are recorded."""
HIDDEN = (passed, taken)
"""Open files come into a table by ways that are not."""


def main(directory, log, rounds):
    assert platform.machine() == "x86_64", "numbers of system calls"
    random.seed(1)
    paths = [os.path.join(directory, name) for name in ("one", "two")]
    for path in paths:
        with open(path, "wb") as file:
            file.write(os.urandom(SIZE))
            file.flush()
            os.fsync(file.fileno())
    book = Log(log, 0, 60000)
    for number in range(rounds):
        games = list(CERTAIN)
        if number % 3 == 0:
            games += HIDDEN
        random.shuffle(games)
        for game in games:
            path = random.choice(paths)
            forget(path)
            game(book, path)
        book.write()


if __name__ == "__main__":
    if sys.argv[1] == "--inherit":
        number, room = map(int, sys.argv[4:6])
        given = [(int(fd), label) for fd, _, label in (text.partition(":") for text in sys.argv[6:])]
        inherited(sys.argv[2], Log(sys.argv[3], number, room), given)
    else:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
