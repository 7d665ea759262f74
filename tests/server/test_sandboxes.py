"""Sandboxes that clients want: as tight as those of the server, or tighter."""

from __future__ import annotations

from typing import Any

import pytest

from kernelproto.server.sandboxes import tightened, with_process_limit

OF_SERVER = {
    "network": "loopback",
    "read_only": False,
    "tmp": 1000,
    "writable": {"/scratch": 500, "/shared": None},
    "visible": ["/data"],
    "hidden": ["/secret"],
    "uid": 5,
    "processes": 50,
    "memory": 2**30,
    "seccomp": "none",
}


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"network": "none"},
        {"network": "loopback", "read_only": True, "seccomp": "default"},
        {"tmp": 1000, "processes": 1, "memory": 2**29, "cpu": 0.5},
        {"writable": {"/scratch": 500}, "visible": []},
        {"writable": {"/shared": None}, "visible": ["/data"]},
    ],
)
def test_a_tighter_sandbox_replaces_that_of_the_server(wanted: dict[str, Any]) -> None:
    assert tightened(OF_SERVER, wanted, is_confined=True) == OF_SERVER | wanted


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"network": "full"}, "network 'full' is weaker than the server allows"),
        ({"tmp": 1001}, "tmp '1001' is weaker"),
        ({"processes": 51}, "processes '51' is weaker"),
        ({"memory": None}, "memory 'None' is weaker"),
        ({"memory": 2**31}, "memory '2147483648' is weaker"),
        ({"writable": {"/scratch": 501}}, "writable .* is weaker"),
        ({"writable": {"/scratch": None}}, "writable .* is weaker"),
        ({"writable": {"/shared": 1}}, "writable .* is weaker"),
        ({"writable": {"/etc": None}}, "writable .* is weaker"),
        ({"visible": ["/data", "/root"]}, "visible .* is weaker"),
        ({"uid": 5}, "uid is for the settings of the server"),
        ({"hidden": ["/secret"]}, "hidden is for the settings of the server"),
        ({"netwrok": "none"}, "unknown field `netwrok`"),
        ({"processes": "many"}, "Expected `int`, got `str`"),
        ({"visible": ["/x"] * 101}, "more than 100 paths"),
    ],
)
def test_a_weaker_sandbox_is_refused_by_name(wanted: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"sandbox: .*{reason}"):
        tightened(OF_SERVER, wanted, is_confined=True)


@pytest.mark.parametrize(
    "wanted", [{"read_only": False}, {"seccomp": "none"}, {"network": "loopback"}, {"tmp": 2**30}]
)
def test_the_defaults_of_a_sandbox_bind_as_well(wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is weaker than the server allows"):
        tightened({}, wanted, is_confined=True)


def test_without_a_sandbox_of_the_server_any_sandbox_is_tighter() -> None:
    wanted = {"network": "full", "hidden": ["/data"], "uid": 7, "processes": 5}
    assert tightened({}, wanted, is_confined=False) == wanted
    with pytest.raises(ValueError, match="processes '6' is weaker"):
        tightened({"processes": 5}, {"processes": 6}, is_confined=False)


def test_the_sandbox_gets_the_limit_of_processes() -> None:
    limits = {"memory": 1, "processes": 7}
    assert with_process_limit({"tmp": 1}, limits) == ({"tmp": 1, "processes": 7}, {"memory": 1})
    assert with_process_limit({}, {"processes": None}) == ({"processes": 2**22}, {})
    assert with_process_limit({"processes": 5}, {}) == ({"processes": 5}, {})
    assert limits == {"memory": 1, "processes": 7}
