r"""Text of others, made fit to be shown: nothing in it may steer a terminal, a page or a spreadsheet.

printable("evil<ESC>[2J")    ->  evil\x1b[2J
spreadsheet_cell("=cmd()")   ->  '=cmd()
"""

import re

# A semicolon too: where it separates, as in spreadsheets of half of Europe, quotes around a whole cell do not help.
_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\t\r\n])")


def printable(text: str) -> str:
    """Return `text` with escapes for what is not printable: control characters, marks that turn the writing around.

    Tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in text)


def spreadsheet_cell(text: str) -> str:
    """Return `text` as a cell that a spreadsheet shows and does not compute.

    What begins with a sign that starts a formula (= + - @, tab, carriage return, line feed) gets an apostrophe before
    it, which spreadsheets take as "this is text" (OWASP, "CSV Injection"). Everything beyond printable ASCII becomes an
    escape, so that no encoding has to be guessed and no two signs look alike.
    """
    guarded = _FORMULA.sub(r"\1'", text)
    if guarded.isascii() and guarded.isprintable():
        return guarded
    return "".join(char if " " <= char <= "~" else _escape(ord(char)) for char in guarded)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004, one byte
