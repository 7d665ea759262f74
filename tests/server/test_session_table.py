"""The sessions of all users, and the growth of the work with their number."""

from __future__ import annotations

import pytest

from kernelproto.server.session_table import Session, SessionTable
from tests.steps import count_steps


class Kernels(set[tuple[str, str]]):
    """The kernels that run, as pairs of user and id."""

    def has(self, user: str, kernel_id: str) -> bool:
        return (user, kernel_id) in self


@pytest.fixture
def kernels() -> Kernels:
    return Kernels(("ada", kernel_id) for kernel_id in ("k1", "k2", "k3"))


@pytest.fixture
def table(kernels: Kernels) -> SessionTable:
    return SessionTable(kernels.has)


def session(id: str, path: str = "a.ipynb", kernel_id: str = "k1") -> Session:
    return Session(id, path, "name", "notebook", kernel_id)


def test_sessions_are_found_by_id_and_path(table: SessionTable) -> None:
    first, second = session("1"), session("2", "b.ipynb", "k2")
    table.add("ada", first)
    table.add("ada", second)
    assert table.find("ada", "1") is first
    assert table.find("ada", "3") is table.find("bob", "1") is None
    assert table.of_path("ada", "b.ipynb") is second
    assert table.of_path("ada", "c.ipynb") is table.of_path("bob", "a.ipynb") is None
    assert table.of_user("ada") == [first, second]
    assert table.of_user("bob") == []
    assert table.documents() == table.documents("ada")
    assert table.documents("ada") == {("ada", "k1"): ["a.ipynb"], ("ada", "k2"): ["b.ipynb"]}
    assert table.documents("bob") == {}


def test_session_ends_with_its_kernel(table: SessionTable, kernels: Kernels) -> None:
    for id, kernel_id in (("1", "k1"), ("2", "k2"), ("3", "k3"), ("4", "k3")):
        table.add("ada", session(id, f"{id}.ipynb", kernel_id))
    kernels.remove(("ada", "k1"))
    assert table.find("ada", "1") is None
    kernels.remove(("ada", "k2"))
    assert table.of_path("ada", "2.ipynb") is None
    assert table.total_without("ada", "") == (2, table.find("ada", "3").size * 2)
    kernels.remove(("ada", "k3"))
    assert table.of_user("ada") == []
    assert table.users == []
    assert not table._examined


def test_oldest_living_session_of_a_path_is_found(table: SessionTable, kernels: Kernels) -> None:
    sessions = [session("1"), session("2"), session("3", kernel_id="k2")]
    for one in sessions:
        table.add("ada", one)
    assert table.of_path("ada", "a.ipynb") is sessions[0]
    kernels.remove(("ada", "k1"))
    assert table.of_path("ada", "a.ipynb") is sessions[2]


def test_renamed_session_is_found_at_its_new_path_only(table: SessionTable) -> None:
    one = session("1")
    table.add("ada", one)
    table.add("ada", session("2", "b.ipynb"))
    table.rename("ada", one, path="longer.ipynb", name="", type="file")
    assert table.of_path("ada", "a.ipynb") is None
    assert table.of_path("ada", "longer.ipynb") is one
    assert table.of_user("ada")[0] is one
    assert table.total_without("ada", "2") == (1, len("longer.ipynb") + len("file"))
    assert table.total_without("ada", "1").number == 1


def test_kernel_of_a_session_is_replaced(table: SessionTable, kernels: Kernels) -> None:
    one, other = session("1"), session("2")
    table.add("ada", one)
    table.add("ada", other)
    assert table.sharing("ada", "k1") == 2
    table.replace_kernel("ada", one, "k2")
    assert (table.sharing("ada", "k1"), table.sharing("ada", "k2")) == (1, 1)
    kernels.remove(("ada", "k1"))
    assert table.of_user("ada") == [one]
    table.remove("ada", one)
    assert table.users == []


def test_session_that_was_forgotten_meanwhile_is_added_with_its_new_kernel(
    table: SessionTable, kernels: Kernels
) -> None:
    one = session("1")
    table.add("ada", one)
    kernels.remove(("ada", "k1"))
    assert table.of_user("ada") == []
    table.rename("ada", one, path="b.ipynb", name="", type="file")
    assert table.of_user("ada") == []
    table.replace_kernel("ada", one, "k2")
    assert table.of_path("ada", "b.ipynb") is one


def test_sessions_of_users_who_never_return_are_forgotten(kernels: Kernels) -> None:
    kernels.update((f"user {number}", "k") for number in range(20))
    table = SessionTable(kernels.has)
    for number in range(20):
        table.add(f"user {number}", session("1", kernel_id="k"))
    kernels.clear()
    kernels.add(("ada", "k1"))
    for number in range(10):
        table.add("ada", session(str(number)))
    assert table.users == ["ada"]


def test_steps_of_a_request_are_the_same_with_any_number_of_sessions() -> None:
    def steps(count: int) -> int:
        table = SessionTable(lambda user, kernel_id: True)
        for number in range(count):
            table.add("ada", session(str(number), str(number), str(number)))
        one = session("new", "new", "new")

        def work() -> None:
            table.add("ada", one)
            assert table.find("ada", "new") is table.of_path("ada", "new") is one
            assert table.sharing("ada", "new") == 1
            assert table.total_without("ada", "new").number == count
            table.rename("ada", one, path="newer", name="", type="file")
            table.replace_kernel("ada", one, "newer")
            table.remove("ada", one)

        return count_steps(work)

    assert steps(10) == steps(1_000)
