"""What native files find in each other: by the loader's rules, with loops, lies and other machines among them."""

import io
from collections.abc import Mapping

import pytest
from tests.elves import elf

from airpack.facts import closure
from airpack.facts.closure import read_closure
from airpack.facts.elf import Elf, facts_of
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.runtimefacts import ClosureFacts, HostNeed, OutOfPath, Unresolved


def read(files: Mapping[str, bytes]) -> ClosureFacts:
    elves = {path: Elf(Reader(io.BytesIO(data), len(data), what=path)) for path, data in files.items()}
    return read_closure({path: (each, facts_of(each)) for path, each in elves.items()})


BASE = elf(soname="libbase.so.1", provides=["BASE_1", "BASE_2"], defines={"add": "BASE_1", "mul": "BASE_2"})


def test_what_lies_beside_a_file_is_found_by_its_runpath() -> None:
    found = read(
        {
            "lib/libtop.so": elf(
                needed=["libbase.so.1", "libc.so.6"],
                runpath="$ORIGIN/inner",
                wants={"add": ("libbase.so.1", "BASE_1"), "malloc": ("libc.so.6", "GLIBC_2.2.5")},
            ),
            "lib/inner/libbase.so.1": BASE,
        }
    )
    assert found.host == (HostNeed("amd64", "libc.so.6", ("GLIBC_2.2.5",), 1, "lib/libtop.so"),)
    assert (found.out_of_path, found.missing, found.unresolved, found.problems) == ((), (), (), ())


@pytest.mark.parametrize("path", ["$ORIGIN", "${ORIGIN}", "/nowhere:$ORIGIN/../lib", "$ORIGIN/", "$ORIGIN/./"])
def test_a_search_path_may_be_written_in_many_ways(path: str) -> None:
    files = {"lib/a.so": elf(needed=["b.so"], runpath=path), "lib/b.so": elf()}
    assert read(files).out_of_path == ()
    files["lib/a.so"] = elf(needed=["b.so"], rpath=path)
    assert read(files).out_of_path == ()


@pytest.mark.parametrize("path", ["", "$ORIGINAL", "/lib", "../lib", "$LIB", "$ORIGIN/../../../../lib/other"])
def test_a_library_that_its_user_does_not_look_for_there_is_named(path: str) -> None:
    found = read({"lib/a.so": elf(needed=["b.so"], runpath=path), "lib/b.so": elf()})
    (only,) = found.out_of_path
    assert only == OutOfPath("lib/a.so", "b.so", "lib/b.so", only.at)
    assert found.host == ()


def test_runpath_puts_rpath_aside() -> None:
    found = read({"a.so": elf(needed=["b.so"], runpath="/x", rpath="$ORIGIN"), "b.so": elf()})
    assert [each.library for each in found.out_of_path] == ["b.so"]


def test_rpath_is_inherited_by_what_it_brings_in_and_runpath_is_not() -> None:
    files = {
        "pkg/module.so": elf(needed=["liba.so"], rpath="$ORIGIN/../libs"),
        "libs/liba.so": elf(needed=["libb.so"]),
        "libs/libb.so": elf(needed=["libc.so"]),
        "libs/libc.so": elf(),
    }
    assert read(files).out_of_path == ()
    files["pkg/module.so"] = elf(needed=["liba.so"], runpath="$ORIGIN/../libs")
    assert [each.library for each in read(files).out_of_path] == ["libb.so", "libc.so"]
    files["pkg/module.so"] = elf(needed=["liba.so"], rpath="$ORIGIN/../libs")
    files["libs/liba.so"] = elf(needed=["libb.so"], runpath="/elsewhere")
    assert [each.library for each in read(files).out_of_path] == ["libb.so"]


def test_files_that_bring_each_other_in_inherit_and_end() -> None:
    files = {"a/a.so": elf(needed=["b.so"]), "b/b.so": elf(needed=["a.so"])}
    assert len(read(files).out_of_path) == 2


def test_a_library_is_known_by_its_soname_too() -> None:
    found = read({"a.so": elf(needed=["libbase.so.1"], runpath="$ORIGIN"), "renamed.so": BASE})
    assert [each.found for each in found.out_of_path] == ["renamed.so"]


def test_a_library_of_another_machine_is_none() -> None:
    found = read({"a.so": elf(needed=["b.so"], runpath="$ORIGIN"), "b.so": elf(machine=183)})
    assert [(need.architecture, need.library) for need in found.host] == [("amd64", "b.so")]


def test_host_needs_are_put_together_over_all_files_in_order_of_version() -> None:
    found = read(
        {
            "a.so": elf(needed=["libc.so.6"], versions={"libc.so.6": ["GLIBC_2.4", "GLIBC_2.34", "GLIBC_PRIVATE"]}),
            "b.so": elf(needed=["libc.so.6"], versions={"libc.so.6": ["GLIBC_2.17", "GLIBC_2.4"]}),
        }
    )
    (need,) = found.host
    assert need.versions == ("GLIBC_2.4", "GLIBC_2.17", "GLIBC_2.34", "GLIBC_PRIVATE")
    assert (need.users, need.first) == (2, "a.so")


def test_a_weak_version_is_asked_of_nobody() -> None:
    needs = {"libc.so.6": ["GLIBC_2.38"], "libbase.so.1": ["BASE_9"]}
    top = elf(
        needed=["libc.so.6", "libbase.so.1"], runpath="$ORIGIN", versions=needs, weak_versions=["GLIBC_2.38", "BASE_9"]
    )
    found = read({"a.so": top, "libbase.so.1": BASE})
    assert found.host == (HostNeed("amd64", "libc.so.6", (), 1, "a.so"),)
    assert found.missing == ()


def test_a_version_that_a_library_here_lacks_is_missing() -> None:
    top = elf(needed=["libbase.so.1"], runpath="$ORIGIN", wants={"add": ("libbase.so.1", "BASE_3")})
    found = read({"a.so": top, "libbase.so.1": BASE})
    (missing,) = found.missing
    assert (missing.path, missing.library, missing.version, missing.found) == (
        "a.so",
        "libbase.so.1",
        "BASE_3",
        "libbase.so.1",
    )
    assert [each.origin for each in found.unresolved] == ["nowhere"]


def test_a_symbol_that_nothing_here_defines_is_unresolved() -> None:
    top = elf(needed=["libbase.so.1", "libc.so.6"], runpath="$ORIGIN", wants={"new_thing": ("", ""), "add": ("", "")})
    found = read({"a.so": top, "libbase.so.1": BASE})
    assert found.unresolved == (Unresolved("a.so", "nowhere", 1, ("new_thing",)),)


def test_a_symbol_may_come_from_what_a_needed_library_needs() -> None:
    files = {
        "a.so": elf(needed=["b.so"], runpath="$ORIGIN", wants={"deep": ("", "")}),
        "b.so": elf(needed=["c.so"], runpath="$ORIGIN"),
        "c.so": elf(defines={"deep": ""}),
    }
    assert read(files).unresolved == ()


def test_symbols_of_programs_of_other_files_and_of_the_host_are_told_apart() -> None:
    files = {
        "module.so": elf(
            needed=["libcuda.so.1"],
            wants=dict.fromkeys(("PyList_New", "_Py_Dealloc", "napi_new", "cuInit", "Provider_GetHost"), ("", "")),
        ),
        "host.so": elf(defines={"Provider_GetHost": ""}),
    }
    assert {each.origin: each.names for each in read(files).unresolved} == {
        "python": ("PyList_New", "_Py_Dealloc"),
        "node": ("napi_new",),
        "host": ("cuInit",),
        "elsewhere": ("Provider_GetHost",),
    }


def test_libraries_that_version_all_their_symbols_have_none_without_a_version() -> None:
    libraries = ["libc.so.6", "libstdc++.so.6", "ld-linux-x86-64.so.2", "libgcc_s.so.1"]
    assert [each.origin for each in read({"a.so": elf(needed=libraries, wants={"x": ("", "")})}).unresolved] == [
        "nowhere"
    ]
    assert [each.origin for each in read({"a.so": elf(needed=["libz.so.1"], wants={"x": ("", "")})}).unresolved] == [
        "host"
    ]


def test_files_that_need_each_other_in_a_circle_are_read_once() -> None:
    files = {
        "a.so": elf(needed=["b.so", "a.so"], runpath="$ORIGIN", wants={"b": ("", "")}, defines={"a": ""}),
        "b.so": elf(needed=["c.so"], runpath="$ORIGIN", wants={"a": ("", "")}, defines={"b": ""}),
        "c.so": elf(needed=["a.so"], runpath="$ORIGIN", wants={"a": ("", "")}),
    }
    found = read(files)
    assert (found.host, found.out_of_path, found.unresolved) == ((), (), ())


def test_many_symbols_are_counted_and_some_are_named() -> None:
    wants = {f"symbol_{number:03}": ("", "") for number in range(100)}
    (only,) = read({"a.so": elf(wants=wants)}).unresolved
    assert (only.count, len(only.names), only.names[0]) == (100, 16, "symbol_000")


def test_a_file_whose_symbols_make_no_sense_is_a_problem_and_no_fact() -> None:
    data = bytearray(elf(wants={"x": ("", "")}, defines={"y": ""}, older=True))
    made = Elf(Reader(io.BytesIO(bytes(data)), len(data), what="a.so"))
    at = made.offset(made.dynamic[4]) + 4
    data[at : at + 4] = b"\xff\xff\x10\x00"
    found = read({"a.so": bytes(data), "b.so": elf()})
    assert found.unresolved == ()
    (problem,) = found.problems
    assert problem.path == "a.so"
    assert "symbols" in problem.reason


def test_more_files_than_a_runtime_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "_FILES", 2)
    with pytest.raises(MalformedError, match="3 native files"):
        read({f"{number}.so": elf() for number in range(3)})


def test_more_symbols_than_a_runtime_asks_for_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "_WANTED", 3)
    found = read({"a.so": elf(wants={f"x{number}": ("", "") for number in range(4)})})
    assert "more than 3 symbols" in found.problems[0].reason


@pytest.mark.parametrize(
    ("older", "newer"),
    [("GLIBC_2.9", "GLIBC_2.10"), ("GLIBCXX_3.4", "GLIBCXX_3.4.29"), ("CXXABI_1.3.9", "CXXABI_1.3.13")],
)
def test_versions_are_ordered_as_numbers(older: str, newer: str) -> None:
    assert closure.version_key(older) < closure.version_key(newer)
