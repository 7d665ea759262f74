"""The current schemas of Kubernetes, against which tests check the objects that we send.

The API server of the tests drops unknown fields; these schemas refuse unknown fields. ``make
kubernetes`` downloads the package kubernetes-validate, which has the schemas. The tests read the
package as a zip file: unpacked, there are 17,000 files.
"""

from __future__ import annotations

import functools
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from tests.launch.kubernetes.binaries import cache

PACKAGE = "kubernetes-validate==1.37.*"

_DEFINITIONS = re.compile(
    r"kubernetes_validate/kubernetes-json-schema/v1\.(\d+)\.\d+-local-strict/_definitions.json"
)
_GROUP = re.compile(r"^([^./]*)(?:\.[^/]*)?/")


def find_schemas() -> Path | None:
    """Return the downloaded package, if there is one."""
    return next(iter(cache().glob("kubernetes_validate-*.whl")), None)


def check(body: dict[str, Any]) -> None:
    """Check an object against the newest schema of its kind; unknown fields are errors, too.

    Skips the test if the schemas are missing.

    Raises:
        AssertionError: the object does not conform; the text has each problem.
        LookupError: there is no such kind.
    """
    errors = _validator(body["kind"], body["apiVersion"]).iter_errors(body)
    problems = [f"{error.json_path}: {error.message}" for error in errors]
    assert not problems, "\n".join(problems)


@functools.cache
def _validator(kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    folder, registry = _registry()
    version = _GROUP.sub(r"\1-", api_version)
    name = f"{kind.lower()}-{version}.json"
    with zipfile.ZipFile(_package()) as package:
        try:
            schema = json.loads(package.read(f"{folder}/{name}"))
        except KeyError:
            raise LookupError(f"there is no schema {name} in {folder}") from None
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _registry() -> tuple[str, Registry]:
    """Return the folder of the newest version, and its definitions, which schemas refer to."""
    with zipfile.ZipFile(_package()) as package:
        found = [one for name in package.namelist() if (one := _DEFINITIONS.fullmatch(name))]
        newest = max(found, key=lambda one: int(one[1]))[0]
        definitions = Resource.from_contents(json.loads(package.read(newest)))
    return str(Path(newest).parent), definitions @ Registry()


def _package() -> Path:
    path = find_schemas()
    if path is None:
        pytest.skip("the schemas of Kubernetes are missing: run `make kubernetes`")
    return path
