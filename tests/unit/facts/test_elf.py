"""ELF files are read as their loader does, and what contradicts itself is no fact."""

import io
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.elves import DATA, WEAK, elf

from airpack.facts.elf import Elf, read_elf, relative_pointers
from airpack.facts.reader import MalformedError, Reader, open_reader
from airpack.facts.symbols import Symbols, Wanted
from airpack.formats.runtimefacts import ElfFacts, Named, SymbolNeed

SYSTEM = [
    path
    for path in map(
        Path,
        (
            "/bin/ls",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib/aarch64-linux-gnu/libc.so.6",
            "/lib64/libc.so.6",
            "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
            "/usr/lib64/libstdc++.so.6",
            sys.executable,
        ),
    )
    if path.exists()
]
READELF = shutil.which("readelf")


def reader(data: bytes, name: str = "lib.so") -> Reader:
    return Reader(io.BytesIO(data), len(data), what=name)


def read(data: bytes) -> ElfFacts:
    return read_elf(reader(data))


def test_a_library_says_what_it_is_and_needs() -> None:
    data = elf(
        soname="libdemo.so.1",
        needed=["libc.so.6", "libm.so.6"],
        runpath="$ORIGIN:/opt/lib",
        versions={"libm.so.6": ["GLIBC_2.29"]},
        wants={"malloc": ("libc.so.6", "GLIBC_2.2.5"), "free": ("libc.so.6", "GLIBC_2.2.5")},
        provides=["DEMO_1", "DEMO_2"],
        defines={"demo": "DEMO_2"},
        notes=[(3, b"\xab" * 20)],
        align=16384,
    )
    facts = read(data)
    assert (facts.architecture, facts.bits, facts.order, facts.kind) == ("amd64", 64, "little", "shared")
    assert (facts.soname, facts.runpath, facts.rpath) == ("libdemo.so.1", ("$ORIGIN", "/opt/lib"), ())
    assert [need.name for need in facts.needed] == ["libc.so.6", "libm.so.6"]
    assert {(need.library, need.version) for need in facts.versions} == {
        ("libm.so.6", "GLIBC_2.29"),
        ("libc.so.6", "GLIBC_2.2.5"),
    }
    assert facts.provides == ("DEMO_1", "DEMO_2")
    assert (facts.page, facts.build_id, facts.size) == (16384, "ab" * 20, len(data))


def test_each_fact_has_its_place_in_the_bytes() -> None:
    data = elf(needed=["libc.so.6"], wants={"malloc": ("libc.so.6", "GLIBC_2.2.5")})
    facts = read(data)
    (need,), (version,) = facts.needed, facts.versions
    assert struct.unpack_from("<q", data, need.at) == (1,)  # DT_NEEDED
    (name,) = struct.unpack_from("<I", data, version.at + 8)
    dynamic = Elf(reader(data)).strings[0]
    assert data[dynamic + name :].startswith(b"GLIBC_2.2.5\0")


@pytest.mark.parametrize(
    ("wide", "order", "machine", "name"),
    [
        (True, "<", 62, "amd64"),
        (False, "<", 3, "386"),
        (True, "<", 183, "arm64"),
        (False, "<", 40, "arm"),
        (True, ">", 22, "s390x"),
        (True, "<", 21, "ppc64le"),
        (True, "<", 243, "riscv64"),
        (False, ">", 20, "em-20"),
        (False, "<", 62, "em-62"),  # x32: its programs are not those of amd64
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_every_class_and_byte_order_is_read(wide: bool, order: str, machine: int, name: str, older: bool) -> None:
    data = elf(
        wide=wide,
        order=order,
        machine=machine,
        older=older,
        needed=["libc.so.6"],
        wants={"malloc": ("libc.so.6", "GLIBC_2.0"), "hook": ("", ""), "maybe": ("", "")},
        weak=["maybe"],
        provides=["V_1"],
        defines={"one": "V_1", "two": "V_1", "three": ""},
    )
    facts = read(data)
    assert (facts.architecture, facts.bits) == (name, 64 if wide else 32)
    symbols = Symbols(Elf(reader(data)))
    assert set(symbols.wanted()) == {Wanted(b"malloc", "libc.so.6", "GLIBC_2.0"), Wanted(b"hook", "", "")}
    assert symbols.defines(b"one", "V_1")
    assert symbols.defines(b"one", "")
    assert not symbols.defines(b"one", "V_2")
    assert symbols.defines(b"three", "")
    assert not symbols.defines(b"malloc", "")
    assert not symbols.defines(b"absent", "")


def test_a_definition_without_versions_has_every_version_as_the_loader_sees_it() -> None:
    assert Symbols(Elf(reader(elf(defines={"one": ""})))).defines(b"one", "V_9")


def test_a_weak_version_is_marked() -> None:
    (need,) = read(elf(versions={"libc.so.6": ["GLIBC_2.38"]}, weak_versions=["GLIBC_2.38"])).versions
    assert need == SymbolNeed("libc.so.6", "GLIBC_2.38", weak=True, at=need.at)


@pytest.mark.parametrize(
    ("kind", "interpreter", "soname", "expected"),
    [
        (2, "/lib64/ld-linux-x86-64.so.2", "", "executable"),
        (3, "/lib64/ld-linux-x86-64.so.2", "", "executable"),
        (3, "/lib64/ld-linux-x86-64.so.2", "libc.so.6", "shared"),  # libc can be run
        (3, "", "", "shared"),
        (1, "", "", "relocatable"),
        (9, "", "", "type-9"),
    ],
)
def test_programs_and_libraries_are_told_apart(kind: int, interpreter: str, soname: str, expected: str) -> None:
    facts = read(elf(kind=kind, interpreter=interpreter, soname=soname))
    assert (facts.kind, facts.interpreter) == (expected, interpreter)


@pytest.mark.parametrize(
    ("mask", "level"), [(1, "x86-64-v1"), (3, "x86-64-v2"), (7, "x86-64-v3"), (0b1111, "x86-64-v4"), (0, "")]
)
def test_the_instruction_set_that_the_loader_demands_is_read(mask: int, level: str) -> None:
    note = struct.pack("<III4x", 0xC0000002, 4, 3) + struct.pack("<III4x", 0xC0008002, 4, mask)
    assert read(elf(notes=[(5, note)])).isa == level
    assert read(elf(machine=183, notes=[(5, note)])).isa == ""


def test_an_object_without_a_dynamic_table_needs_nothing() -> None:
    facts = read(elf(kind=1, dynamic=False))
    assert (facts.needed, facts.versions, facts.soname) == ((), (), "")


def test_relative_pointers_are_found_in_both_kinds_of_table() -> None:
    data = bytearray(256)
    struct.pack_into("<QQQ", data, 128, DATA + 10, DATA + 20, DATA + 30)  # where packed relocations say so
    word = 1 | 1 << 1 | 1 << 2
    made = elf(data=bytes(data), pointers={DATA: DATA + 40}, packed=[DATA + 128, word])
    assert relative_pointers(Elf(reader(made))) == {
        DATA: DATA + 40,
        DATA + 128: DATA + 10,
        DATA + 136: DATA + 20,
        DATA + 144: DATA + 30,
    }


# --- what contradicts itself ------------------------------------------------------------------------------------------


def patched(data: bytes, at: int, form: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, at, value)
    return bytes(out)


def dynamic_at(data: bytes, tag: int) -> int:
    """Return where the value of a tag of the dynamic table stands."""
    return next(at for found, _, at in Elf(reader(data)).entries if found == tag) + 8


GOOD = elf(
    needed=["libc.so.6"],
    soname="libgood.so",
    wants={"malloc": ("libc.so.6", "GLIBC_2.2.5")},
    provides=["V_1"],
    defines={"one": "V_1"},
    notes=[(3, bytes(20))],
)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("too short", lambda data: data[:40]),
        ("cut", lambda data: data[:-40]),
        ("no magic", lambda data: b"\x7fELG" + data[4:]),
        ("class 3", lambda data: patched(data, 4, "B", 3)),
        ("byte order 3", lambda data: patched(data, 5, "B", 3)),
        ("65535 program headers", lambda data: patched(data, 56, "<H", 65535)),
        ("program headers of 55 bytes", lambda data: patched(data, 54, "<H", 55)),
        ("program headers beyond", lambda data: patched(data, 32, "<Q", 1 << 63)),
        ("segment beyond", lambda data: patched(data, 64 + 32, "<Q", 1 << 62)),
        ("segment longer than its memory", lambda data: patched(data, 64 + 40, "<Q", 1)),
        ("dynamic table nowhere", lambda data: patched(data, 64 + 56 + 16, "<Q", 1 << 40)),
        ("strings nowhere", lambda data: patched(data, dynamic_at(data, 5), "<Q", 1 << 40)),
        ("strings too long", lambda data: patched(data, dynamic_at(data, 10), "<Q", 1 << 40)),
        ("a name beyond the strings", lambda data: patched(data, dynamic_at(data, 1), "<Q", 1 << 20)),
        ("many version needs", lambda data: patched(data, dynamic_at(data, 0x6FFFFFFF), "<Q", 1 << 30)),
        ("many version definitions", lambda data: patched(data, dynamic_at(data, 0x6FFFFFFD), "<Q", 1 << 30)),
        ("version needs nowhere", lambda data: patched(data, dynamic_at(data, 0x6FFFFFFE), "<Q", 1 << 50)),
    ],
)
def test_a_file_that_contradicts_itself_is_malformed(name: str, change: Callable[[bytes], bytes]) -> None:
    read(GOOD)
    with pytest.raises(MalformedError) as raised:
        read(change(GOOD))
    assert raised.value.reason, name
    assert raised.value.at >= 0


def test_segments_that_overlap_are_malformed() -> None:
    data = bytearray(elf(interpreter="/lib/ld.so"))
    for number in range(3):  # the third becomes a second segment that is loaded
        if struct.unpack_from("<I", data, 64 + number * 56) == (3,):
            struct.pack_into("<I", data, 64 + number * 56, 1)
    with pytest.raises(MalformedError, match="overlap"):
        read(bytes(data))


def test_two_dynamic_tables_are_malformed() -> None:
    data = bytearray(elf(interpreter="/lib/ld.so"))
    struct.pack_into("<I", data, 64 + 2 * 56, 2)
    with pytest.raises(MalformedError, match="more than one"):
        read(bytes(data))


def test_version_needs_that_run_in_a_circle_end() -> None:
    data = elf(versions={"liba.so": ["A_1"], "libb.so": ["B_1"]})
    at = read(data).versions[1].at - 16
    with pytest.raises(MalformedError, match="contradict"):
        read(patched(data, at + 12, "<I", (1 << 32) - 32))  # back to the first


def test_a_chain_of_hashes_that_never_ends_is_malformed() -> None:
    data = elf(defines={"one": "", "two": ""})
    made = Elf(reader(data))
    chain = made.offset(made.dynamic[0x6FFFFEF5]) + 16 + 8 + 4
    broken = patched(patched(data, chain, "<I", 0), chain + 4, "<I", 0)
    with pytest.raises(MalformedError):
        list(Symbols(Elf(reader(broken + bytes(64)))).wanted())


def test_an_older_chain_that_runs_in_a_circle_is_malformed() -> None:
    data = elf(defines={"one": "", "two": "", "three": ""}, older=True)
    made = Elf(reader(data))
    table = made.offset(made.dynamic[4])
    circle = bytearray(data)
    struct.pack_into("<4I", circle, table + 8, 1, 1, 0, 1)  # both buckets lead to a symbol that leads to itself
    with pytest.raises(MalformedError, match="without end"):
        Symbols(Elf(reader(bytes(circle)))).defines(b"absent", "")


def test_more_symbols_than_any_file_has_are_malformed() -> None:
    data = elf(defines={"one": ""}, older=True)
    made = Elf(reader(data))
    with pytest.raises(MalformedError, match="hash table of"):
        Symbols(Elf(reader(patched(data, made.offset(made.dynamic[4]) + 4, "<I", 1 << 30)))).defines(b"one", "")


def test_a_name_that_is_not_utf_8_is_malformed() -> None:
    data = elf(soname="libgood.so")
    with pytest.raises(MalformedError, match="UTF-8"):
        read(data.replace(b"libgood.so", b"lib\xffood.so"))


def test_notes_that_lie_about_their_length_are_malformed() -> None:
    data = elf(notes=[(3, bytes(20))])
    at = data.index(b"GNU\0") - 8
    with pytest.raises(MalformedError, match="note"):
        read(patched(data, at, "<I", 1 << 31))


def test_no_more_is_read_than_a_reader_may() -> None:
    data = elf(needed=["libc.so.6"]) + bytes(1 << 20)
    with pytest.raises(MalformedError, match="more than 100 bytes"):
        read_elf(Reader(io.BytesIO(data), len(data), what="x", read=100))


def test_a_file_that_is_cut_while_it_is_read_is_malformed() -> None:
    with pytest.raises(MalformedError, match="early"):
        read_elf(Reader(io.BytesIO(GOOD[:-10]), len(GOOD), what="x"))


# --- real files, and what binutils says of them -----------------------------------------------------------------------


@pytest.mark.skipif(not READELF, reason="needs readelf (binutils)")
@pytest.mark.parametrize("path", SYSTEM, ids=lambda path: path.name)
def test_facts_are_those_that_readelf_prints(path: Path) -> None:
    def printed(*words: str) -> str:
        return subprocess.run([READELF or "", "-W", *words, path], capture_output=True, text=True, check=True).stdout

    with open_reader(path.resolve()) as opened:
        facts = read_elf(opened)
        symbols = Symbols(Elf(opened))
        wanted = {each.name.decode() + (f"@{each.version}" if each.version else "") for each in symbols.wanted()}
        dynamic = printed("-d")
        assert [need.name for need in facts.needed] == re.findall(r"\(NEEDED\)\s+Shared library: \[(.*)\]", dynamic)
        assert [facts.soname] == (re.findall(r"\(SONAME\)\s+Library soname: \[(.*)\]", dynamic) or [""])
        assert facts.build_id in printed("-n")
        versions = printed("-V")
        needs = re.findall(r"Name: (\S+)\s+Flags: \S+\s+Version:", versions)
        assert [need.version for need in facts.versions] == needs
        assert list(facts.provides) == re.findall(r"Index: \d+\s+Cnt: \d+\s+Name: (\S+)", versions)[1:]
        rows = re.findall(
            r"^ *\d+: [0-9a-f]+ +\S+ +\w+ +(\w+) +\w+ +(?:\[[^\]]*\] +)?(\w+) +(?:\[[^\]]*\] +)?(\S+)",
            printed("--dyn-syms"),
            re.MULTILINE,
        )
        assert wanted == {name for binding, section, name in rows if section == "UND" and binding == "GLOBAL"}
        for binding, section, name in rows:
            if section != "UND" and binding != "LOCAL":
                plain, _, version = name.replace("@@", "@").partition("@")
                assert symbols.defines(plain.encode(), version), name
                assert not symbols.defines(plain.encode() + b"?", version)


def test_this_python_is_for_this_machine() -> None:
    with open_reader(Path(sys.executable).resolve()) as opened:
        facts = read_elf(opened)
    assert facts.kind == "executable"
    assert isinstance(facts.needed[0], Named)
    assert facts.page >= 4096


def test_weak_symbols_are_not_wanted() -> None:
    assert WEAK == 2
    data = elf(wants={"maybe": ("", "")}, weak=["maybe"])
    assert list(Symbols(Elf(reader(data))).wanted()) == []
