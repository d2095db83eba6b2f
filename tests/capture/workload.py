"""Use the system calls that the readahead profile records, on files of its own; exits 0.

Usage: workload.py DIRECTORY. Standard library only: it also runs under the system's Python.
"""

import ctypes
import mmap
import os
import platform
import subprocess
import sys

PAGE = 4096
# Numbers of calls that neither Python nor the C library makes today (x86-64).
LEGACY = {
    "open": 2,
    "fork": 57,
    "creat": 85,
    "dup2": 33,
    "clone3": 435,
    "preadv": 295,
    "openat2": 437,
    "io_uring_enter": 426,
}


def evict(fd: int) -> None:
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def main(directory: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir(directory)
    with open("data", "wb") as file:
        file.write(os.urandom(300 * PAGE))
    fd = os.open("data", os.O_RDWR)
    evict(fd)
    for _ in range(40):  # sequential, from a cold cache
        os.read(fd, 5000)
    for page in (250, 100, 101, 7, 299):
        os.pread(fd, 100, page * PAGE + 17)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, 3 * PAGE, 200 * PAGE)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL)
    os.posix_fadvise(fd, 220 * PAGE, 8 * PAGE, os.POSIX_FADV_WILLNEED)
    os.lseek(fd, -PAGE, os.SEEK_END)
    os.readv(fd, [bytearray(10), bytearray(20)])
    os.preadv(fd, [bytearray(10)], 12345)
    os.preadv(fd, [bytearray(10)], 54321, 0x8)
    os.pwrite(fd, b"x" * 100, 1 << 20)
    os.writev(fd, [b"a", b"bc"])
    libc.readahead(fd, ctypes.c_int64(64 * PAGE), ctypes.c_size_t(PAGE))
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        mapped[150 * PAGE]
        mapped.madvise(mmap.MADV_NORMAL)
        sum(mapped[page * PAGE] for page in range(0, 300, 3))
    out = os.open("copy", os.O_RDWR | os.O_CREAT, 0o600)
    os.sendfile(out, fd, 0, 2 * PAGE)
    os.copy_file_range(fd, out, PAGE)
    read_end, write_end = os.pipe()
    os.splice(fd, write_end, PAGE, offset_src=0)
    os.dup2(libc.dup(out), 60)
    os.dup2(out, 61, inheritable=False)
    os.close(60)
    os.ftruncate(out, 12345)
    os.close(out)
    os.truncate("copy", 99)
    os.closerange(61, 63)
    libc.open(b"data", os.O_RDONLY)
    os.pread(fd, 1, 1 << 40)
    if platform.machine() == "x86_64":
        for name, arguments in {
            "open": (b"data", os.O_RDONLY | os.O_DIRECTORY),
            "creat": (b"created", 0o600),
            "dup2": (read_end, 70),
            "preadv": (fd, None, 0, 5000, 0),
            "openat2": (-100, b"data", None, 0),
            "io_uring_enter": (fd, 1, 2, 0, None, 0),
            "clone3": (None, 0),
        }.items():
            libc.syscall(LEGACY[name], *arguments)
        if libc.syscall(LEGACY["fork"]) == 0:
            os._exit(0)
        os.wait()
    if libc.close_range(70, 75, 0) != 0:
        print("close_range is not available", file=sys.stderr)
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    subprocess.run(["true"], check=True)
    evict(fd)


if __name__ == "__main__":
    main(sys.argv[1])
