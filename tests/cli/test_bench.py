from __future__ import annotations

import json

import pytest

from kernelproto.cli import bench
from kernelproto.cli.bench import format_answers
from kernelproto.cli.main import main


def test_every_question_is_answered(monkeypatch, capsysbinary) -> None:
    monkeypatch.setattr(bench, "_ROUND_TRIPS", 2)

    assert main(["bench", "--rounds", "1", "--json"]) == 0

    answers = json.loads(capsysbinary.readouterr().out)
    assert "kernelproto" in answers
    for samples in answers.values():
        assert set(samples) == {"start", "round_trip", "flood", "shutdown"}
        assert all(len(values) == 1 and values[0] > 0 for values in samples.values())


def test_table() -> None:
    ours = {"start": [0.1, 0.2, 9.0], "round_trip": [0.001], "flood": [3000.0], "shutdown": [0.1]}
    theirs = {"start": [5.0], "round_trip": [0.0015], "flood": [1500.0], "shutdown": [0.1]}
    assert format_answers({"kernelproto": ours, "other": theirs}) == [
        "                                     kernelproto   other  FASTER",
        "start until the first result, ms           200.0  5000.0  25.0 x",
        "execution, there and back, ms                1.0     1.5   1.5 x",
        "outputs that are received, a second         3000    1500   2.0 x",
        "end of the kernel, ms                      100.0   100.0   1.0 x",
    ]


def test_nothing_to_compare_with() -> None:
    ours = {"start": [0.1], "round_trip": [0.001], "flood": [3000.0], "shutdown": [0.1]}
    header, first, *_ = format_answers({"kernelproto": ours})
    assert header.split() == ["kernelproto"]
    assert first.split()[-1] == "100.0"


@pytest.mark.usefixtures("no_leaks")
def test_kernel_for_another_language(monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench, "_FLOODING", "pass")
    monkeypatch.setattr(bench, "_ROUND_TRIPS", 1)

    assert main(["bench", "--rounds", "1"]) == 1
    assert capsys.readouterr().err.endswith(
        "error: 0 of 2000 outputs came: is it a kernel for Python?\n"
    )
