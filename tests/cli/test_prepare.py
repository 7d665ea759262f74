from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from nbformat import v4

from kernelproto import NoSuchKernel
from kernelproto.cli.errors import CliError
from kernelproto.cli.notebook import ExecutionOptions
from kernelproto.cli.prepare import check_options, prepare


def options(**about: Any) -> ExecutionOptions:
    defaults: dict[str, Any] = {"kernel": None, "timeout": None, "allow_errors": False}
    return ExecutionOptions(**(defaults | {"parameters": {"year": None}} | about))


@pytest.mark.parametrize(
    ("about", "notebooks", "problem"),
    [
        ({"existing": "k"}, 2, "--existing executes one notebook"),
        ({"existing": "k", "kernel": "x"}, 1, "leave out --kernel"),
        ({"existing": "k", "cwd": Path(".")}, 1, "leave out --cwd"),
        ({"existing": "k", "keep_kernel": True}, 1, "leave out --keep-kernel"),
        ({"prepare_only": True, "existing": "k"}, 1, "leave out --existing"),
        ({"prepare_only": True, "from_cell": 2}, 1, "leave out --from-cell"),
        ({"prepare_only": True, "keep_kernel": True}, 1, "leave out --keep-kernel"),
        ({"cwd": Path("missing")}, 1, "--cwd missing is not a folder"),
    ],
)
def test_options_that_would_have_no_effect(about, notebooks, problem) -> None:
    with pytest.raises(CliError, match=re.escape(problem)):
        check_options(options(**about), notebooks)


def test_options_together() -> None:
    check_options(options(existing="k", from_cell=2), 1)
    check_options(options(keep_kernel=True, from_cell=2, cwd=Path(".")), 3)


@pytest.mark.parametrize(
    ("metadata", "kernel", "code"),
    [
        ({"language_info": {"name": "julia"}}, None, "year = nothing"),
        (
            {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}},
            None,
            "year <- NULL",
        ),
        ({"kernelspec": {"name": "python3", "display_name": ""}}, None, "year = None"),
        ({"language_info": {"name": "julia"}}, "pyimport/kernel", "year = None"),
        ({}, None, "year = None"),
    ],
)
@pytest.mark.anyio
async def test_parameters_are_written_without_a_kernel(metadata, kernel, code) -> None:
    nb = v4.new_notebook(metadata=metadata, cells=[v4.new_code_cell("1")])
    await prepare(nb, options(kernel=kernel))
    assert code in nb["cells"][0]["source"]


@pytest.mark.anyio
async def test_notebook_of_an_unknown_kernel_type_is_not_prepared() -> None:
    with pytest.raises(NoSuchKernel, match="nosuch"):
        await prepare(v4.new_notebook(), options(kernel="nosuch"))
