"""What an ONNX Runtime library reads, from the names its compiler left; nothing where it left none."""

import io

import onnx
import onnx.helper
import pytest
from tests.elves import elf

from airpack.facts.elf import Elf
from airpack.facts.onnxruntime import ir_of, read_onnxruntime
from airpack.facts.reader import Reader
from airpack.formats.runtimefacts import OnnxRuntimeFacts

ANCHORS = b"\0Add\0Constant\0Conv\0Identity\0MatMul\0Reshape\0CPUExecutionProvider\0"


def registered(name: str) -> bytes:
    return f"ZN4onnx19RegisterOpSetSchemaINS_{len(name)}{name}EEEvibEUlONS_8OpSchemaEE_\0".encode()


def read(data: bytes) -> OnnxRuntimeFacts | None:
    file = elf(data=data)
    return read_onnxruntime(Elf(Reader(io.BytesIO(file), len(file), what="libonnxruntime.so")))


def test_the_highest_opset_of_each_domain_counts() -> None:
    names = [*(f"OpSet_Onnx_ver{number}" for number in (9, 21, 20)), "OpSet_OnnxML_ver5", "OpSet_OnnxML_ver4"]
    data = b"\0" + b"".join(map(registered, names)) + ANCHORS
    facts = read(data)
    assert facts is not None
    assert [(opset.domain, opset.version) for opset in facts.opsets] == [("", 21), ("ai.onnx.ml", 5)]
    assert (facts.ir, facts.names) == (10, True)
    assert elf(data=data)[facts.opsets[0].at :].startswith(registered("OpSet_Onnx_ver21")[len(b"ZN4onnx19") :])


def test_without_those_names_nothing_is_said() -> None:
    assert read(ANCHORS) is None
    assert read(registered("OpSet_OnnxML_ver5") + ANCHORS) is None
    assert read(b"RegisterOpSetSchemaINS_99OpSet_Onnx_ver21E") is None  # the length before it is wrong


def test_without_names_that_every_build_has_operators_are_no_evidence() -> None:
    facts = read(registered("OpSet_Onnx_ver21") + ANCHORS.replace(b"Conv\0", b"Xonv\0"))
    assert facts is not None
    assert not facts.names


def test_an_opset_newer_than_the_table_has_no_known_ir() -> None:
    facts = read(registered("OpSet_Onnx_ver99") + ANCHORS)
    assert facts is not None
    assert (facts.opsets[0].version, facts.ir) == (99, None)


@pytest.mark.parametrize("row", onnx.helper.VERSION_TABLE, ids=lambda row: str(row[0]))
def test_the_table_of_ir_versions_is_that_of_onnx(row: tuple[str, int, int, int]) -> None:
    _, ir, opset, *_ = row
    assert ir_of(opset) == max(each[1] for each in onnx.helper.VERSION_TABLE if each[2] == opset) == ir
