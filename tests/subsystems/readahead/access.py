"""A program that reads files in a seeded pattern: ``access.py DIRECTORY KIND SEED READS``."""

import os
import random
import sys

directory, kind, seed, reads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(f"{kind}/{seed}")
big = os.path.join(directory, "big")
odd = os.path.join(directory, "odd")
size = os.path.getsize(big)
SIZES = (1, 100, 1000, 4000, 4096, 4097, 5000, 8192, 10000, 16384)
SIZES += (40000, 65536, 131072, 200000, 300000, 1 << 20)


def length():
    return rng.choice(SIZES)


def pread(fd, limit=size):
    units = (1, 512, 4096)
    offset = rng.randrange(limit + 5000) // rng.choice(units) * rng.choice(units) % limit
    os.pread(fd, length(), offset)


def sequential(fd, count, step=None):
    n = step or length()
    for _ in range(count):
        if not os.read(fd, n):
            os.lseek(fd, rng.randrange(size), os.SEEK_SET)


def strided(fd, count):
    n, stride, pos = length(), rng.choice((3, 5000, 8192, 65536, 150000, 1 << 20)), rng.randrange(size // 2)
    for _ in range(count):
        os.pread(fd, n, pos)
        pos = (pos + n + stride) % size


def reverse(fd, count):
    n, pos = length(), rng.randrange(size // 2, size)
    for _ in range(count):
        pos = max(0, pos - n)
        os.pread(fd, n, pos)


def local(fd, count):
    """Jumps among a few places, going forward in each: interleaved streams on one descriptor."""
    places = [rng.randrange(size) for _ in range(rng.randrange(2, 6))]
    for _ in range(count):
        i = rng.randrange(len(places))
        n = rng.choice(SIZES[:13])
        os.pread(fd, n, places[i])
        places[i] = (places[i] + n + rng.choice((0, 0, 0, 1, 4096, 20000))) % size


def mixed(fd, count):
    while count > 0:
        n = min(count, rng.randrange(1, 40))
        rng.choice((lambda f, c: [pread(f) for _ in range(c)], sequential, strided, reverse, local))(fd, n)
        count -= n


def advise(fd):
    what = rng.choice((0, 1, 2, 3, 3, 4))
    offset = rng.randrange(size)
    os.posix_fadvise(fd, offset if what >= 3 else 0, rng.choice((0, 4096, 100000, 3000000)), what)


def several(count, paths):
    fds = [os.open(rng.choice(paths), os.O_RDONLY) for _ in range(4)]
    while count > 0:
        n = min(count, rng.randrange(1, 20))
        fd = rng.choice(fds)
        action = rng.random()
        if action < 0.1:
            os.close(fd)
            fds[fds.index(fd)] = os.open(rng.choice(paths), os.O_RDONLY)
        elif action < 0.2:
            other = os.dup(fd)
            sequential(other, n)
            os.close(other)
        elif action < 0.3:
            other = rng.choice(fds)
            if other != fd:
                os.dup2(fd, other)
        else:
            mixed(fd, n)
        count -= n


def forks(count):
    fd = os.open(big, os.O_RDONLY)
    while count > 0:
        n = min(count, rng.randrange(5, 30))
        state = rng.getrandbits(64)
        child = os.fork()
        if child == 0:
            rng.seed(state)
            mixed(fd, n)
            os._exit(0)
        os.waitpid(child, 0)
        rng.seed(state + 1)
        mixed(fd, n)
        count -= 2 * n


def advised(fd, count):
    while count > 0:
        advise(fd)
        n = min(count, rng.randrange(1, 30))
        mixed(fd, n)
        count -= n


def vectors(fd, count):
    for _ in range(count):
        os.preadv(fd, [bytearray(length()) for _ in range(rng.randrange(1, 4))], rng.randrange(size))


def whole(path):
    with open(path, "rb") as file:
        while file.read(rng.choice((1000, 65536, 1 << 20))):
            pass


def everything(count):
    several(count, [big, big, odd])
    forks(count)
    for action in (sequential, strided, reverse, local, advised, vectors):
        fd = os.open(big, os.O_RDONLY)
        action(fd, count)
        os.close(fd)
    whole(odd)


if kind == "several":
    several(reads, [big, big, odd])
elif kind == "all":
    everything(reads)
elif kind == "forks":
    forks(reads)
elif kind == "whole":
    whole(big)
    whole(odd)
else:
    descriptor = os.open(big, os.O_RDONLY)
    if kind == "random":
        for _ in range(reads):
            pread(descriptor)
    else:
        {"sequential": sequential, "strided": strided, "reverse": reverse, "local": local, "mixed": mixed,
         "advised": advised, "vectors": vectors}[kind](descriptor, reads)  # fmt: skip
    os.close(descriptor)
