"""What an ONNX Runtime library reads, from names that its compiler left in it.

    read_onnxruntime(Elf(reader))   ->  OnnxRuntimeFacts(opsets=(Opset("", 21, at=...), ...), ir=10, ...)

ONNX registers each opset by a lambda whose type has a name, `RegisterOpSetSchemaINS_16OpSet_Onnx_ver21E`: the highest
is the highest opset that the library knows. The IR version follows from it by ONNX's own table (docs/Versioning.md), so
its grade is `table`. A library built without those names, or without operators that every build has, says nothing:
then there are no facts, rather than facts that are guessed.

Names of operators and kernels are data of the library: `facts.names.find_names` asks for those of a model.
"""

import re
from typing import Final

from airpack.facts.elf import Elf
from airpack.facts.names import find_names, search
from airpack.formats.runtimefacts import OnnxRuntimeFacts, Opset

_OPSET: Final = re.compile(rb"RegisterOpSetSchemaINS\d?_(\d\d)(OpSet_([A-Za-z]{1,24})_ver(\d{1,3}))E")
_LONGEST: Final = 128  # bytes of such a name
_DOMAINS: Final = {"Onnx": "", "OnnxML": "ai.onnx.ml", "OnnxPreview": "ai.onnx.preview"}
_ANCHORS: Final = ("Add", "Constant", "Conv", "Identity", "MatMul", "Reshape", "CPUExecutionProvider")
_IR: Final = (  # (highest opset, IR version) of ONNX's releases, docs/Versioning.md
    (8, 3),
    (9, 4),
    (10, 5),
    (11, 6),
    (14, 7),
    (18, 8),
    (20, 9),
    (22, 10),
    (23, 11),
    (24, 12),
    (27, 13),
    (28, 14),
)


def read_onnxruntime(elf: Elf) -> OnnxRuntimeFacts | None:
    """Return what the library reads; None when it is no ONNX Runtime, or says nothing of it.

    Args:
        elf: The library.

    Raises:
        MalformedError: It contradicts itself, or asks for more work than any real one.
        StorageError: It cannot be read.
    """
    found: dict[str, Opset] = {}
    for at, match in search(elf, _OPSET, longest=_LONGEST):
        domain = _DOMAINS.get(match[3].decode(), "")
        if int(match[1]) != len(match[2]) or (not domain and match[3] != b"Onnx"):
            continue
        opset = Opset(domain, int(match[4]), at)
        if domain not in found or found[domain].version < opset.version:
            found[domain] = opset
    if "" not in found:
        return None
    anchors = find_names(elf, _ANCHORS)
    return OnnxRuntimeFacts(
        path=elf.reader.what,
        opsets=tuple(found[domain] for domain in sorted(found)),
        ir=ir_of(found[""].version),
        names=len(anchors) == len(_ANCHORS),
    )


def ir_of(opset: int) -> int | None:
    """Return the IR version of the ONNX release that brought an opset; None for one that this table does not know."""
    return next((ir for highest, ir in _IR if opset <= highest), None)
