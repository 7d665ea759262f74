"""The documentation matches the package."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import get_type_hints

import anyio
import pytest

import kernelproto
from kernelproto import (
    Kernel,
    KernelClient,
    KernelFinder,
    KernelPool,
    launch,
    notebook,
    pool,
    registry,
    remote,
    server,
    testing,
    wire,
)
from kernelproto.run import RunOptions
from kernelproto.server.settings_options import OPTIONS
from kernelproto.wire.content import CONTENT_TYPES

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "messages.md").read_text("utf-8")
TESTS = (ROOT / "tests" / "integration" / "test_specification.py").read_text("utf-8")


def test_every_message_type_is_in_the_table_of_messages() -> None:
    assert set(CONTENT_TYPES) - set(re.findall(r"`(\w+)`", TABLE)) == set()


def test_every_test_in_the_table_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE))

    assert named
    assert named - set(re.findall(r"^async def (test_\w+)", TESTS, re.MULTILINE)) == set()


def test_page_of_states_is_the_generated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    states = importlib.import_module("docs.hooks.states")
    page = states.PAGE.read_text("utf-8")
    assert states.fill(page) == page, "run: python -m docs.hooks.states"
    with pytest.raises(ValueError, match="has no place for the states 'kernel'"):
        states.fill("")


def test_charts_are_drawn_from_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    charts = importlib.import_module("docs.hooks.charts")
    page = "".join(f"<!-- chart: {name} -->\n\n" for name in charts.CHARTS)
    drawn = charts.fill(page, charts.RESULTS)

    assert drawn.count("<figure") == len(charts.CHARTS)
    assert "<!--" not in drawn
    for chart in charts.CHARTS.values():
        assert chart.title in drawn
        for contender, label in chart.bars.items():
            assert f"<span>{label}</span>" in drawn, f"{contender} was not measured"
    with pytest.raises(KeyError):
        charts.fill("<!-- chart: unknown -->", charts.RESULTS)


def test_diagrams_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    diagrams = importlib.import_module("docs.hooks.diagrams")
    page = diagrams.on_page_markdown("<!-- diagram: layers -->\n<!-- diagram: request -->")

    assert "<div><b>4</b><code>client</code><code>launch</code></div>" in page
    assert page.count("<line") == sum(
        step.source != step.target for step in diagrams.REQUEST
    ) + len(diagrams.ACTORS)
    with pytest.raises(ValueError, match="has no dict LAYERS"):
        diagrams.layer_numbers("x = 1")


# A mapping of this name has environment variables, wherever the package uses it.
ENVIRONMENTS = {"env", "environ", "getenv", "inherited", "variables"}


def variables_of_the_package() -> dict[str, str]:
    """Return the environment variables that the package names, each with one place.

    They are the strings that look like one, such as NO_COLOR, and all constant keys of an
    environment. A name of the package, of ``os`` or of ``socket`` is not one.
    """
    found: dict[str, str] = {}
    others: set[str] = {*dir(os), *dir(socket), *os.sysconf_names, "O_BINARY"}  # O_BINARY: Windows
    for path in sorted((ROOT / "kernelproto").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        others |= {name.id for name in ast.walk(tree) if isinstance(name, ast.Name)}
        for node in ast.walk(tree):
            match node:
                case ast.Constant(value=str(text)):
                    names = re.findall(r"\A_*[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\Z", text)
                case ast.Subscript(value=mapping, slice=ast.Constant(value=str(key))):
                    names = [key] if is_environment(mapping) else []
                case ast.Call(
                    func=ast.Attribute(value=mapping, attr="get" | "pop" | "setdefault"),
                    args=[ast.Constant(value=str(key)), *_],
                ):
                    names = [key] if is_environment(mapping) else []
                case _:
                    names = []
            found |= dict.fromkeys(names, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    return {name: place for name, place in found.items() if name not in others}


def is_environment(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] in ENVIRONMENTS


def test_every_environment_variable_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    settings = importlib.import_module("docs.hooks.settings")
    page = (ROOT / "docs" / "reference" / "environment.md").read_text("utf-8")
    table = settings.on_page_markdown(page)
    named = {word for row in rows(table) for word in re.findall(r"`(_*[A-Z][A-Z_0-9]+)`", row[0])}
    found = variables_of_the_package()
    of_settings = {variable for option in OPTIONS.values() for variable in option.variables}
    of_other_packages = {"JUPYTER_PREFER_ENV_PATH", "TMPDIR"}

    assert {name: place for name, place in found.items() if name not in named} == {}
    assert of_settings - named == set()
    assert named - set(found) == of_settings - set(found) | of_other_packages


# The variables in the tables, with their classes.
VARIABLES = {
    "anyio": anyio,
    "client": KernelClient,
    "execution": notebook.NotebookExecution,
    "finder": KernelFinder,
    "kernel": Kernel,
    "pool": KernelPool,
    "result": notebook.NotebookResult,
}

# Arguments and keys whose owner is named in the table.
WORDS = {
    *inspect.signature(notebook.execute_notebook).parameters,
    *RunOptions.__annotations__,
    "cwd",
    "env",
    "idle_timeout",
    "language",
    "language_info",
    "launch_params",
    "pyimport",
    "state",
    "timeout",
}

MIGRATIONS = sorted((ROOT / "docs" / "howto").glob("from-*.md"))


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables on a page, without headers."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("page", MIGRATIONS, ids=lambda page: page.stem)
def test_every_replacement_in_the_tables_exists(page: Path) -> None:
    names = [
        name
        for _, ours in rows(page.read_text("utf-8"))
        for name in re.findall(r"`(?:async for output in )?([A-Za-z_.]+)[^`]*`", ours)
    ]

    assert len(names) > 30
    assert [name for name in names if not exists(name)] == []


def exists(name: str) -> bool:
    first, *others = name.split(".")
    if first == "kernelproto":
        return is_importable(name)
    found: object = (
        VARIABLES.get(first) or getattr(kernelproto, first, None) or getattr(notebook, first, None)
    )
    if found is None:  # an argument or a key
        return not others and first in WORDS
    for other in others:
        owner, found = found, getattr(found, other, None)
        if found is None:  # an attribute that __init__ sets
            return other in owner.__annotations__ or f" {other}: " in (owner.__doc__ or "")
        if isinstance(found, property):  # continue with the type of its value
            assert found.fget is not None
            found = get_type_hints(found.fget)["return"]
    return True


def is_importable(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        with suppress(ImportError):
            found: object = importlib.import_module(".".join(parts[:end]))
            return all((found := getattr(found, part, None)) is not None for part in parts[end:])
    return False


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("jupyter_client", "AsyncKernelManager"),
        ("jupyter_client", "AsyncKernelClient"),
        ("jupyter_client", "AsyncMultiKernelManager"),
        ("jupyter_client.kernelspec", "KernelSpecManager"),
        ("jupyter_client", "KernelProvisionerBase"),
    ],
)
def test_every_method_of_jupyter_client_is_in_the_tables(module: str, name: str) -> None:
    theirs = getattr(pytest.importorskip(module), name)
    if not importlib.metadata.version("jupyter_client").startswith("8.10."):
        pytest.skip("the tables are those of jupyter_client 8.10")
    section = re.search(
        rf"^## {name.removeprefix('Async')}\n(.*?)(?=^## |\Z)",
        (ROOT / "docs" / "howto" / "from-jupyter-client.md").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert section is not None
    named = {
        word for theirs_, _ in rows(section[1]) for word in re.findall(r"`(\w+)[^`]*`", theirs_)
    }
    methods = {
        member
        for class_ in theirs.__mro__
        if class_.__module__.startswith("jupyter_client")
        for member, value in vars(class_).items()
        if callable(value) and not member.startswith("_")
        if not member.endswith(("_class", "_factory"))
    }

    assert methods - named == set()
    assert {word for word in named if not hasattr(theirs, word)} == set()


def test_every_option_of_nbclient_is_in_the_tables() -> None:
    theirs = pytest.importorskip("nbclient").NotebookClient
    if not importlib.metadata.version("nbclient").startswith("0.11."):
        pytest.skip("the tables are those of nbclient 0.11")
    page = (ROOT / "docs" / "howto" / "from-nbclient.md").read_text("utf-8")
    named = {word for left, _ in rows(page) for word in re.findall(r"`(\w+)[^`]*`", left)}
    of_messages = {
        "clear_display_id_mapping",
        "clear_output",
        "handle_comm_msg",
        "on_comm_open_jupyter_widget",
        "output",
        "process_message",
        "reset_execution_trackers",
    }
    options = set(theirs.class_traits(config=True)) | {
        name for name, value in vars(theirs).items() if callable(value) and name[0] != "_"
    }

    assert options - of_messages - named == set()


def test_everything_public_is_in_the_reference() -> None:
    modules = (kernelproto, launch, notebook, pool, registry, remote, server, testing, wire)
    reference = "".join(
        page.read_text("utf-8") for page in (ROOT / "docs" / "reference").glob("*.md")
    )
    shown = set(re.findall(r"^::: kernelproto\.(?:\w+\.)*(\w+)$", reference, re.MULTILINE))
    shown |= set(kernelproto.exceptions.__dict__)  # the page has the whole module

    public = {name for module in modules for name in module.__all__} - {"__version__"}
    aliases = {"CHANNEL_NAMES", "CellEvent", "ChannelName", "Frame"}
    assert public - shown - aliases == set()
