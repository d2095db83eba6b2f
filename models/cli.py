"""``hindsight models``: list, show, verify and sign model packages, and state what they were made from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hindsight.errors import ConfigurationError, ExitCode, UsageError, VerificationError

if TYPE_CHECKING:
    from hindsight.models.manifest import Manifest

DEFAULT_DIRECTORY = "models/exported"
DEFAULT_KEY = "signing.key"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = (
        "examples:\n"
        "  hindsight models list\n"
        "  hindsight models show models/exported/NAME-VERSION\n"
        "  hindsight models verify models/exported/NAME-VERSION\n"
        "  hindsight models keygen signing.key\n"
        "  hindsight models sign models/exported/NAME-VERSION --key signing.key\n"
        "  hindsight models provenance models/exported/NAME-VERSION --key signing.key\n"
    )
    commands = parser.add_subparsers(metavar="ACTION", required=True)

    listing = _command(
        commands,
        "list",
        "list the packages in a directory",
        "Reads the manifests alone; says which ones cannot be read, and then ends with status 5.",
        "  hindsight models list\n  hindsight models list /srv/models --json\n",
    )
    listing.add_argument(
        "directory",
        nargs="?",
        default=DEFAULT_DIRECTORY,
        metavar="DIR",
        help=f"directory that holds packages (default: {DEFAULT_DIRECTORY})",
    )
    listing.add_argument("--json", action="store_true", help="print a list of manifests as JSON")
    listing.set_defaults(run=list_packages)

    show = _command(
        commands,
        "show",
        "print what a package's manifest says",
        "Reads the manifest alone: the files are not checked (see verify).",
        "  hindsight models show models/exported/NAME-VERSION\n"
        "  hindsight models show models/exported/NAME-VERSION --json | jq .features\n",
    )
    show.add_argument("package", metavar="PACKAGE", help="directory of the package")
    show.add_argument("--json", action="store_true", help="print the manifest itself")
    show.set_defaults(run=show_package)

    verify = _command(
        commands,
        "verify",
        "check a package's integrity",
        "Checks the manifest, the list of files, their sizes and hashes, then loads the model in a child\n"
        "process and compares its margins with XGBoost's; with --trust, the signature before all that.\n"
        "Golden predictions are left to hindsight advisor verify. Ends with status 5 if anything is wrong.",
        "  hindsight models verify models/exported/NAME-VERSION\n"
        "  hindsight models verify models/exported/NAME-VERSION --trust /etc/hindsight/trust.d\n",
    )
    verify.add_argument("package", metavar="PACKAGE", help="directory of the package")
    verify.add_argument(
        "--trust",
        metavar="DIR",
        help="check the signature too, by the public keys in DIR (default: it is not)",
    )
    verify.add_argument(
        "--provenance",
        action="store_true",
        help="check NAME-VERSION.intoto.jsonl too, by the same keys, and that it is of these files",
    )
    verify.add_argument("--json", action="store_true", help="print the result as JSON")
    verify.set_defaults(run=verify_package)

    keygen = _command(
        commands,
        "keygen",
        "make a pair of keys to sign packages with",
        "Writes the private key to KEY (mode 0600) and the public key to KEY.pub, for the trust directories\n"
        "of those who are to use the packages. Ed25519, in PEM. Nothing is overwritten. The private key is\n"
        "encrypted with a passphrase, which is asked for at a terminal; without a terminal and without\n"
        "--passphrase-file it is not encrypted.",
        f"  hindsight models keygen {DEFAULT_KEY}\n"
        f"  hindsight models keygen {DEFAULT_KEY} --passphrase-file ./passphrase\n"
        f"  sudo install -m 644 -D {DEFAULT_KEY}.pub /etc/hindsight/trust.d/maker.pub\n",
    )
    keygen.add_argument(
        "key", nargs="?", default=DEFAULT_KEY, metavar="KEY", help=f"file to write (default: {DEFAULT_KEY})"
    )
    how = keygen.add_mutually_exclusive_group()
    _passphrase(how)
    how.add_argument(
        "--no-passphrase", action="store_true", help="do not encrypt the private key, and ask nothing"
    )
    keygen.add_argument("--json", action="store_true", help="print the files and the id of the key as JSON")
    keygen.set_defaults(run=make_keys)

    sign = _command(
        commands,
        "sign",
        "sign a package",
        "Verifies the package, then signs the bytes of its manifest, which names the hashes of all files.\n"
        "The signature goes beside the package, to NAME-VERSION.sig; one that is there is replaced. The\n"
        "passphrase of the key, if it has one, is asked for at a terminal. A wrong one ends with status 3.",
        f"  hindsight models sign models/exported/NAME-VERSION --key {DEFAULT_KEY}\n",
    )
    sign.add_argument("package", metavar="PACKAGE", help="directory of the package")
    sign.add_argument("--key", required=True, metavar="FILE", help="private key, as keygen writes it")
    _passphrase(sign)
    sign.add_argument("--json", action="store_true", help="print the file and the id of the key as JSON")
    sign.set_defaults(run=sign_package)

    provenance = _command(
        commands,
        "provenance",
        "state what a package was made from, and sign that",
        "Verifies the package, then signs an in-toto statement (SLSA provenance v1, in a DSSE envelope)\n"
        "that names its files, the commit that is checked out, and the hashes of dvc.lock and params.yaml.\n"
        "It goes beside the package, to NAME-VERSION.intoto.jsonl; one that is there is replaced. dvc.lock\n"
        "must name the package, and the work tree be as in its commit.",
        f"  hindsight models provenance models/exported/NAME-VERSION --key {DEFAULT_KEY}\n"
        "  hindsight models verify models/exported/NAME-VERSION --trust ./trusted --provenance\n",
    )
    provenance.add_argument("package", metavar="PACKAGE", help="directory of the package, in its checkout")
    provenance.add_argument("--key", required=True, metavar="FILE", help="private key, as keygen writes it")
    _passphrase(provenance)
    provenance.add_argument(
        "--allow-dirty", action="store_true", help="sign although files differ from the commit, and say so"
    )
    provenance.add_argument("--json", action="store_true", help="print what was stated as JSON")
    provenance.set_defaults(run=state_provenance)


def _passphrase(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help="read the passphrase of the key from FILE (mode 0600), or from standard input (-)",
    )


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    detail: str,
    examples: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{detail}",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def list_packages(args: argparse.Namespace) -> int:
    """``hindsight models list``."""
    from pathlib import Path

    from hindsight.models.package import read_manifest

    directory = Path(args.directory)
    try:
        candidates = sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise ConfigurationError(
            f"{directory}: {error.strerror}", "give a directory that holds model packages"
        ) from None
    status = ExitCode.OK
    found: list[tuple[str, Manifest]] = []
    for path in candidates:
        try:
            found.append((path.name, read_manifest(path)))
        except VerificationError as error:
            print(f"hindsight: {path}: {error.message}", file=sys.stderr)
            status = ExitCode.VERIFICATION
    if args.json:
        print(json.dumps([{"package": name, **m.document()} for name, m in found], indent=2, sort_keys=True))
    elif found:
        rows = [("PACKAGE", "SUBSYSTEM", "MODE", "FEATURES", "ACTIONS", "EXPIRES")]
        for name, m in found:
            counts = str(len(m.features)), str(len(m.decision.actions))
            rows.append((name, m.subsystem, m.mode, *counts, _date(m.expires_ns)))
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    else:
        print(f"no packages in {directory}", file=sys.stderr)
    return status


def show_package(args: argparse.Namespace) -> int:
    """``hindsight models show``."""
    from hindsight.models.manifest import canonical_json
    from hindsight.models.package import read_manifest

    manifest = read_manifest(args.package)
    if args.json:
        print(canonical_json(manifest.document()).decode(), end="")
        return ExitCode.OK
    decision = manifest.decision
    print(f"{manifest.name} {manifest.version}")
    facts = {
        "subsystem": manifest.subsystem,
        "mode": manifest.mode,
        "objective": f"{manifest.objective.metric} [{manifest.objective.unit}], {manifest.objective.loss}",
        "actions": ", ".join(action.name for action in decision.actions),
        "minimum gain": f"{decision.minimum_gain:g}",
        "bounds": ", ".join(f"{name} {low:g} … {high:g}" for name, (low, high) in manifest.bounds.items()),
        "xgboost": manifest.xgboost_version,
        "newest data": _date(manifest.newest_data_ns),
        "expires": f"{_date(manifest.expires_ns)} ({manifest.valid_days} days after its newest data)",
    }
    for name, value in facts.items():
        print(f"  {name:<13} {value or 'none'}")
    print("features, in order:")
    width = max(len(feature.name) for feature in manifest.features)
    for feature in manifest.features:
        print(f"  {feature.name:<{width}}  {feature.low:g} … {feature.high:g} {feature.unit}".rstrip())
    print("made from:")
    for name, digest in manifest.inputs.items():
        print(f"  {digest}  {name}")
    print("files (not checked; see hindsight models verify):")
    for name, entry in manifest.files.items():
        print(f"  {entry.sha256}  {name}  {entry.size} bytes")
    return ExitCode.OK


def verify_package(args: argparse.Namespace) -> int:
    """``hindsight models verify``."""
    from hindsight.models.package import verify

    signed = None
    if args.trust is not None:
        from hindsight.models.keys import read_trust
        from hindsight.models.signing import check, same_manifest

        trust = read_trust(args.trust)
        signed = check(args.package, trust)
    elif args.provenance:
        raise UsageError("--provenance needs the keys that count", "name their directory with --trust DIR")
    manifest = verify(args.package)
    if signed is not None:
        same_manifest(signed.manifest, manifest)
    origin = None
    if args.provenance:
        from hindsight.models.provenance import check_provenance

        origin = check_provenance(args.package, manifest, trust)
    if args.json:
        from dataclasses import asdict

        result = {
            "name": manifest.name,
            "version": manifest.version,
            "mode": manifest.mode,
            "files": len(manifest.files),
            "bytes": manifest.size,
            "integrity": True,
            "signature": None if signed is None else {"key": signed.key, "file": signed.file},
            "provenance": None if origin is None else asdict(origin),
            "golden": None,
        }
        print(json.dumps(result, indent=2, sort_keys=True))
        return ExitCode.OK
    print(f"{manifest.name} {manifest.version}: intact; {len(manifest.files)} files, {manifest.size} bytes")
    if signed is None:
        print(
            "the model loads and gives XGBoost's margins; signature and golden predictions were not checked"
        )
    else:
        print(f"signed by {signed.file}, key {signed.key}")
        print("the model loads and gives XGBoost's margins; golden predictions were not checked")
    if origin is not None:
        _show_origin(origin.commit, origin.lock, origin.parameters, origin.changed)
        print(f"so says {origin.file}, key {origin.key}")
    return ExitCode.OK


def make_keys(args: argparse.Namespace) -> int:
    """``hindsight models keygen``."""
    from hindsight.models.keys import TRUST_DIRECTORY, generate
    from hindsight.models.passphrase import ask_passphrase, at_terminal, read_passphrase

    passphrase = None
    if args.passphrase_file is not None:
        passphrase = read_passphrase(args.passphrase_file)
    elif not args.no_passphrase and at_terminal():
        passphrase = ask_passphrase(args.key, new=True)
    public, identity = generate(args.key, passphrase)
    if args.json:
        made = {
            "key": identity,
            "private": args.key,
            "public": str(public),
            "encrypted": passphrase is not None,
        }
        print(json.dumps(made, indent=2, sort_keys=True))
    else:
        kind = "not encrypted" if passphrase is None else "encrypted"
        print(f"private key {args.key}, {kind}: keep it to yourself, and out of every repository")
        print(f"public key {public}: for {TRUST_DIRECTORY} on the hosts that are to use what you sign")
        print(f"id {identity}")
    return ExitCode.OK


def sign_package(args: argparse.Namespace) -> int:
    """``hindsight models sign``."""
    from hindsight.models.signing import sign

    path, signature = sign(args.package, args.key, _given_passphrase(args))
    if args.json:
        print(json.dumps({"key": signature.key, "signature": str(path)}, indent=2, sort_keys=True))
    else:
        print(f"{path}: signed with the key {signature.key}")
    return ExitCode.OK


def state_provenance(args: argparse.Namespace) -> int:
    """``hindsight models provenance``."""
    from hindsight.models.provenance import attest

    path, checkout = attest(args.package, args.key, _given_passphrase(args), args.allow_dirty)
    if args.json:
        stated = {
            "provenance": str(path),
            "commit": checkout.commit,
            "lock": checkout.lock,
            "parameters": checkout.parameters,
            "changed": list(checkout.changed),
        }
        print(json.dumps(stated, indent=2, sort_keys=True))
    else:
        print(f"{path}: written")
        _show_origin(checkout.commit, checkout.lock, checkout.parameters, len(checkout.changed))
    return ExitCode.OK


def _show_origin(commit: str, lock: str, parameters: str, changed: int) -> None:
    print(
        f"made from the commit {commit}, {f'but {changed} of the files differed' if changed else 'unchanged'}"
    )
    print(f"  {lock}  dvc.lock\n  {parameters}  params.yaml")


def _given_passphrase(args: argparse.Namespace) -> bytes | Callable[[], bytes]:
    """The passphrase that the command line leads to, or what asks for it if the key has one."""
    from hindsight.models.passphrase import ask_passphrase, read_passphrase

    if args.passphrase_file is not None:
        return read_passphrase(args.passphrase_file)
    return lambda: ask_passphrase(args.key)


def _date(time_ns: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).date().isoformat()
