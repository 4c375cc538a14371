"""The compat document: what a release's bytes were found to be, and what it needs of a host.

    {"files":[{"format":"onnx","grade":"static","path":"model/minilm/model.onnx","size":90387606}],
     "product":"encoder","runtimes":[...],"schema":"airpack.compat/1","totals":{"bytes":...,"files":...},"version":"1.2.0"}

It is the config of the release's compat manifest, so the release digest covers it. It lists model files and wheels,
never each runtime file, so that it stays small. It is closed and canonical: what this reader does not know, it does not
pass.
`docs/spec/release.md`, "The compat document".

Law: `CompatDoc.parse(doc.emit()) == doc`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.fields import Fields
from airpack.formats.names import check_component, check_path, check_product, check_version
from airpack.formats.probe import Probe, parse_probe
from airpack.types import Limits

SCHEMA: Final = "airpack.compat/1"
KINDS: Final = ("wheels", "binary", "web", "files")
NATIVE: Final = frozenset({"wheels", "binary"})  # kinds whose bytes run on one platform only
GOLDEN_PATH: Final = "probe/golden.npz"

_COMPRESSED = ("gzip", "bzip2", "xz", "lzma", "zstd", "lz4", "zlib", "joblib")
INERT: Final = frozenset(
    {
        "safetensors",
        "gguf",
        "onnx",
        "pte",
        "tflite",
        "coreml",
        "tensorrt",
        "npy",
        "npz",
        "json",
        "text",
        "empty",
        "data",
    }
)
UNSAFE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pickle": "a pickle runs code of its maker when it is loaded",
        "torch-zip": "a Torch archive holds a pickle, which runs code of its maker when it is loaded",
        "npy-object": "the array holds pickled objects, which run code of their maker when they are loaded",
        "npz-object": "an array in it holds pickled objects, which run code of their maker when they are loaded",
        "keras-zip": "a Keras archive can hold layers made of code",
        "hdf5": "an HDF5 model (Keras) can hold layers made of code",
        "elf": "native code runs as soon as it is loaded; it belongs in a [[runtime]]",
        "pe": "native code runs as soon as it is loaded; it belongs in a [[runtime]]",
        "mach-o": "native code runs as soon as it is loaded; it belongs in a [[runtime]]",
    }
)
OPAQUE: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("zip", "tar", "7z", "rar"), "what it holds is hidden inside an archive")
    | dict.fromkeys(_COMPRESSED, "what it holds is hidden by compression")
    | {"safetensors-odd": "its header is not strict JSON, so two readers may see two models in it"}
)

_FORMAT = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9]+\Z")
_PLATFORM_LENGTH = 64  # characters
_ALIASES: Final = {"x86_64": "amd64", "x64": "amd64", "aarch64": "arm64", "i686": "386", "i386": "386"}
_WHEELS = 1000  # wheels in one runtime
_TAGS = 256  # tags of one wheel
MOST_MEMORY: Final = 1 << 50  # bytes


@dataclass(frozen=True, slots=True, order=True)
class CompatFile:
    """One model file: its generation path, what its bytes are, and its size in bytes."""

    path: str
    format: str
    size: int


@dataclass(frozen=True, slots=True, order=True)
class CompatWheel:
    """One unpacked wheel.

    Attributes:
        name: Normalised project name (PEP 503).
        version: Version (PEP 440).
        tags: Compatibility tags of its file name, expanded and sorted: `cp311-cp311-manylinux_2_28_x86_64`.
    """

    name: str
    version: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CompatRuntime:
    """One runtime.

    Attributes:
        name: The folder below `runtime/`.
        kind: One of `KINDS`.
        platform: `os/architecture` in OCI's (Go's) names; empty where any will do.
        wheels: What it is made of, sorted, for the kind `wheels`.
    """

    name: str
    kind: str
    platform: str
    wheels: tuple[CompatWheel, ...] = ()


@dataclass(frozen=True, slots=True)
class CompatDoc:
    """The compat document of one release.

    Attributes:
        product: The product.
        version: Its version.
        files: Every model file, sorted by path.
        runtimes: Every runtime, sorted by name.
        total_bytes: Bytes of the whole generation.
        total_files: Files of the whole generation.
        memory: Bytes of memory the release asserts to need; 0 when it asserts nothing.
        probe: The smoke test at activation, its `golden` relative to the generation; None when there is none.
    """

    product: str
    version: str
    files: tuple[CompatFile, ...]
    runtimes: tuple[CompatRuntime, ...]
    total_bytes: int
    total_files: int
    memory: int = 0
    probe: Probe | None = None

    def emit(self) -> bytes:
        """Return the canonical bytes."""
        value: dict[str, Any] = {
            "schema": SCHEMA,
            "product": self.product,
            "version": self.version,
            "files": [
                {"path": file.path, "format": file.format, "grade": "static", "size": file.size} for file in self.files
            ],
            "runtimes": [_emit_runtime(runtime) for runtime in self.runtimes],
            "totals": {"bytes": self.total_bytes, "files": self.total_files},
        }
        if self.memory:
            value["require"] = {"memory": self.memory}
        if self.probe is not None:
            value["probe"] = self.probe.emit()
        return emit(value)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a compat document whose digest was checked.

        Args:
            data: At most `Limits.DOCUMENT` bytes.

        Raises:
            IntegrityError: Not canonical, another schema, unknown fields, or values out of their bounds.
        """
        fields = Fields(parse_canonical(data, what="compat document"), what="compat document")
        fields.schema(SCHEMA)
        totals = fields.table("totals")
        document = cls(
            product=check_product(fields.text("product")),
            version=check_version(fields.text("version")),
            files=tuple(_read_file(item) for item in fields.tables("files", most=Limits.FILES)),
            runtimes=tuple(_read_runtime(item) for item in fields.tables("runtimes", most=Limits.BLOBS)),
            total_bytes=totals.integer("bytes"),
            total_files=totals.integer("files", low=1, high=Limits.FILES),
            memory=_read_require(fields),
            probe=parse_probe(fields.table("probe")) if "probe" in fields else None,
        )
        totals.done()
        fields.done()
        return document


def read_platform(fields: Fields, default: str | None = None) -> str:
    """Return the field `platform`: `os/architecture` in OCI's (Go's) names.

    Args:
        fields: The table that holds it.
        default: Returned when it is left out; None when it must be there.

    Raises:
        AirpackError: Of the class that `fields` was made with: missing, not of this form, or another name of an
            architecture that has one in OCI (`x86_64` is `amd64`).
    """
    if default is not None and "platform" not in fields:
        return fields.text("platform", default)
    text = fields.text("platform")
    system, _, architecture = text.partition("/")
    right = _ALIASES.get(architecture, "")
    if right or len(text) > _PLATFORM_LENGTH or not _PLATFORM.match(text):
        raise fields.fail(
            f"'platform' must be os/architecture in OCI's names, such as linux/amd64; found {text[:60]!r}",
            hint=f'platform = "{system}/{right}"' if right else "",
        )
    return text


def _emit_runtime(runtime: CompatRuntime) -> dict[str, Any]:
    value: dict[str, Any] = {"name": runtime.name, "kind": runtime.kind}
    if runtime.platform:
        value["platform"] = runtime.platform
    if runtime.wheels:
        value["wheels"] = [emit_wheel(wheel) for wheel in runtime.wheels]
    return value


def emit_wheel(wheel: CompatWheel) -> dict[str, Any]:
    """Return the JSON value of `wheel`, as it stands in the compat document and in a runtime's config."""
    return {"name": wheel.name, "version": wheel.version, "tags": list(wheel.tags)}


def read_wheel_fields(fields: Fields) -> CompatWheel:
    """Return the wheel in `fields`, read to its end.

    Raises:
        AirpackError: Of the class that `fields` was made with.
    """
    wheel = CompatWheel(
        name=fields.text("name"),
        version=fields.text("version"),
        tags=tuple(fields.texts("tags", most=_TAGS)),
    )
    if not wheel.tags or list(wheel.tags) != sorted(set(wheel.tags)):
        raise fields.fail("'tags' must be sorted, each once, and at least one")
    fields.done()
    return wheel


def _read_file(fields: Fields) -> CompatFile:
    file = CompatFile(
        path=check_path(fields.text("path")),
        format=fields.text("format"),
        size=fields.integer("size", high=Limits.FILE),
    )
    fields.text("grade", choices=("static",))
    if not _FORMAT.match(file.format):
        raise fields.fail(f"'format' is not a name: {file.format[:60]!r}")
    fields.done()
    return file


def _read_runtime(fields: Fields) -> CompatRuntime:
    kind = fields.text("kind", choices=KINDS)
    runtime = CompatRuntime(
        name=check_component(fields.text("name")),
        kind=kind,
        platform=read_platform(fields, None if kind in NATIVE else ""),
        wheels=tuple(read_wheel_fields(item) for item in fields.tables("wheels", most=_WHEELS))
        if kind == "wheels"
        else (),
    )
    fields.done()
    if kind == "wheels" and not runtime.wheels:
        raise fields.fail("'wheels' is empty; a runtime of wheels is made of at least one")
    return runtime


def _read_require(fields: Fields) -> int:
    if "require" not in fields:
        return 0
    require = fields.table("require")
    memory = require.integer("memory", low=1, high=MOST_MEMORY)
    require.done()
    return memory
