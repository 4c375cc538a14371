"""The host's libraries: found as its loader finds them, their versions read from the files."""

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from tests.elves import elf

from airpack.facts.hostlibs import parse_cache, read_libraries
from airpack.facts.machine import Machine
from airpack.formats.hostfacts import Library, Unknown

AMD64, ARM64 = 0x0303, 0x0A03


def cache(*entries: tuple[str, str, int], older: bool = False) -> bytes:
    head = struct.pack("<20sIIB3sIIII", b"glibc-ld.so.cache1.1", len(entries), 0, 2, b"", 0, 0, 0, 0)
    at = len(head) + 24 * len(entries)
    rows, strings = b"", b""
    for name, path, flags in entries:
        rows += struct.pack("<IIIIQ", flags, at + len(strings), at + len(strings) + len(name) + 1, 0, 0)
        strings += name.encode() + b"\0" + path.encode() + b"\0"
    begin = struct.pack("<12sI", b"ld.so-1.7.0\0", 3) + bytes(3 * 12) if older else b""
    return begin + bytes(-len(begin) % 8) + head + rows + strings


def made(root: Path, files: dict[str, bytes]) -> Machine:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return Machine(root)


LIBC = elf(soname="libc.so.6", provides=["GLIBC_2.17", "GLIBC_2.36"], defines={"malloc": "GLIBC_2.17"})


@pytest.mark.parametrize("older", [False, True])
def test_a_cache_lists_names_and_paths_of_one_architecture(older: bool) -> None:
    data = cache(("libc.so.6", "/lib/libc.so.6", AMD64), ("libc.so.6", "/lib32/libc.so.6", 3), older=older)
    assert list(parse_cache(data, AMD64)) == [("libc.so.6", "/lib/libc.so.6")]
    assert list(parse_cache(data, 3)) == [("libc.so.6", "/lib32/libc.so.6")]
    assert list(parse_cache(data, ARM64)) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ld.so-1.7.0\0\xff\xff\xff\xff",
        b"glibc-ld.so.cache1.1",
        cache(("a", "/a", AMD64))[:60],
        cache(("a", "relative", AMD64)),
        struct.pack("<20sIIB3sIIII", b"glibc-ld.so.cache1.1", 1 << 31, 0, 2, b"", 0, 0, 0, 0),
        cache(("a", "/a", AMD64)).replace(b"a\0/a\0", b"aaaaa"),
    ],
)
def test_a_cache_that_makes_no_sense_lists_nothing(data: bytes) -> None:
    assert list(parse_cache(data, AMD64)) == []


def test_versions_are_those_of_the_file_the_loader_takes(tmp_path: Path) -> None:
    machine = made(
        tmp_path,
        {
            "etc/ld.so.cache": cache(
                ("libstdc++.so.6", "/opt/lib/libstdc++.so.6", AMD64), ("libfoo.so.1", "/opt/lib/libfoo.so.1", AMD64)
            ),
            "opt/lib/libstdc++.so.6": elf(provides=["GLIBCXX_3.4.30"]),
            "usr/lib/libstdc++.so.6": elf(provides=["GLIBCXX_3.4.9"]),
            "lib/x86_64-linux-gnu/libc.so.6": LIBC,
            "usr/lib/libbar.so": b"",
        },
    )
    assert read_libraries(machine, "amd64") == (
        {
            "libc.so.6": Library("/lib/x86_64-linux-gnu/libc.so.6", ("GLIBC_2.17", "GLIBC_2.36")),
            "libstdc++.so.6": Library("/opt/lib/libstdc++.so.6", ("GLIBCXX_3.4.30",)),
        },
        ("libbar.so", "libc.so.6", "libfoo.so.1", "libstdc++.so.6"),
    )


def test_a_library_of_another_machine_or_a_broken_one_is_passed_over(tmp_path: Path) -> None:
    machine = made(
        tmp_path,
        {"lib64/libc.so.6": elf(machine=183), "usr/lib64/libc.so.6": b"\x7fELF", "lib/libc.so.6": LIBC},
    )
    found = read_libraries(machine, "amd64")
    assert not isinstance(found, Unknown)
    assert found[0]["libc.so.6"].path == "/lib/libc.so.6"


def test_without_a_folder_of_libraries_they_are_unknown(tmp_path: Path) -> None:
    found = read_libraries(Machine(tmp_path), "amd64")
    assert isinstance(found, Unknown)
    assert found.fact == "libraries"


def test_a_machine_without_libstdcxx_has_none(tmp_path: Path) -> None:
    found = read_libraries(made(tmp_path, {"lib/libc.so.6": LIBC}), "amd64")
    assert not isinstance(found, Unknown)
    assert set(found[0]) == {"libc.so.6"}


@pytest.mark.skipif(not shutil.which("ldconfig") or os.uname().machine != "x86_64", reason="needs ldconfig, on x86-64")
def test_the_cache_of_this_machine_is_what_ldconfig_prints() -> None:
    data = Machine(Path("/")).data("etc/ld.so.cache")
    if data is None:
        pytest.skip("there is no cache")
    printed = subprocess.run([shutil.which("ldconfig") or "", "-p"], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\t(\S+) \((libc6,x86-64)[^)]*\) => (\S+)$", printed, re.MULTILINE)
    assert list(parse_cache(data, AMD64)) == [(name, path) for name, _, path in rows]
