from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from kernelproto.exceptions import DiscoveryError, InvalidKernelSpec, NoSuchKernel
from kernelproto.launch.spec.kernelspec import (
    KernelSpec,
    find_kernelspecs,
    install_kernelspec,
    kernelspec_folders,
    read_kernelspec,
    read_kernelspecs,
    remove_kernelspec,
)

ARGV = ["some-kernel", "{connection_file}"]


@pytest.fixture(autouse=True)
def only_the_folders_of_this_test(runtime_dir, monkeypatch) -> None:
    """Hide the kernelspecs of the interpreter and of the system."""
    environment, system = (runtime_dir.parent / name for name in ("environment", "system"))
    monkeypatch.setattr("jupyter_core.paths.ENV_JUPYTER_PATH", [str(environment)])
    monkeypatch.setattr("jupyter_core.paths.SYSTEM_JUPYTER_PATH", [str(system)])
    monkeypatch.setattr("kernelproto.launch.spec.kernelspec.SYSTEM_JUPYTER_PATH", [str(system)])
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")


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
        "resources": {},
    }
    assert kernelspec.path == str(folder / "kernel.json")


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
        ("env", {"argv": ARGV, "env": {"A=B": "1"}}),
        ("env", {"argv": ARGV, "env": {"A": "\0"}}),
        ("argv", {"argv": ["", "{connection_file}"]}),
        ("argv", {"argv": ["some-kernel", "\0"]}),
        ("metadata.parameters", {"argv": ARGV, "metadata": {"parameters": []}}),
        ("metadata.parameters", {"argv": ARGV, "metadata": {"parameters": {"type": "x"}}}),
        (
            "metadata.launch_parameter_schema",
            {"argv": ARGV, "metadata": {"launch_parameter_schema": 5, "parameters": {}}},
        ),
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


@pytest.mark.parametrize(("mode", "meant"), [("SIGNAL", "signal"), ("Message", "message")])
def test_interrupt_mode_in_any_case(write_kernelspec, mode, meant) -> None:
    folder = write_kernelspec("loud", argv=ARGV, interrupt_mode=mode)
    assert read_kernelspec("loud", str(folder)).interrupt_mode == meant


def test_byte_order_mark(write_kernelspec) -> None:
    folder = write_kernelspec("marked", argv=ARGV)
    file = folder / "kernel.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_kernelspec("marked", str(folder)).argv == tuple(ARGV)


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"kernel_provisioner": {"provisioner_name": "k8s-provisioner"}}, "'k8s-provisioner'"),
        ({"kernel_provisioner": {"provisioner_name": 5}}, "5"),
        ({"kernel_provisioner": "docker"}, "'docker'"),
        ({"kernel_provisioner": ["docker"]}, "['docker']"),
        (
            {"kernel_provisioner": {"config": {"image": "small"}}},
            "'local-provisioner'",
        ),
        (
            {"process_proxy": {"class_name": "enterprise_gateway.k8s.KubernetesProcessProxy"}},
            "'enterprise_gateway.k8s.KubernetesProcessProxy'",
        ),
    ],
)
def test_kernel_that_another_launcher_has_to_start(write_kernelspec, metadata, name) -> None:
    (key,) = metadata
    folder = write_kernelspec("far", argv=ARGV, metadata=metadata)
    kernelspec = read_kernelspec("far", str(folder))
    fault = kernelspec.launch_fault()
    assert isinstance(fault, InvalidKernelSpec)
    assert (fault.path, fault.key) == (kernelspec.path, f"metadata.{key}")
    assert f"names the launcher {name}," in str(fault)
    assert kernelspec.attributes()["unavailable"] == str(fault)


@pytest.mark.parametrize(
    "metadata",
    [
        {"kernel_provisioner": None},
        {"kernel_provisioner": {}},
        {"kernel_provisioner": {"provisioner_name": "local-provisioner", "config": {}}},
        {"kernel_provisioner": {"provisioner_name": "kernelproto"}},
        {"process_proxy": {"class_name": "enterprise_gateway.processproxy.LocalProcessProxy"}},
        {"supported_encryption": "rot13", "unknown": {"provisioner_name": "k8s"}},
    ],
)
def test_kernel_that_is_started_here(write_kernelspec, metadata) -> None:
    folder = write_kernelspec("near", argv=ARGV, metadata=metadata)
    kernelspec = read_kernelspec("near", str(folder))
    assert kernelspec.launch_fault() is None
    assert "unavailable" not in kernelspec.attributes()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{\xff}",
        b"[" * 100_000,
        b'{"argv": ' + b"[" * 100_000,
        b'{"argv": ["\\ud800"]}',
        b'{"argv": ["a"]}' + b" " * 2**20,
    ],
)
def test_files_that_are_no_kernel_json(write_kernelspec, text) -> None:
    folder = write_kernelspec("wrong")
    folder.joinpath("kernel.json").write_bytes(text)
    with pytest.raises(InvalidKernelSpec) as caught:
        read_kernelspec("wrong", str(folder))
    assert caught.value.path == str(folder / "kernel.json")


def test_missing_file(tmp_path) -> None:
    with pytest.raises(InvalidKernelSpec) as caught:
        read_kernelspec("missing", str(tmp_path))
    path = tmp_path / "kernel.json"
    assert str(caught.value) == f"{path} cannot be read: No such file or directory"
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


def test_other_entries_are_skipped(write_kernelspec) -> None:
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


def test_a_kernel_json_that_cannot_be_looked_at_is_logged(write_kernelspec, caplog) -> None:
    folder = write_kernelspec("loop", argv=ARGV)
    folder.joinpath("kernel.json").unlink()
    folder.joinpath("kernel.json").symlink_to("kernel.json")
    assert list(read_kernelspecs()) == []
    assert str(folder) in caplog.text


def test_pipe_is_not_opened(write_kernelspec) -> None:
    folder = write_kernelspec("pipe", argv=ARGV)
    folder.joinpath("kernel.json").unlink()
    os.mkfifo(folder / "kernel.json")
    assert find_kernelspecs() == {}


def test_search_path(runtime_dir, monkeypatch) -> None:
    home = runtime_dir.parent
    ours, users, environment, system = (
        str(home / name / "kernels") for name in ("path", "data", "environment", "system")
    )
    assert kernelspec_folders() == [ours, users, environment, system]
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    assert kernelspec_folders() == [ours, environment, users, system]


def test_resources(write_kernelspec) -> None:
    folder = write_kernelspec("some", argv=ARGV)
    logos = {"logo-32x32": "logo-32x32.png", "logo-svg": "logo-svg.svg", "logo-X": "logo-X.PNG"}
    others = {"kernel.js": "kernel.js", "kernel.css": "kernel.css"}
    for file in [*logos.values(), *others.values(), "logo.png", "logo-a.txt", "a.js", "readme"]:
        folder.joinpath(file).touch()
    folder.joinpath("logo-folder.png").mkdir()
    kernelspec = read_kernelspec("some", str(folder))
    assert kernelspec.resources == {
        name: str(folder / file) for name, file in (logos | others).items()
    }
    assert kernelspec.attributes()["resources"] == kernelspec.resources


def test_of_a_logo_that_is_there_twice_the_one_that_scales_is_taken(write_kernelspec) -> None:
    folder = write_kernelspec("some", argv=ARGV)
    folder.joinpath("logo-a.png").touch()
    folder.joinpath("logo-a.svg").touch()
    resources = read_kernelspec("some", str(folder)).resources
    assert resources == {"logo-a": str(folder / "logo-a.svg")}


def test_resources_of_a_folder_that_cannot_be_listed(write_kernelspec, monkeypatch) -> None:
    folder = write_kernelspec("some", argv=ARGV)

    def fail(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", fail)
    assert read_kernelspec("some", str(folder)).resources == {}


def test_schema_of_launch_parameters(write_kernelspec) -> None:
    folder = write_kernelspec(
        "some",
        argv=ARGV,
        metadata={
            "launch_parameter_schema": {"properties": {"first": {}}},
            "parameters": {"properties": {"second": {}}},
        },
    )
    schema = read_kernelspec("some", str(folder)).parameter_schema()
    assert schema is not None
    assert schema.names == {"first"}
    folder = write_kernelspec("none", argv=ARGV, metadata={"parameters": None})
    assert read_kernelspec("none", str(folder)).parameter_schema() is None


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


@pytest.fixture
def source(tmp_path) -> Path:
    """Give a kernelspec that is not installed."""
    folder = tmp_path / "Source"
    folder.joinpath("more").mkdir(parents=True)
    folder.joinpath("kernel.json").write_text(json.dumps({"argv": ARGV}))
    folder.joinpath("more", "file").write_text("content")
    return folder


@pytest.fixture
def users(runtime_dir) -> Path:
    return runtime_dir.parent / "data" / "kernels"


def everything_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


COPIED = {"source", "source/kernel.json", "source/more", "source/more/file"}


def test_install_for_the_user(source, users) -> None:
    assert install_kernelspec(source, user=True) == str(users / "source")
    assert everything_in(users) == COPIED
    assert find_kernelspecs() == {"source": str(users / "source")}


def test_install_for_an_environment_and_for_everybody(source, tmp_path, runtime_dir) -> None:
    environment = tmp_path / "share" / "jupyter" / "kernels"
    assert install_kernelspec(f"{source}/", "IR", prefix=tmp_path) == str(environment / "ir")
    assert install_kernelspec(source) == str(runtime_dir.parent / "system" / "kernels" / "source")


def test_install_where_it_will_not_be_found(source, tmp_path, caplog) -> None:
    install_kernelspec(source, prefix=tmp_path)
    assert "search path" in caplog.text
    caplog.clear()
    install_kernelspec(source, user=True)
    assert caplog.records == []


def test_replace(source, users, write_kernelspec) -> None:
    write_kernelspec("Source", argv=["old"])
    with pytest.raises(DiscoveryError, match="replace=True"):
        install_kernelspec(source, user=True)
    assert [kernelspec.argv for kernelspec in read_kernelspecs()] == [("old",)]
    install_kernelspec(source, user=True, replace=True)
    assert everything_in(users) == COPIED
    install_kernelspec(users / "source", user=True, replace=True)  # by itself
    assert everything_in(users) == COPIED


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ü"])
def test_install_under_a_name_that_is_not_simple(source, users, name) -> None:
    with pytest.raises(DiscoveryError, match="only ASCII"):
        install_kernelspec(source, name, user=True)
    assert not users.exists()


def test_install_invalid_kernelspec(source, users) -> None:
    source.joinpath("kernel.json").write_text("{}")
    with pytest.raises(InvalidKernelSpec, match="argv"):
        install_kernelspec(source, user=True)
    with pytest.raises(InvalidKernelSpec, match="No such file"):
        install_kernelspec(source / "more", user=True)
    assert not users.exists()


def test_install_for_two(source) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        install_kernelspec(source, user=True, prefix="/")


def test_install_that_fails_half_way_leaves_nothing(source, users, write_kernelspec) -> None:
    write_kernelspec("source", argv=["old"])
    source.joinpath("more", "link").symlink_to("nowhere")
    with pytest.raises(DiscoveryError, match="link") as caught:
        install_kernelspec(source, user=True, replace=True)
    assert isinstance(caught.value.__cause__, OSError)
    assert everything_in(users) == {"source", "source/kernel.json"}
    assert [kernelspec.argv for kernelspec in read_kernelspecs()] == [("old",)]


def test_failed_replacement_is_undone(source, users, write_kernelspec, monkeypatch) -> None:
    write_kernelspec("Source", argv=["old"])
    rename = os.rename

    def fail_for_the_new_one(old: str, new: str) -> None:
        if "new" in Path(old).parts:
            raise OSError(28, "No space left on device", new)
        rename(old, new)

    monkeypatch.setattr(os, "rename", fail_for_the_new_one)
    with pytest.raises(DiscoveryError, match="No space left"):
        install_kernelspec(source, user=True, replace=True)
    assert everything_in(users) == {"Source", "Source/kernel.json"}


def test_install_where_nothing_can_be_written(source, users) -> None:
    users.parent.mkdir(parents=True)
    users.touch()
    with pytest.raises(DiscoveryError, match="cannot install"):
        install_kernelspec(source, user=True)


def test_never_found_half_copied(source, users, monkeypatch) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    jupyters = KernelSpecManager(kernel_dirs=[str(users)], ensure_native_kernel=False)
    found: list[object] = []
    copystat = shutil.copystat

    def look_and_copy(*arguments: object, **options: object) -> None:
        found.extend([find_kernelspecs(), jupyters.find_kernel_specs()])
        copystat(*arguments, **options)

    monkeypatch.setattr(shutil, "copystat", look_and_copy)  # done for every file and folder
    installed = {"source": install_kernelspec(source, user=True)}
    assert found == [{}] * 8
    assert find_kernelspecs() == jupyters.find_kernel_specs() == installed


def test_remove(write_kernelspec, users) -> None:
    write_kernelspec("IR", argv=ARGV).joinpath("more").mkdir()
    other = write_kernelspec("other", argv=ARGV)
    assert remove_kernelspec("ir") == str(users / "IR")
    assert everything_in(users) == {"other", "other/kernel.json"}
    assert find_kernelspecs() == {"other": str(other)}


def test_remove_a_broken_one(write_kernelspec) -> None:
    write_kernelspec("broken")
    remove_kernelspec("broken")
    assert find_kernelspecs() == {}


def test_remove_a_link(users, source) -> None:
    users.mkdir(parents=True)
    users.joinpath("link").symlink_to(source)
    assert remove_kernelspec("link") == str(users / "link")
    assert everything_in(users) == set()
    assert source.joinpath("more", "file").exists()


def test_remove_unknown_kernelspec(write_kernelspec) -> None:
    write_kernelspec("python3", argv=ARGV)
    with pytest.raises(NoSuchKernel, match="python3") as caught:
        remove_kernelspec("pyhton3")
    assert caught.value.available == ("python3",)


def test_remove_fails(write_kernelspec, monkeypatch) -> None:
    folder = write_kernelspec("some", argv=ARGV)

    def fail(old: str, new: str) -> None:
        raise PermissionError(13, "Permission denied", old)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(DiscoveryError, match="Permission denied"):
        remove_kernelspec("some")
    assert find_kernelspecs() == {"some": str(folder)}


def test_leftovers_are_logged(write_kernelspec, monkeypatch, caplog) -> None:
    write_kernelspec("some", argv=ARGV)
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    remove_kernelspec("some")
    assert "left behind" in caplog.text
    assert find_kernelspecs() == {}
