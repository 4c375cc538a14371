"""Facts: what model files were found to be by their own bytes, never by what a label says.

    {"files":[{"format":"gguf","gguf":{"architecture":"llama","context":4096,...},"path":"m.gguf",
               "places":{"architecture":[52,57],...},"reader":"gguf/1","size":469216}],
     "schema":"airpack.facts/1"}

Facts are values: readers (`airpack.facts`) make them, policy judges them, and the documents that carry them are signed.
So they are closed and canonical, and what has its default value is left out: there is one form for one set of facts.
`docs/spec/compat.md` says what each one means.

Law: `ModelFacts.parse(facts.emit()) == facts`.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Final, Self, TypeAlias, get_args, get_origin, get_type_hints

from airpack.errors import IntegrityError
from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.fields import Fields
from airpack.types import Limits

SCHEMA: Final = "airpack.facts/1"
MOST_TEXT: Final = 32 << 10  # characters of one text: a chat template is the longest
MOST_ITEMS: Final = 1 << 16  # things in one list or table
LARGEST: Final = 2**53 - 1  # of a number, either way

Place: TypeAlias = tuple[int, int]  # first byte, and the one after the last
Setting: TypeAlias = bool | int | str | tuple[int, ...]


def _table() -> Any:
    return field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a file cannot be what it says, or why that could not be found out: what it says of it is unknown.

    Attributes:
        reason: What is wrong, for people.
        at: Offset in bytes, where there is one.
        path: The file, where that is not clear from where the problem stands.
    """

    reason: str
    at: int | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """Something in a file that is code, or brings code in, once it is loaded.

    Attributes:
        kind: `pickle`, `jinja`, `remote-code`, `torchscript` or `native`.
        where: Key or member that holds it; empty for the file itself.
        names: What it calls or names: globals of a pickle, classes of remote code; sorted.
        text: The template itself, as much as is kept.
        digest: SHA-256 of the whole template.
        place: Where it lies in the file, when it lies there as it is.
    """

    kind: str
    where: str = ""
    names: tuple[str, ...] = ()
    text: str = ""
    digest: str = ""
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """Tensors of one type: how many, and their bytes together."""

    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """A GGUF file.

    Attributes:
        version: Of the format.
        tensors: How many this file holds.
        type: `general.type`, such as `model` or `adapter`; empty where it says nothing.
        architecture: `general.architecture`, by which llama.cpp finds the code.
        file_type: `general.file_type`, the quantisation as a number.
        alignment: Bytes that tensors are aligned to.
        tensor_types: By name of the type; `type-N` for one without a name here.
        parameters: Elements of all tensors.
        tokenizer: `tokenizer.ggml.model`.
        pre_tokenizer: `tokenizer.ggml.pre`.
        vocabulary: Tokens in the vocabulary.
        context: Tokens that it was trained for.
        layers: Blocks.
        embedding: Length of the hidden vector.
        heads: Attention heads, one number for all layers or one for each.
        kv_heads: The same for keys and values.
        key_length: Elements of one key.
        value_length: Elements of one value.
        settings: All other keys below the architecture's name that are whole numbers, truth values or short texts.
        chat_templates: Keys that hold one.
        shard: Which one of `shards` this file is, from 0.
        shards: Files of the whole model.
        shard_tensors: Tensors of all of them.
    """

    version: int
    tensors: int = 0
    type: str = ""
    architecture: str = ""
    file_type: int | None = None
    alignment: int = 32
    tensor_types: Mapping[str, Count] = _table()
    parameters: int = 0
    tokenizer: str = ""
    pre_tokenizer: str = ""
    vocabulary: int | None = None
    context: int | None = None
    layers: int | None = None
    embedding: int | None = None
    heads: tuple[int, ...] = ()
    kv_heads: tuple[int, ...] = ()
    key_length: int | None = None
    value_length: int | None = None
    settings: Mapping[str, Setting] = _table()
    chat_templates: tuple[str, ...] = ()
    shard: int | None = None
    shards: int | None = None
    shard_tensors: int | None = None


@dataclass(frozen=True, slots=True)
class SafetensorsFacts:
    """A safetensors file.

    Attributes:
        header: Bytes of its header.
        tensors: How many it holds.
        dtypes: By the format's own name.
        parameters: Elements of all tensors.
        metadata: `__metadata__`, values of at most 200 characters.
    """

    header: int
    tensors: int = 0
    dtypes: Mapping[str, Count] = _table()
    parameters: int = 0
    metadata: Mapping[str, str] = _table()


@dataclass(frozen=True, slots=True)
class OnnxValue:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        dtype: Of its elements, by the format's own name; empty for what is no tensor.
        shape: One text a dimension: a number, a name, or `?`.
    """

    name: str
    dtype: str = ""
    shape: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OnnxFunction:
    """A function that the model brings along: what it needs in place of its name.

    Attributes:
        opsets: Version by domain, for what is in it.
        operators: How often each is used in it.
    """

    opsets: Mapping[str, int] = _table()
    operators: Mapping[str, int] = _table()


@dataclass(frozen=True, slots=True)
class OnnxExternal:
    """A file that holds tensors of the model.

    Attributes:
        tensors: How many lie there.
        bytes: How long it must be for all of them.
        unsized: How many of them say neither length nor a known type, so that `bytes` does not count them.
    """

    tensors: int
    bytes: int
    unsized: int = 0


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    """An ONNX model.

    Attributes:
        ir: IR version.
        opsets: Version by domain; the default domain is `ai.onnx`.
        operators: How often each `DOMAIN:NAME` is used, subgraphs included, functions not.
        functions: By `DOMAIN:NAME`, with `:OVERLOAD` where it has one.
        producer: Who wrote it, with version.
        tensors: Initializers and constants by type.
        inputs: Of the main graph.
        outputs: Of the main graph.
        external: By location as it stands there, relative to the model's folder.
        subgraphs: Graphs inside nodes.
        training: Whether it holds graphs for training.
    """

    ir: int
    opsets: Mapping[str, int] = _table()
    operators: Mapping[str, int] = _table()
    functions: Mapping[str, OnnxFunction] = _table()
    producer: str = ""
    tensors: Mapping[str, Count] = _table()
    inputs: tuple[OnnxValue, ...] = ()
    outputs: tuple[OnnxValue, ...] = ()
    external: Mapping[str, OnnxExternal] = _table()
    subgraphs: int = 0
    training: bool = False


@dataclass(frozen=True, slots=True)
class PteMethod:
    """One entry point of an ExecuTorch program.

    Attributes:
        operators: `NAMESPACE::NAME.OVERLOAD` as it stands there, sorted.
        delegates: Backends by id, sorted, with how often each is used.
        memory: Bytes planned for each buffer of activations, the reserved one left out.
    """

    operators: tuple[str, ...] = ()
    delegates: Mapping[str, int] = _table()
    memory: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PteFacts:
    """An ExecuTorch program.

    Attributes:
        identifier: Of the schema, such as `ET12`.
        version: The program's own field.
        methods: By name.
        segments: Bytes of data segments that follow the program.
        named_data: Keys of data that the program names, sorted.
    """

    identifier: str
    version: int = 0
    methods: Mapping[str, PteMethod] = _table()
    segments: int = 0
    named_data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TfliteFacts:
    """A TFLite (LiteRT) model.

    Attributes:
        version: Of the schema.
        operators: Versions of each that it lists, sorted; `CUSTOM:NAME` for custom ones, `CODE-N` for one without a
            name here.
        subgraphs: How many.
        tensors: How many of each type, those that hold no data included.
        min_runtime: What its metadata `min_runtime_version` says.
        external: Files that hold tensors, by name, and how long each must be.
    """

    version: int
    operators: Mapping[str, tuple[int, ...]] = _table()
    subgraphs: int = 0
    tensors: Mapping[str, int] = _table()
    min_runtime: str = ""
    external: Mapping[str, int] = _table()


@dataclass(frozen=True, slots=True)
class CoremlFacts:
    """A Core ML specification.

    Attributes:
        specification: The highest version in it, models of a pipeline included.
        type: What the model is, such as `mlProgram`; `type-N` for one without a name here.
        opsets: Of an ML program's functions, such as `CoreML7`; sorted.
        parts: What the models of a pipeline are, sorted.
    """

    specification: int
    type: str = ""
    opsets: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PickleFacts:
    """Pickles one after another in one file, as Torch wrote them before 1.6.

    Attributes:
        protocol: The highest.
        pickles: How many.
        globals: `MODULE.NAME` of all that they name, sorted; `?` for what a name is computed for.
        rest: Bytes after the last.
    """

    protocol: int = 0
    pickles: int = 0
    globals: tuple[str, ...] = ()
    rest: int = 0


@dataclass(frozen=True, slots=True)
class TorchFacts:
    """A Torch ZIP file.

    Attributes:
        kind: `pickled` (torch.save), `torchscript`, `export` (torch.export) or `aotinductor`.
        version: Its file `version`, the number that a reader must know.
        byte_order: Its file `byteorder`; empty where there is none.
        entries: Files in it.
        storages: How many of them are tensors, and their bytes.
        globals: As in a pickle, of all pickles in it.
        schema: Of an exported program, `MAJOR.MINOR`.
        torch: The version of Torch that an exported program names.
        opsets: Of an exported program, by namespace.
        operators: Of an exported program: targets of its nodes, sorted.
        native: Names of files of native code, sorted.
        settings: What AOTInductor says that its code needs, by key.
    """

    kind: str
    version: int | None = None
    byte_order: str = ""
    entries: int = 0
    storages: Count = Count(0, 0)
    globals: tuple[str, ...] = ()
    schema: str = ""
    torch: str = ""
    opsets: Mapping[str, int] = _table()
    operators: tuple[str, ...] = ()
    native: tuple[str, ...] = ()
    settings: Mapping[str, str] = _table()


@dataclass(frozen=True, slots=True)
class TensorrtFacts:
    """A TensorRT plan: the version that wrote it. Its compute capability stands at no public place."""

    version: str


@dataclass(frozen=True, slots=True)
class HfConfigFacts:
    """The `config.json` of a Hugging Face model.

    Attributes:
        architectures: Classes, as it lists them.
        model_type: By which transformers finds the code.
        dtype: `dtype` or `torch_dtype`.
        quantization: `quant_method`, or what takes its place.
        rope_scaling: Keys of that table, sorted.
        transformers: The version that wrote it.
        remote_code: Classes by what they stand for: `auto_map`.
        settings: Other whole numbers, truth values and short texts at the top, and in tables there as `TABLE.KEY`.
    """

    architectures: tuple[str, ...] = ()
    model_type: str = ""
    dtype: str = ""
    quantization: str = ""
    rope_scaling: tuple[str, ...] = ()
    transformers: str = ""
    remote_code: Mapping[str, str] = _table()
    settings: Mapping[str, Setting] = _table()


@dataclass(frozen=True, slots=True)
class HfTokenizerFacts:
    """A `tokenizer.json`.

    Attributes:
        version: Of the format.
        model: Such as `BPE`; empty where it names none.
        merges: How they are written: `texts`, `pairs` (which tokenizers before 0.20 refuses), or empty for none.
        parts: Types of normalizer, pre-tokenizer, post-processor and decoder, by part, those inside others too.
    """

    version: str = ""
    model: str = ""
    merges: str = ""
    parts: Mapping[str, tuple[str, ...]] = _table()


@dataclass(frozen=True, slots=True)
class HfTokenizerConfigFacts:
    """A `tokenizer_config.json`, or another file of settings beside the config.

    Attributes:
        tokenizer: `tokenizer_class`.
        remote_code: As in the config.
        chat_templates: Names of templates in it; `default` for one without.
    """

    tokenizer: str = ""
    remote_code: Mapping[str, str] = _table()
    chat_templates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HfIndexFacts:
    """A `*.index.json`: which tensors lie in which file.

    Attributes:
        tensors: How many it lists.
        shards: Files, sorted, with how many lie in each.
        total_size: Bytes of all tensors, as it says.
    """

    tensors: int = 0
    shards: Mapping[str, int] = _table()
    total_size: int | None = None


Says: TypeAlias = (
    GgufFacts
    | SafetensorsFacts
    | OnnxFacts
    | PteFacts
    | TfliteFacts
    | CoremlFacts
    | PickleFacts
    | TorchFacts
    | TensorrtFacts
    | HfConfigFacts
    | HfTokenizerFacts
    | HfTokenizerConfigFacts
    | HfIndexFacts
)
KINDS: Final[Mapping[str, type[Any]]] = types.MappingProxyType(
    {
        "gguf": GgufFacts,
        "safetensors": SafetensorsFacts,
        "onnx": OnnxFacts,
        "pte": PteFacts,
        "tflite": TfliteFacts,
        "coreml": CoremlFacts,
        "pickle": PickleFacts,
        "torch": TorchFacts,
        "tensorrt": TensorrtFacts,
        "hf_config": HfConfigFacts,
        "hf_tokenizer": HfTokenizerFacts,
        "hf_tokenizer_config": HfTokenizerConfigFacts,
        "hf_index": HfIndexFacts,
    }
)
_NAMES: Final = {cls: name for name, cls in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Facts:
    """What one file is.

    Attributes:
        path: The file, relative to what was asked about.
        size: Its length in bytes.
        format: One of the names in `formats.compat`.
        detail: What more its first bytes say.
        unsafe: Why loading it may run code of its maker, or why that cannot be decided; empty for the rest.
        reader: Who read it, with its version: other readers may find other facts.
        says: What it says; None where nobody reads such files, or could not.
        places: Where in the file the facts stand, by their name.
        code: What in it is code, or brings code in.
        problems: Why it is not what it says.
    """

    path: str
    size: int
    format: str
    detail: str = ""
    unsafe: str = ""
    reader: str = ""
    says: Says | None = None
    places: Mapping[str, Place] = _table()
    code: tuple[Code, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def kind(self) -> str:
        """Which facts `says` holds: a key of `KINDS`; empty for none."""
        return _NAMES[type(self.says)] if self.says is not None else ""

    @property
    def weight(self) -> int:
        """About how many bytes its document has."""
        return _weight(self)

    def document(self) -> dict[str, Any]:
        """Return the facts as JSON values, `says` under its kind."""
        value: dict[str, Any] = _emit(self)
        if self.says is not None:
            value[self.kind] = value.pop("says")
        return value

    @classmethod
    def read(cls, value: Any) -> Self:
        """Return the facts whose `document` is `value`.

        Raises:
            IntegrityError: Unknown fields, or values out of their bounds.
        """
        if not isinstance(value, dict):
            raise IntegrityError("facts of a file are not a table of fields")
        kinds = KINDS.keys() & value.keys()
        if len(kinds) > 1 or "says" in value:
            raise IntegrityError("a file is of one kind")
        rest = {key: item for key, item in value.items() if key not in kinds}
        says = {kind: _read(KINDS[kind], value[kind], kind) for kind in kinds}
        facts: dict[str, Any] = _read_fields(cls, rest, "facts")
        return cls(**facts | ({"says": next(iter(says.values()))} if says else {}))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the files of a model are.

    Attributes:
        files: Each of them, sorted by path.
        problems: What does not fit between them, such as a shard that is missing.
    """

    files: tuple[Facts, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def all_problems(self) -> tuple[Problem, ...]:
        """All problems, each with its path."""
        own = (Problem(item.reason, item.at, file.path) for file in self.files for item in file.problems)
        return (*own, *self.problems)

    def document(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        value: dict[str, Any] = {"schema": SCHEMA, "files": [file.document() for file in self.files]}
        if self.problems:
            value["problems"] = _emit(self.problems)
        return value

    def emit(self) -> bytes:
        """Return the canonical bytes."""
        return emit(self.document())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read facts whose digest was checked.

        Args:
            data: At most `Limits.DOCUMENT` bytes.

        Raises:
            IntegrityError: Not canonical, another schema, unknown fields, values out of their bounds, or something
                that has its default value and yet stands there.
        """
        document = Fields(parse_canonical(data, what="facts"), what="facts")
        document.schema(SCHEMA)
        files = tuple(Facts.read(item) for item in document.items("files", most=Limits.FILES))
        found = cls(files, _read(tuple[Problem, ...], document.items("problems", most=MOST_ITEMS, default=[]), "facts"))
        document.done()
        if found.emit() != data:
            raise IntegrityError("facts are not in their one form: what has its default value is left out")
        return found


def clip(text: str, most: int = MOST_TEXT) -> str:
    """Return at most `most` characters of `text`, and what stands in JSON: lone surrogates are replaced."""
    return text[:most].encode("utf-8", "replace").decode()


# --- values and JSON --------------------------------------------------------------------------------------------------


def _emit(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        found = {each.name: getattr(value, each.name) for each in fields(value)}
        return {each.name: _emit(found[each.name]) for each in fields(value) if found[each.name] != _default(each)}
    if isinstance(value, Mapping):
        return {key: _emit(item) for key, item in value.items()}
    return [_emit(item) for item in value] if isinstance(value, tuple) else value


def _weight(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode()) + 4
    if isinstance(value, Mapping):
        return sum(len(key.encode()) + _weight(item) + 6 for key, item in value.items())
    if isinstance(value, tuple):
        return sum(_weight(item) + 2 for item in value)
    if is_dataclass(value):
        return sum(len(each.name) + _weight(getattr(value, each.name)) + 6 for each in fields(value))
    return 8


def _default(each: "Field[Any]") -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default


@cache
def _hints(kind: str) -> Mapping[str, Any]:
    """Return the types of the fields of a class above, by its name."""
    hints: dict[str, Any] = get_type_hints(globals()[kind])
    return hints


def _read(kind: Any, value: Any, what: str) -> Any:
    """Return the value of type `kind` whose JSON is `value`.

    Raises:
        IntegrityError: There is none.
    """
    if is_dataclass(kind):
        return kind(**_read_fields(kind, value, what)) if isinstance(kind, type) else None
    origin, inner = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return _read(_chosen(inner, value), value, what)
    if origin is tuple:
        items = _sized(value, list, what)
        if inner[-1] is not Ellipsis and len(items) != len(inner):
            raise IntegrityError(f"{what} is not {len(inner)} items")
        return tuple(_read(inner[0], item, what) for item in items)
    if origin is not None:
        table = _sized(value, dict, what)
        return {_read(str, key, what): _read(inner[1], item, f"{what} {key[:60]}") for key, item in table.items()}
    return _plain(kind, value, what)


def _chosen(kinds: Iterable[Any], value: Any) -> Any:
    """Return which one of `kinds` a value of JSON is of; the first when it is of none."""
    kinds = [kind for kind in kinds if kind is not type(None)]
    for kind in kinds:
        if type(value) is (list if get_origin(kind) is tuple else kind):
            return kind
    return kinds[0]


def _read_fields(cls: type[Any], value: Any, what: str) -> dict[str, Any]:
    table = _sized(value, dict, what)
    hints = _hints(cls.__name__)
    names = {each.name for each in fields(cls) if each.name != "says"}
    if unknown := table.keys() - names:
        raise IntegrityError(f"{what}: unknown key {min(unknown)[:60]!r}")
    if missing := {each.name for each in fields(cls) if _default(each) is MISSING} - table.keys():
        raise IntegrityError(f"{what}: {min(missing)!r} is missing")
    return {name: _read(hints[name], item, f"{what} {name}") for name, item in table.items()}


def _sized(value: Any, kind: type[Any], what: str) -> Any:
    if not isinstance(value, kind) or len(value) > MOST_ITEMS:
        raise IntegrityError(f"{what} is not a {'list' if kind is list else 'table'} of at most {MOST_ITEMS} things")
    return value


def _plain(kind: Any, value: Any, what: str) -> Any:
    if type(value) is not kind:  # a truth value is no number here
        raise IntegrityError(f"{what} is no {kind.__name__}")
    if kind is int and not -LARGEST <= value <= LARGEST:
        raise IntegrityError(f"{what} is beyond {LARGEST}")
    if kind is str and len(value) > MOST_TEXT:
        raise IntegrityError(f"{what} is longer than {MOST_TEXT} characters")
    return value
