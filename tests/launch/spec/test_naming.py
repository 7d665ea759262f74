from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.exceptions import NoSuchKernel
from kernelproto.launch.spec.naming import (
    check_kernel_type,
    is_simple_name,
    launch_names,
    nearest_first,
    no_such_kernel,
)

AVAILABLE = ["pyimport/kernel", "spec/mine"]


def test_nearest_come_first() -> None:
    error = no_such_kernel("pyhton3", ["ir", "python2", "Python3"], remedy="look again")
    assert isinstance(error, NoSuchKernel)
    assert error.name == "pyhton3"
    assert error.available == ("Python3", "python2", "ir")
    assert str(error) == ("no kernel type 'pyhton3'; there are Python3, python2, ir; look again")


def test_message_is_bounded() -> None:
    error = no_such_kernel("a" * 1000, [f"a{number}" for number in range(12)], remedy="look again")
    assert str(error).startswith(f"no kernel type '{'a' * 100}'...; there are a0, a1, ")
    assert str(error).endswith(", a9 and 2 more; look again")
    assert (len(error.name), len(error.available)) == (1000, 12)


def test_long_names_are_compared_by_their_beginning() -> None:
    name, other = "ab" * 500_000, "ba" * 500_000
    # Comparing all of them would take hours.
    assert nearest_first(name, [other, name]) == [name, other]


@pytest.mark.parametrize("name", ["python", "python3", "PYTHON3"])
def test_python_is_the_own_kernel_where_there_is_no_other(name: str) -> None:
    assert check_kernel_type(name, AVAILABLE, remedy="choose") == "pyimport/kernel"
    installed = [*AVAILABLE, f"other/{name}", f"spec/{name}"]
    assert check_kernel_type(name, installed, remedy="choose") == f"spec/{name}"
    forked = [*installed, f"fork/{name}"]
    assert check_kernel_type(name, forked, remedy="choose") == f"fork/{name}"
    assert check_kernel_type(f"spec/{name}", forked, remedy="choose") == f"spec/{name}"
    with pytest.raises(NoSuchKernel):
        check_kernel_type(name, ["spec/mine"], remedy="choose")


def test_order_does_not_depend_on_the_order_of_the_search() -> None:
    names = ["spec/ab", "spec/aa", "spec/AC"]
    assert nearest_first("a", names) == nearest_first("a", reversed(names))
    assert nearest_first("a", names) == ["spec/AC", "spec/aa", "spec/ab"]


def test_there_is_nothing() -> None:
    error = no_such_kernel("python3", [], remedy="install one")
    assert error.available == ()
    assert str(error) == "no kernel type 'python3'; there are none; install one"


@pytest.mark.parametrize("name", ["pyimport/kernel", "kernel", "spec/Mine", "mine"])
def test_kernel_type_has_the_names_it_is_launched_by(name: str) -> None:
    check_kernel_type(name, iter(AVAILABLE), remedy="choose one of these")


@pytest.mark.parametrize("name", ["", "nope", "nope/kernel", "spec/kernel", "pyimport", "spec/"])
def test_kernel_type_that_is_not_there(name: str) -> None:
    with pytest.raises(NoSuchKernel, match=r"there are .*; choose one of these") as caught:
        check_kernel_type(name, iter(AVAILABLE), remedy="choose one of these")
    assert sorted(caught.value.available) == AVAILABLE


@given(st.text(), st.lists(st.text()))
def test_nearest_first_loses_nothing(name: str, candidates: list[str]) -> None:
    assert sorted(nearest_first(name, candidates)) == sorted(candidates)
    assert nearest_first(name, [*candidates, name])[0].lower() == name.lower()


@pytest.mark.parametrize("name", ["python3", "IR", "a.1", "c_2-x", ".hidden", "-", "a.."])
def test_simple_names(name: str) -> None:
    assert is_simple_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "...",
        "a b",
        "a/b",
        "a\\b",
        "a\n",
        "ünusual",
        "\u212a",
        "a\0",
        "~a",
        None,
        b"a",
    ],
)
def test_names_that_are_not_simple(name: object) -> None:
    assert not is_simple_name(name)


@given(st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True))
def test_simple_names_stay_so_in_any_case(name: str) -> None:
    assert is_simple_name(name) == is_simple_name(name.upper()) == bool(name.strip("."))


def test_long_name_is_neither_repeated_nor_compared_as_a_whole() -> None:
    def calls(name: str) -> int:
        count = 0

        def note(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(note)
        try:
            error = no_such_kernel(name, AVAILABLE, remedy="look again")
        finally:
            sys.setprofile(None)
        assert len(str(error)) < 300
        assert error.name == name
        return count

    assert calls("spec/" * 10_000) == calls("spec/" * 40_000)


def test_names_of_environments_are_never_short() -> None:
    names = launch_names(["env/python3", "env/mine", "pyimport/kernel"])
    assert names["env/mine"] == "env/mine"
    assert "mine" not in names
    assert names["python3"] == "pyimport/kernel"
