"""Run a script under another kernel: a virtual machine of QEMU, without KVM and without a network.

The guest's root is an initramfs. What the script writes below ``/out`` comes back through a block device
that holds nothing but a tar archive.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import initramfs
from debian import Kernel, Unavailable, plain

QEMU = "qemu-system-x86_64"
_OUT_MB = 256
_ARGUMENTS = "console=ttyS0 quiet panic=-1 reboot=t mitigations=off random.trust_cpu=on tsc=reliable"
_TAIL_S = 30
"""Seconds that the guest has, beside its script, to boot and to write the archive."""

_INIT = """#!/bin/sh
export PATH=/bin:/usr/bin PYTHONPATH={site} HOME=/root PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; mount -t tmpfs out /out
mount -t tracefs nodev /sys/kernel/tracing
ln -s /proc/self/fd /dev/fd
echo 1 > /proc/sys/kernel/printk
for module in {modules}; do
  insmod /modules/$module || echo "cannot load $module" >> /out/.stderr
done
ip link set lo up 2>/dev/null
cd /out
timeout -k 5 {seconds} /script > .stdout 2>> .stderr
echo $? > .status
umount /mnt 2>/dev/null
tar -c -f /dev/vda -C /out . && sync
poweroff -f
"""


@dataclass(frozen=True)
class Result:
    """What a guest did. ``status``: exit status of the script (124: it took too long), None = the guest died.

    ``files``: the folder with what the script left in ``/out``; ``console``: what the kernel printed.
    """

    status: int | None
    stdout: str
    stderr: str
    console: str
    files: Path

    def explain(self) -> str:
        """Everything that was printed, for a failed assertion."""
        return f"status {self.status}\n{self.stdout}\n{self.stderr}\n{self.console[-4000:]}"


@cache
def _base() -> bytes:
    return initramfs.base()


def require() -> None:
    """Raises Unavailable when guests cannot be run here."""
    if shutil.which(QEMU) is None:
        raise Unavailable(f"{QEMU} is not installed (Debian: qemu-system-x86)")


def boot(
    kernel: Kernel,
    script: str,
    out: Path,
    *,
    files: Mapping[str, bytes | Path] | None = None,
    modules: Sequence[str | Path] = (),
    disks: Sequence[Path] = (),
    cpus: int = 1,
    memory_mb: int = 768,
    timeout_s: int = 120,
) -> Result:
    """Boot ``kernel``, run ``script`` (text that begins with ``#!``), and bring ``/out`` back into ``out``.

    ``files``: what lies in the guest besides busybox, Python and this package (path → content, or a file or a
    folder of this machine). ``modules``: names of modules of the kernel, or files, loaded in that order.
    ``disks``: raw images, ``/dev/vdb`` and on. ``timeout_s``: how long the script may take.
    Raises Unavailable when guests cannot be run here.
    """
    require()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        initrd, result = Path(scratch, "initrd"), Path(scratch, "out.img")
        initrd.write_bytes(_base() + _own(kernel, script, files or {}, modules, timeout_s))
        with open(result, "wb") as image:
            image.truncate(_OUT_MB << 20)
        command = [
            QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "pc,accel=tcg",
            "-cpu", "max", "-smp", str(cpus), "-m", str(memory_mb), "-serial", "stdio",
            "-kernel", str(kernel.image), "-initrd", str(initrd),
            "-append", _ARGUMENTS,
        ]  # fmt: skip
        for image_path in (result, *disks):
            command += ["-drive", f"file={image_path},format=raw,if=virtio,cache=unsafe"]
        try:
            run = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s + _TAIL_S
            )
            console = run.stdout + run.stderr
        except subprocess.TimeoutExpired as error:
            console = (error.stdout or b"") + (error.stderr or b"")
        return _result(result, out, console.decode(errors="replace"))


def _own(
    kernel: Kernel,
    script: str,
    files: Mapping[str, bytes | Path],
    modules: Sequence[str | Path],
    seconds: int,
) -> bytes:
    archive = initramfs.Archive()
    wanted: dict[str, bytes] = {}
    for module in ("virtio_pci", "virtio_blk", *modules):
        for path in [module] if isinstance(module, Path) else kernel.modules(module):
            wanted[path.name.removesuffix(".xz")] = plain(path)
    for name, content in wanted.items():
        archive.add(f"modules/{name}", content)
    for name, content in files.items():
        if isinstance(content, Path):
            archive.tree(content, name.strip("/"))
        else:
            archive.add(name, content, 0o755 if content.startswith(b"#!") else 0o644)
    archive.add("script", script.encode(), 0o755)
    init = _INIT.format(site=initramfs.SITE, modules=" ".join(wanted), seconds=seconds)
    archive.add("init", init.encode(), 0o755)
    return archive.bytes()


def _result(image: Path, out: Path, console: str) -> Result:
    try:
        with tarfile.open(image) as archive:
            archive.extractall(out, filter="data")
    except tarfile.ReadError:  # the guest never came so far
        return Result(None, "", "", console, out)

    def text(name: str) -> str:
        path = out / name
        found = path.read_text(errors="replace") if path.exists() else ""
        path.unlink(missing_ok=True)
        return found

    status = text(".status").strip()
    return Result(int(status) if status else None, text(".stdout"), text(".stderr"), console, out)
