from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kernelproto.extras import DISTRIBUTIONS, EXTRAS, advice, importing


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    imported = {distribution: name for name, distribution in DISTRIBUTIONS.items()}
    lines = project["optional-dependencies"]
    for extra, names in EXTRAS.items():
        brought = {re.split(r"[>\[]", line)[0] for line in lines.pop(extra)}
        brought = {imported.get(name, name) for name in brought}
        assert brought == ({"anyio"} if extra == "trio" else set(names))  # which asks for trio
    assert set(lines) == {"all"}


@pytest.mark.parametrize(
    ("statement", "hidden", "extra"),
    [
        ("from kernelproto.notebook import execute_notebook", "nbformat", "notebook"),
        (
            "from kernelproto.notebook.parameter_files import read_parameter_file",
            "yaml",
            "notebook",
        ),
        ("from kernelproto.server import create_app", "starlette", "server"),
        ("from kernelproto.server import create_app", "prometheus_client", "server"),
        ("from kernelproto.server import HubToken", "h11", "server"),
        ("from kernelproto.server import OidcToken", "jwt", "oidc"),
        ("from kernelproto.remote import connect_server", "httpx", "remote-client"),
        ("from kernelproto.jupyter import NotebookClient", "nbclient", "jupyter"),
        ("import kernelproto.jupyter.client", "jupyter_client", "jupyter"),
        ("import kernelproto.jupyter.jupyverse", "fps", "jupyverse"),
        ("import kernelproto.jupyter.papermill_engine", "papermill", "papermill"),
        ("import kernelproto.mcp.http", "mcp", "mcp"),
        ("import kernelproto.registry.postgresql", "psycopg", "postgresql"),
        ("import kernelproto.mcp.program", "mcp", "mcp"),
        ("import kernelproto.mcp.server", "mcp", "mcp"),
    ],
)
def test_import_that_needs_an_extra_names_the_extra(
    statement: str, hidden: str, extra: str
) -> None:
    # None in sys.modules makes the import fail as if the package were not installed.
    program = f"import sys\nsys.modules[{hidden!r}] = None\n{statement}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {hidden} cannot be imported: {advice(extra)}"
    )


def test_other_missing_module_keeps_its_error() -> None:
    with (
        pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_module'$"),
        importing("server"),
    ):
        importlib.import_module("no_such_module")


def test_module_of_several_extras_belongs_to_the_first() -> None:
    with (
        pytest.raises(ModuleNotFoundError, match=re.escape(advice("papermill"))) as caught,
        importing("papermill", "jupyter"),
    ):
        raise ModuleNotFoundError("No module named 'nbclient.x'", name="nbclient.x")
    assert caught.value.name == "nbclient.x"
