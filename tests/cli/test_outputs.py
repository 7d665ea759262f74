from __future__ import annotations

import base64
from pathlib import Path

from kernelproto.cli.outputs import OutputPrinter
from kernelproto.wire.content import DisplayData, ErrorOutput, Stream

PNG = b"\x89PNG\r\n\x1a\n"


def test_image_does_not_overwrite_an_earlier_one(tmp_path: Path, capsys) -> None:
    tmp_path.joinpath("image-1.png").write_bytes(b"earlier")

    OutputPrinter(tmp_path).print(DisplayData({"image/png": base64.b64encode(PNG).decode()}))

    assert capsys.readouterr().out == f"image/png: {tmp_path / 'image-2.png'}\n"
    assert tmp_path.joinpath("image-1.png").read_bytes() == b"earlier"
    assert tmp_path.joinpath("image-2.png").read_bytes() == PNG


def test_preferred_type_of_an_image_is_saved(tmp_path: Path, capsys) -> None:
    data = {"text/plain": "<Figure>", "image/svg+xml": "<svg/>", "image/jpeg": "AAAA"}
    OutputPrinter(tmp_path).print(DisplayData(data))
    assert [path.name for path in tmp_path.iterdir()] == ["image-1.jpg"]
    assert capsys.readouterr().out.startswith("image/jpeg: ")


def test_invalid_base64_is_saved_as_text(tmp_path: Path) -> None:
    OutputPrinter(tmp_path).print(DisplayData({"image/png": "A"}))
    assert tmp_path.joinpath("image-1.png").read_bytes() == b"A"


def test_temporary_folder_is_created_for_the_first_image(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    printer = OutputPrinter()
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        printer.print(DisplayData({"image/svg+xml": "<svg/>"}))
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"image-1.svg", "image-2.svg"}


def test_output_begins_a_new_line(capsys) -> None:
    printer = OutputPrinter()
    for output in (Stream("stdout", "a"), Stream("stdout", ""), DisplayData({"text/plain": "b"})):
        printer.print(output)
    printer.print(Stream("stdout", "c\n"))
    printer.end_line()
    assert capsys.readouterr().out == "a\nb\nc\n"


def test_traceback_loses_its_colours_in_a_pipe(capsys) -> None:
    OutputPrinter().print(ErrorOutput("E", "no", ["\x1b[1;31mE\x1b[0m: no"]))
    assert capsys.readouterr().err == "E: no\n"
