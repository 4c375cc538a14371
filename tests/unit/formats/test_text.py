import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.formats.text import printable, spreadsheet_cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name", "plain name"),
        ("evil\x1b[2J\n", "evil\\x1b[2J\\x0a"),
        ("a\u202egnp.exe", "a\\x202egnp.exe"),
        ("\udc80", "\\xdc80"),
        ("a\tb", "a\tb"),
    ],
)
def test_nothing_shown_steers_a_terminal_or_turns_the_writing(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("sign", "=+-@\t\r\n")
def test_no_cell_begins_as_a_formula_does(sign: str) -> None:
    cell = spreadsheet_cell(f"{sign}cmd|' /C calc'!A0")
    assert cell.startswith("'")
    assert cell.isascii()
    assert cell.isprintable()


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("MIT;=cmd()", "MIT;'=cmd()"),
        ("a; @x;-1", "a;' @x;'-1"),
        (" =1", "' =1"),
        ("\u00e9", "\\xe9"),
        ("\u202e", "\\u202e"),
    ],
)
def test_no_cell_holds_a_formula_behind_a_semicolon_or_spaces(text: str, cell: str) -> None:
    assert spreadsheet_cell(text) == cell


@pytest.mark.parametrize("text", ["", "model/m/a.bin", "a=b", "1-2", "MIT", "'quoted", "a;b"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert spreadsheet_cell(text) == text


@given(st.text())
def test_any_text_is_one_cell_of_printable_ascii(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert cell.isascii()
    assert cell == "" or cell.isprintable()
    assert not any(part.lstrip(" ").startswith(("=", "+", "-", "@")) for part in cell.split(";"))
    stream = io.StringIO()
    csv.writer(stream).writerow([cell, "x"])
    assert next(csv.reader([stream.getvalue()])) == [cell, "x"]
