"""Notebooks as files: read whole, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

import msgspec

from kernelproto.exceptions import InvalidNotebook
from kernelproto.notebook.nodes import Node, reads, validate, writes


def read_notebook(path: str | os.PathLike[str]) -> Node:
    """Read a notebook; an older format is brought up to nbformat 4.

    Args:
        path: the file.

    Returns:
        A ``nbformat.NotebookNode``.

    Raises:
        OSError: it cannot be read.
        InvalidNotebook: it is no notebook.
    """
    with open(path, "rb") as file:
        data = file.read()
    faults: dict[str, Exception] = {}
    try:
        nb = reads(data.decode(), as_version=4, capture_validation_error=faults)
    except Exception as error:  # whatever it stumbles over: the upgrade of a list is a TypeError
        raise InvalidNotebook(f"{os.fspath(path)} is no notebook: {_first_line(error)}") from error
    for fault in faults.values():
        raise InvalidNotebook(f"{os.fspath(path)} is no notebook: {_first_line(fault)}")
    return nb


def write_notebook(nb: Node, path: str | os.PathLike[str]) -> None:
    """Write a notebook: afterwards the file is the new one; before, and if this fails, the old one.

    Args:
        nb: the notebook.
        path: the file; its folder must exist. A symbolic link stays one.

    Raises:
        OSError: it cannot be written.
        InvalidNotebook: it is no notebook.
    """
    check_notebook(nb)
    replace_file(path, dump(nb))


def check_notebook(nb: Node) -> None:
    """Raise InvalidNotebook for what is no notebook of nbformat 4."""
    if nb.get("nbformat") != 4:
        raise InvalidNotebook(
            f"nbformat 4 is wanted, not {nb.get('nbformat')}: read_notebook brings it up to date"
        )
    try:
        validate(nb)
    except Exception as error:
        raise InvalidNotebook(f"this is no notebook: {_first_line(error)}") from error


def check_outputs(nb: Node, index: int, *, name: str) -> None:
    """Take the outputs that nbformat does not allow out of a cell.

    Args:
        nb: the notebook.
        index: the cell's position.
        name: what the error calls the cell.

    Raises:
        InvalidNotebook: there was one.
    """
    cell = nb["cells"][index]
    if all(map(_is_text, cell["outputs"])):
        return
    options = {"version": 4, "version_minor": nb["nbformat_minor"]}
    try:
        validate(cell, ref="code_cell", **options)
    except Exception as error:
        allowed = [output for output in cell["outputs"] if _is_output(output, options)]
        cell["outputs"][:] = allowed
        raise InvalidNotebook(
            f"{name} has an output that does not belong into a notebook, and was left out: "
            f"{_first_line(error)}"
        ) from error


def dump(nb: Node) -> bytes:
    """Return a notebook as it is written, without looking at what it is."""
    # What is no text in UTF-8, half of a surrogate pair, is written as JSON's escape for it.
    return (writes(nb) + "\n").encode(errors="backslashreplace")


def dump_quickly(nb: Node) -> bytes:
    """Return a notebook in a form that is soon replaced: to read it gives the same."""
    try:
        # A hundredth of the time, which counts where it is done after each of many cells.
        return msgspec.json.format(msgspec.json.encode(nb), indent=1)
    except (TypeError, ValueError):  # half of a surrogate pair, or something that is no JSON
        return dump(nb)


def replace_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Put *data* into a file, all of it or nothing."""
    target = os.path.realpath(path)
    draft = f"{target}.{secrets.token_hex(4)}~"
    try:
        with open(draft, "xb") as file:
            file.write(data)
        with suppress(FileNotFoundError):
            os.chmod(draft, os.stat(target).st_mode & 0o7777)
        os.replace(draft, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise


def _is_text(output: Node) -> bool:
    # Whatever else an output has is of the right type already: it was read as such.
    return all(isinstance(data, str) for data in output.get("data", {}).values())


def _is_output(output: Node, options: dict[str, int]) -> bool:
    try:
        validate(output, ref="output", **options)
    except Exception:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
