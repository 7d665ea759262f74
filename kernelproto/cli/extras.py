"""The extras of the package: what each of them brings, and what to do without it."""

from __future__ import annotations

from importlib.util import find_spec

from kernelproto.cli.errors import CliError

# Packages are imported under the names of their distributions, but PyJWT as jwt.
EXTRAS = {
    "ipykernel": ("ipykernel",),
    "cli": ("typer", "rich", "prompt_toolkit"),
    "notebook": ("nbformat",),
    "oidc": ("jwt",),
    "server": ("h11", "prometheus_client", "psutil", "starlette", "uvicorn", "websockets"),
    "trio": ("trio",),
}


def need(extra: str) -> None:
    """Raise CliError, which says what to install, unless there is all that an extra brings."""
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        raise CliError(f"{', '.join(missing)} cannot be imported: {advice(extra)}")


def advice(extra: str) -> str:
    """Return how an extra is installed."""
    return f'pip install "kernelproto[{extra}]"'
