"""The names of hosts, and of the kernel types on them."""

from __future__ import annotations

import pytest

from kernelproto import NoSuchKernel
from kernelproto.ssh.connection import HostOptions
from kernelproto.ssh.names import configured_hosts, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("node7/python3", ("node7", "python3")),
        ("node-7.example.org/env/my_env", ("node-7.example.org", "env/my_env")),
    ],
)
def test_name_has_a_host_and_a_kernel_type(name: str, parts: tuple[str, str]) -> None:
    assert split_name(name) == parts


@pytest.mark.parametrize(
    "name",
    [
        "node7",
        "node7/",
        "/python3",
        "-oProxyCommand=touch x/python3",
        "-F/python3",
        "a b/python3",
        "a;b/python3",
        "node7/../python3",
        "node7/..",
        "node7/a/b/c",
        "node7/a b",
        "node7/$(touch x)",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(NoSuchKernel, match="ssh/HOST/NAME"):
        split_name(name)


def test_hosts_of_a_configuration() -> None:
    config = """
    # Host commented
    Host node7 node8 *.example.org !bad
      HostName 10.0.0.7
    HOST=gate "quoted"
    Match host other
    Host node7 -option
    """
    assert list(configured_hosts(config)) == ["node7", "node8", "gate", "quoted"]


@pytest.mark.parametrize(
    "options",
    [
        {"target": "-oProxyCommand=x"},
        {"target": ""},
        {"python": "python3; touch x"},
        {"python": "$(touch x)"},
        {"python": "-c"},
        {"python": "it's"},
        {"python": "a\nb"},
        {"ssh": ()},
    ],
)
def test_options_that_a_shell_could_misunderstand_are_refused(options) -> None:
    with pytest.raises(ValueError, match="of a host is"):
        HostOptions(**options)
