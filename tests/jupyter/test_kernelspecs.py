from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kernelproto.cli.main import main
from kernelproto.exceptions import DiscoveryError, InvalidKernelSpec, NoSuchKernel
from kernelproto.jupyter.kernelspecs import disable_provisioner, enable_provisioner
from kernelproto.launch.spec.kernelspec import read_kernelspec

ARGV = ["kernel", "{connection_file}"]


def test_enable_and_disable(kernelspec: Callable[..., Path]) -> None:
    path = kernelspec("one", ARGV, metadata={"debugger": True}, unknown="\u00e9")
    path.chmod(0o640)
    before = json.loads(path.read_text())
    assert enable_provisioner("One") == enable_provisioner("one") == str(path)
    metadata = {"debugger": True, "kernel_provisioner": {"provisioner_name": "kernelproto"}}
    assert json.loads(path.read_text()) == {**before, "metadata": metadata}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert read_kernelspec("one", str(path.parent)).launch_fault() is None
    disable_provisioner("one")
    disable_provisioner("one")
    assert json.loads(path.read_text()) == before
    assert os.listdir(path.parent) == ["kernel.json"]


def test_config_is_kept(kernelspec: Callable[..., Path]) -> None:
    stanza = {"provisioner_name": "kernelproto", "config": {"fork": False}}
    path = kernelspec("one", ARGV, metadata={"kernel_provisioner": stanza})
    enable_provisioner("one")
    assert json.loads(path.read_text())["metadata"]["kernel_provisioner"] == stanza


@pytest.mark.parametrize("stanza", [{"provisioner_name": "docker"}, "docker", 5])
@pytest.mark.parametrize("choose", [enable_provisioner, disable_provisioner])
def test_other_provisioner(kernelspec: Callable[..., Path], choose, stanza) -> None:
    kernelspec("one", ARGV, metadata={"kernel_provisioner": stanza})
    with pytest.raises(InvalidKernelSpec, match="kernel_provisioner"):
        choose("one")


def test_no_such_kernelspec() -> None:
    with pytest.raises(NoSuchKernel, match="install its kernelspec"):
        enable_provisioner("one")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_folder_that_cannot_be_written(
    kernelspec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kernelspec("one", ARGV)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kernelproto.jupyter.kernelspecs.mkstemp", refuse)  # root may write
    with pytest.raises(DiscoveryError, match="JUPYTER_DEFAULT_PROVISIONER_NAME=kernelproto"):
        enable_provisioner("one")
    assert "metadata" not in json.loads(path.read_text())


def test_command(kernelspec: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = kernelspec("one", ARGV)
    assert main(["provisioner", "enable", "one"]) == 0
    assert "kernelproto" in path.read_text()
    assert main(["provisioner", "disable", "one"]) == 0
    assert "kernelproto" not in path.read_text()
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix(f"{path} ") for line in lines] == [
        "now names the provisioner kernelproto",
        "no longer names the provisioner kernelproto",
    ]
    assert main(["provisioner", "enable", "two"]) == 1
    assert "two" in capsys.readouterr().err
