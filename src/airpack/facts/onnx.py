"""Reads ONNX models: versions, operators, types, and where tensors lie. Weights are passed over.

onnx.proto (ModelProto and below) and onnx/docs/ExternalData.md.

    read_model(reader)  ->  Model(ir=8, opsets={"ai.onnx": 17}, operators={...}, tensors=[...], ...)

A number or name that decides something and stands there twice is malformed: two readers might see two models.
Messages that protobuf merges (several graphs, for one) are all looked at.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from airpack.facts.notes import Notes
from airpack.facts.protobuf import BYTES, DEPTH, VARINT, Field, fields, numbers, signed, text
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import Count, OnnxExternal, OnnxFacts, OnnxFunction, OnnxValue, Place

READER: Final = "onnx/1"
FLOATS: Final[Mapping[int, str]] = {1: "fp32", 10: "fp16", 16: "bf16"}  # data_type of tensors that have planes
TYPES: Final[Mapping[int, tuple[str, int]]] = {  # TensorProto.DataType: name, bits of an element (0: it depends)
    1: ("FLOAT", 32),
    2: ("UINT8", 8),
    3: ("INT8", 8),
    4: ("UINT16", 16),
    5: ("INT16", 16),
    6: ("INT32", 32),
    7: ("INT64", 64),
    8: ("STRING", 0),
    9: ("BOOL", 8),
    10: ("FLOAT16", 16),
    11: ("DOUBLE", 64),
    12: ("UINT32", 32),
    13: ("UINT64", 64),
    14: ("COMPLEX64", 64),
    15: ("COMPLEX128", 128),
    16: ("BFLOAT16", 16),
    17: ("FLOAT8E4M3FN", 8),
    18: ("FLOAT8E4M3FNUZ", 8),
    19: ("FLOAT8E5M2", 8),
    20: ("FLOAT8E5M2FNUZ", 8),
    21: ("UINT4", 4),
    22: ("INT4", 4),
    23: ("FLOAT4E2M1", 4),
    24: ("FLOAT8E8M0", 8),
    25: ("UINT2", 2),
    26: ("INT2", 2),
    27: ("FLOAT6E2M3", 6),
    28: ("FLOAT6E3M2", 6),
}
DEFAULT_DOMAIN: Final = "ai.onnx"


class _Model:  # fields of ModelProto
    IR, PRODUCER, PRODUCER_VERSION, GRAPH, OPSET, TRAINING, FUNCTION = 1, 2, 3, 7, 8, 20, 25


class _Graph:
    NODE, INITIALIZER, INPUT, OUTPUT, SPARSE = 1, 5, 11, 12, 15


class _Node:
    OUTPUT, OPERATOR, ATTRIBUTE, DOMAIN = 2, 4, 5, 7


class _Attribute:
    NAME, TENSOR, GRAPH, TENSORS, GRAPHS, SPARSE, SPARSES = 1, 5, 6, 10, 11, 22, 23


# The first byte of each way to write the tag of a graph or a tensor in an attribute, overlong ones included.
_HOLDS: Final = re.compile(rb"[\x2a\xaa\x32\xb2\x52\xd2\x5a\xda\xba]")
_PLAIN: Final = 256  # bytes of an attribute that is searched for those


class _Function:
    NAME, NODE, OPSET, DOMAIN, ATTRIBUTE, OVERLOAD = 1, 7, 9, 10, 11, 13


class _Tensor:
    DIMS, TYPE, NAME, EXTERNAL, LOCATION = 1, 2, 8, 13, 14
    # float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data: true for those that hold
    # elements as they are in memory.
    DATA: Final[Mapping[int, bool]] = {4: True, 5: False, 6: False, 7: False, 9: True, 10: True, 11: False}


class _Pair:  # OperatorSetIdProto: domain and version; StringStringEntryProto; TypeProto.Tensor: type and shape
    FIRST, SECOND = 1, 2


_TENSORS: Final = 1 << 17
_NAME: Final = 4096  # bytes of the name of a tensor, or of a location
_OPERATOR: Final = 1024  # bytes of the name of an operator, domain, function, input, output
_NAMES: Final = 1 << 20  # bytes of all those that are kept
_DIMS: Final = 64
_ENTRIES: Final = 16  # in external_data
_VERSION: Final = 1 << 31


class Range(NamedTuple):
    """Bytes of a file."""

    start: int
    stop: int


@dataclass(slots=True)
class Tensor:
    """A TensorProto as far as it says what it is and where its data lies.

    Attributes:
        name: Its own, behind those of the graph's parts that hold it.
        kind: `data_type`.
        dims: Its shape.
        data: Where its elements lie in this file, one behind the other; None for none.
        size: Bytes of its elements in this file, however they are written.
        external: `external_data`, by key.
        elsewhere: Whether its data lies where `external` says.
        start: Where the message begins.
        stop: Where it ends.
    """

    name: str
    kind: int = 0
    dims: list[int] = field(default_factory=list)
    data: Range | None = None
    size: int = 0
    external: dict[str, str] = field(default_factory=dict)
    elsewhere: bool = False
    start: int = 0
    stop: int = 0

    @property
    def location(self) -> str:
        """The file that holds its data; empty when that is this one."""
        return self.external.get("location", "") if self.elsewhere else ""

    @property
    def outside(self) -> Range | None:
        """Where its data lies in that file; None where what is said is no place."""
        start, length = self._number("offset", 0), self._number("length", self.length)
        return Range(start, start + length) if start >= 0 and length > 0 else None

    @property
    def length(self) -> int:
        """Bytes that the shape asks for; -1 where the type does not say."""
        bits = TYPES.get(self.kind, ("", 0))[1]
        for dim in self.dims:
            bits *= dim
        return -(-bits // 8) if TYPES.get(self.kind, ("", 0))[1] else -1

    def _number(self, key: str, default: int) -> int:
        found = self.external.get(key)
        if found is None:
            return default
        return int(found) if found.isascii() and found.isdecimal() and len(found) < 19 else -1  # noqa: PLR2004 - 2**63


@dataclass(slots=True)
class Scope:
    """What a graph, or a function, needs.

    Attributes:
        opsets: Version by domain.
        operators: How often each is used.
        where: What stands before the names of its facts.
    """

    opsets: dict[str, int] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    where: str = ""


@dataclass(slots=True)
class Model(Scope):
    """What an ONNX file says."""

    ir: int = 0
    producer: str = ""
    tensors: list[Tensor] = field(default_factory=list)
    functions: dict[str, Scope] = field(default_factory=dict)
    inputs: list[OnnxValue] = field(default_factory=list)
    outputs: list[OnnxValue] = field(default_factory=list)
    subgraphs: int = 0
    training: bool = False
    places: dict[str, Place] = field(default_factory=dict)


def read_model(reader: Reader) -> Model:
    """Return what an ONNX file says.

    Raises:
        MalformedError: It is none, or not one that can be.
        StorageError: It cannot be read.
    """
    walk = _Walk(reader)
    walk.model()
    return walk.found


def _once(seen: set[int], field: Field) -> None:
    number, _, _, start, _ = field
    if number in seen:
        raise MalformedError(f"field {number} occurs twice, so two readers may see two models", start)
    seen.add(number)


class _Walk:
    """Walks a model from the outside in; the depth is bounded, as protobuf's own is."""

    def __init__(self, reader: Reader) -> None:
        self.found = Model()
        self._reader = reader
        self._names = 0
        self._locations = set[str]()

    def model(self) -> None:
        """Walk the whole file."""
        found, seen = self.found, set[int]()
        producer = {_Model.PRODUCER: "", _Model.PRODUCER_VERSION: ""}
        for each in fields(self._reader, 0, self._reader.size):
            number, _, value, start, stop = each
            if number == _Model.IR:
                _once(seen, each)
                found.ir = self._version(each, value)
                found.places["ir"] = (start, stop)
            elif number in producer:
                producer[number] = text(self._reader, each, _NAME)[:_OPERATOR]
            elif number == _Model.GRAPH:
                self._message(each, 1)
                self._graph(start, stop, found, "", 1, top=True)
            elif number == _Model.OPSET:
                self._opset(each, found)
            elif number == _Model.TRAINING:
                self._training(each)
            elif number == _Model.FUNCTION:
                self._function(each)
        found.producer = " ".join(word for word in producer.values() if word)

    def _message(self, each: Field, depth: int) -> None:
        """Hold that a field is a message, not deeper than any real one."""
        _, wire, _, start, _ = each
        if wire != BYTES:
            raise MalformedError("a message is none", start)
        if depth > DEPTH:
            raise MalformedError(f"messages are nested deeper than {DEPTH}", start)

    def _version(self, each: Field, value: int) -> int:
        _, wire, _, start, _ = each
        if wire != VARINT or value >= _VERSION:
            raise MalformedError("a version is no small whole number", start)
        return value

    def _opset(self, each: Field, scope: Scope) -> None:
        self._message(each, 1)
        _, _, _, start, stop = each
        domain, version, seen = "", 0, set[int]()
        for inner in fields(self._reader, start, stop):
            if inner[0] in {_Pair.FIRST, _Pair.SECOND}:
                _once(seen, inner)
            if inner[0] == _Pair.FIRST:
                domain = text(self._reader, inner, _OPERATOR)
            elif inner[0] == _Pair.SECOND:
                version = self._version(inner, inner[2])
        domain = domain or DEFAULT_DOMAIN
        if scope.opsets.setdefault(domain, version) != version:
            raise MalformedError(f"domain {domain!r} has two versions", start)
        self._keep(domain, start)
        self.found.places.setdefault(f"{scope.where}opsets.{domain}", (start, stop))

    def _keep(self, name: str, at: int) -> None:
        """Count a name that is kept."""
        self._names += len(name) + 1
        if self._names > _NAMES:
            raise MalformedError(f"names of operators, functions and values of more than {_NAMES} characters", at)

    def _training(self, each: Field) -> None:
        """Walk both graphs of TrainingInfoProto."""
        self._message(each, 1)
        self.found.training = True
        for inner in fields(self._reader, each[3], each[4]):
            if inner[0] in {_Pair.FIRST, _Pair.SECOND}:
                self._message(inner, 2)
                self._graph(inner[3], inner[4], self.found, "", 2)

    def _function(self, each: Field) -> None:
        self._message(each, 1)
        start, stop = each[3:]
        scope, seen = Scope(), set[int]()
        names = {_Function.NAME: "", _Function.DOMAIN: "", _Function.OVERLOAD: ""}
        for inner in fields(self._reader, start, stop):
            number = inner[0]
            if number in names:
                _once(seen, inner)
                names[number] = text(self._reader, inner, _OPERATOR)
                scope.where = f"functions.{names[_Function.NAME]}."
            elif number == _Function.NODE:
                self._node(inner, scope, "", 2)
            elif number == _Function.OPSET:
                self._opset(inner, scope)
            elif number == _Function.ATTRIBUTE:
                self._attribute(inner, scope, "", 2)
        name = f"{names[_Function.DOMAIN] or DEFAULT_DOMAIN}:{names[_Function.NAME]}"
        name += f":{names[_Function.OVERLOAD]}" if names[_Function.OVERLOAD] else ""
        if name in self.found.functions:
            raise MalformedError(f"function {name[:100]!r} occurs twice", start)
        self.found.functions[name] = scope
        self._keep(name, start)
        self.found.places.setdefault(f"functions.{name}", (start, stop))

    def _graph(self, start: int, stop: int, scope: Scope, label: str, depth: int, *, top: bool = False) -> None:
        lists = {_Graph.INPUT: self.found.inputs, _Graph.OUTPUT: self.found.outputs} if top else {}
        for each in fields(self._reader, start, stop):
            number = each[0]
            if number == _Graph.NODE:
                self._node(each, scope, label, depth + 1)
            elif number == _Graph.INITIALIZER:
                self._tensor(each, label, depth + 1)
            elif number == _Graph.SPARSE:
                self._sparse(each, label, depth + 1)
            elif number in lists:
                lists[number].append(self._value(each, depth + 1))

    def _node(self, node: Field, scope: Scope, label: str, depth: int) -> None:
        self._message(node, depth)
        reader, start, stop = self._reader, node[3], node[4]
        operator = domain = ""
        output: Field | None = None
        attributes: list[Field] = []
        for each in fields(reader, start, stop):
            number = each[0]
            if number == _Node.ATTRIBUTE:
                if self._may_hold(each):
                    attributes.append(each)
            elif number == _Node.OPERATOR:
                operator = self._named(operator, each)
            elif number == _Node.DOMAIN:
                domain = self._named(domain, each)
            elif number == _Node.OUTPUT and output is None:
                output = each
        name = f"{domain or DEFAULT_DOMAIN}:{operator}"
        count = scope.operators.get(name, 0)
        scope.operators[name] = count + 1
        if not count:
            self._keep(name, start)
            self.found.places.setdefault(f"{scope.where}operators.{name}", (start, stop))
        if attributes:
            label += text(reader, output, _NAME) if output is not None else ""
        for each in attributes:
            self._attribute(each, scope, f"{label}/"[:_NAME], depth + 1)

    def _may_hold(self, attribute: Field) -> bool:
        """Return whether an attribute can hold a graph or a tensor: most have no byte that such a field begins with."""
        _, _, _, start, stop = attribute
        return stop - start > _PLAIN or _HOLDS.search(self._reader.exactly(start, stop - start)) is not None

    def _named(self, before: str, each: Field) -> str:
        if before:
            raise MalformedError("a node has two names of an operator", each[3])
        return text(self._reader, each, _OPERATOR)

    def _attribute(self, attribute: Field, scope: Scope, label: str, depth: int) -> None:
        self._message(attribute, depth)
        name = ""
        for each in fields(self._reader, attribute[3], attribute[4]):
            number, _, _, start, stop = each
            if number == _Attribute.NAME:
                name = text(self._reader, each, _NAME)
            elif number in {_Attribute.TENSOR, _Attribute.TENSORS}:
                self._tensor(each, f"{label}{name}/"[:_NAME], depth + 1)
            elif number in {_Attribute.GRAPH, _Attribute.GRAPHS}:
                self._message(each, depth + 1)
                self.found.subgraphs += 1
                self._graph(start, stop, scope, f"{label}{name}/"[:_NAME], depth + 1)
            elif number in {_Attribute.SPARSE, _Attribute.SPARSES}:
                self._sparse(each, f"{label}{name}/"[:_NAME], depth + 1)

    def _sparse(self, sparse: Field, label: str, depth: int) -> None:
        self._message(sparse, depth)
        for each in fields(self._reader, sparse[3], sparse[4]):
            if each[0] in {_Pair.FIRST, _Pair.SECOND}:  # values, and indices
                self._tensor(each, label, depth + 1)

    def _tensor(self, message: Field, label: str, depth: int) -> None:
        self._message(message, depth)
        tensor, seen = Tensor(label, start=message[3], stop=message[4]), set[int]()
        for each in fields(self._reader, message[3], message[4]):
            number, wire, value, start, stop = each
            if number == _Tensor.TYPE:
                _once(seen, each)
                tensor.kind = value
            elif number == _Tensor.DIMS:
                tensor.dims += [value] if wire == VARINT else self._packed(each)
            elif number == _Tensor.NAME:
                tensor.name = label + text(self._reader, each, _NAME)
            elif number == _Tensor.LOCATION:
                tensor.elsewhere = value == 1
            elif number in _Tensor.DATA and wire == BYTES:
                tensor.size += stop - start
                tensor.data = Range(start, stop) if _Tensor.DATA[number] else None
            elif number == _Tensor.EXTERNAL:
                self._entry(each, tensor.external)
            if len(tensor.dims) > _DIMS or len(tensor.external) > _ENTRIES:
                raise MalformedError("a tensor of too many dimensions, or places", message[3])
        self.found.tensors.append(tensor)
        if len(self.found.tensors) > _TENSORS:
            raise MalformedError(f"more than {_TENSORS} tensors", message[3])

    def _packed(self, each: Field) -> Iterator[int]:
        _, wire, _, start, stop = each
        if wire != BYTES or stop - start > 10 * _DIMS:
            raise MalformedError("dimensions are no numbers", start)
        return numbers(self._reader, start, stop)

    def _entry(self, each: Field, into: dict[str, str]) -> None:
        self._message(each, 1)
        words = {_Pair.FIRST: "", _Pair.SECOND: ""}
        for inner in fields(self._reader, each[3], each[4]):
            if inner[0] in words:
                words[inner[0]] = text(self._reader, inner, _NAME)
        key, word = words.values()
        if key == "location" and word not in self._locations:
            self._locations.add(word)
            self._keep(word, each[3])
        if key in into:
            raise MalformedError(f"a tensor says {key[:60]!r} twice of where it lies", each[3])
        into[key] = word

    def _value(self, message: Field, depth: int) -> OnnxValue:
        """Return an input or output: ValueInfoProto and, inside it, TypeProto, its Tensor, TensorShapeProto."""
        self._message(message, depth)
        name, dtype, shape = "", "", list[str]()
        for each in fields(self._reader, message[3], message[4]):
            if each[0] == _Pair.FIRST:
                name = text(self._reader, each, _OPERATOR)
            elif each[0] == _Pair.SECOND:
                for tensor in self._inside(self._inside([each], 1)):
                    if tensor[0] == _Pair.FIRST and tensor[1] == VARINT:
                        dtype = type_name(tensor[2])
                    elif tensor[0] == _Pair.SECOND:
                        shape = [self._dimension(dim) for dim in islice(self._inside([tensor], 1), _DIMS + 1)]
        if len(shape) > _DIMS:
            raise MalformedError(f"an input or output of more than {_DIMS} dimensions", message[3])
        for word in (name, *shape):
            self._keep(word, message[3])
        return OnnxValue(name, dtype, tuple(shape))

    def _inside(self, messages: Iterable[Field], number: int | None = None) -> Iterator[Field]:
        """Yield the fields of `messages`; only those with `number` where one is given."""
        for message in messages:
            self._message(message, 1)
            for each in fields(self._reader, message[3], message[4]):
                if number in {None, each[0]}:
                    yield each

    def _dimension(self, dim: Field) -> str:
        """Return a dimension: a number, a name, or neither."""
        for each in self._inside([dim]):
            if each[0] == _Pair.FIRST and each[1] == VARINT:
                return str(signed(each[2]))
            if each[0] == _Pair.SECOND:
                return text(self._reader, each, _OPERATOR) or "?"
        return "?"


def type_name(kind: int) -> str:
    """Return the name of a `data_type`; `type-N` for one without a name here."""
    return TYPES[kind][0] if kind in TYPES else f"type-{min(kind, _VERSION)}"


# --- facts ------------------------------------------------------------------------------------------------------------

_LARGEST: Final = 2**53 - 1


def read(reader: Reader, notes: Notes) -> OnnxFacts:
    """Return what an ONNX file says.

    Raises:
        MalformedError: As `read_model`.
        StorageError: It cannot be read.
    """
    model = read_model(reader)
    for name, place in model.places.items():
        notes.at(name, *place)
    if not model.opsets and model.operators:
        notes.problem("it has nodes, and says no version of any domain")
    return OnnxFacts(
        ir=model.ir,
        opsets=model.opsets,
        operators=model.operators,
        functions={name: OnnxFunction(scope.opsets, scope.operators) for name, scope in model.functions.items()},
        producer=model.producer,
        tensors=_counts(model, notes),
        inputs=tuple(model.inputs),
        outputs=tuple(model.outputs),
        external=_external(model, notes),
        subgraphs=model.subgraphs,
        training=model.training,
    )


def _counts(model: Model, notes: Notes) -> dict[str, Count]:
    counts: dict[str, list[int]] = {}
    for tensor in model.tensors:
        name = type_name(tensor.kind)
        notes.at(f"tensors.{name}", tensor.start, tensor.stop)
        count = counts.setdefault(name, [0, 0])
        count[0] += 1
        place = tensor.outside if tensor.elsewhere else None
        count[1] += place.stop - place.start if place else tensor.size
    return {name: Count(count, min(size, _LARGEST)) for name, (count, size) in counts.items()}


def _external(model: Model, notes: Notes) -> dict[str, OnnxExternal]:
    found: dict[str, list[int]] = {}
    for tensor in model.tensors:
        if not tensor.location:
            continue
        notes.at(f"external.{tensor.location}", tensor.start, tensor.stop)
        entry = found.setdefault(tensor.location, [0, 0, 0])
        entry[0] += 1
        place = tensor.outside
        if place is None:
            entry[2] += 1
            if tensor.length:
                notes.problem(f"tensor {tensor.name[:100]!r} lies at no place in {tensor.location!r}", tensor.start)
        else:
            entry[1] = max(entry[1], min(place.stop, _LARGEST))
    return {name: OnnxExternal(*entry) for name, entry in found.items()}
