"""The command line of the server: one option for each setting, and two more."""

from __future__ import annotations

import argparse
from typing import NoReturn

from kernelproto.server.settings_options import OPTIONS

_USAGE_ERROR = 2  # the exit status


class _Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line; argparse would list all options first."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_ERROR, f"error: {message} (see {self.prog} --help)\n")


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        prog: the name of the program in messages.
    """
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        description="Serve Jupyter kernels to many users over Jupyter's REST and WebSocket API.",
        epilog="You can also set each option in the file, as key = value with underscores for the "
        "inner dashes, or in\nthe environment. The command line overrides the environment, which "
        "overrides the file.",
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="read settings from this TOML file")
    parser.add_argument(
        "--new-token",
        metavar="USER",
        help="create a token for this user, print its lines for a token file, and exit",
    )
    for option in OPTIONS.values():
        if option.table:
            continue
        default = "" if option.default in (None, "") else f" (default: {_shown(option.default)})"
        parser.add_argument(
            "--" + option.key.replace("_", "-"),
            metavar="VALUE",
            help=f"{option.description}{default}\n{', '.join(option.variables)}".replace("%", "%%"),
        )
    return parser


def _shown(value: object) -> str:
    match value:
        case list():
            return "none; separate several with commas"
        case bool():
            return str(value).lower()
        case _:
            return str(value)
