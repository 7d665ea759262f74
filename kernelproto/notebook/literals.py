"""Escapes text for the literals of several languages. Pure.

Printable characters are unchanged, apart from quotes and backslashes; all others are escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kernelproto.exceptions import InvalidParameter

_JSON_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


def quoted_utf_16(text: str) -> str:
    """Return text between double quotes, with JSON's escapes."""
    return f'"{"".join(map(_escaped_utf_16, text))}"'


def quoted_code_points(text: str, language: str) -> str:
    """Return text between double quotes, with JSON's escapes, and with C's above U+FFFF.

    Raises:
        InvalidParameter: the text is not valid Unicode.
    """
    utf_8(text, language)
    return '"{}"'.format(
        "".join(
            f"\\U{ord(character):08x}"
            if character > "\uffff" and not character.isprintable()
            else _escaped_utf_16(character)
            for character in text
        )
    )


def escaped_bytes(text: str, language: str, special: str) -> str:
    """Return text as printable ASCII: other and *special* characters as escaped bytes.

    Raises:
        InvalidParameter: the text is not valid Unicode.
    """
    return "".join(
        character if " " <= character <= "~" and character not in special else f"\\x{byte:02x}"
        for byte in utf_8(text, language)
        for character in (chr(byte),)
    )


def concatenated(
    text: str, plain: Callable[[str], str], unit: Callable[[int], str], special: str = ""
) -> str:
    """Return text as a sum of literals and characters.

    Args:
        text: the text.
        plain: returns the literal of printable text.
        unit: returns the code of a UTF-16 unit, for unprintable characters.
        special: printable characters that no literal may contain.
    """
    parts = [plain("")]  # text first, so that the sum is text
    for run in _runs(text, special):
        if isinstance(run, str):
            parts[-1:] = [plain(run)] if parts == [plain("")] else [parts[-1], plain(run)]
        else:
            parts.extend(map(unit, run))
    return parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"


def utf_8(text: str, language: str) -> bytes:
    """Return text in UTF-8.

    Raises:
        InvalidParameter: the text is not valid Unicode.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidParameter(f"text in {language} must be valid Unicode") from None


def utf_16(text: str) -> list[int]:
    """Return the UTF-16 units of text, which may contain lone surrogates."""
    data = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[index : index + 2]) for index in range(0, len(data), 2)]


def _escaped_utf_16(character: str) -> str:
    if character in _JSON_ESCAPES:
        return _JSON_ESCAPES[character]
    if character.isprintable():
        return character
    return "".join(f"\\u{unit:04x}" for unit in utf_16(character))


def _runs(text: str, special: str) -> Iterator[str | list[int]]:
    """Yield the parts of text: printable text, or the UTF-16 units of another character."""
    begun = 0
    for index, character in enumerate(text):
        if not character.isprintable() or character in special:
            if begun < index:
                yield text[begun:index]
            yield utf_16(character)
            begun = index + 1
    if begun < len(text):
        yield text[begun:]
