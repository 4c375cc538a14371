"""A pack spec: what `airpack build` is asked to pack.

    [release]
    product = "encoder"
    version = "1.2.0"
    [[model]]
    name = "minilm"
    path = "models/minilm"

docs/reference/pack-spec.md. Paths are as written, relative to the spec file; nothing here looks at a disk. Unknown
keys are refused: a need that is misspelt is a need that is not held.
"""

from dataclasses import dataclass
from typing import Any, Final

from airpack.errors import InputError
from airpack.formats.compat import KINDS, MOST_MEMORY, NATIVE, read_platform
from airpack.formats.fields import Fields
from airpack.formats.names import check_component, check_product, check_version
from airpack.formats.probe import Probe, parse_probe
from airpack.formats.sizes import parse_size
from airpack.types import Limits

_COMPONENTS: Final = 1000  # models, or runtimes
_LICENSE: Final = 200  # characters


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A `[[model]]` table: its name, its file or folder, and its licence (SPDX; empty when not given)."""

    name: str
    path: str
    license: str


@dataclass(frozen=True, slots=True)
class RuntimeSpec:
    """A `[[runtime]]` table: its name, kind, file or folder, and platform (`os/architecture`; empty for any)."""

    name: str
    kind: str
    path: str
    platform: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """The `[require]` table: needs that a person asserts.

    Attributes:
        memory: Bytes; 0 when nothing is asserted.
    """

    memory: int = 0


@dataclass(frozen=True, slots=True)
class PackSpec:
    """A whole pack spec.

    Attributes:
        product: The product.
        version: Its version.
        sequence: The release's place in the order of releases; None for the channel's next.
        models: At least one, names unique.
        runtimes: Names unique.
        probe: The smoke test, `golden` relative to the spec file; None when there is none.
        require: Asserted needs.
    """

    product: str
    version: str
    sequence: int | None
    models: tuple[ModelSpec, ...]
    runtimes: tuple[RuntimeSpec, ...]
    probe: Probe | None
    require: Requirement


def parse(text: bytes, what: str) -> PackSpec:
    """Read a pack spec.

    Args:
        text: TOML 1.0 in UTF-8, at most `Limits.DOCUMENT` bytes.
        what: The file's name, for messages.

    Raises:
        InputError: Not TOML, an unknown key (the hint names the nearest right one), or a value out of its bounds.
    """
    if len(text) > Limits.DOCUMENT:
        raise InputError(f"{what} has {len(text)} bytes; at most {Limits.DOCUMENT} are read")
    top = Fields.from_toml(text, what=what, error=InputError)
    product, version, sequence = _release(_section(top, "release", "[release]"))
    models = tuple(_model(fields) for fields in _sections(top, "model"))
    runtimes = tuple(_runtime(fields) for fields in _sections(top, "runtime"))
    top.mapping("probe", {})  # asked for also where it is absent, so that a misspelt [prob] is told the right name
    probe = _section(top, "probe", "[probe]") if "probe" in top else None
    require = top.mapping("require", {})
    top.done()
    if not models:
        raise top.fail("there is no [[model]]", hint='[[model]]\nname = "NAME"\npath = "FILE-OR-FOLDER"')
    _unique(top, "model", [model.name for model in models])
    _unique(top, "runtime", [runtime.name for runtime in runtimes])
    return PackSpec(
        product=product,
        version=version,
        sequence=sequence,
        models=models,
        runtimes=runtimes,
        probe=None if probe is None else parse_probe(probe, upwards=True),
        require=_require(require, f"{what} [require]"),
    )


def _section(top: Fields, key: str, title: str) -> Fields:
    return Fields(top.mapping(key), what=f"{top.what} {title}", error=InputError)


def _sections(top: Fields, key: str) -> list[Fields]:
    items = top.items(key, most=_COMPONENTS, default=[])
    return [
        Fields(item, what=f"{top.what} [[{key}]] number {number}", error=InputError)
        for number, item in enumerate(items, 1)
    ]


def _release(fields: Fields) -> tuple[str, str, int | None]:
    product = check_product(fields.text("product"), error=InputError)
    version = check_version(fields.text("version"), error=InputError)
    sequence = fields.integer("sequence", 1, low=1)
    if "base" in fields:
        raise fields.fail("'base' asks for a delta; deltas are not built by this version", hint="leave 'base' out")
    fields.done()
    return product, version, sequence if "sequence" in fields else None


def _model(fields: Fields) -> ModelSpec:
    model = ModelSpec(
        name=check_component(fields.text("name"), error=InputError),
        path=_path(fields),
        license=fields.text("license", ""),
    )
    if len(model.license) > _LICENSE or not model.license.isprintable() or not model.license.isascii():
        raise fields.fail(f"'license' must be at most {_LICENSE} printable ASCII characters", hint='"Apache-2.0"')
    fields.done()
    return model


def _runtime(fields: Fields) -> RuntimeSpec:
    name = check_component(fields.text("name"), error=InputError)
    kind = fields.text("kind", choices=KINDS)
    runtime = RuntimeSpec(
        name=name, kind=kind, path=_path(fields), platform=read_platform(fields, None if kind in NATIVE else "")
    )
    fields.done()
    return runtime


def _path(fields: Fields) -> str:
    path = fields.text("path")
    if not path or "\0" in path:
        raise fields.fail("'path' must name a file or a folder, relative to the pack spec")
    return path


def _require(table: dict[str, Any], what: str) -> Requirement:
    fields = Fields(table, what=what, error=InputError)
    if isinstance(table.get("memory"), str):
        memory = parse_size(fields.text("memory"))
        if not 1 <= memory <= MOST_MEMORY:
            raise fields.fail(f"'memory' must be from 1 to {MOST_MEMORY} bytes, found {memory}")
    else:
        memory = fields.integer("memory", 1, low=1, high=MOST_MEMORY)
    fields.done()
    return Requirement(memory=memory if "memory" in fields else 0)


def _unique(top: Fields, key: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise top.fail(f"two [[{key}]] tables have the name {name!r}", hint="give each its own name")
