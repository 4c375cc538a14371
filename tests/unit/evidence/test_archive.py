import io
import struct
import warnings
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.evidence.archive import MAX_ENTRIES, is_name, read_archive, write_archive
from airpack.types import Limits

FILES = {
    "manifest.json": b"{}",
    "log/checkpoint": b"c" * 300,
    "log/entries.jsonl": b"",
    "attestations/receipts/1.json": b"r",
}
ARCHIVE = write_archive(FILES)
NAMES = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z._-]{0,5}(/[0-9A-Za-z][0-9A-Za-z._-]{0,5}){0,3}", fullmatch=True)


def zipped(files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the duplicate names that are wanted here
        with zipfile.ZipFile(out, "w", compression) as archive:
            for name, content in files:
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o100644 << 16
                info.compress_type = compression
                archive.writestr(info, content)
            archive.comment = comment
    return out.getvalue()


@given(st.dictionaries(NAMES, st.binary(max_size=50), min_size=1, max_size=5))
def test_archives_round_trip_and_python_reads_them(files: dict[str, bytes]) -> None:
    data = write_archive(files)
    assert read_archive(data) == files
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == files
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o100644}


def test_the_order_of_the_files_does_not_matter() -> None:
    assert write_archive(dict(reversed(FILES.items()))) == ARCHIVE


def test_every_changed_byte_is_refused() -> None:
    for position in range(len(ARCHIVE)):
        for change in (1, 0x80):
            data = ARCHIVE[:position] + bytes([ARCHIVE[position] ^ change]) + ARCHIVE[position + 1 :]
            with pytest.raises(IntegrityError):
                read_archive(data)


def test_every_shortened_archive_is_refused() -> None:
    for length in range(len(ARCHIVE)):
        with pytest.raises(IntegrityError):
            read_archive(ARCHIVE[:length])


REFUSED: dict[str, bytes] = {
    "empty": zipped([]),
    "bytes before": b"x" + ARCHIVE,
    "a program before": b"MZ" + bytes(510) + ARCHIVE,
    "bytes after": ARCHIVE + b"x",
    "two archives": ARCHIVE + ARCHIVE,
    "comment": zipped([("a", b"a")], comment=b"hello"),
    "deflated": zipped([("a", b"a" * 100)], zipfile.ZIP_DEFLATED),
    "bomb": zipped([("a", bytes(10 << 20))], zipfile.ZIP_DEFLATED),
    "bzip2": zipped([("a", b"a" * 100)], zipfile.ZIP_BZIP2),
    "two entries of one name": zipped([("a", b"1"), ("a", b"2")]),
    "out of order": zipped([("b", b"1"), ("a", b"2")]),
    "parent": zipped([("../a", b"1")]),
    "absolute": zipped([("/a", b"1")]),
    "folder": zipped([("a/", b"")]),
    "hidden": zipped([(".a", b"1")]),
    "backslash": zipped([("a\\b", b"1")]),
    "not ascii": zipped([("é", b"1")]),
    "no zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_form_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError):
        read_archive(REFUSED[name])


def test_the_oracle_makes_what_is_read() -> None:
    assert read_archive(zipped([("a", b"1"), ("b", b"2")])) == {"a": b"1", "b": b"2"}


def patched(offset_from_directory: int, form: str, value: int) -> bytes:
    data = bytearray(write_archive({"a": b"content"}))
    directory = data.index(b"PK\x01\x02")
    struct.pack_into(form, data, directory + offset_from_directory, value)
    return bytes(data)


LIES: dict[str, Callable[[], bytes]] = {
    "larger than the file": lambda: patched(24, "<I", 0xFFFFFFFF),
    "longer name": lambda: patched(28, "<H", 0xFFFF),
    "encrypted": lambda: patched(8, "<H", 1),
    "extra field": lambda: patched(30, "<H", 4),
    "symbolic link": lambda: patched(38, "<I", 0o120777 << 16),
    "elsewhere": lambda: patched(42, "<I", 1),
}


@pytest.mark.parametrize("name", LIES)
def test_a_directory_that_lies_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError):
        read_archive(LIES[name]())


def test_a_gap_between_files_is_refused() -> None:
    one = write_archive({"a": b"1"})
    start = one.index(b"PK\x01\x02")
    directory, end = one[start : one.index(b"PK\x05\x06")], one[one.index(b"PK\x05\x06") :]
    moved = end[:16] + struct.pack("<I", start + 5) + end[20:]
    with pytest.raises(IntegrityError):
        read_archive(one[:start] + b"extra" + directory + moved)


def test_a_directory_that_is_not_there_is_refused() -> None:
    one = write_archive({"a": b"1"})
    start = one.index(b"PK\x01\x02")
    end = one[one.index(b"PK\x05\x06") :]
    with pytest.raises(IntegrityError, match="cut short"):
        read_archive(one[:start] + end[:12] + struct.pack("<I", 0) + end[16:])


def test_too_many_entries_are_refused_before_they_are_read() -> None:
    files = {f"f{number:05}": b"" for number in range(MAX_ENTRIES)}
    assert len(read_archive(write_archive(files))) == MAX_ENTRIES
    with pytest.raises(ValueError, match="at most"):
        write_archive(files | {"more": b""})
    with pytest.raises(IntegrityError, match="10001 entries"):
        read_archive(zipped([*files.items(), ("more", b"")]))


def test_what_would_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for files in ({}, {"../a": b""}, {"a": b"", "b/": b""}):
        with pytest.raises(ValueError, match=r".+"):
            write_archive(files)
    monkeypatch.setattr(Limits, "EVIDENCE_BUNDLE", 3)
    with pytest.raises(ValueError, match="at most 3 bytes"):
        write_archive({"a": b"1234"})


@pytest.mark.parametrize("name", ["a", "log/entries.jsonl", "a/b/c/d", "A-1_.x"])
def test_names_of_an_export(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a b", "a\n", "a\\b", "a/b/c/d/e", "x" * 129]
)
def test_names_that_no_export_has(name: str) -> None:
    assert not is_name(name)
