"""Python projects are held against their files: tags against machine, C library and interpreter; pins; NumPy."""

import io
from collections.abc import Sequence

import pytest
from tests.elves import DATA, elf

from airpack.facts import projects
from airpack.facts.elf import Elf, read_elf
from airpack.facts.projects import Project, find_projects, is_extension, pins, read_numpy, read_project
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.runtimefacts import Contradiction, ProjectFacts
from airpack.types import Source

GLIBC = elf(needed=["libc.so.6"], wants={"malloc": ("libc.so.6", "GLIBC_2.28"), "free": ("libc.so.6", "GLIBC_2.9")})
MUSL = elf(needed=["libc.musl-x86_64.so.1"])


def opened(data: bytes, path: str = "lib.so") -> Elf:
    return Elf(Reader(io.BytesIO(data), len(data), what=path))


def described(
    tags: Sequence[str], files: dict[str, bytes], *, metadata: bytes = b"", extensions: Sequence[str] = ()
) -> ProjectFacts:
    project = Project("demo", "1.0", "demo.whl", tuple(tags), metadata, frozenset(files))
    native = {path: read_elf(opened(data, path).reader) for path, data in files.items()}
    return read_project(project, native, {}, extensions)


def source(path: str, data: bytes) -> Source:
    return Source(path, len(data), lambda: io.BytesIO(data))


def test_native_files_of_other_projects_are_not_its_own() -> None:
    project = Project("demo", "1.0", "", (), b"", frozenset({"demo/a.so"}))
    native = {path: read_elf(opened(GLIBC, path).reader) for path in ("demo/a.so", "other/b.so")}
    native["other/b.so"] = read_elf(opened(elf(machine=183), "other/b.so").reader)
    facts = read_project(project, native, {})
    assert (facts.architectures, facts.glibc) == (("amd64",), "2.28")


@pytest.mark.parametrize(
    ("tag", "files", "found"),
    [
        ("manylinux_2_28_x86_64", {"a.so": GLIBC}, None),
        ("manylinux_2_27_x86_64", {"a.so": GLIBC}, "needs GLIBC_2.28"),
        ("manylinux2014_x86_64", {"a.so": GLIBC}, "needs GLIBC_2.28"),
        ("manylinux1_x86_64", {"a.so": GLIBC}, "needs GLIBC_2.28"),
        ("linux_x86_64", {"a.so": GLIBC}, None),
        ("manylinux_2_28_aarch64", {"a.so": GLIBC}, "is for amd64"),
        ("linux_aarch64", {"a.so": GLIBC}, "is for amd64"),
        ("musllinux_1_2_x86_64", {"a.so": MUSL}, None),
        ("musllinux_1_2_x86_64", {"a.so": GLIBC}, "needs libc.so.6"),
        ("manylinux_2_28_x86_64", {"a.so": MUSL}, "needs libc.musl-x86_64.so.1"),
        ("any", {"a.so": GLIBC}, "holds native code for amd64"),
        ("any", {}, None),
        ("win_amd64", {"a.so": GLIBC}, None),
        ("macosx_14_0_arm64", {}, None),
    ],
)
def test_a_tag_is_held_against_the_files(tag: str, files: dict[str, bytes], found: str | None) -> None:
    contradictions = described([f"cp311-cp311-{tag}"], files).contradictions
    assert [each.found for each in contradictions] == ([found] if found else [])
    assert all(each.tag == tag and each.path == "a.so" for each in contradictions)


def test_a_contradiction_has_its_place_in_the_file() -> None:
    (found,) = described(["py3-none-manylinux_2_17_x86_64"], {"a.so": GLIBC}).contradictions
    assert found == Contradiction("manylinux_2_17_x86_64", "needs GLIBC_2.28", "a.so", found.at)
    assert found.at in {need.at for need in read_elf(opened(GLIBC).reader).versions}


def test_every_tag_of_a_name_is_held_against_the_files() -> None:
    tags = ["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_28_x86_64"]
    assert [each.tag for each in described(tags, {"a.so": GLIBC}).contradictions] == ["manylinux_2_17_x86_64"]


@pytest.mark.parametrize(
    ("tag", "path", "contradicts"),
    [
        ("cp311-cp311-linux_x86_64", "m.cpython-311-x86_64-linux-gnu.so", False),
        ("cp312-cp312-linux_x86_64", "m.cpython-311-x86_64-linux-gnu.so", True),
        ("cp38-abi3-linux_x86_64", "m.abi3.so", False),
        ("cp313-cp313t-linux_x86_64", "m.cpython-313t-x86_64-linux-gnu.so", False),
        ("py3-none-linux_x86_64", "m.cpython-311-x86_64-linux-gnu.so", False),
        ("cp312-cp312-linux_x86_64", "m.so", False),
    ],
)
def test_an_extension_module_is_held_against_the_interpreter(tag: str, path: str, contradicts: bool) -> None:
    facts = described([tag], {path: elf()}, extensions=[path])
    assert bool(facts.contradictions) is contradicts
    assert described([tag], {path: elf()}).contradictions == ()  # no extension module, whatever its name


def test_libraries_from_elsewhere_are_named() -> None:
    files = {
        "demo/a.so": elf(needed=["libc.so.6", "libinner.so", "libtorch.so", "libcuda.so.1", "ld-linux-x86-64.so.2"]),
        "demo/libinner-1234.so": elf(soname="libinner.so"),
    }
    assert described(["py3-none-linux_x86_64"], files).outside == ("libcuda.so.1", "libtorch.so")


def test_metadata_says_what_a_project_requires() -> None:
    metadata = b"Name: demo\nRequires-Python: >=3.11\nRequires-Dist: numpy>=1.21\nRequires-Dist: x; extra == 'y'"
    facts = described([], {}, metadata=metadata)
    assert facts.requires_python == ">=3.11"
    assert facts.requires == ("numpy>=1.21", "x; extra == 'y'")


# --- pins -------------------------------------------------------------------------------------------------------------


def requiring(name: str, version: str, *requires: str) -> ProjectFacts:
    return ProjectFacts(name, version, "", (), "", requires, (), "", (), (), ())


def test_pins_are_held_against_the_projects_that_are_there() -> None:
    found = pins(
        [
            requiring(
                "vllm",
                "0.33.0",
                "transformers<5.21.0,>=5.16.1",
                "Torch==2.14.0",
                "numpy",
                "absent>=1",
                "numpy>3; sys_platform == 'win32'",
                "numpy<3; sys_platform == 'linux'",
                "torch<1; extra == 'old'",
                "no requirement at all",
            ),
            requiring("transformers", "5.23.0"),
            requiring("torch", "2.14.0+cu130"),
            requiring("numpy", "2.5.0rc1"),
        ]
    )
    assert {(pin.requirement, pin.found, pin.holds) for pin in found} == {
        ("transformers<5.21.0,>=5.16.1", "5.23.0", False),
        ("Torch==2.14.0", "2.14.0+cu130", True),
        ("numpy", "2.5.0rc1", True),
        ("absent>=1", "", False),
        ("numpy>3; sys_platform == 'win32'", "2.5.0rc1", None),
        ("numpy<3; sys_platform == 'linux'", "2.5.0rc1", True),
        ("no requirement at all", "", None),
    }


@pytest.mark.parametrize(
    "text",
    ["x" + "[" * 1000, "x; " + "(" * 1000, "x>=" + "9" * 5000, "x; python_version < '" + "9" * 900, "", "\ud800"],
)
def test_a_hostile_requirement_is_unknown(text: str) -> None:
    assert all(pin.holds is None for pin in pins([requiring("a", "1", text), requiring("x", "1")]))


# --- NumPy ------------------------------------------------------------------------------------------------------------

OLD = b"\0_ARRAY_API\0numpy.core._multiarray_umath\0module compiled against ABI version 0x%x\0"
NEW = OLD + b"numpy._core._multiarray_umath\0C-API version 0x%x (NumPy 1.23) but the running NumPy has\0"


@pytest.mark.parametrize(("data", "major", "least"), [(OLD, 1, ""), (NEW, 2, "1.23")])
def test_a_module_says_which_numpy_it_was_built_with(data: bytes, major: int, least: str) -> None:
    file = elf(data=data)
    use = read_numpy("m.so", opened(file))
    assert use is not None
    assert (use.major, use.least) == (major, least)
    assert file[use.at :].startswith(b"numpy._core" if major == 2 else b"_ARRAY_API")


def test_a_module_without_numpy_uses_none() -> None:
    assert read_numpy("m.so", opened(elf(data=b"numpy._core._multiarray_umath\0"))) is None


@pytest.mark.parametrize(
    ("path", "defines", "expected"),
    [
        ("a/m.cpython-311-x86_64-linux-gnu.so", "PyInit_m", True),
        ("a/m.abi3.so", "PyInit_m", True),
        ("m.so", "PyInit_m", True),
        ("m.so", "PyInit_other", False),
        ("libm.so.6", "PyInit_libm", False),
    ],
)
def test_an_extension_module_is_what_an_import_calls(path: str, defines: str, expected: bool) -> None:
    assert is_extension(path, opened(elf(defines={defines: ""}))) is expected


# --- unpacked projects ------------------------------------------------------------------------------------------------

UNPACKED = {
    "demo/__init__.py": b"",
    "Demo_Project-1.0.dist-info/METADATA": b"Name: demo-project\nRequires-Dist: numpy\n\nRequires-Dist: not this\n",
    "Demo_Project-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: cp38-abi3-linux_x86_64\nTag: py3-none-any\n",
    "Demo_Project-1.0.dist-info/RECORD": b"demo/__init__.py,sha256=x,0\n\ndemo/a.so,,\n",
}


def test_unpacked_projects_are_found_with_their_files() -> None:
    (project,) = find_projects(source(path, data) for path, data in UNPACKED.items())
    assert (project.name, project.version, project.filename) == ("demo-project", "1.0", "")
    assert project.tags == ("cp38-abi3-linux_x86_64", "py3-none-any")
    assert project.paths == {"demo/__init__.py", "demo/a.so"}
    assert b"not this" not in project.metadata
    assert DATA


@pytest.mark.parametrize("missing", ["WHEEL", "RECORD"])
def test_less_metadata_says_less(missing: str) -> None:
    files = {path: data for path, data in UNPACKED.items() if not path.endswith(missing)}
    (project,) = find_projects(source(path, data) for path, data in files.items())
    assert project.tags == () if missing == "WHEEL" else project.paths == frozenset()


@pytest.mark.parametrize(
    ("path", "size"),
    [("Demo_Project-1.0.dist-info/METADATA", 5 << 20), ("Demo_Project-1.0.dist-info/RECORD", 65 << 20)],
)
def test_metadata_has_a_bound(path: str, size: int) -> None:
    files = [source(name, data) for name, data in UNPACKED.items() if name != path]
    with pytest.raises(MalformedError, match="bytes"):
        find_projects([*files, Source(path, size, lambda: io.BytesIO(b""))])


def test_headers_have_a_bound() -> None:
    data = b"X: " + b"y" * (2 << 20)
    with pytest.raises(MalformedError, match="headers"):
        find_projects([source("demo-1.0.dist-info/METADATA", data)])
    assert projects._HEADERS == 1 << 20
