"""Contents of the stdin channel.

Specification: "Messages on the stdin (ROUTER/DEALER) channel".
"""

from __future__ import annotations

from kernelproto.wire.content.base import Content


class InputRequest(Content, frozen=True):
    """The kernel asks for a line of text. Section "Prompting for user input"."""

    prompt: str = ""
    password: bool = False


class InputReply(Content, frozen=True, kw_only=True):
    """The answer to an input_request."""

    value: str
