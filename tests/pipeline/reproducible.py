"""Run the pipeline again as a lesser processor would, and compare every output byte for byte.

    python tests/pipeline/reproducible.py [--subsystem NAME] [--keep DIR]

The second run has no AVX2, FMA or AVX-512 (glibc, numpy, Arrow, OpenBLAS and numba are told so), one
processor, another hash seed, time zone, locale and directory, and compiles everything anew. Exit status 1 if
a byte differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("ingest", "featurize", "train", "evaluate", "package", "report")
VECTORS = ("AVX", "AVX2", "FMA", "FMA4", "BMI1", "BMI2", "LZCNT", "MOVBE", "AVX512F", "AVX512VL", "AVX512BW")


def lesser_processor(scratch: Path) -> dict[str, str]:
    """The environment of the second run."""
    hwcaps = [f"-{name}{suffix}" for name in VECTORS for suffix in ("", "_Usable")]
    return {
        **os.environ,
        "GLIBC_TUNABLES": f"glibc.cpu.hwcaps={','.join(hwcaps)}",
        "NPY_DISABLE_CPU_FEATURES": " ".join(numpy_features()),
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(scratch / "numba"),
        "ARROW_USER_SIMD_LEVEL": "NONE",
        "OPENBLAS_CORETYPE": "Prescott",
        "PYTHONHASHSEED": "12345",
        "TZ": "Pacific/Auckland",
        "LC_ALL": "C",
    }


def numpy_features() -> list[str]:
    """What numpy would dispatch to here beyond its baseline."""
    from numpy._core import _multiarray_umath as umath

    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]


def run(root: Path, subsystem: str, command: list[str], env: dict[str, str]) -> None:
    """All stages below ``root``, on one processor."""
    one = {min(os.sched_getaffinity(0))}
    for stage in STAGES:
        line = [*command, "pipeline", stage, "--subsystem", subsystem, "--params", str(root / "params.yaml")]
        subprocess.run(line, check=True, env=env, preexec_fn=lambda: os.sched_setaffinity(0, one))


def outputs(root: Path, subsystem: str) -> dict[str, str]:
    """Path below ``root`` -> SHA-256, of everything that the stages write."""
    version = yaml.safe_load((root / "params.yaml").read_text())["package"]["version"]
    places = (f"build/{subsystem}", f"reports/{subsystem}", f"models/exported/{subsystem}-{version}")
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in places
        for path in sorted((root / place).rglob("*"))
        if path.is_file() and path.name != ".gitignore"
    }


def differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Paths that are not the same in both."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def main() -> int:
    """Compare the repository's own outputs with those of the second run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subsystem", default="readahead")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the outputs of the second run there")
    args = parser.parse_args()
    subprocess.run(["dvc", "repro", "--quiet"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as scratch:
        other = args.keep or Path(scratch) / "other"
        other.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "params.yaml", other)
        (other / "data").unlink(missing_ok=True)
        (other / "data").symlink_to(ROOT / "data")
        print("without", " ".join(numpy_features()), "and FMA, on one processor:", file=sys.stderr)
        run(other, args.subsystem, ["hindsight"], lesser_processor(Path(scratch)))
        first, second = outputs(ROOT, args.subsystem), outputs(other, args.subsystem)
    for name in differences(first, second):
        print(f"differs: {name}")
    same = len(first) - len(differences(first, second))
    print(f"{same} of {len(first)} files are the same bytes")
    return int(first != second)


if __name__ == "__main__":
    sys.exit(main())
