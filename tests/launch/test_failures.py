from __future__ import annotations

import pickle

import pytest

from kernelproto.launch.failures import describe_exit, exited_early, not_ready


class Manager:
    """A manager with a command line and an output."""

    command = ("kernel", "-f", "a file.json")

    def __init__(self, output: str = "") -> None:
        self._output = output

    def output_tail(self) -> str:
        return self._output


class Taciturn:
    """A manager without the optional part."""


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exit status 0"),
        (3, "exit status 3"),
        (-9, "signal 9 (SIGKILL)"),
        (-250, "signal 250"),
        (None, "an unknown exit status"),
    ],
)
def test_exit_status_in_words(returncode: int | None, words: str) -> None:
    error = exited_early(Manager(), returncode)
    assert error.returncode == returncode
    assert f"before it was ready, with {words}\n" in str(error)


def test_not_ready_names_the_awaited_step_and_a_remedy() -> None:
    error = not_ready(Manager("some text"), "kernel_info_reply", 2.5)
    assert (error.phase, error.seconds, error.stderr) == ("kernel_info_reply", 2.5, "some text")
    assert "after 2.5 s, still waiting for its kernel_info_reply; if" in str(error)
    assert "Timeouts(startup=...)" in str(error)


@pytest.mark.parametrize(
    "error",
    [exited_early(Manager("one\ntwo\n"), 1), not_ready(Manager("one\ntwo\n"), "x", 1)],
    ids=["exited_early", "not_ready"],
)
def test_command_and_output_are_quoted(error: Exception) -> None:
    command, output = "\ncommand: kernel -f 'a file.json'", "\nits last output:\n  one\n  two"
    assert str(error).endswith(command + output)


def test_long_output_is_quoted_in_part_and_kept_in_whole() -> None:
    output = "".join(f"line {n}\n" for n in range(100))
    error = exited_early(Manager(output), 1)
    assert error.stderr == output
    assert str(error).count("line ") == 15
    assert str(error).endswith("  line 99")


@pytest.mark.parametrize("output", ["", "\n", " \n\t\n"])
def test_no_output_is_not_quoted(output: str) -> None:
    assert "output" not in str(exited_early(Manager(output), 1))


def test_manager_that_tells_nothing() -> None:
    error = exited_early(Taciturn(), 1)
    assert str(error) == "the kernel exited before it was ready, with exit status 1"
    assert (error.command, error.stderr) == ((), "")


def test_errors_survive_pickling() -> None:
    error = exited_early(Manager("out"), 1)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.command, again.stderr) == (str(error), error.command, "out")


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exit status 0"),
        (3, "exit status 3"),
        (-9, "signal 9 (SIGKILL)"),
        (-250, "signal 250"),
        (None, "an unknown exit status"),
    ],
)
def test_describes(returncode: int | None, words: str) -> None:
    assert describe_exit(returncode) == words
