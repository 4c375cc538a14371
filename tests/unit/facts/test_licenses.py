import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.facts.licenses import LONGEST, declared, of_metadata
from airpack.formats.bom import License

HEAD = b"Metadata-Version: 2.4\nName: demo\nVersion: 1.0\n"


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("MIT", "id", "MIT"),
        ("apache-2.0", "id", "Apache-2.0"),
        (" 0BSD ", "id", "0BSD"),
        ("GPL-2.0", "id", "GPL-2.0"),
        ("GPL-2.0+", "expression", "GPL-2.0+"),
        ("mit or apache-2.0", "expression", "MIT OR Apache-2.0"),
        ("(MIT)", "expression", "(MIT)"),
        ("GPL-3.0-only WITH Classpath-exception-2.0", "expression", "GPL-3.0-only WITH Classpath-exception-2.0"),
        ("LicenseRef-Proprietary", "expression", "LicenseRef-Proprietary"),
        ("Apache 2.0", "name", "Apache 2.0"),
        ("BSD", "name", "BSD"),
        ("MIT OR nonsense", "name", "MIT OR nonsense"),
        ("Größte Freiheit", "name", "Größte Freiheit"),
    ],
)
def test_a_licence_is_an_identifier_an_expression_or_words_and_nothing_is_guessed(
    text: str, kind: str, found: str
) -> None:
    licence = declared(text)
    assert licence is not None
    assert (licence.kind, licence.text) == (kind, found)


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "a\x1b[2Jb", "a\x00b", "x" * (LONGEST + 1), "bad \ufffd bytes"])
def test_what_is_no_line_of_text_declares_nothing(text: str) -> None:
    assert declared(text) is None


@given(st.text(max_size=LONGEST + 10))
def test_any_text_is_read_or_passed_over_and_never_raises(text: str) -> None:
    found = declared(text)
    assert found is None or (found.text.isprintable() and 0 < len(found.text) <= 2 * LONGEST)


def test_brackets_without_end_are_words() -> None:
    assert declared("(" * LONGEST) == License("name", "(" * LONGEST)
    assert declared("(" * 98 + "MIT" + ")" * 98) == License("expression", "(" * 98 + "MIT" + ")" * 98)


OSI = b"Classifier: License :: OSI Approved\n"
BSD = b"Classifier: License :: OSI Approved :: BSD License\n"
MIT = b"Classifier: License :: OSI Approved :: MIT License\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"", ()),
        (b"License-Expression: MIT OR Apache-2.0\n", (License("expression", "MIT OR Apache-2.0"),)),
        (b"License-Expression: MIT\nLicense: something else\n" + BSD, (License("id", "MIT"),)),
        (b"License: Apache 2.0\n" + BSD, (License("name", "Apache 2.0"),)),
        (b"License: mit\n", (License("id", "MIT"),)),
        (b"License: Copyright (c) somebody\n        All rights reserved.\n" + BSD, (License("name", "BSD License"),)),
        (b"License: " + b"x" * 201 + b"\n", ()),
        (b"License: UNKNOWN\n", ()),
        (b"License: UNKNOWN\n" + BSD, (License("name", "BSD License"),)),
        (b"License: one\nLicense: two\n" + BSD, (License("name", "BSD License"),)),
        (b"License-Expression: MIT\nLicense-Expression: BSD-3-Clause\n", ()),
        (MIT + OSI + BSD + BSD, (License("name", "BSD License"), License("name", "MIT License"))),
        (OSI, ()),
        (b"Classifier: Topic :: Security\n", ()),
        (b"Classifier: License :: Freeware\n", (License("name", "Freeware"),)),
        (b"License: Gr\xc3\xb6\xc3\x9fte Freiheit\n", (License("name", "Größte Freiheit"),)),
        (b"License: Gr\xf6\xdfte Freiheit\n", ()),
    ],
)
def test_a_wheel_s_licence_is_its_expression_else_its_line_else_its_classifiers(
    lines: bytes, expected: tuple[License, ...]
) -> None:
    assert of_metadata(HEAD + lines + b"\nLicense: GPL, says the description\n") == expected


@given(st.binary(max_size=2000))
def test_any_metadata_is_read_or_passed_over(data: bytes) -> None:
    assert all(item.text.isprintable() for item in of_metadata(HEAD + b"License: " + data))


def test_no_more_classifiers_than_a_reader_takes() -> None:
    lines = b"".join(b"Classifier: License :: Free %d\n" % number for number in range(1000))
    assert len(of_metadata(HEAD + lines + b"\n")) == 16
