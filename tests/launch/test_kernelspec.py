from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest

from kernelproto.exceptions import InvalidKernelSpec
from kernelproto.launch.kernelspec import (
    KernelSpec,
    find_kernelspecs,
    read_kernelspec,
    read_kernelspecs,
)

ARGV = ["some-kernel", "{connection_file}"]


@pytest.fixture(autouse=True)
def only_the_folders_of_this_test(runtime_dir, monkeypatch) -> None:
    """Hide what is installed beside the interpreter and on the system."""
    monkeypatch.setattr("jupyter_core.paths.ENV_JUPYTER_PATH", [])
    monkeypatch.setattr("jupyter_core.paths.SYSTEM_JUPYTER_PATH", [])
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)


def test_everything_a_kernel_json_says(write_kernelspec) -> None:
    folder = write_kernelspec(
        "full",
        argv=ARGV,
        display_name="Full",
        language="some",
        env={"A": "1"},
        interrupt_mode="message",
        metadata={"debugger": True},
        kernel_protocol_version="5.5",
        name="impostor",
        codemirror_mode="unknown keys are fine",
    )
    kernelspec = read_kernelspec("full", str(folder))
    assert kernelspec == KernelSpec(
        name="full",
        resource_dir=str(folder),
        argv=tuple(ARGV),
        display_name="Full",
        language="some",
        env={"A": "1"},
        interrupt_mode="message",
        metadata={"debugger": True},
        kernel_protocol_version="5.5",
    )
    assert kernelspec.attributes() == {
        "argv": tuple(ARGV),
        "display_name": "Full",
        "language": "some",
        "env": {"A": "1"},
        "interrupt_mode": "message",
        "metadata": {"debugger": True},
        "resource_dir": str(folder),
    }


def test_argv_is_enough(write_kernelspec) -> None:
    kernelspec = read_kernelspec("small", str(write_kernelspec("small", argv=ARGV)))
    assert (kernelspec.interrupt_mode, kernelspec.env, kernelspec.metadata) == ("signal", {}, {})


@pytest.mark.parametrize(
    ("key", "entries"),
    [
        ("argv", {}),
        ("argv", {"argv": []}),
        ("argv", {"argv": "some-kernel"}),
        ("argv", {"argv": ["some-kernel", 1]}),
        ("env", {"argv": ARGV, "env": {"A": 1}}),
        ("env", {"argv": ARGV, "env": None}),
        ("interrupt_mode", {"argv": ARGV, "interrupt_mode": "polite"}),
        ("metadata", {"argv": ARGV, "metadata": []}),
        ("display_name", {"argv": ARGV, "display_name": 5}),
    ],
)
def test_wrong_values_are_named(write_kernelspec, key, entries) -> None:
    folder = write_kernelspec("wrong", **entries)
    with pytest.raises(InvalidKernelSpec, match=key) as caught:
        read_kernelspec("wrong", str(folder))
    assert caught.value.key == key
    assert caught.value.path == str(folder / "kernel.json")
    assert caught.value.path in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"{\xff}", b"[" * 100_000, b'{"argv": ' + b"[" * 100_000]
)
def test_files_that_are_no_kernel_json(write_kernelspec, text) -> None:
    folder = write_kernelspec("wrong")
    folder.joinpath("kernel.json").write_bytes(text)
    with pytest.raises(InvalidKernelSpec) as caught:
        read_kernelspec("wrong", str(folder))
    assert caught.value.path == str(folder / "kernel.json")


def test_missing_file(tmp_path) -> None:
    with pytest.raises(InvalidKernelSpec, match="No such file") as caught:
        read_kernelspec("missing", str(tmp_path))
    assert caught.value.key is None


def test_all_are_found_by_name(write_kernelspec) -> None:
    folders = {name: str(write_kernelspec(name, argv=ARGV)) for name in ("b", "a.1", "c_2-x")}
    assert find_kernelspecs() == folders
    assert [kernelspec.name for kernelspec in read_kernelspecs()] == ["a.1", "b", "c_2-x"]


def test_names_are_compared_without_case(write_kernelspec) -> None:
    folder = write_kernelspec("IR", argv=ARGV)
    assert find_kernelspecs() == {"ir": str(folder)}


def test_first_folder_of_the_search_path_wins(write_kernelspec, monkeypatch, tmp_path) -> None:
    write_kernelspec("Same", argv=["second"])
    write_kernelspec("other", argv=["other"])
    first = tmp_path / "kernels" / "same"
    first.mkdir(parents=True)
    first.joinpath("kernel.json").write_bytes(msgspec.json.encode({"argv": ["first"]}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert [kernelspec.argv for kernelspec in read_kernelspecs()] == [("other",), ("first",)]


def test_relative_search_path(write_kernelspec, monkeypatch) -> None:
    folder = write_kernelspec("here", argv=ARGV)
    monkeypatch.chdir(folder.parents[1])
    monkeypatch.setenv("JUPYTER_PATH", ".")
    assert find_kernelspecs() == {"here": str(folder)}


def test_what_is_no_kernelspec_is_passed_over(write_kernelspec) -> None:
    folder = write_kernelspec("good", argv=ARGV)
    write_kernelspec("not simple", argv=ARGV)
    write_kernelspec("ünusual", argv=ARGV)
    folder.parent.joinpath("no-kernel-json").mkdir()
    folder.parent.joinpath("file").touch()
    assert find_kernelspecs() == {"good": str(folder)}


def test_invalid_ones_are_logged_and_skipped(write_kernelspec, caplog) -> None:
    write_kernelspec("a", argv=ARGV)
    broken = write_kernelspec("b", argv=3)
    write_kernelspec("c", argv=ARGV)
    assert [kernelspec.name for kernelspec in read_kernelspecs()] == ["a", "c"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(broken) in record.message
    assert "argv" in record.message


def test_an_invalid_one_does_not_let_a_later_one_through(
    write_kernelspec, monkeypatch, tmp_path
) -> None:
    write_kernelspec("same", argv=ARGV)
    first = tmp_path / "kernels" / "same"
    first.mkdir(parents=True)
    first.joinpath("kernel.json").touch()
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert list(read_kernelspecs()) == []
    assert find_kernelspecs() == {"same": str(first)}


def test_search_path_of_files_and_nothing(write_kernelspec, monkeypatch, tmp_path, caplog) -> None:
    folder = write_kernelspec("good", argv=ARGV)
    tmp_path.joinpath("kernels").touch()
    paths = [str(tmp_path), str(tmp_path / "missing")]
    monkeypatch.setenv("JUPYTER_PATH", os.pathsep.join(paths))
    assert find_kernelspecs() == {"good": str(folder)}
    assert caplog.records == []


def test_unreadable_folder_on_the_search_path(write_kernelspec, monkeypatch, caplog) -> None:
    folder = write_kernelspec("good", argv=ARGV)
    unreadable = str(Path(os.environ["JUPYTER_PATH"], "kernels"))
    listdir = os.listdir

    def fail_for_one(path: str) -> list[str]:
        if path == unreadable:
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", fail_for_one)
    assert find_kernelspecs() == {"good": str(folder)}
    assert unreadable in caplog.text
