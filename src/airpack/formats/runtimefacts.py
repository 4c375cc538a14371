"""What a runtime's own bytes say: values that readers in `facts` fill, rules in `policy` judge, and documents carry.

    {"closure":{...},"cuda":[],"files":3,"native":[{"architecture":"amd64",...}],"schema":"airpack.runtime-facts/1",...}

Every fact has its place: `at`, an offset in bytes in the file that it names. `None` means that it could not be read,
never that there is none: `problems` say why. `docs/spec/compat.md`, "Runtimes".

Law: equal facts have equal bytes (`RuntimeFacts.emit`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from airpack.formats.canonical import emit
from airpack.formats.facts import Problem

SCHEMA: Final = "airpack.runtime-facts/1"


@dataclass(frozen=True, slots=True)
class Named:
    """A name, and where it stands."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class SymbolNeed:
    """A symbol version that a file needs of a library.

    Attributes:
        library: The library's name, as the file needs it.
        version: Such as `GLIBC_2.28`.
        weak: Whether the file loads without it.
        at: Where it stands in the file.
    """

    library: str
    version: str
    weak: bool
    at: int


@dataclass(frozen=True, slots=True)
class ElfFacts:
    """What an ELF file says of itself.

    Attributes:
        path: The file.
        size: Its length in bytes.
        architecture: Its machine by its OCI name, such as `amd64`; `em-NUMBER` where OCI has none.
        bits: 32 or 64.
        order: Byte order, `little` or `big`.
        kind: `shared`, `executable`, `relocatable`, `core`, or `type-NUMBER`.
        interpreter: The loader that a program asks for; empty for libraries.
        soname: The name under which others need it; may be empty.
        needed: Libraries that it needs, in the order in which they are loaded.
        rpath: Folders searched for them, which the libraries it needs inherit; `$ORIGIN` is its own folder.
        runpath: Folders searched for them, for itself alone.
        versions: Symbol versions that it needs.
        provides: Symbol versions that it defines.
        page: Largest page in bytes with which the kernel can load it; 0 when nothing of it is loaded.
        isa: Level of x86-64 without which glibc refuses it, such as `x86-64-v3`; empty when it says none.
        build_id: Its GNU build id in hex; may be empty.
    """

    path: str
    size: int
    architecture: str
    bits: int
    order: str
    kind: str
    interpreter: str
    soname: str
    needed: tuple[Named, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    versions: tuple[SymbolNeed, ...]
    provides: tuple[str, ...]
    page: int
    isa: str
    build_id: str


@dataclass(frozen=True, slots=True)
class CudaCode:
    """CUDA code for one architecture.

    Attributes:
        kind: `cubin` is machine code, `ptx` is compiled by the driver; else `kind-NUMBER`.
        architecture: Such as `90`; with `a` for this one alone, with `f` for its family.
        isa: Version of PTX, such as `8.5`; empty for machine code.
        count: How often it is there.
        at: Where the first stands in the file.
    """

    kind: str
    architecture: str
    isa: str
    count: int
    at: int


@dataclass(frozen=True, slots=True)
class Opset:
    """The highest version of a domain's operators that a library knows; the domain of ONNX itself is empty."""

    domain: str
    version: int
    at: int


@dataclass(frozen=True, slots=True)
class OnnxRuntimeFacts:
    """What an ONNX Runtime library reads.

    Attributes:
        path: The library.
        opsets: Highest opset by domain, sorted.
        ir: Highest IR version, by ONNX's table (grade `table`); None where that does not know the opset.
        names: Whether operators stand in its data by name, so that one that does not stand there is refused soundly.
    """

    path: str
    opsets: tuple[Opset, ...]
    ir: int | None
    names: bool


@dataclass(frozen=True, slots=True)
class LlamaFacts:
    """What a libllama reads.

    Attributes:
        path: The library.
        version: Its version, where a function of it returns one; else empty.
        architectures: Architectures by their names in GGUF, sorted; None where their list is not found.
        pre_tokenizers: Likewise.
        at: Where the name `llama` stands.
    """

    path: str
    version: str
    architectures: tuple[str, ...] | None
    pre_tokenizers: tuple[str, ...] | None
    at: int


@dataclass(frozen=True, slots=True)
class LlamaBuild:
    """A file that names a build of llama.cpp.

    Attributes:
        path: The file.
        number: The build's number: `b5590` is 5590; 1 where its source came without a history.
        commit: Of the source; empty where the file names none.
        at: Where the number stands.
    """

    path: str
    number: int
    commit: str
    at: int


@dataclass(frozen=True, slots=True)
class GgmlType:
    """A tensor type that ggml reads: its number in GGUF, its name, elements and bytes of one block, and its place."""

    number: int
    name: str
    elements: int
    size: int
    at: int


@dataclass(frozen=True, slots=True)
class GgmlFacts:
    """What a libggml-base reads.

    Attributes:
        path: The library.
        version: Its version, where a function of it returns one; else empty.
        commit: Likewise.
        types: Tensor types by number; None where their table is not found.
    """

    path: str
    version: str
    commit: str
    types: tuple[GgmlType, ...] | None


@dataclass(frozen=True, slots=True)
class VllmFacts:
    """What vLLM registers.

    Attributes:
        path: The file with its registry.
        version: Its version.
        architectures: Classes of models, as `architectures` of a `config.json` names them, sorted; None where unread.
        dropped: Architectures that it no longer has, with the last version that had them.
        quantizations: Methods of quantisation, sorted; None where unread.
        at: Where the first table begins.
    """

    path: str
    version: str
    architectures: tuple[str, ...] | None
    dropped: Mapping[str, str]
    quantizations: tuple[str, ...] | None
    at: int


@dataclass(frozen=True, slots=True)
class TransformersFacts:
    """What transformers registers.

    Attributes:
        path: The file with the first table of model types.
        version: Its version.
        model_types: As `model_type` of a `config.json` names them, sorted; None where unread.
        architectures: Classes of models, sorted; None where unread.
        at: Where that table begins.
    """

    path: str
    version: str
    model_types: tuple[str, ...] | None
    architectures: tuple[str, ...] | None
    at: int


@dataclass(frozen=True, slots=True)
class HostNeed:
    """A library that must come from the host.

    Attributes:
        architecture: Of the files that need it.
        library: Its name.
        versions: Symbol versions that it must define, in order.
        users: How many files need it.
        first: One of them.
    """

    architecture: str
    library: str
    versions: tuple[str, ...]
    users: int
    first: str


@dataclass(frozen=True, slots=True)
class OutOfPath:
    """A library that is in the folder, but not where the file that needs it looks: whoever starts it must say where."""

    path: str
    library: str
    found: str
    at: int


@dataclass(frozen=True, slots=True)
class MissingVersion:
    """A symbol version that a library of the folder should define and does not: the loader refuses the file."""

    path: str
    library: str
    version: str
    found: str
    at: int


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Symbols of a file that no library loaded with it defines.

    Attributes:
        path: The file.
        origin: `nowhere`: nothing here has them, and no library of the host can. `host`: a library of the host may have
            them. `elsewhere`: a file here has them that is not loaded with it. `python`, `node`: by their names, the
            program that loads it.
        count: How many there are.
        names: Some of them, sorted.
    """

    path: str
    origin: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClosureFacts:
    """What the native files of a folder find in each other.

    Attributes:
        host: Libraries that must come from the host, sorted.
        out_of_path: Libraries that are here, but not where they are looked for.
        missing: Symbol versions that should be here and are not.
        unresolved: Symbols that nothing loaded together defines.
        problems: Files whose symbols could not be read.
    """

    host: tuple[HostNeed, ...]
    out_of_path: tuple[OutOfPath, ...]
    missing: tuple[MissingVersion, ...]
    unresolved: tuple[Unresolved, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class NumpyUse:
    """How an extension module uses NumPy's C interface.

    Attributes:
        path: The module.
        major: Major version of the NumPy that it was built with: 2 runs with 1 and 2, 1 with 1 alone.
        least: Oldest NumPy that it takes, where it says so; else empty.
        at: Where the name stands that tells.
    """

    path: str
    major: int
    least: str
    at: int


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A file that a project's tag is wrong about.

    Attributes:
        tag: The tag, or its part.
        found: What the file is or needs instead.
        path: The file.
        at: Where that stands in it.
    """

    tag: str
    found: str
    path: str
    at: int


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """A Python project in a runtime.

    Attributes:
        name: Normalised project name (PEP 503).
        version: Its version.
        filename: Of its wheel; empty where it was unpacked.
        tags: Tags of the wheel's name; of its WHEEL file, which often says less, where that is all there is.
        requires_python: As it says.
        requires: Its requirements as they stand in METADATA, those of extras included.
        architectures: Machines of its native files, sorted.
        glibc: Highest version of glibc that they need; empty for none.
        outside: Libraries that they need from other projects, or from a host that has more than tags promise.
        numpy: Its uses of NumPy's C interface.
        contradictions: What its files say against its tags.
    """

    name: str
    version: str
    filename: str
    tags: tuple[str, ...]
    requires_python: str
    requires: tuple[str, ...]
    architectures: tuple[str, ...]
    glibc: str
    outside: tuple[str, ...]
    numpy: tuple[NumpyUse, ...]
    contradictions: tuple[Contradiction, ...]


@dataclass(frozen=True, slots=True)
class Pin:
    """A requirement of one project.

    Attributes:
        project: Whose it is.
        requirement: As it stands in METADATA.
        found: Version of the project that it names, where that is here; else empty.
        holds: Whether the version found satisfies it; None where that depends on what is not known here.
    """

    project: str
    requirement: str
    found: str
    holds: bool | None


@dataclass(frozen=True, slots=True)
class CudaFacts:
    """The CUDA code of one file."""

    path: str
    code: tuple[CudaCode, ...]


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What a runtime's files are.

    Attributes:
        files: How many there are.
        size: Their bytes.
        native: ELF files, sorted by path.
        closure: What those find in each other; None where they could not be looked at together.
        cuda: CUDA code in them, sorted by path.
        projects: Python projects, sorted by name.
        pins: Their requirements of each other.
        onnxruntime: ONNX Runtime libraries.
        llama: libllama.
        builds: Files that name a build of llama.cpp.
        ggml: libggml-base.
        vllm: vLLM's registry.
        transformers: transformers' registry.
        problems: What could not be read.
    """

    files: int
    size: int
    native: tuple[ElfFacts, ...] = ()
    closure: ClosureFacts | None = None
    cuda: tuple[CudaFacts, ...] = ()
    projects: tuple[ProjectFacts, ...] = ()
    pins: tuple[Pin, ...] = ()
    onnxruntime: tuple[OnnxRuntimeFacts, ...] = ()
    llama: tuple[LlamaFacts, ...] = ()
    builds: tuple[LlamaBuild, ...] = ()
    ggml: tuple[GgmlFacts, ...] = ()
    vllm: VllmFacts | None = None
    transformers: TransformersFacts | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def all_problems(self) -> tuple[Problem, ...]:
        """All that could not be read, those of the closure included."""
        return (*self.problems, *(() if self.closure is None else self.closure.problems))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        value: dict[str, Any] = _plain(self)
        return {"schema": SCHEMA, **value}

    def emit(self) -> bytes:
        """Return the canonical bytes."""
        return emit(self.to_dict())


def _plain(value: Any) -> Any:
    """Return a value of this module as JSON: every field, so that unknown is never taken for none."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
