"""ONNX models, held against onnx's own library, and hostile ones."""

import io
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx import TensorProto, helper

from airpack.facts.notes import Notes
from airpack.facts.onnx import FLOATS, TYPES, read
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import Count, OnnxExternal, OnnxFacts, OnnxFunction, OnnxValue


def facts(data: bytes) -> tuple[OnnxFacts, Notes]:
    notes = Notes()
    return read(Reader(io.BytesIO(data), len(data)), notes), notes


def named(array: Any, name: str) -> TensorProto:
    return onnx.numpy_helper.from_array(array, name)


def node(operator: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)


def model(
    *nodes: onnx.NodeProto,
    initializers: Iterable[TensorProto] = (),
    opsets: dict[str, int] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("x", "y")]
    graph = helper.make_graph(list(nodes or [node("Identity")]), "g", value[:1], value[1:], list(initializers))
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 17}).items()]
    return helper.make_model(graph, producer_name="test", opset_imports=imports, ir_version=8, **more)


def walked(nodes: Iterable[onnx.NodeProto]) -> Counter[str]:
    """Count operators with onnx's own parser, subgraphs included."""
    found = Counter[str]()
    for each in nodes:
        found[f"{each.domain or 'ai.onnx'}:{each.op_type}"] += 1
        for attribute in each.attribute:
            for graph in (attribute.g, *attribute.graphs):
                found += walked(graph.node)
    return found


def inner(*nodes: onnx.NodeProto, initializers: Iterable[TensorProto] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "inner", [], [], list(initializers))


RICH = model(
    node("Add"),
    node("Add"),
    node(
        "If",
        then_branch=inner(node("Mul"), node("Gelu", "com.microsoft")),
        else_branch=inner(node("Loop", body=inner(node("Sub")))),
    ),
    node("Constant", value=named(np.arange(3), "")),
    node("Twice", "local"),
    node("Conv", pads=list(range(300)), strings=["Z2R*"] * 100),
    initializers=[named(np.ones((2, 3), "<f4"), "w"), named(np.ones(5, "<f2"), "h")],
    opsets={"": 17, "com.microsoft": 1, "local": 1},
    functions=[
        helper.make_function(
            "local",
            "Twice",
            ["x"],
            ["y"],
            [node("Neg"), node("Other", "other")],
            [helper.make_opsetid("", 18), helper.make_opsetid("other", 2)],
        )
    ],
)


def test_operators_are_found_wherever_nodes_are() -> None:
    found, notes = facts(RICH.SerializeToString())
    assert found.operators == walked(RICH.graph.node)
    assert "com.microsoft:Gelu" in found.operators
    assert found.functions == {
        "local:Twice": OnnxFunction({"ai.onnx": 18, "other": 2}, {"ai.onnx:Neg": 1, "other:Other": 1})
    }
    assert (found.ir, found.opsets, found.producer) == (8, {"ai.onnx": 17, "com.microsoft": 1, "local": 1}, "test")
    assert found.subgraphs == 3
    assert found.tensors == {"FLOAT": Count(1, 24), "FLOAT16": Count(1, 10), "INT64": Count(1, 24)}
    assert found.inputs == (OnnxValue("x", "FLOAT", ("n", "16")),)
    assert notes.problems == []


def test_places_point_at_what_they_name() -> None:
    data = RICH.SerializeToString()
    places = facts(data)[1].places
    for name, word in (
        ("operators.com.microsoft:Gelu", b"Gelu"),
        ("functions.local:Twice", b"Twice"),
        ("functions.Twice.operators.other:Other", b"Other"),
        ("opsets.com.microsoft", b"com.microsoft"),
        ("tensors.FLOAT16", b"h"),
    ):
        assert word in data[slice(*places[name])], name
    assert data[slice(*places["ir"])] == b"\x08"


def test_types_are_those_of_its_own_library() -> None:
    numbers = {value.number: value.name for value in TensorProto.DataType.DESCRIPTOR.values if value.number}
    assert {number: name for number, (name, _) in TYPES.items()} == numbers
    for number, (name, bits) in TYPES.items():
        if name != "STRING":
            dtype = helper.tensor_dtype_to_np_dtype(number)
            packed = name in {"UINT4", "INT4", "FLOAT4E2M1", "UINT2", "INT2", "FLOAT6E2M3", "FLOAT6E3M2"}
            assert bits == dtype.itemsize * 8 or packed, name
    assert set(FLOATS) <= set(TYPES)


def test_external_weights_are_added_up_by_file(tmp_path: Path) -> None:
    made = model(initializers=[named(np.ones((3, 50), "<f4"), f"w{number}") for number in range(4)])
    onnx.save_model(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    found, notes = facts((tmp_path / "m.onnx").read_bytes())
    assert found.external == {"m.data": OnnxExternal(4, (tmp_path / "m.data").stat().st_size)}
    assert found.tensors == {"FLOAT": Count(4, 2400)}
    assert notes.problems == []


def external(name: str, kind: int = TensorProto.FLOAT, **entries: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=kind, dims=[3, 5], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_external_weights_without_a_length_are_as_long_as_their_shape() -> None:
    found, _ = facts(model(initializers=[external("w", location="w.bin", offset="40")]).SerializeToString())
    assert found.external == {"w.bin": OnnxExternal(1, 100)}


@pytest.mark.parametrize("offset", ["-4", "4.0", "9" * 30, "٤", ""])
def test_external_weights_at_no_place_are_a_problem(offset: str) -> None:
    found, notes = facts(model(initializers=[external("w", location="w", offset=offset)]).SerializeToString())
    assert found.external == {"w": OnnxExternal(1, 0, unsized=1)}
    assert [problem.reason for problem in notes.problems] == ["tensor 'w' lies at no place in 'w'"]


def test_external_weights_of_an_unknown_type_are_said_to_have_no_size() -> None:
    found, _ = facts(model(initializers=[external("w", 99, location="w.bin")]).SerializeToString())
    assert found.external == {"w.bin": OnnxExternal(1, 0, unsized=1)}
    assert found.tensors == {"type-99": Count(1, 0)}


def test_a_place_that_readers_do_not_look_at_is_none() -> None:
    tensor = named(np.ones(4, "<f4"), "w")
    tensor.external_data.add(key="location", value="/etc/passwd")
    assert facts(model(initializers=[tensor]).SerializeToString())[0].external == {}
    tensor.data_location = TensorProto.EXTERNAL  # with data beside it: readers follow the place
    assert set(facts(model(initializers=[tensor]).SerializeToString())[0].external) == {"/etc/passwd"}


def test_training_graphs_count() -> None:
    made = model()
    made.training_info.add().algorithm.node.append(node("Adagrad", "ai.onnx.preview.training"))
    found, _ = facts(made.SerializeToString())
    assert found.training
    assert "ai.onnx.preview.training:Adagrad" in found.operators


def test_inputs_that_are_no_tensors_have_no_type() -> None:
    made = model()
    made.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None)))
    made.graph.output[0].type.tensor_type.shape.dim.add()
    found, _ = facts(made.SerializeToString())
    assert found.inputs == (OnnxValue("x"),)
    assert found.outputs == (OnnxValue("y", "FLOAT", ("n", "16", "?")),)


# --- by hand ----------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


NODE = message(2, b"y") + message(4, b"Add")
OPSET = message(8, message(2, 17))


def made(*graph: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    return before + message(1, 8) + message(7, b"".join(graph)) + OPSET + after


def test_a_second_graph_is_looked_at_because_protobuf_merges_them() -> None:
    data = made(message(1, NODE), after=message(7, message(1, message(4, b"Evil"))))
    assert onnx.load_model_from_string(data).graph.node[1].op_type == "Evil"
    assert set(facts(data)[0].operators) == {"ai.onnx:Add", "ai.onnx:Evil"}


@pytest.mark.parametrize("tag", [b"\x32", b"\xb2\x00", b"\xb2\x80\x00"])
def test_a_graph_in_an_attribute_is_found_however_its_tag_is_written(tag: bytes) -> None:
    body = message(1, message(4, b"Evil"))
    attribute = message(1, b"a") + tag + varint(len(body)) + body
    data = made(message(1, NODE + message(5, attribute)))
    assert "ai.onnx:Evil" in facts(data)[0].operators


def test_a_large_attribute_is_looked_into() -> None:
    attribute = message(4, b"s" * 5000) + message(6, message(1, message(4, b"Evil")))
    assert "ai.onnx:Evil" in facts(made(message(1, NODE + message(5, attribute))))[0].operators


def nested(depth: int) -> bytes:
    graph = message(1, NODE)
    for _ in range(depth):
        graph = message(1, message(4, b"If") + message(5, message(6, graph)))
    return made(graph)


def test_graphs_are_nested_as_deep_as_its_own_library_reads_and_no_deeper() -> None:
    assert facts(nested(31))[0].operators["ai.onnx:If"] == 31
    onnx.load_model_from_string(nested(31))
    for depth in (33, 5000):
        with pytest.raises(MalformedError, match="deeper than 100"):
            facts(nested(depth))


WEIGHT = message(1, 16) + message(2, 1) + message(8, b"w") + message(9, bytes(64))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (made(before=message(1, 8)), "field 1 occurs twice"),
        (made(after=message(8, message(2, 18))), "'ai.onnx' has two versions"),
        (made(after=message(8, message(2, 18) + message(2, 17))), "field 2 occurs twice"),
        (made(after=message(8, message(1, b"a") + message(1, b"b"))), "field 1 occurs twice"),
        (made(after=message(8, message(1, b"\xff"))), "not UTF-8"),
        (made(after=message(8, message(2, 2**40))), "no small whole number"),
        (made(after=message(8, 7)), "a message is none"),
        (made(message(1, NODE + message(4, b"Mul"))), "two names of an operator"),
        (made(message(1, message(4, b"a" * 2000))), "a text of 2000 bytes"),
        (made(message(1, 7)), "a message is none"),
        (made(message(5, WEIGHT + message(2, 10))), "field 2 occurs twice"),
        (made(message(5, WEIGHT + message(1, 1) * 70)), "too many dimensions"),
        (made(message(5, WEIGHT + message(1, bytes(700)))), "dimensions are no numbers"),
        (made(message(5, WEIGHT + message(13, 7))), "a message is none"),
        (made(message(5, WEIGHT + message(13, message(1, b"a")) * 2)), "says 'a' twice"),
        (made(message(5, WEIGHT + message(8, b"n" * 5000))), "a text of 5000 bytes"),
        (made(message(5, WEIGHT + b"\x0b")), "of a type that is not read"),
        (made(message(5, WEIGHT + b"\x48\xff")), "cut off"),
        (made(message(5, WEIGHT + b"\xff" * 11)), "cut off"),
        (made(message(5, WEIGHT + b"\x02\x00")), "number 0"),
        (made(message(5, WEIGHT + b"\x4a\xff\xff\xff\xff\x0f")), "its message at"),
        (made(message(11, message(1, b"x") + message(2, message(1, message(2, message(1, b"") * 65))))), "65|64"),
        (made(after=message(25, message(1, b"f")) * 2), "function 'ai.onnx:f' occurs twice"),
        (made(after=message(25, message(1, b"f") + message(1, b"g"))), "field 1 occurs twice"),
    ],
)
def test_a_model_that_cannot_be_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason) as refused:
        facts(data)
    assert 0 <= refused.value.at <= len(data)


def test_the_same_version_twice_is_one() -> None:
    assert facts(made(after=OPSET))[0].opsets == {"ai.onnx": 17}


def test_nodes_without_any_version_are_a_problem() -> None:
    _, notes = facts(message(1, 8) + message(7, message(1, NODE)))
    assert [problem.reason for problem in notes.problems] == ["it has nodes, and says no version of any domain"]


def test_names_without_end_are_malformed() -> None:
    nodes = (message(1, message(4, b"%01000d" % number)) for number in range(1100))
    with pytest.raises(MalformedError, match="characters"):
        facts(made(*nodes))


def test_weights_are_not_read() -> None:
    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    stream = Counting(
        model(initializers=[named(np.zeros(1 << 20, "<f4"), f"w{n}") for n in range(5)]).SerializeToString()
    )
    size = len(stream.getvalue())
    assert read(Reader(stream, size), Notes()).tensors == {"FLOAT": Count(5, 5 << 22)}
    assert stream.count < 300_000


def test_packed_dimensions_are_dimensions() -> None:
    tensor = message(1, b"\x03\x05") + message(2, 1) + message(8, b"w") + message(14, 1)
    tensor += message(13, message(1, b"location") + message(2, b"w"))
    assert facts(made(message(5, tensor)))[0].external == {"w": OnnxExternal(1, 60)}
    assert struct.calcsize("<15f") == 60
