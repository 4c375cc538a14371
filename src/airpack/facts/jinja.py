"""Finds Jinja templates in text: whoever renders one runs it."""

import re
from typing import Final

from airpack.facts.notes import Notes
from airpack.facts.reader import Reader

READER: Final = "jinja/1"

_BLOCK: Final = 256 << 10  # bytes
_OVERLAP: Final = 64  # bytes that a statement may begin before a block ends
_TEMPLATE: Final = 1 << 20  # bytes
_STATEMENT: Final = re.compile(
    rb"\{%[-+]?[ \t\r\n]{0,32}"
    rb"(?:autoescape|block|break|call|continue|do|extends|filter|for|from|generation|if|import|include|macro|raw|set|"
    rb"with)\b"
)


def read(reader: Reader, notes: Notes) -> None:
    """Note the text as a template if there is a statement of Jinja in it.

    Raises:
        MalformedError: It is longer than any real text.
        StorageError: It cannot be read.
    """
    for at in range(0, reader.size, _BLOCK):
        if _STATEMENT.search(reader.most(at, _BLOCK + _OVERLAP)):
            if reader.size > _TEMPLATE:
                notes.problem(f"a template of {reader.size} bytes; {_TEMPLATE} of it are shown", at)
            notes.template("", reader.most(0, _TEMPLATE), 0)
            return
