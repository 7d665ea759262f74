from __future__ import annotations

import pytest

from kernelproto.confined_folder import split_name
from kernelproto.mcp.limits import Limits, Refused
from kernelproto.mcp.names import check_conversation, file_uri, parse_uri


@pytest.mark.parametrize("name", ["default", "a", "a-1_b", "a" * 63])
def test_name_of_a_conversation(name: str) -> None:
    assert check_conversation(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "1", "..", "a/b", "a.b", "a b", "a\n", "localhost", "é", "a" * 64]
)
def test_other_names_of_conversations_are_refused(name: str) -> None:
    with pytest.raises(Refused, match="is not a name of a conversation"):
        check_conversation(name)


def test_parts_of_a_name() -> None:
    assert split_name("a b/c/ä.csv") == ["a b", "c", "ä.csv"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "empty"),
        ("/etc/passwd", "relative"),
        ("../a", r'must not contain "\.\."'),
        ("a/../../b", r'must not contain "\.\."'),
        ("a//b", "empty part"),
        ("./a", "empty part"),
        ("a/", "empty part"),
        ("a\\b", "backslash"),
        ("a\0b", "cannot be printed"),
        ("a\nb", "cannot be printed"),
        ("\ud800", "cannot be printed"),
        ("/".join("a" * 17), "parts"),
        ("a" * 256, "255 bytes"),
        ("é" * 128, "255 bytes"),
        ("a" * 1001, "1000 characters"),
    ],
)
def test_other_names_of_files_are_refused(name: str, fault: str) -> None:
    with pytest.raises(Refused, match=fault):
        split_name(name)


@pytest.mark.parametrize("name", ["a.txt", "a/b c.txt", "100%/ü#?.txt"])
def test_uri_names_the_file(name: str) -> None:
    assert parse_uri(file_uri("default", name)) == ("default", name)


def test_uri_may_encode_the_slash() -> None:
    assert parse_uri("file://default/a%2Fb.txt") == ("default", "a/b.txt")


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "file://default/",
        "file://default/..%2f..%2fetc%2fpasswd",
        "file://default/%2Fetc/passwd",
        "file://default//etc/passwd",
        "file://default/a?b",
        "file://../a",
        "http://default/a",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(Refused):
        parse_uri(uri)


@pytest.mark.parametrize(
    ("limits", "fault"),
    [
        ({"timeout": 0}, "timeout must be more than 0, not 0"),
        ({"kernels": -1}, "kernels must be more than 0, not -1"),
        ({"timeout": 9, "max_timeout": 8}, r"at most max_timeout \(8 s\), not 9 s"),
    ],
)
def test_limits_that_allow_nothing_are_refused(limits, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Limits(**limits)
