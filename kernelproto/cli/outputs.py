"""OutputPrinter: prints text and tracebacks, and saves images as files or shows them."""

from __future__ import annotations

import base64
import binascii
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kernelproto.cli.screen import has_colours
from kernelproto.cli.table import printable
from kernelproto.terminal import print_output
from kernelproto.wire.content import ErrorOutput, MimeBundle, Output, Stream

# Suffixes of image files by MIME type, preferred types first.
_IMAGES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "application/pdf": ".pdf",
    "image/svg+xml": ".svg",
}
_AS_TEXT = "image/svg+xml"  # the other types are base64
_DRAWN = ("image/png", "image/jpeg", "image/gif", "image/webp")  # at a terminal that can

CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class OutputPrinter:
    """Prints outputs; saves images and prints their paths.

    Args:
        images: the folder for images; None means a temporary folder, created for the first image.
        draw: returns the text that shows the file of an image at the terminal, or None if that is
            impossible; then the image is saved.
    """

    def __init__(
        self,
        images: Path | None = None,
        *,
        draw: Callable[[bytes], str | None] | None = None,
    ) -> None:
        self._images = images
        self._draw = draw
        self._saved = 0
        self._line_is_open = False

    def print(self, output: Output) -> None:
        """Print one output.

        Raises:
            OSError: an image cannot be saved, or standard output is closed.
        """
        if isinstance(output, Stream):
            if output.text:
                self._line_is_open = not output.text.endswith("\n")
        else:
            self.end_line()
        match output:
            case ErrorOutput():
                sys.stdout.flush()
                print_output(output if has_colours(sys.stderr) else _plain(output))
            case MimeBundle(data=data) if (mime := _image_in(data)) is not None:
                content = _content(mime, data[mime])
                shown = self._draw(content) if self._draw and mime in _DRAWN else None
                if shown is None:
                    shown = f"{mime}: {printable(self._save(mime, content))}\n"
                print(shown, end="", flush=True)
            case _:
                print_output(output)

    def end_line(self) -> None:
        """End the current line, unless empty."""
        if self._line_is_open:
            self._line_is_open = False
            print(flush=True)

    def _save(self, mime: str, content: bytes) -> Path:
        if self._images is None:
            self._images = Path(tempfile.mkdtemp(prefix="kernelproto-"))
        self._images.mkdir(parents=True, exist_ok=True)
        while True:
            self._saved += 1
            path = self._images / f"image-{self._saved}{_IMAGES[mime]}"
            try:
                with open(path, "xb") as file:
                    file.write(content)
            except FileExistsError:  # from an earlier run, and kept
                continue
            return path


def _image_in(data: Mapping[str, Any]) -> str | None:
    return next((mime for mime in _IMAGES if isinstance(data.get(mime), str)), None)


def _content(mime: str, text: str) -> bytes:
    if mime == _AS_TEXT:
        return text.encode("utf-8", "replace")
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return text.encode("utf-8", "replace")


def plain_traceback(error: ErrorOutput) -> str:
    """Return the lines of a traceback without colours; the error in one line if there are none."""
    return "\n".join(_plain(error).traceback) or f"{error.ename}: {error.evalue}"


def _plain(error: ErrorOutput) -> ErrorOutput:
    """Return the error without colours."""
    traceback = [CONTROL_SEQUENCE.sub("", line) for line in error.traceback]
    return msgspec.structs.replace(error, traceback=traceback)
