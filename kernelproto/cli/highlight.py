"""Syntax colours for the values that Python code returns; this module loads pygments."""

from __future__ import annotations

import ast
import sys
import warnings

from prompt_toolkit import print_formatted_text
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText, StyleAndTextTuples
from prompt_toolkit.lexers import PygmentsLexer

# A longer text is printed without colours, which takes less time.
_MOST_CHARACTERS = 10_000


def print_value(text: str) -> None:
    """Print the text of a value, with colours for an expression such as a list."""
    sys.stdout.flush()
    if is_expression(text):
        print_formatted_text(_with_colours(text))
    else:
        print(text, flush=True)


def _with_colours(text: str) -> FormattedText:
    document = Document(text)
    line = PygmentsLexer.from_filename("value.py").lex_document(document)
    fragments: StyleAndTextTuples = line(0)
    for number in range(1, document.line_count):
        fragments = [*fragments, ("", "\n"), *line(number)]
    return FormattedText(fragments)


def is_expression(text: str) -> bool:
    """Return whether a text is a Python expression, and neither long nor coloured.

    Other text, such as a table, would get colours at random.
    """
    if len(text) > _MOST_CHARACTERS or not all(
        character.isprintable() or character == "\n" for character in text
    ):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True
