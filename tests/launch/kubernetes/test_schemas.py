"""The schemas against which the tests check the objects that we send."""

from __future__ import annotations

import pytest

from tests.launch.kubernetes.schemas import check


def pod(**fields: object) -> dict:
    container = {"name": "main", "image": "python", **fields}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one"},
        "spec": {"containers": [container]},
    }


@pytest.mark.parametrize(
    "body",
    [
        pod(command=["python"]),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "one"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
        },
    ],
    ids=["core", "group"],
)
def test_an_object_conforms(body: dict) -> None:
    check(body)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            pod(containerCommand=["python"]),
            r"\$\.spec\.containers\[0\]: .*'containerCommand' was unexpected",
        ),
        (pod(command="python"), r"\$\.spec\.containers\[0\]\.command: 'python' is not"),
    ],
    ids=["unknown field", "wrong type"],
)
def test_each_problem_is_named(body: dict, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check(body)


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"there is no schema pop-v1\.json"):
        check({**pod(), "kind": "Pop"})
