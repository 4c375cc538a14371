"""Bounds of tensors, held against the libraries that write them, and hostile headers."""

import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from airpack.facts.identify import HEAD, identify
from airpack.facts.tensors import Layout, fit, read_layout
from airpack.types import Tensor

MODELS = Path(__file__).resolve().parents[2] / "models"


def layout(data: bytes, name: str = "") -> Layout:
    kind = name or identify("file", data[:HEAD], len(data)).name
    return read_layout(kind, io.BytesIO(data), len(data))


def held(data: bytes) -> dict[str, tuple[str, bytes]]:
    """Return type and bytes of each tensor that is found in a whole model file."""
    return {each.name: (each.dtype, data[each.start : each.stop]) for each in layout(data).tensors}


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


# --- safetensors ------------------------------------------------------------------------------------------------------

ARRAYS = {
    "layer.weight": np.arange(6, dtype="<f4").reshape(2, 3),
    "layer.half": np.arange(5, dtype="<f2"),
    "ids": np.arange(3, dtype="<i8"),
    "no elements": np.zeros((0, 4), "<f4"),
    "flag": np.ones(1, "?"),
}


def test_safetensors_are_found_where_their_library_puts_them() -> None:
    data = safetensors.numpy.save(ARRAYS, metadata={"format": "pt"})
    types = {"layer.weight": "fp32", "layer.half": "fp16", "ids": "other", "flag": "other"}
    assert held(data) == {name: (types[name], ARRAYS[name].tobytes()) for name in types}


def test_bfloat16_is_found(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    data = struct.pack("<Q", len(header)) + header + b"abcd"
    (tmp_path / "w.safetensors").write_bytes(data)
    with safetensors.safe_open(str(tmp_path / "w.safetensors"), "numpy") as opened:
        assert opened.get_slice("w").get_dtype() == "BF16"
    assert held(data) == {"w": ("bf16", b"abcd")}


def stored(header: Any, rest: bytes = bytes(64), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + rest


def one(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        stored(one(), length=2**63),
        stored(one(), length=(16 << 20) + 1),
        stored(b"{}")[:-70],
        stored(b"[]"),
        stored(b"{"),
        stored({"w": []}),
        stored({"w": {}}),
        stored(one(data_offsets=[0, 4, 8])),
        stored(one(data_offsets=[4, 0])),
        stored(one(data_offsets=[-4, 4])),
        stored(one(data_offsets=[0, "4"])),
        stored(one(data_offsets=[0, 65])),
        stored(one(data_offsets=[2**70, 2**71])),
        stored(one(dtype=7)),
        stored({**one(), "v": one(data_offsets=[2, 6])["w"]}),
        stored(b'{"w":' + b"[" * 100_000),
        stored(b'{"w":{"dtype":"F32","data_offsets":[0,4]},"w":{"dtype":"F32","data_offsets":[4,8]}}'),
    ],
)
def test_a_safetensors_header_that_cannot_be_has_no_tensors(data: bytes) -> None:
    assert layout(data, "safetensors") == Layout()


def test_a_header_without_a_fault_has_them() -> None:
    assert layout(stored(one()), "safetensors").tensors == (Tensor("w", 69, 73, "fp32"),)


# --- GGUF -------------------------------------------------------------------------------------------------------------


def written(path: Path, fill: Callable[[gguf.GGUFWriter], None]) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def as_gguf_reads(path: Path) -> dict[str, tuple[str, bytes]]:
    types = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
    return {
        each.name: (types.get(each.tensor_type.name, "other"), bytes(each.data.tobytes()))
        for each in gguf.GGUFReader(path).tensors
    }


QUANTISED = [
    kind
    for kind in gguf.GGMLQuantizationType
    if kind.name not in {"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"}
]


@pytest.mark.parametrize("alignment", [32, 8, 4096])
def test_gguf_tensors_of_every_type_are_found_where_their_library_puts_them(tmp_path: Path, alignment: int) -> None:
    random = np.random.default_rng(0)

    def fill(writer: gguf.GGUFWriter) -> None:
        writer.add_custom_alignment(alignment)
        writer.add_token_list([f"word {number}" for number in range(5000)])
        writer.add_token_scores([0.5] * 3)
        writer.add_bool("b", val=True)
        writer.add_float64("d", 1.0)
        writer.add_tensor("plain", np.ones((3, 5), "<f4"))
        writer.add_tensor("half", np.ones((7,), "<f2"))
        writer.add_tensor("ints", np.ones((3,), "<i8"))
        writer.add_tensor("brain", np.ones((2, 6), "u1"), raw_dtype=gguf.GGMLQuantizationType.BF16)
        for kind in QUANTISED:
            block, size = gguf.GGML_QUANT_SIZES[kind]
            blocks = random.integers(0, 256, (3, size * 512 // block), dtype="u1")
            writer.add_tensor(kind.name, blocks, raw_dtype=kind)

    data = written(tmp_path / "m.gguf", fill)
    found = held(data)
    assert found == as_gguf_reads(tmp_path / "m.gguf")
    assert len(found) == 4 + len(QUANTISED)
    assert found["brain"][0] == "bf16"


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def info(name: bytes = b"w", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf_file(*infos: bytes, keys: bytes = b"", count: int = 0, version: int = 3, most: int | None = None) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos) if most is None else most, count) + keys + b"".join(infos)
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(256)


def test_a_gguf_file_of_version_2_is_read_as_one_of_version_3() -> None:
    for version in (2, 3):
        assert [each.name for each in layout(gguf_file(info(), version=version)).tensors] == ["w"]


ALIGNMENT = text(b"general.alignment") + struct.pack("<II", 4, 64)


def test_the_alignment_of_a_gguf_file_says_where_data_begins() -> None:
    (found,) = layout(gguf_file(info(), keys=ALIGNMENT, count=1)).tensors
    assert (found.start, found.stop) == (128, 144)


def test_a_gguf_tensor_of_a_type_to_come_is_left_out_and_the_others_stay() -> None:
    found = layout(gguf_file(info(kind=4242), info(b"v", offset=64), info(b"odd", (33,), 8, 128))).tensors
    assert [each.name for each in found] == ["v"]


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return text(b"k") + struct.pack("<IIQ", 9, kind, count) + content


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF",
        gguf_file(info(), version=1),
        gguf_file(info(), version=0x03000000),  # a machine of the other byte order wrote it
        gguf_file(info(), most=2**63),
        gguf_file(info(), count=2**63),
        gguf_file(info(offset=2**63)),
        gguf_file(info(offset=250)),
        gguf_file(info(), info(b"v", offset=8)),
        gguf_file(info(shape=(2**62, 2**62, 2**62, 2**62))),
        gguf_file(info(shape=(1,) * 9)),
        gguf_file(info(b"n" * 5000)),
        gguf_file(info(), keys=text(b"k") + struct.pack("<I", 13), count=1),
        gguf_file(info(), keys=array(4, 2**62), count=1),
        gguf_file(info(), keys=array(8, 2**62), count=1),
        gguf_file(info(), keys=array(8, 1, struct.pack("<Q", 2**62)), count=1),
        gguf_file(info(), keys=array(9, 1, struct.pack("<IQ", 4, 0)), count=1),
        gguf_file(info(), keys=ALIGNMENT.replace(struct.pack("<I", 64), bytes(4)), count=1),
        gguf_file(info(), keys=ALIGNMENT.replace(struct.pack("<I", 64), b"\xff" * 4), count=1),
    ],
)
def test_a_gguf_header_that_cannot_be_has_no_tensors(data: bytes) -> None:
    assert layout(data, "gguf") == Layout()


# --- ONNX -------------------------------------------------------------------------------------------------------------

BIG = np.arange(300, dtype="<f4").reshape(3, 100)


def named(array: Any, name: str) -> TensorProto:
    return onnx.numpy_helper.from_array(array, name)


def model(
    *initializers: TensorProto, nodes: tuple[Any, ...] = (), sparse: tuple[Any, ...] = (), **more: Any
) -> onnx.ModelProto:
    nodes = nodes or (helper.make_node("Identity", ["x"], ["y"]),)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph(
        list(nodes), "g", value[:1], value[1:], initializer=list(initializers), sparse_initializer=list(sparse)
    )
    return helper.make_model(graph, producer_name="test", **more)


def test_onnx_initializers_are_found_whatever_way_they_are_stored() -> None:
    floats = helper.make_tensor("floats", TensorProto.FLOAT, [100], [0.5] * 100)
    assert floats.float_data
    assert not floats.raw_data
    brain = helper.make_tensor("brain", TensorProto.BFLOAT16, [50], bytes(range(100)), raw=True)
    half = named(BIG.astype("<f2"), "half")
    ids = named(np.arange(50), "ids")
    data = model(named(BIG, "big"), half, ids, floats, brain).SerializeToString()
    assert held(data) == {
        "big": ("fp32", BIG.tobytes()),
        "half": ("fp16", BIG.astype("<f2").tobytes()),
        "ids": ("other", np.arange(50).tobytes()),
        "floats": ("fp32", struct.pack("<100f", *[0.5] * 100)),
        "brain": ("bf16", bytes(range(100))),
    }


def test_onnx_tensors_in_attributes_subgraphs_functions_and_sparse_ones_are_found() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=named(BIG, ""))
    inner = helper.make_graph([helper.make_node("Constant", [], ["d"], value=named(BIG + 1, "own"))], "inner", [], [])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    values, indices = named(np.arange(20, dtype="<f4"), "values"), named(np.arange(20), "")
    sparse = helper.make_sparse_tensor(values, indices, [1000])
    function = helper.make_function(
        "d", "f", ["x"], ["y"], [helper.make_node("Constant", [], ["y"], value=named(BIG + 2, ""))], []
    )
    made = model(named(BIG + 3, "w"), nodes=(constant, branch), sparse=(sparse,), functions=[function])
    found = held(made.SerializeToString())
    expected = {
        "c/value/": BIG,
        "y/then_branch/d/value/own": BIG + 1,
        "y/else_branch/d/value/own": BIG + 1,
        "y/value/": BIG + 2,
        "w": BIG + 3,
        "values": np.arange(20, dtype="<f4"),
        "": np.arange(20),
    }
    assert {name: data for name, (_, data) in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


def test_onnx_external_data_is_said_to_lie_where_onnx_reads_it(tmp_path: Path) -> None:
    made = model(*(named(BIG + number, f"w{number}") for number in range(5)), named(np.arange(100), "ids"))
    onnx.save_model(
        made,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
        convert_attribute=True,
    )
    found = layout((tmp_path / "m.onnx").read_bytes())
    assert found.tensors == ()
    data = (tmp_path / "m.data").read_bytes()
    again = {
        each.name: onnx.numpy_helper.to_array(each).tobytes()
        for each in onnx.load(tmp_path / "m.onnx").graph.initializer
    }
    (places,) = found.external.values()
    assert {each.name: data[each.start : each.stop] for each in fit(places, len(data))} == again
    assert {each.dtype for each in places if each.name != "ids"} == {"fp32"}


def external(name: str, shape: list[int], **entries: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_onnx_external_data_without_numbers_is_as_long_as_its_shape_from_the_start() -> None:
    data = model(external("w", [3, 5], location="w.bin")).SerializeToString()
    assert layout(data).external == {"w.bin": (Tensor("w", 0, 60, "fp32"),)}


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "w", "offset": "-4", "length": "4"},
        {"location": "w", "offset": "4.0", "length": "4"},
        {"location": "w", "offset": "9" * 30, "length": "4"},
        {"location": "w", "offset": "٤", "length": "4"},
        {"location": "w", "length": "0"},
        {"location": "", "length": "4"},
        {"length": "4"},
    ],
)
def test_onnx_external_data_at_no_place_is_nowhere(entries: dict[str, str]) -> None:
    assert layout(model(external("w", [3], **entries)).SerializeToString()).external == {}


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


WEIGHT = message(1, 16) + message(2, 1) + message(8, b"w") + message(9, bytes(64))


def onnx_file(graph: bytes) -> bytes:
    return message(1, 8) + message(2, b"test") + message(7, graph) + message(8, message(2, 17))


@pytest.mark.parametrize(
    "graph",
    [
        message(5, WEIGHT + b"\x0b"),  # a group, which ONNX never used
        message(5, WEIGHT + b"\x48\xff"),
        message(5, WEIGHT + b"\xff" * 11),
        message(5, WEIGHT + b"\x02\x00"),
        message(5, WEIGHT + b"\x4a\xff\xff\xff\xff\x0f"),
        message(5, WEIGHT + message(1, 1) * 70),
        message(5, WEIGHT + message(13, 7)),
        message(5, WEIGHT + b"".join(message(13, message(1, bytes([48 + n]))) for n in range(40))),
        message(5, WEIGHT + message(8, 7)),
        message(5, WEIGHT + message(8, b"n" * 5000)),
    ],
)
def test_an_onnx_file_that_cannot_be_has_no_tensors(graph: bytes) -> None:
    assert layout(onnx_file(message(5, WEIGHT)), "onnx").tensors
    assert layout(onnx_file(graph), "onnx") == Layout()


def nested(depth: int) -> bytes:
    graph = message(5, WEIGHT)
    for _ in range(depth):
        graph = message(1, message(5, message(6, graph)))
    return onnx_file(graph)


def test_graphs_are_nested_as_deep_as_protobuf_allows_and_no_deeper() -> None:
    assert [each.dtype for each in layout(nested(30), "onnx").tensors] == ["fp32"]
    assert layout(nested(40), "onnx") == layout(nested(3000), "onnx") == Layout()


# --- all --------------------------------------------------------------------------------------------------------------


def test_data_of_tensors_is_not_read(tmp_path: Path) -> None:
    arrays = {f"w{number}": np.zeros(1 << 20, "<f4") for number in range(4)}

    def fill(writer: gguf.GGUFWriter) -> None:
        for name, array in arrays.items():
            writer.add_tensor(name, array)

    made: Mapping[str, bytes] = {
        "safetensors": safetensors.numpy.save(arrays),
        "gguf": written(tmp_path / "m.gguf", fill),
        "onnx": model(*(named(array, name) for name, array in arrays.items())).SerializeToString(),
    }
    for name, data in made.items():
        stream = Counting(data)
        assert len(read_layout(name, stream, len(data)).tensors) == 4
        assert stream.count < 100_000


class Endless(io.RawIOBase):
    """A file of any length that repeats one pattern, and counts what was read of it."""

    def __init__(self, head: bytes, pattern: bytes) -> None:
        super().__init__()
        self.head, self.pattern, self.place, self.count = head, pattern, 0, 0

    def seek(self, offset: int, _whence: int = 0) -> int:
        self.place = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        self.count += size
        start, self.place = self.place, self.place + size
        at = max(start - len(self.head), 0) % len(self.pattern)
        repeated = (self.pattern * (size // len(self.pattern) + 2))[at : at + size]
        return (self.head[start : start + size] + repeated)[:size]


@pytest.mark.parametrize(
    ("name", "head", "pattern"),
    [
        ("gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), info()),
        ("gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 17, 0), info(shape=(0,))),
        ("gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), text(b"k") + struct.pack("<IB", 0, 0)),
        ("gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), array(8, 2, text(b"") * 2)),
        ("gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array(8, 1 << 22), text(bytes(8000))),
        ("onnx", b"", message(5, 1)),
        ("onnx", b"", message(20, message(1, message(5, WEIGHT)))),
        ("onnx", b"\x3a" + varint(1 << 39), message(5, WEIGHT + message(9, bytes(9000)))),
        ("safetensors", struct.pack("<Q", 16 << 20), b"[[]],"),
    ],
    ids=["endless", "tensors", "keys", "lists", "long words", "fields", "graphs", "initializers", "lists of lists"],
)
def test_a_file_of_a_tebibyte_of_headers_ends_soon(name: str, head: bytes, pattern: bytes) -> None:
    stream: Any = Endless(head, pattern)
    assert read_layout(name, stream, 1 << 40) == Layout()
    assert stream.count <= (256 << 20) + (1 << 20)


class Broken(io.BytesIO):
    def read(self, _size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_read_has_no_tensors() -> None:
    stream: BinaryIO = Broken()
    assert read_layout("gguf", stream, 1000) == Layout()


def test_other_files_have_none() -> None:
    assert layout(b'{"a": 1}') == layout(b"") == Layout()


def test_a_type_with_planes_has_a_whole_number_of_elements() -> None:
    made = [Tensor("a", 0, 3, "bf16"), Tensor("b", 4, 8, "fp16"), Tensor("c", 8, 14, "fp32"), Tensor("d", 20, 20, "x")]
    assert [each.dtype for each in fit(made, 20)] == ["other", "fp16", "other"]


def test_the_same_range_is_one_tensor() -> None:
    made = [Tensor("b", 0, 4, "fp32"), Tensor("a", 0, 4, "fp32")]
    assert fit(made, 4) == (Tensor("a", 0, 4, "fp32"),)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6), st.integers(0, 40))
def test_ranges_that_are_kept_lie_in_the_file_and_do_not_overlap(ranges: list[tuple[int, int]], size: int) -> None:
    end = 0
    for each in fit([Tensor("t", *pair, "other") for pair in ranges], size):
        assert end <= each.start < each.stop <= size
        end = each.stop


@given(st.data())
def test_any_change_of_a_header_gives_ranges_within_the_file(data: st.DataObject) -> None:
    made = data.draw(st.sampled_from(SAMPLES))
    changed = bytearray(made)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, min(len(made), 300) - 1))] = data.draw(st.integers(0, 255))
    for name in ("safetensors", "gguf", "onnx"):
        found = layout(bytes(changed), name)
        assert fit(found.tensors, len(made)) == found.tensors


SAMPLES = [
    safetensors.numpy.save(ARRAYS),
    gguf_file(info(), info(b"v", (32,), 8, 64), keys=ALIGNMENT + array(8, 3, text(b"ab") * 3), count=2),
    model(named(BIG, "w"), external("v", [3], location="v", offset="7")).SerializeToString(),
]


def test_real_files_are_read_as_their_libraries_read_them() -> None:
    for path in MODELS.glob("*.gguf"):
        assert held(path.read_bytes()) == as_gguf_reads(path)
    for path in MODELS.glob("*.onnx"):
        loaded = onnx.load(path, load_external_data=False)
        expected = {each.name: each.raw_data for each in loaded.graph.initializer if each.raw_data}
        assert {name: content for name, (_, content) in held(path.read_bytes()).items()} == expected
    for path in MODELS.glob("*.safetensors"):
        data = path.read_bytes()
        start = 8 + struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        assert {each.name: [each.start - start, each.stop - start] for each in layout(data).tensors} == {
            name: each["data_offsets"] for name, each in header.items()
        }
