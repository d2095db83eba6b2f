"""``hindsight capture install``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hindsight.errors import ExitCode


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    install = verbs.add_parser(
        "install",
        help="install systemd units, configuration, manual page and shell completion",
        description="Install two systemd units (neither is enabled), their configuration, the manual page\n"
        "and completion for bash, zsh and fish; run from a zip application, that too, as\n"
        "bin/hindsight. Nothing outside --prefix and /etc/hindsight is written. Prints the paths written.",
        epilog="examples:\n  sudo hindsight capture install\n"
        "  hindsight capture install --root build/image --prefix /usr\n"
        "  sudo hindsight capture install --uninstall\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    install.add_argument(
        "--prefix", metavar="PATH", type=Path, default=Path("/usr/local"),
        help="where, on the host (default: %(default)s)",
    )  # fmt: skip
    install.add_argument(
        "--root", metavar="DIR", type=Path, default=Path("/"),
        help="the root of an image to install into (default: this host's)",
    )  # fmt: skip
    install.add_argument("--uninstall", action="store_true", help="remove what was installed")
    install.add_argument("--dry-run", action="store_true", help="change nothing, print what would be written")
    install.set_defaults(run=_install)


def _say(message: str) -> None:
    print(f"hindsight: {message}", file=sys.stderr)


def _install(args: argparse.Namespace) -> int:
    from hindsight.capture.operation.install import install, uninstall

    root = args.root.absolute()
    if args.uninstall:
        paths = uninstall(root, args.prefix, _say, args.dry_run)
    else:
        paths = install(root, args.prefix, _say, args.dry_run)
    for path in paths:
        print(path)
    if not paths:
        _say("nothing is installed there" if args.uninstall else "everything is in place already")
    elif root == Path("/") and not args.dry_run:
        _say("next: systemctl daemon-reload" + ("" if args.uninstall else
             " && systemctl enable --now hindsight-capture"))  # fmt: skip
    return ExitCode.OK
