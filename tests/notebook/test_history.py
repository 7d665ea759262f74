"""The user's IPython history is left alone, and every other kernel as well."""

from __future__ import annotations

import pytest

from kernelproto import KernelFinder
from kernelproto.notebook.history import without_history
from kernelproto.testing import FakeProvider

pytestmark = pytest.mark.anyio

IN_MEMORY = "--HistoryManager.hist_file=:memory:"


class Provider(FakeProvider):
    def __init__(self, argv: list[str]) -> None:
        super().__init__()
        self._argv = argv

    async def find_kernels(self):
        yield "other", {"argv": ["R"]}
        yield "kernel", {"argv": self._argv}


IPYKERNEL = KernelFinder([Provider(["python", "-m", "ipykernel_launcher", "-f"])])
R = KernelFinder([Provider(["R", "--slave"])])


@pytest.mark.parametrize("name", ["kernel", "fake/kernel"])
async def test_history_of_an_ipykernel_is_in_memory(name: str) -> None:
    options = {"finder": IPYKERNEL, "launch_params": {"extra_arguments": ["--quiet"]}}

    changed = await without_history(name, options)

    assert changed["launch_params"] == {"extra_arguments": ["--quiet", IN_MEMORY]}
    assert options["launch_params"] == {"extra_arguments": ["--quiet"]}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kernel", {"finder": R}),
        ("fake/other", {"finder": IPYKERNEL}),
        ("missing", {"finder": IPYKERNEL}),
        (
            "kernel",
            {
                "finder": IPYKERNEL,
                "launch_params": {"extra_arguments": ["--HistoryManager.hist_file=mine"]},
            },
        ),
    ],
)
async def test_other_options_are_unchanged(name: str, options) -> None:
    assert await without_history(name, options) is options
