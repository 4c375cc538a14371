"""CUDA code is found where nvcc puts it; a fatbin that lies about its length is no fact."""

import io
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from tests.elves import elf, fatbin

from airpack.facts.elf import Elf
from airpack.facts.fatbin import read_fatbins
from airpack.facts.reader import MalformedError, Reader, open_reader
from airpack.formats.runtimefacts import CudaCode

PTX, CUBIN = 1, 2
EXACT, FAMILY = 0x100000, 0x200000


def read(content: bytes, section: str = ".nv_fatbin") -> tuple[CudaCode, ...]:
    data = elf(sections={".text": b"code", section: content})
    return read_fatbins(Elf(Reader(io.BytesIO(data), len(data), what="lib.so")))


def shown(found: tuple[CudaCode, ...]) -> list[tuple[str, str, str, int]]:
    return [(code.kind, code.architecture, code.isa, code.count) for code in found]


def test_machine_code_and_ptx_are_told_apart_and_counted() -> None:
    content = (
        fatbin((CUBIN, 80, 0, 0, 0), (PTX, 90, 0, 8, 5))
        + bytes(8)
        + fatbin((CUBIN, 80, 0, 0, 0), (CUBIN, 90, EXACT, 0, 0), (CUBIN, 120, FAMILY, 0, 0), (8, 75, 0, 0, 0))
    )
    assert shown(read(content)) == [
        ("cubin", "120f", "", 1),
        ("cubin", "80", "", 2),
        ("cubin", "90a", "", 1),
        ("kind-8", "75", "", 1),
        ("ptx", "90", "8.5", 1),
    ]


def test_each_kind_of_code_has_the_place_of_its_first() -> None:
    data = elf(sections={".nv_fatbin": fatbin((CUBIN, 90, 0, 0, 0), (CUBIN, 90, 0, 0, 0))})
    (code,) = read_fatbins(Elf(Reader(io.BytesIO(data), len(data), what="lib.so")))
    assert struct.unpack_from("<H26xI", data, code.at) == (CUBIN, 90)


def test_relocatable_fatbins_count_and_other_sections_do_not() -> None:
    content = fatbin((CUBIN, 90, 0, 0, 0))
    assert shown(read(content, "__nv_relfatbin")) == [("cubin", "90", "", 1)]
    assert read(content, ".nvFatBinSegment") == ()
    assert read(b"") == ()
    assert read(bytes(100)) == ()


def test_a_file_without_sections_has_no_code_that_can_be_seen() -> None:
    data = elf()
    assert read_fatbins(Elf(Reader(io.BytesIO(data), len(data), what="lib.so"))) == ()


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (6, "<H", 8),  # a fatbin's header shorter than a header
        (8, "<Q", 1 << 40),  # entries beyond the section
        (8, "<Q", (1 << 64) - 16),
        (16 + 4, "<I", 0),  # an entry without a header: it would never end
        (16 + 4, "<I", 63),
        (16 + 8, "<Q", 1 << 63),  # a payload beyond
        (16 + 8, "<Q", (1 << 64) - 64),
    ],
)
def test_a_fatbin_that_lies_about_its_length_is_malformed(at: int, form: str, value: int) -> None:
    content = bytearray(fatbin((CUBIN, 90, 0, 0, 0), (PTX, 90, 0, 8, 5)))
    struct.pack_into(form, content, at, value)
    with pytest.raises(MalformedError, match="beyond"):
        read(bytes(content))


def test_a_section_beyond_the_file_is_malformed() -> None:
    data = bytearray(elf(sections={".nv_fatbin": fatbin((CUBIN, 90, 0, 0, 0))}))
    (headers,) = struct.unpack_from("<Q", data, 40)
    struct.pack_into("<Q", data, headers + 64 + 32, 1 << 50)
    with pytest.raises(MalformedError, match="beyond"):
        read_fatbins(Elf(Reader(io.BytesIO(bytes(data)), len(data), what="lib.so")))


def test_a_section_of_nothing_but_beginnings_ends() -> None:
    read(struct.pack("<4sHHQ", b"\x50\xed\x55\xba", 1, 16, 0) * 1000)


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc (CUDA)")
def test_code_that_nvcc_makes_is_found_by_its_architecture(tmp_path: Path) -> None:
    """The flags of `a` and `f` stand in no specification: this is what NVIDIA's own compiler writes."""
    (tmp_path / "k.cu").write_text("__global__ void k(float *x) { x[threadIdx.x] *= 2; }\n")
    asked = [
        "arch=compute_80,code=[sm_80,compute_80]",
        "arch=compute_90a,code=sm_90a",
        "arch=compute_100f,code=sm_100f",
    ]
    flags = [f"-gencode={each}" for each in asked]
    words = ["nvcc", "-shared", "-Xcompiler", "-fPIC", *flags, "-o", "k.so", "k.cu"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this nvcc cannot make them: {done.stderr[:200]}")
    with open_reader(tmp_path / "k.so") as reader:
        found = read_fatbins(Elf(reader))
    assert {(code.kind, code.architecture) for code in found} == {
        ("cubin", "80"),
        ("ptx", "80"),
        ("cubin", "90a"),
        ("cubin", "100f"),
    }
    assert all(code.isa.count(".") == (code.kind == "ptx") for code in found)
