"""``hindsight advisor``: what may be used on this host."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from hindsight.errors import ConfigurationError, ExitCode

if TYPE_CHECKING:
    from hindsight.advisor.verification import Verified

TRUST_DIRECTORY = "/etc/hindsight/trust.d"
"""As in hindsight.models.keys, which --help must not load (a test compares)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = (
        "examples:\n"
        "  hindsight advisor verify models/exported/NAME-VERSION\n"
        "  hindsight advisor verify models/exported/NAME-VERSION --integrity-only\n"
    )
    commands = parser.add_subparsers(metavar="ACTION", required=True)
    verify = commands.add_parser(
        "verify",
        help="check whether a package may be used on this host",
        description="Check whether a package may be used on this host.\n\n"
        "In this order: the signature (NAME-VERSION.sig beside the package) by a key in the trust\n"
        "directory; the manifest, and the sizes in it; every file and its hash, and that there is no other;\n"
        "the expiry; then the model, loaded in a child process, must give the golden predictions bit for\n"
        "bit. The first thing that is wrong ends it with status 5, and no model is loaded before all the\n"
        "rest is right.",
        epilog="examples:\n"
        "  hindsight advisor verify models/exported/NAME-VERSION\n"
        "  hindsight advisor verify models/exported/NAME-VERSION --trust ./trusted --json | jq .may_actuate\n"
        "  hindsight advisor verify models/exported/NAME-VERSION --integrity-only\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("package", metavar="PACKAGE", help="directory of the package")
    how = verify.add_mutually_exclusive_group()
    how.add_argument(
        "--trust", metavar="DIR", help=f"directory of the public keys that count (default: {TRUST_DIRECTORY})"
    )
    how.add_argument(
        "--integrity-only",
        action="store_true",
        help="leave the signature out: says whether the package is intact; it must not actuate",
    )
    verify.add_argument("--json", action="store_true", help="print the result as JSON")
    verify.set_defaults(run=verify_package)


def verify_package(args: argparse.Namespace) -> int:
    """``hindsight advisor verify``."""
    import time

    _need_extra()
    from hindsight.advisor.verification import verify
    from hindsight.models.keys import read_trust

    trust = None if args.integrity_only else read_trust(args.trust)
    for _, reason in trust.ignored if trust is not None else ():
        print(f"hindsight: {trust.directory if trust else ''}: {reason}; it is not trusted", file=sys.stderr)
    found = verify(args.package, trust, time.time_ns())
    if args.json:
        print(json.dumps(_document(found), indent=2, sort_keys=True))
    else:
        _show(found)
    return ExitCode.OK


def _document(found: Verified) -> dict[str, object]:
    manifest, signed = found.package.manifest, found.signed
    return {
        "name": manifest.name,
        "version": manifest.version,
        "subsystem": manifest.subsystem,
        "mode": manifest.mode,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "expires_ns": manifest.expires_ns,
        "integrity": True,
        "signature": None if signed is None else {"key": signed.key, "file": signed.file},
        "golden": found.golden,
        "may_actuate": found.may_actuate,
    }


def _show(found: Verified) -> None:
    manifest, signed = found.package.manifest, found.signed
    print(
        f"{manifest.name} {manifest.version}: {'verified' if signed else 'intact'}; {len(manifest.files)} "
        f"files, {manifest.size} bytes; {found.golden} golden predictions reproduced bit for bit"
    )
    if signed is not None:
        print(f"signed by {signed.file}, key {signed.key}")
    if found.may_actuate:
        print(f"it may be used in the mode that its evidence allows: {manifest.mode}")
    elif signed is None:
        print("the signature was not checked: it must not actuate")
    else:
        print(f"its evidence says not to use it (mode {manifest.mode}): it must not actuate")


def _need_extra() -> None:
    from importlib.util import find_spec

    needed = ("numpy", "numba", "xgboost", "cryptography", "pyarrow")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"this needs {', '.join(missing)}, which a host that only records does not",
            "pip install 'kernel-hindsight[advisor]'",
        )
