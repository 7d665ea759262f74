from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from kernelproto.cli.main import main
from kernelproto.launch.spec.kernelspec import find_kernelspecs

ARGV = [sys.executable, "-m", "echo", "{connection_file}"]
LOST = ["/nowhere/R", "{connection_file}"]


@pytest.fixture
def write(monkeypatch, tmp_path) -> Callable[..., Path]:
    """Give a function that writes a kernelspec, by default an installed one of the user."""
    # Without the kernelspecs of the running Python and of the system.
    monkeypatch.setattr("jupyter_core.paths.ENV_JUPYTER_PATH", [str(tmp_path / "env")])
    monkeypatch.setattr("jupyter_core.paths.SYSTEM_JUPYTER_PATH", [])

    def write(name: str, /, folder: Path | None = None, **entries: object) -> Path:
        folder = (folder or Path(os.environ["JUPYTER_DATA_DIR"], "kernels")) / name
        folder.mkdir(parents=True)
        folder.joinpath("kernel.json").write_text(json.dumps({"argv": ARGV} | entries))
        return folder

    return write


def test_list(write, capsys) -> None:
    good = write("good", display_name="Good")
    lost = write("lost", argv=LOST)
    write("broken", argv=3)
    assert main(["kernelspec", "list"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "NAME  DISPLAY NAME  FOLDER",
        f"good  Good          {good}",
        f"lost                {lost}",
    ]
    broken, missing = err.splitlines()
    assert broken.startswith("broken: ")
    assert "'argv'" in broken
    assert missing == "lost cannot be launched: /nowhere/R is missing"


def test_list_is_never_shortened_where_it_is_copied_from(write, terminal) -> None:
    folder = write("good", display_name="A display name that is too long for this terminal")
    screen = terminal("kernelspec", "list", columns=60)
    assert screen.end() == 0
    assert f"  {folder}" in screen.text


def test_list_as_json_is_the_one_of_jupyter(write, capfdbinary) -> None:
    write("good", display_name="Good", language="x", env={"A": "1"}, metadata={"b": [None, 2]})
    write("other", interrupt_mode="message")
    assert main(["kernelspec", "list", "--json"]) == 0
    ours = json.loads(capfdbinary.readouterr().out)["kernelspecs"]
    theirs = KernelSpecManager(ensure_native_kernel=False).get_all_specs()
    assert ours.keys() == {"good", "other"}
    for name, about in ours.items():
        assert about["resource_dir"] == theirs[name]["resource_dir"]
        # Newer releases of jupyter_client have further entries.
        assert about["spec"].items() <= theirs[name]["spec"].items()


def test_list_of_kernelspecs_without_their_program(write, capsys) -> None:
    write("good")
    assert main(["kernelspec", "list", "--missing"]) == 0
    assert capsys.readouterr() == ("", "No kernelspec has a missing program.\n")
    write("lost", argv=LOST)
    assert main(["kernelspec", "list", "--missing"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "lost"]
    assert err == ""


def test_list_of_nothing(write, capsys) -> None:
    assert main(["kernelspec", "list"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "JUPYTER_PATH" in err


def test_install_for_the_user(write, tmp_path, capsys) -> None:
    source = write("IR", tmp_path, display_name="R")
    source.joinpath("kernel.json").chmod(stat.S_IRUSR)
    assert main(["kernelspec", "install", str(source), "--user"]) == 0
    folder = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", "ir")
    assert capsys.readouterr().out == f"Installed ir in {folder}\n"
    assert find_kernelspecs() == {"ir": str(folder)}
    again = ["kernelspec", "install", str(source), "--user", "--display-name", "R 5 — new"]
    assert main(again) == 1
    assert "--replace" in capsys.readouterr().err
    assert main([*again, "--replace"]) == 0
    installed = json.loads(folder.joinpath("kernel.json").read_text("utf-8"))
    assert installed == {"argv": ARGV, "display_name": "R 5 — new"}
    assert json.loads(source.joinpath("kernel.json").read_text())["display_name"] == "R"


def test_install_for_an_environment(write, tmp_path, monkeypatch) -> None:
    source = str(write("source", tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    for options in (["--prefix", str(tmp_path / "other")], ["--sys-prefix"]):
        assert main(["kernelspec", "install", source, "--name", "x", *options]) == 0
    for environment in ("other", "env"):
        assert (tmp_path / environment / "share" / "jupyter" / "kernels" / "x").is_dir()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--user", "--sys-prefix"], "give only one of --user, --sys-prefix and --prefix"),
        (["--prefix", "x", "--user"], "give only one of --user, --sys-prefix and --prefix"),
        (["--user", "--name", "a/b"], "invalid kernelspec name 'a/b'"),
    ],
)
def test_install_with_wrong_options(write, tmp_path, options, words, capsys) -> None:
    assert main(["kernelspec", "install", str(write("source", tmp_path)), *options]) == 1
    assert words in capsys.readouterr().err
    assert find_kernelspecs() == {}


def test_install_of_another_thing(write, tmp_path, capsys) -> None:
    file = write("source", tmp_path) / "kernel.json"
    assert main(["kernelspec", "install", str(file), "--user"]) == 1
    assert "give the folder that contains kernel.json" in capsys.readouterr().err
    assert main(["kernelspec", "install", str(tmp_path), "--user"]) == 1
    assert "kernel.json cannot be read" in capsys.readouterr().err


def test_install_where_this_user_may_not_write(write, tmp_path, monkeypatch, capsys) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "/usr/local/share/jupyter")

    monkeypatch.setattr("kernelproto.launch.spec.kernelspec.os.makedirs", refuse)
    monkeypatch.setattr("kernelproto.launch.spec.kernelspec.SYSTEM_JUPYTER_PATH", ["/usr"])
    source = str(write("source", tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["kernelspec", "install", source]) == 1
    assert capsys.readouterr().err.endswith("; --user installs for you alone\n")


def test_remove(write, capsys) -> None:
    one, two, three = write("one"), write("two"), write("three")
    assert main(["kernelspec", "remove", "-f", "ONE", "two", "one"]) == 0
    assert capsys.readouterr().out == f"Removed {one}\nRemoved {two}\n"
    assert find_kernelspecs() == {"three": str(three)}


def test_remove_nothing_if_one_is_unknown(write, capsys) -> None:
    write("one")
    assert main(["kernelspec", "remove", "-f", "one", "tow"]) == 1
    assert "'tow'; there are one; nothing was removed" in capsys.readouterr().err
    assert main(["kernelspec", "remove"]) == 1
    assert "or --missing" in capsys.readouterr().err
    assert "one" in find_kernelspecs()


def test_remove_those_without_their_program(write, capsys) -> None:
    write("good")
    assert main(["kernelspec", "remove", "--missing"]) == 0
    lost = write("lost", argv=LOST)
    assert main(["kernelspec", "remove", "--missing", "--force"]) == 0
    assert capsys.readouterr().out == f"Removed {lost}\n"
    assert list(find_kernelspecs()) == ["good"]


def test_remove_without_a_terminal_needs_force(write, kernelproto) -> None:
    write("one")
    done = kernelproto("kernelspec", "remove", "one", stdin="y\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--force" in done.stderr
    assert "one" in find_kernelspecs()


@pytest.mark.parametrize(("answer", "status", "left"), [("y", 0, []), ("", 1, ["one"])])
def test_remove_asks_on_a_terminal(write, terminal, answer, status, left) -> None:
    folder = write("one")
    screen = terminal("kernelspec", "remove", "one")
    screen.until(str(folder))
    screen.until("Remove 1 kernelspec? [y/N] ")
    screen.type(f"{answer}\n")
    assert screen.end() == status
    assert [name for name in find_kernelspecs() if name == "one"] == left
