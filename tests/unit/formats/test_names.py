import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import InputError, IntegrityError
from airpack.formats.names import (
    Ref,
    check_component,
    check_package_name,
    check_path,
    check_paths,
    check_product,
    check_version,
    parse_ref,
    parse_release_name,
)
from airpack.types import Digest, Limits

GOOD_PATHS = [
    "model.onnx",
    "a/b/c.txt",
    ".hidden/file",
    "setuptools/command/launcher manifest.xml",
    "templates/[name]{x}.py",
    "console/com10.txt",
    "x" * Limits.NAME,
    "a~b+c=d,e;f!g@h#i$j%k^l&m(n)",
]
BAD_PATHS = {
    "empty": "",
    "absolute": "/etc/passwd",
    "empty part": "a//b",
    "folder only": "a/",
    "dot": "./a",
    "dot dot": "a/../b",
    "dot dot alone": "..",
    "backslash": "a\\b",
    "drive": "c:/a",
    "wildcard": "a*",
    "pipe": "a|b",
    "NUL": "a\0b",
    "newline": "a\nb",
    "delete": "a\x7fb",
    "not ASCII": "stra\u00dfe",
    "leading space": " a",
    "trailing space": "a /b",
    "trailing dot": "a./b",
    "device": "nul",
    "device, upper case": "lib/AUX",
    "device with extension": "com1.txt",
    "device with space and extension": "con .txt",
    "device with two extensions": "LPT9.tar.gz",
    "console": "CONIN$",
    "part too long": "x" * (Limits.NAME + 1),
    "path too long": "/".join(["x" * 200] * 6),
}


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_a_safe_path_is_returned_as_it_is(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS.keys())
def test_an_unsafe_path_is_refused_by_the_error_class_of_its_origin(path: str) -> None:
    with pytest.raises(IntegrityError):
        check_path(path)
    with pytest.raises(InputError):
        check_path(path, error=InputError)


@given(st.text(max_size=40))
def test_what_check_path_accepts_stays_below_its_folder(text: str) -> None:
    try:
        path = check_path(text)
    except IntegrityError:
        return
    assert path.isascii()
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "a"],
        ["README", "readme"],
        ["Lib/x.py", "lib/X.py"],
        ["a", "a/b"],
        ["a/b/c", "A"],
        ["a/b", "a/b/c/d"],
        ["ok", "no/../t"],
    ],
)
def test_paths_that_cannot_stand_in_one_tree_are_refused(paths: list[str]) -> None:
    with pytest.raises(IntegrityError):
        check_paths(paths)
    with pytest.raises(InputError):
        check_paths(reversed(paths), error=InputError)


def test_files_of_one_folder_and_folders_that_differ_in_case_may_stand_together() -> None:
    check_paths(["a/x", "a/y", "A/z", "ab", "a-b/c"])


@given(st.lists(st.lists(st.sampled_from(["a", "A", "b", "c"]), min_size=1, max_size=3).map("/".join), max_size=6))
def test_check_paths_agrees_with_a_tree_that_ignores_case(paths: list[str]) -> None:
    folded = [path.casefold() for path in paths]
    collide = len(set(folded)) < len(folded) or any(other.startswith(f"{path}/") for path in folded for other in folded)
    if collide:
        with pytest.raises(IntegrityError):
            check_paths(paths)
    else:
        check_paths(paths)


@pytest.mark.parametrize("name", ["ab", "encoder", "a1.b2-c3_d4", "x" * 63])
def test_a_product_name_is_accepted(name: str) -> None:
    assert check_product(name) == name


@pytest.mark.parametrize(
    "name", ["", "a", "x" * 64, "Encoder", "a..b", "-a", "a-", "a b", "a/b", "nul", "con.x", "ab\n", "\u00e9e"]
)
def test_what_cannot_name_a_product_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError):
        check_product(name)


@pytest.mark.parametrize("version", ["1", "1.2.0", "V1_rc-1", "x" * 64])
def test_a_version_is_accepted(version: str) -> None:
    assert check_version(version) == version


@pytest.mark.parametrize(
    "version", ["", ".1", "-1", "1+2", "1/2", "1 ", "x" * 65, "current", "known-good", "Current", "1\n"]
)
def test_what_cannot_name_a_version_is_refused(version: str) -> None:
    with pytest.raises(InputError):
        check_version(version, error=InputError)


def test_a_component_may_be_one_letter_but_no_device() -> None:
    assert check_component("m") == "m"
    for name in ("", "aux", "A", "a/b", "x" * 64):
        with pytest.raises(IntegrityError):
            check_component(name)


def test_a_package_name_is_lower_case_and_no_device() -> None:
    assert check_package_name("digits-1.0.0_rc.1") == "digits-1.0.0_rc.1"
    for name in ("", "A", ".a", "a b", "con", "nul.1", "x" * 129):
        with pytest.raises(IntegrityError):
            check_package_name(name)


def test_a_ref_is_a_product_a_version_of_it_or_a_digest() -> None:
    digest = "sha256:" + "ab" * 32
    assert parse_ref("digits") == Ref("digits")
    assert parse_ref("digits@1.0.0") == Ref("digits", "1.0.0")
    assert parse_ref(digest) == Digest(digest)
    assert str(Ref("digits", "1.0.0")) == "digits@1.0.0"
    assert str(Ref("digits")) == "digits"


@pytest.mark.parametrize("text", ["", "@1", "digits@", "digits@current", "Digits", "a@b@c", "sha256:12", "sha256:"])
def test_what_is_no_ref_is_bad_input(text: str) -> None:
    with pytest.raises(InputError):
        parse_ref(text)


@pytest.mark.parametrize("text", ["", "digits", "digits@", "digits@known-good", "@1", "a@1"])
def test_a_signed_release_name_needs_both_parts(text: str) -> None:
    with pytest.raises(IntegrityError):
        parse_release_name(text)


@given(st.text())
def test_parse_ref_returns_or_raises_input_error_and_nothing_else(text: str) -> None:
    try:
        ref = parse_ref(text)
    except InputError:
        return
    assert str(ref) == text


def test_deep_paths_cost_no_more_memory_than_they_are_long() -> None:
    paths = [f"{number:04x}/" + "a/" * 508 + "b" for number in range(300)]
    tracemalloc.start()
    try:
        check_paths(paths)
        assert tracemalloc.get_traced_memory()[1] < 5 * sum(map(len, paths))
    finally:
        tracemalloc.stop()
