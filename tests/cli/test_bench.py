from __future__ import annotations

import json

import pytest

from kernelproto.cli import bench
from kernelproto.cli.bench import format_samples
from kernelproto.cli.main import main


def test_every_measurement_is_made(monkeypatch, capsysbinary) -> None:
    monkeypatch.setattr(bench, "_ROUND_TRIPS", 2)

    assert main(["bench", "--rounds", "1", "--json"]) == 0

    samples = json.loads(capsysbinary.readouterr().out)
    assert set(samples) == {"start", "round_trip", "outputs", "shutdown"}
    assert all(len(values) == 1 and values[0] > 0 for values in samples.values())


def test_table() -> None:
    samples = {
        "start": [0.1, 0.2, 9.0],
        "round_trip": [0.001],
        "outputs": [3000.0, 1500.0],
        "shutdown": [0.1],
    }
    assert format_samples(samples) == [
        "                                MEDIAN    MIN     MAX",
        "start to first result, ms        200.0  100.0  9000.0",
        "round trip of an execution, ms     1.0    1.0     1.0",
        "outputs received, per second      2250   1500    3000",
        "shutdown, ms                     100.0  100.0   100.0",
    ]


@pytest.mark.usefixtures("no_leaks")
def test_kernel_for_another_language(monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench, "_OUTPUT_CODE", "pass")
    monkeypatch.setattr(bench, "_ROUND_TRIPS", 1)

    assert main(["bench", "--rounds", "1"]) == 1
    assert capsys.readouterr().err.endswith(
        "error: pyimport/kernel sent 0 of 2000 outputs; "
        "bench needs a kernel type for Python with IPython\n"
    )
