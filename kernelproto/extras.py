"""The extras of the package: the modules of each extra, and the advice to install an extra."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec

# By import name, which is also the name of the distribution unless DISTRIBUTIONS has another one.
EXTRAS = {
    "ipykernel": ("ipykernel",),
    "cli": ("typer", "rich", "prompt_toolkit"),
    "images": ("PIL", "textual_image"),
    "jupyter": ("jupyter_client", "nbclient", "traitlets"),
    "jupyverse": ("fps", "jupyverse_kernel"),
    "kubernetes": ("cryptography", "httpx", "yaml"),
    "mcp": ("mcp",),
    "notebook": ("nbformat", "yaml"),
    "oidc": ("jwt",),
    "papermill": ("nbclient", "nbformat", "papermill"),
    "postgresql": ("psycopg",),
    "remote": ("aiohttp", "fsspec"),
    "remote-client": ("httpx",),
    "server": ("h11", "prometheus_client", "psutil", "starlette", "uvicorn", "websockets"),
    "trio": ("trio",),
}


DISTRIBUTIONS = {
    "PIL": "pillow",
    "jupyverse_kernel": "jupyverse-kernel",
    "jwt": "PyJWT",
    "textual_image": "textual-image",
    "yaml": "PyYAML",
}


def fault(extra: str) -> str | None:
    """Return an error message if a module of an extra is missing; None if all are installed."""
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    return f"{', '.join(missing)} cannot be imported: {advice(extra)}" if missing else None


@contextmanager
def importing(*extras: str) -> Generator[None]:
    """Name the extra in the error if an import in the block finds a module missing.

    Args:
        extras: the extras that the modules need, the most important one first.

    Raises:
        ModuleNotFoundError: a module is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        for extra in extras:
            if missing in EXTRAS[extra]:
                text = f"{missing} cannot be imported: {advice(extra)}"
                raise ModuleNotFoundError(text, name=error.name) from error
        raise


def advice(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "kernelproto[{extra}]"'
