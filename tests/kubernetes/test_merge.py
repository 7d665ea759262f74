from __future__ import annotations

from kernelproto.kubernetes.merge import merge


def test_mappings_are_merged_and_none_removes() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3, "e": [1, 2]}
    assert merge(base, {"a": {"b": 5, "c": None}, "e": [3], "f": {"g": {"h": None, "i": 1}}}) == {
        "a": {"b": 5},
        "d": 3,
        "e": [3],
        "f": {"g": {"i": 1}},
    }
    assert base == {"a": {"b": 1, "c": 2}, "d": 3, "e": [1, 2]}


def test_items_with_names_are_merged_by_them() -> None:
    base = {"containers": [{"name": "kernel", "env": [{"name": "A", "value": "1"}]}]}
    over = {
        "containers": [
            {"name": "kernel", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]},
            {"name": "sidecar", "image": "x"},
        ]
    }
    assert merge(base, over) == {
        "containers": [
            {"name": "kernel", "env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}]},
            {"name": "sidecar", "image": "x"},
        ]
    }


def test_tolerations_are_added() -> None:
    assert merge({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}) == {
        "tolerations": [{"key": "a"}, {"key": "b"}]
    }
