"""Names in the data of native files: an absent one is absent, the tail of another is there."""

import io
import re
import struct

import pytest
from tests.elves import DATA, elf

from airpack.facts.elf import Elf
from airpack.facts.names import find_names, search
from airpack.facts.reader import MalformedError, Reader


def made(data: bytes) -> Elf:
    return Elf(Reader(io.BytesIO(data), len(data), what="lib.so"))


def test_a_name_counts_where_a_nul_ends_it() -> None:
    found = find_names(made(elf(data=b"modern-bert\0llama4\0gpt2")), ["bert", "modern-bert", "llama", "llama4", "gpt2"])
    assert found == {"bert": DATA + 7, "modern-bert": DATA, "llama4": DATA + 12, "gpt2": DATA + 19}  # padding ends it


def test_what_lies_across_two_pieces_is_found() -> None:
    name = b"across-the-border"
    for before in range(-20, 2):
        data = elf(data=bytes((1 << 20) - DATA + before) + name)
        assert list(find_names(made(data), [name.decode()])) == [name.decode()]


def test_where_code_and_data_lie_together_everything_is_looked_at() -> None:
    data = bytearray(elf(data=b"in-the-code\0"))
    struct.pack_into("<I", data, 64 + 4, 5)  # the one segment becomes code
    assert find_names(made(bytes(data)), ["in-the-code"])


@pytest.mark.parametrize("names", [[""], ["x" * 257], [f"{number}" for number in range(5000)]])
def test_more_names_than_any_model_asks_for_are_refused(names: list[str]) -> None:
    with pytest.raises(MalformedError, match="looked for"):
        find_names(made(elf()), names)


def test_a_search_gives_places_in_the_file() -> None:
    found = list(search(made(elf(data=b"..v12..v3..")), re.compile(rb"v(\d+)"), longest=8))
    assert [(at, match[1]) for at, match in found] == [(DATA + 2, b"12"), (DATA + 7, b"3")]


def test_code_that_lies_apart_is_passed_over() -> None:
    data = bytearray(elf(data=b"in-the-data\0", interpreter="in-the-code"))
    (start,) = struct.unpack_from("<Q", data, 64 + 2 * 56 + 8)
    struct.pack_into("<IIQQQQQ", data, 64 + 2 * 56, 1, 5, start, 1 << 20, 1 << 20, 12, 12)  # the loader's name is code
    struct.pack_into("<QQ", data, 64 + 32, start, start)  # and what is before it, data
    assert set(find_names(made(bytes(data)), ["in-the-data", "in-the-code"])) == {"in-the-data"}
