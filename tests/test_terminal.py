"""Outputs are printed, and input is asked for, on the streams of a terminal."""

from __future__ import annotations

import getpass

import pytest

from kernelproto import ClearOutput, DisplayData, ErrorOutput, ExecuteResult, InputRequest, Stream
from kernelproto.terminal import ask_on_terminal, print_output


@pytest.mark.parametrize(
    ("output", "stdout", "stderr"),
    [
        (Stream("stdout", "a"), "a", ""),
        (Stream("stderr", "b"), "", "b"),
        (ErrorOutput("E", "why", ["line 1", "line 2"]), "", "line 1\nline 2\n"),
        (ExecuteResult({"text/plain": "42"}), "42\n", ""),
        (DisplayData({"image/png": "..."}), "", ""),
        (ClearOutput(), "", ""),
    ],
    ids=["stdout", "stderr", "error", "result", "image", "clear"],
)
def test_print_output(output, stdout: str, stderr: str, capsys) -> None:
    print_output(output)
    assert capsys.readouterr() == (stdout, stderr)


def test_ask_on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: f"shown after {prompt}")
    monkeypatch.setattr(getpass, "getpass", lambda prompt: f"hidden after {prompt}")
    assert ask_on_terminal(InputRequest("name? ")) == "shown after name? "
    assert ask_on_terminal(InputRequest("word? ", password=True)) == "hidden after word? "
