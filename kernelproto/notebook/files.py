"""Reads, checks and writes notebook files: regular files atomically, all others once."""

from __future__ import annotations

import copy
import json
import logging
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kernelproto.exceptions import InvalidNotebook
from kernelproto.notebook.encoding import encode_formatted, lines_of
from kernelproto.notebook.nodes import (
    Node,
    is_valid,
    reads,
    split_lines,
    strip_transient,
    to_notebook,
    validate,
)
from kernelproto.notebook.repair import repair
from kernelproto.urls import display_url, is_url, read_url, write_url

logger = logging.getLogger(__name__)

# How many repairs a warning names.
_SHOWN_REPAIRS = 10


def read_notebook(path: str | os.PathLike[str]) -> Node:
    """Read a notebook; convert older formats to nbformat 4.

    A notebook that breaks rules of nbformat 4 which an execution does not need is repaired, with a
    warning in the log: a cell needs a type and a source.

    Args:
        path: the file, or a URL; see ``execute_notebook``.

    Returns:
        A ``nbformat.NotebookNode``.

    Raises:
        OSError: the file cannot be read.
        InvalidNotebook: the file is not a valid notebook, and cannot be repaired.
    """
    if is_url(path):
        return parse_notebook(read_url(path), display_url(path))
    with open(path, "rb") as file:
        return parse_notebook(file.read(), os.fspath(path))


def parse_notebook(data: bytes, name: str) -> Node:
    """Return the notebook in the bytes of a file; see ``read_notebook``.

    Args:
        data: the bytes.
        name: the name of the file in errors.

    Raises:
        InvalidNotebook: the bytes are not a valid notebook.
    """
    faults: dict[str, Exception] = {}
    try:
        text = data.decode()
        match json.loads(text):
            case {"nbformat": 4} as nb:
                return _repaired(nb, name)
            case _:
                converted = reads(text, as_version=4, capture_validation_error=faults)
    except Exception as error:  # nbformat raises many types: a TypeError for a list, for example
        raise _invalid(name, error) from error
    for fault in faults.values():
        raise _invalid(name, fault)
    return converted


def _repaired(nb: dict[str, Any], name: str) -> Node:
    """Return a notebook of nbformat 4, repaired if invalid; see ``repair``.

    Raises:
        Exception: the notebook is still invalid.
    """
    if not is_valid(nb):
        repairs = repair(nb)
        validate(nb)
        shown = "; ".join(repairs[:_SHOWN_REPAIRS])
        more = len(repairs) - _SHOWN_REPAIRS
        logger.warning(
            "%s was repaired: %s%s", name, shown, f"; and {more} more repairs" if more > 0 else ""
        )
    return to_notebook(nb)


def write_notebook(nb: Node, path: str | os.PathLike[str]) -> None:
    """Write a notebook atomically: if this fails, the old file is unchanged.

    A device, pipe or socket is not replaced. The notebook is written to the device, which may
    block.

    Args:
        nb: the notebook.
        path: the file, or a URL; the folder must exist. A symbolic link is kept, and the target is
            replaced. The new file has the mode of the old file, and the same owner if permitted.

    Raises:
        OSError: the file cannot be written.
        InvalidNotebook: the notebook is invalid.
    """
    check_notebook(nb)
    replace_file(path, dump(nb))


def check_notebook(nb: Node) -> None:
    """Raise InvalidNotebook unless a notebook is valid in nbformat 4."""
    if nb.get("nbformat") != 4:
        raise InvalidNotebook(
            f"the notebook has nbformat {nb.get('nbformat')} instead of 4: read it with "
            "read_notebook, which converts it"
        )
    try:
        validate(nb)
    except Exception as error:
        raise InvalidNotebook(f"the notebook is invalid: {_first_line(error)}") from error


def check_outputs(nb: Node, index: int, *, name: str) -> None:
    """Remove the outputs that nbformat does not allow from a cell.

    Args:
        nb: the notebook.
        index: the cell's position.
        name: the name of the cell in the error.

    Raises:
        InvalidNotebook: the cell had such an output.
    """
    cell = nb["cells"][index]
    if all(map(_is_text, cell["outputs"])):
        return
    minor: int = nb["nbformat_minor"]
    try:
        validate(cell, ref="code_cell", version=4, version_minor=minor)
    except Exception as error:
        cell["outputs"][:] = allowed_outputs(cell["outputs"], minor)
        raise InvalidNotebook(
            f"{name} has an output that nbformat does not allow, and that was removed: "
            f"{_first_line(error)}"
        ) from error


def allowed_outputs(outputs: Sequence[Node], minor: int) -> list[Node]:
    """Return the outputs that nbformat 4 allows in this minor version."""
    return [output for output in outputs if _is_text(output) or _is_output(output, minor)]


def dump(nb: Node) -> memoryview:
    """Return the bytes of a notebook file, in nbformat's formatting, without a check."""
    nb = copy.deepcopy(nb)
    for cell in nb["cells"]:
        for output in cell.get("outputs", ()):
            if isinstance(output.get("text"), str):  # may be long
                output["text"] = lines_of(output["text"])
    return encode_formatted(strip_transient(split_lines(nb)))


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to a device, pipe or socket, which must not be replaced."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def replace_file(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write *data* to a file atomically; write to a URL or stream, see ``is_stream``, directly."""
    if is_url(path):
        write_url(path, data)
        return
    if is_stream(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    target = os.path.realpath(path)
    draft = f"{target}.{secrets.token_hex(4)}~"
    try:
        with open(draft, "xb") as file:
            file.write(data)
        with suppress(FileNotFoundError):
            _keep_owner_and_mode(draft, os.stat(target))
        os.replace(draft, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise


def _keep_owner_and_mode(draft: str, old: os.stat_result) -> None:
    new = os.stat(draft)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with suppress(PermissionError):
            os.chown(draft, old.st_uid, old.st_gid)
    os.chmod(draft, old.st_mode & 0o7777)  # last, because a change of the owner clears bits


def _is_text(output: Node) -> bool:
    # The other fields have the right types, because decoding has checked them.
    return all(isinstance(data, str) for data in output.get("data", {}).values())


def _is_output(output: Node, minor: int) -> bool:
    try:
        validate(output, ref="output", version=4, version_minor=minor)
    except Exception:
        return False
    return True


def _invalid(name: str, error: Exception) -> InvalidNotebook:
    return InvalidNotebook(f"{name} is not a valid notebook: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
