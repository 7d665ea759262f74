"""The checks at the start of the server."""

from __future__ import annotations

import pytest

from kernelproto import KernelFinder
from kernelproto.exceptions import InvalidSettings
from kernelproto.server import Settings
from kernelproto.server.limits import KernelLimits, LimitTables, UserLimits
from kernelproto.server.program.checks import check_open_files, check_settings


def test_more_connections_than_open_files_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.server.program.checks.raise_open_files", lambda: 1000)
    with pytest.raises(InvalidSettings) as caught:
        check_open_files(Settings(max_connections=800, max_kernels=10))
    assert str(caught.value) == (
        "max_connections: 800 connections and 10 kernels may need 1164 open files, and this "
        "process may have 1000: raise its hard limit (LimitNOFILE= of systemd, ulimit -Hn), or "
        "lower max_connections or max_kernels"
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kernel": "nope"}, r"kernel: no kernel type 'nope'; there are .*pyimport/kernel"),
        ({"kernel": "nope/kernel"}, r"kernel: no kernel type 'nope/kernel'; there are "),
        ({"root_dir": __file__}, r"root_dir: '.*test_checks\.py' is not a directory"),
        ({"root_dir": ""}, r"root_dir: '' is not a directory"),
        (
            {"limits": LimitTables(kernels={"nope": KernelLimits(memory=1)})},
            r"limits\.kernels: no kernel type 'nope'",
        ),
        (
            {"limits": LimitTables(groups={"x": UserLimits()})},
            r"limits\.groups: this authentication provides no groups",
        ),
        ({"certfile": "/nowhere"}, r"certfile, keyfile: .*: No such file"),
        ({"certfile": __file__}, r"certfile, keyfile: cannot load the certificate: "),
    ],
)
async def test_settings_that_do_not_fit_the_machine_are_refused(settings, reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason):
        await check_settings(Settings(**settings), KernelFinder.from_entrypoints())


def test_connections_that_fit_raise_the_limit(monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.server.program.checks.raise_open_files", lambda: 1164)
    check_open_files(Settings(max_connections=800, max_kernels=10))
