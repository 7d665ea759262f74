"""Images in a terminal: the protocols of kitty and iTerm2, and sixel.

The terminal is recognized by its environment variables. A question to the terminal would be safer
in theory, but terminals that do not know the question print the question, and late answers are read
as keys.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from kernelproto.extras import advice, fault

T = TypeVar("T")

ImageProtocol: TypeAlias = Literal["kitty", "iterm2", "sixel"]

# By TERM_PROGRAM, which terminals on the same machine set, and by the beginning of TERM, which SSH
# passes on.
_PROGRAMS: dict[str, ImageProtocol] = {
    "ghostty": "kitty",
    "iTerm.app": "iterm2",
    "mintty": "iterm2",
    "WezTerm": "iterm2",
}
_TERMS: dict[str, ImageProtocol] = {
    "xterm-kitty": "kitty",
    "xterm-ghostty": "kitty",
    "foot": "sixel",
    "mlterm": "sixel",
    "yaft": "sixel",
}

# These programs show one terminal inside another one, and drop images.
_MULTIPLEXERS = ("TMUX", "STY", "ZELLIJ")
_MULTIPLEXER_TERMS = ("tmux", "screen")

_PNG = b"\x89PNG\r\n\x1a\n"
_KITTY_CHUNK = 4096  # characters of base64; the limit of the protocol

# A larger image is not converted: the console would do nothing else for seconds.
_MOST_PIXELS = 16_000_000

# Of one character cell, for terminals that do not tell.
_CELL_PIXELS = (10, 20)


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a terminal, or of the space for an image.

    Args:
        columns: the number of columns.
        width: the width in pixels.
        height: the height in pixels.
    """

    columns: int
    width: int
    height: int


def find_protocol(environ: Mapping[str, str]) -> ImageProtocol | None:
    """Return the protocol of a terminal; None if the terminal is not known to show images.

    Args:
        environ: the environment variables of a program in the terminal.
    """
    term = environ.get("TERM", "")
    if any(map(environ.get, _MULTIPLEXERS)) or term.startswith(_MULTIPLEXER_TERMS):
        return None
    for beginning, protocol in _TERMS.items():
        if term.startswith(beginning):
            return protocol
    if environ.get("LC_TERMINAL") == "iTerm2":  # which SSH passes on
        return "iterm2"
    return _PROGRAMS.get(environ.get("TERM_PROGRAM", ""))


def missing_extra(protocol: ImageProtocol | None) -> str | None:
    """Return the advice to install the extra that a protocol needs; None if nothing is missing."""
    if protocol != "sixel" or fault("images") is None:
        return None
    return f"to see images in this terminal: {advice('images')}"


def draw(protocol: ImageProtocol, data: bytes, size: Size) -> str | None:
    """Return the text that shows an image in a terminal; None if the image cannot be shown.

    Args:
        protocol: the protocol of the terminal.
        data: the file of the image, such as a PNG.
        size: the space for the image. A larger image is shown smaller.
    """
    match protocol:
        case "kitty":
            return _kitty(data, size)
        case "iterm2":
            return _iterm2(data, size)
        case "sixel":
            return _sixel(data, size)


def terminal_size() -> Size:
    """Return the size of the terminal at standard output."""
    columns, lines = shutil.get_terminal_size()
    width, height = columns * _CELL_PIXELS[0], lines * _CELL_PIXELS[1]
    try:
        import fcntl  # POSIX only
        import struct
        import termios

        answer = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
        _, _, wide, high = struct.unpack("HHHH", answer)
    except (ImportError, OSError):
        wide = high = 0
    # One line is left for the prompt below the image.
    return Size(
        columns=columns, width=wide or width, height=(high or height) * (lines - 1) // lines
    )


def _kitty(data: bytes, size: Size) -> str | None:
    if not data.startswith(_PNG):
        converted = _with_pillow(data, _as_png)
        if converted is None:
            return None
        data = converted
    columns = f",c={size.columns}" if _png_width(data) > size.width else ""
    # q=2: the terminal sends no reply, which would be read as keys.
    keys = f"a=T,f=100,q=2{columns},"
    text = base64.b64encode(data).decode()
    parts: list[str] = []
    for at in range(0, len(text), _KITTY_CHUNK):
        more = int(at + _KITTY_CHUNK < len(text))
        parts.append(f"\x1b_G{keys}m={more};{text[at : at + _KITTY_CHUNK]}\x1b\\")
        keys = ""
    return "".join(parts) + "\n"


def _iterm2(data: bytes, size: Size) -> str:
    wide = data.startswith(_PNG) and _png_width(data) > size.width
    width = ";width=100%" if wide else ""
    content = base64.b64encode(data).decode()
    return f"\x1b]1337;File=inline=1;size={len(data)}{width}:{content}\a\n"


def _png_width(data: bytes) -> int:
    return int.from_bytes(data[16:20])  # of the chunk IHDR


def _sixel(data: bytes, size: Size) -> str | None:
    text = _with_pillow(data, lambda image: _as_sixel(image, size))
    return None if text is None else text + "\n"


def _as_sixel(image: Any, size: Size) -> str:
    from PIL import Image
    from textual_image._sixel import image_to_sixels  # private: draw() works without it

    image.thumbnail((size.width, size.height))
    page = Image.new("RGBA", image.size, "white")  # behind transparent plots
    page.alpha_composite(image.convert("RGBA"))
    return image_to_sixels(page.convert("RGB"))


def _as_png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _with_pillow(data: bytes, convert: Callable[[Any], T]) -> T | None:
    """Return ``convert(image)``; None without Pillow, or if the image is invalid or too large."""
    try:
        from PIL import Image

        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")
            return convert(image) if image.width * image.height <= _MOST_PIXELS else None
    except Exception:  # decoders raise any exception for invalid data
        return None
