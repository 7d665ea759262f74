from __future__ import annotations

import base64
import io
import re
import sys

import pytest
from PIL import Image

from kernelproto.cli.images import ImageProtocol, Size, draw, find_protocol, missing_extra
from kernelproto.extras import EXTRAS

SIZE = Size(columns=80, width=800, height=480)

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def picture(width: int, height: int, mime: str = "PNG", *, noise: bool = False) -> bytes:
    """Return the file of an image, red at the left and blue at the right."""
    image = Image.new("RGB", (width, height), COLOURS["red"])
    image.paste(COLOURS["blue"], (width // 2, 0, width, height))
    if noise:
        image = Image.effect_noise((width, height), 100)
    file = io.BytesIO()
    image.save(file, mime)
    return file.getvalue()


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({}, None),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "linux", "TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM": "dumb"}, None),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "foot-extra"}, "sixel"),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, None),
        ({"TERM": "screen-256color", "LC_TERMINAL": "iTerm2"}, None),
        ({"TERM": "xterm-kitty", "ZELLIJ": "0"}, None),
    ],
)
def test_protocol_of_a_terminal(environ: dict[str, str], protocol: str | None) -> None:
    assert find_protocol(environ) == protocol


@pytest.mark.parametrize("mime", ["PNG", "GIF"])
def test_kitty_gets_a_png_in_chunks(mime: str) -> None:
    text = draw("kitty", picture(99, 77, mime, noise=True), SIZE)
    assert text is not None
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in chunks) + "\n" == text
    assert len(chunks) > 1
    assert [keys for keys, _ in chunks] == [
        "a=T,f=100,q=2,m=1",
        *(["m=1"] * (len(chunks) - 2)),
        "m=0",
    ]
    assert all(len(data) == 4096 for _, data in chunks[:-1])
    content = base64.b64decode("".join(data for _, data in chunks))
    assert Image.open(io.BytesIO(content)).size == (99, 77)


def test_iterm2_gets_the_file() -> None:
    data = picture(9, 9, "JPEG")
    text = draw("iterm2", data, SIZE)
    content = base64.b64encode(data).decode()
    assert text == f"\x1b]1337;File=inline=1;size={len(data)}:{content}\a\n"


@pytest.mark.parametrize(("protocol", "part"), [("kitty", ",c=80,"), ("iterm2", ";width=100%:")])
def test_image_wider_than_the_terminal(protocol: ImageProtocol, part: str) -> None:
    assert part in str(draw(protocol, picture(801, 9), SIZE))
    assert part not in str(draw(protocol, picture(800, 9), SIZE))


def test_sixel() -> None:
    """Also notices if the private name of textual_image has gone."""
    text = draw("sixel", picture(12, 6), SIZE)
    assert text is not None
    start, raster, body = text.partition('"1;1;12;6')
    assert start.startswith("\x1bP")
    assert raster
    assert "2;100;0;0" in body  # red, in percent
    assert "2;0;0;100" in body
    assert body.endswith("\x1b\\\n")


def test_sixel_of_a_large_image_is_smaller() -> None:
    assert '"1;1;800;400' in str(draw("sixel", picture(1600, 800), SIZE))


@pytest.mark.parametrize("protocol", ["kitty", "sixel"])
@pytest.mark.parametrize("data", [b"", b"no image", picture(9, 9, "GIF")[:20]])
def test_data_that_is_no_image_is_not_drawn(protocol: ImageProtocol, data: bytes) -> None:
    assert draw(protocol, data, SIZE) is None


def test_huge_image_is_not_drawn() -> None:
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, "PNG")
    assert draw("sixel", file.getvalue(), SIZE) is None


def test_without_the_extra(monkeypatch) -> None:
    data = picture(9, 9, "GIF")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert draw("kitty", data, SIZE) is None
    assert draw("sixel", data, SIZE) is None
    monkeypatch.setitem(EXTRAS, "images", ("no_such",))
    advice = 'to see images in this terminal: pip install "kernelproto[images]"'
    assert missing_extra("sixel") == advice
    assert missing_extra("kitty") is None
