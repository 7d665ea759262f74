from __future__ import annotations

import os

import pytest

from kernelproto.launch.environments.place import Place
from kernelproto.launch.environments.search import find_places, name_of, name_places
from kernelproto.launch.spec.naming import is_simple_name

ALL = ("project", "active", "conda")


def at(prefix: str, label: str, **more: object) -> Place:
    return Place(prefix=prefix, label=label, maker="venv", **more)


def test_names_have_no_odd_characters() -> None:
    odd = ["a b/c", "größe", "...", "", "日本", "-x-", ".venv", "a" * 300]
    names = list(name_places(at(f"/{number}", label) for number, label in enumerate(odd)))
    assert all(map(is_simple_name, names))
    assert names[:2] == ["a-b-c", "gr-e"]
    assert ".venv" in names


def test_first_environment_keeps_its_name() -> None:
    first, second, third = at("/a", "env"), at("/b", "Env"), at("/c", "ENV")
    places = name_places([first, second, third])
    assert places == {"env": first, second.full_name: second, third.full_name: third}
    assert second.full_name.startswith("Env-")
    assert name_of("ENV", places) == "env"
    assert name_of(first.full_name.upper(), places) == "env"
    assert name_of(second.full_name, places) == second.full_name
    assert name_of("other", places) is None


def test_full_name_depends_on_the_path_alone(tmp_path) -> None:
    tmp_path.joinpath("link").symlink_to(tmp_path)
    place, link = at(str(tmp_path), "a"), at(str(tmp_path / "link"), "a")
    assert place.full_name == link.full_name
    assert list(name_places([link, place])) == ["a"]


def test_label_that_looks_like_a_full_name() -> None:
    second = at("/b", "env")
    places = name_places([at("/a", "env"), at("/c", second.full_name), second])
    assert len(places) == 3
    assert all(map(is_simple_name, places))


def test_activation_makes_an_environment_trusted() -> None:
    (place,) = name_places([at("/a", "x"), at("/a", "y", is_own=True)]).values()
    assert (place.label, place.is_own) == ("x", True)


def test_order_of_the_sources(project, tmp_path, write_env, home) -> None:
    write_env(project / ".venv")
    active = write_env(tmp_path / "thesis" / ".venv")
    base = write_env(tmp_path / "miniforge", conda=True)
    write_env(tmp_path / "more" / "one")
    write_env(home / ".conda" / "envs" / "science", conda=True)
    variables = {
        "VIRTUAL_ENV": str(active),
        "CONDA_PREFIX": str(base),
        "CONDA_DEFAULT_ENV": "base",
    }
    folders = [str(tmp_path / "more"), "/nowhere"]
    found = find_places(str(project), ALL, folders, variables)
    assert list(found) == [".venv", "thesis", "base", "one", "science"]
    assert list(find_places(None, ALL, (), variables)) == ["thesis", "base", "science"]
    assert list(find_places(str(project), ["conda"], (), variables)) == ["science"]
    assert find_places(str(project), [], (), variables) == {}


@pytest.mark.parametrize("variables", [{"VIRTUAL_ENV": "/nowhere"}, {"CONDA_PREFIX": "\0"}])
def test_active_environment_that_is_gone(variables) -> None:
    assert find_places(None, ALL, (), variables) == {}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="gives a folder away")
def test_environment_of_another_user(project, write_env) -> None:
    prefix = write_env(project / ".venv")
    os.chown(prefix, 12345, -1)
    place = find_places(str(project), ALL, (), {})[".venv"]
    assert "belongs to another user (uid 12345)" in (place.fault() or "")
    place = find_places(str(project), ALL, (), {"VIRTUAL_ENV": str(prefix)})[".venv"]
    assert place.fault() is None
