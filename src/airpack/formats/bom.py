"""The bill of materials of a release: a CycloneDX 1.6 ML-BOM, as JSON values. Nothing here signs or verifies.

    value = emit_bom(release, licenses={"minilm": License("id", "Apache-2.0")}, wheels=..., airpack="0.1.0")
    bom = read_bom(verified_statement.predicate, release)          # at a site, once its signature held

It says what is known and no more: names, versions, licences as their makers declare them, SHA-256. What nobody declared
is `unknown`. `docs/spec/release.md`, "The bill of materials".

1. The same arguments give the same value: there is no time in it, and its serial number follows from all the rest.
2. A component's `bom-ref` is where it lands at a site: `model/NAME`, `runtime/NAME`, `probe/golden.npz`, a file's path
   in the generation; a wheel's is `runtime/NAME/PROJECT`.
3. A model, and a runtime that is no set of wheels, has the SHA-256 of its OCI manifest; a file and a wheel have their
   own.
4. Files are listed one by one in components of at most `FILES`. Those of a wheel never are: the wheel's hash and its
   manifest stand for them. Where the document would exceed `SIZE`, none are. `compositions` says what is left out.

Law: `read_bom(emit_bom(release, ...), release)` holds, and for no other release.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote

from airpack.errors import InputError
from airpack.formats.canonical import emit
from airpack.formats.compat import GOLDEN_PATH, CompatRuntime
from airpack.formats.fields import Fields
from airpack.formats.release import ModelInfo, Part, Release, ReleaseFile
from airpack.types import Digest, Limits

SPEC_VERSION: Final = "1.6"
FILES: Final = 1000  # files of one component that are listed one by one
SIZE: Final = 2 << 20  # bytes of the document: in base64, twice, it takes 3.6 MiB of a head's 16
UNKNOWN: Final = "unknown"
BYPRODUCT: Final = "bom.cdx.json"
"""The name under which the provenance says the digest of the document."""

_SCHEMA = f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json"
_RELEASE = "release"
_MODEL = "machine-learning-model"
_COMPONENTS = Limits.BLOBS  # of one list: each model, runtime and wheel has a manifest of its own, which is a blob
_FEW = 64  # hashes, licences or properties of one component


@dataclass(frozen=True, slots=True)
class License:
    """One licence as somebody declared it.

    Attributes:
        kind: `id` for one SPDX identifier, `expression` for an SPDX expression of several, `name` for other words.
        text: The identifier, expression or words.
    """

    kind: Literal["id", "expression", "name"]
    text: str


@dataclass(frozen=True, slots=True)
class WheelFile:
    """What is known of a wheel beyond its name and version.

    Attributes:
        filename: The name of the .whl file.
        digest: SHA-256 of that file.
        size: Its length in bytes.
        licenses: What its METADATA declares; empty where that says nothing usable.
    """

    filename: str
    digest: Digest
    size: int
    licenses: tuple[License, ...]


@dataclass(frozen=True, slots=True)
class Component:
    """One component of a bill of materials that was read.

    Attributes:
        ref: Its `bom-ref`.
        kind: CycloneDX's type: `machine-learning-model`, `application`, `library`, `file`, `data`.
        name: Its name.
        version: Its version; empty for none.
        licenses: Its licences, as text; `unknown` where nobody declared one, empty for files.
        digest: Its SHA-256; None for a set of wheels.
        manifest: For a wheel, the digest of the manifest of its files in the release.
    """

    ref: str
    kind: str
    name: str
    version: str
    licenses: tuple[str, ...]
    digest: Digest | None
    manifest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Bom:
    """A bill of materials that agrees with its release.

    Attributes:
        document: The CycloneDX document.
        components: All of its components, nested ones after theirs.
    """

    document: Mapping[str, Any]
    components: tuple[Component, ...]

    @property
    def data(self) -> bytes:
        """The document's bytes: canonical JSON."""
        return emit(dict(self.document))

    @property
    def digest(self) -> Digest:
        """The digest of `data`, which the provenance names."""
        return Digest.of(self.data)


def emit_bom(
    release: Release,
    *,
    licenses: Mapping[str, License],
    wheels: Mapping[tuple[str, str], WheelFile],
    airpack: str,
) -> dict[str, Any]:
    """Return the bill of materials of `release` as a JSON value.

    Args:
        release: The release.
        licenses: Licence by model name; `unknown` for a model that is not in it.
        wheels: What is known of each wheel, by component (`runtime/NAME`) and project name; every one of the release.
        airpack: The version of this airpack.

    Raises:
        InputError: It would be larger than `SIZE` even without its files.
    """
    for listed in (FILES, 0):
        document = _Emitter(release, licenses, wheels, listed).document(airpack)
        size = len(emit(document))
        if size <= SIZE:
            return document
    raise InputError(
        f"the bill of materials of {release.name} would have {size} bytes; at most {SIZE} are read",
        hint="split the release: it has thousands of models or wheels",
    )


def read_bom(value: Any, release: Release) -> Bom:
    """Read the predicate of a verified statement and hold it against the release that it is about.

    CycloneDX is not airpack's format: fields that are not needed here are left alone.

    Args:
        value: The predicate; its signature, its subject and its type were checked.
        release: The release, from its trusted index.

    Raises:
        IntegrityError: No CycloneDX 1.6 document of the form that `emit_bom` gives; of another release; it leaves out a
            model, a runtime or a wheel, or has one that the release does not hold; a digest is not the release's.
    """
    fields = Fields(value, what="bill of materials")
    fields.text("bomFormat", choices=("CycloneDX",))
    fields.text("specVersion", choices=(SPEC_VERSION,))
    top = _read(fields.table("metadata").table("component"))
    if (top.name, top.version, top.digest) != (release.product, release.version, release.digest):
        raise fields.fail(f"is of {top.name[:80]}@{top.version[:80]} {top.digest}, not of {release.name}")
    components = tuple(_components(fields))
    _agree(fields, components, release)
    return Bom(value, components)


class _Emitter:
    """Makes one document."""

    def __init__(
        self,
        release: Release,
        licenses: Mapping[str, License],
        wheels: Mapping[tuple[str, str], WheelFile],
        listed: int,
    ) -> None:
        self._release, self._licenses, self._wheels, self._listed = release, licenses, wheels, listed
        self._files_of: dict[str, list[ReleaseFile]] = {}
        for file in release.files:
            self._files_of.setdefault(file.component, []).append(file)
        self._parts_of: dict[str, list[Part]] = {}
        for part in release.parts:
            self._parts_of.setdefault(part.component, []).append(part)
        self._formats = {file.path: file.format for file in release.compat.files}
        self._complete, self._incomplete, self._opaque = [_RELEASE], list[str](), list[str]()

    def document(self, airpack: str) -> dict[str, Any]:
        release = self._release
        components = [self._model(model) for model in release.models]
        components += [self._runtime(runtime) for runtime in release.compat.runtimes]
        components += [self._golden(file.digest, file.size) for file in release.files if file.path == GOLDEN_PATH]
        document = {
            "$schema": _SCHEMA,
            "bomFormat": "CycloneDX",
            "specVersion": SPEC_VERSION,
            "version": 1,
            "metadata": {
                "lifecycles": [{"phase": "build"}],
                "tools": {"components": [{"type": "application", "name": "airpack", "version": airpack}]},
                "component": {
                    "type": "application",
                    "bom-ref": _RELEASE,
                    "name": release.product,
                    "version": release.version,
                    "hashes": _hashes(release.digest),
                },
            },
            "components": components,
            "dependencies": self._dependencies([component["bom-ref"] for component in components]),
            "compositions": self._compositions(),
        }
        name = f"https://airpack.dev/bom/{Digest.of(emit(document))}"
        return document | {"serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}"}

    def _model(self, info: ModelInfo) -> dict[str, Any]:
        (part,) = self._parts_of[f"model/{info.name}"]
        known = self._licenses.get(info.name)
        component: dict[str, Any] = {
            "type": _MODEL,
            "bom-ref": part.component,
            "name": info.name,
            "version": self._release.version,
            "hashes": _hashes(part.manifest),
            "licenses": _emit_licenses([known] if known else []),
        }
        if info.format:
            component["modelCard"] = {"properties": _properties(format=info.format)}
        return component | self._files(part.component)

    def _runtime(self, runtime: CompatRuntime) -> dict[str, Any]:
        ref = f"runtime/{runtime.name}"
        parts = self._parts_of[ref]
        component = {
            "type": "application",
            "bom-ref": ref,
            "name": runtime.name,
            "version": self._release.version,
            "properties": _properties(kind=runtime.kind, platform=runtime.platform),
        }
        if runtime.kind == "wheels":
            self._complete.append(ref)
            return component | {"components": [self._wheel(part) for part in parts]}
        (part,) = parts
        licenses = _emit_licenses([])  # a pack spec has no licence of a runtime
        return component | {"hashes": _hashes(part.manifest), "licenses": licenses} | self._files(ref)

    def _wheel(self, part: Part) -> dict[str, Any]:
        assert part.wheel is not None
        file = self._wheels[part.component, part.wheel.name]
        ref = _wheel_ref(part)
        self._opaque.append(ref)
        return {
            "type": "library",
            "bom-ref": ref,
            "name": part.wheel.name,
            "version": part.wheel.version,
            "purl": f"pkg:pypi/{part.wheel.name}@{quote(part.wheel.version, safe='')}",
            "hashes": _hashes(file.digest),
            "licenses": _emit_licenses(file.licenses),
            "properties": _properties(file=file.filename, manifest=str(part.manifest), size=str(file.size)),
        }

    def _golden(self, digest: Digest, size: int) -> dict[str, Any]:
        self._complete.append(GOLDEN_PATH)
        return {
            "type": "data",
            "bom-ref": GOLDEN_PATH,
            "name": GOLDEN_PATH,
            "hashes": _hashes(digest),
            "properties": _properties(size=str(size)),
        }

    def _files(self, component: str) -> dict[str, Any]:
        """Return the nested list of a component's files; nothing where they are too many to list."""
        files = self._files_of[component]
        if len(files) > self._listed:
            self._incomplete.append(component)
            return {}
        self._complete.append(component)
        return {
            "components": [
                {
                    "type": "file",
                    "bom-ref": file.path,
                    "name": file.path.removeprefix(f"{component}/"),
                    "hashes": _hashes(file.digest),
                    "properties": _properties(format=self._formats.get(file.path, ""), size=str(file.size)),
                }
                for file in files
            ]
        }

    def _dependencies(self, top: list[str]) -> list[dict[str, Any]]:
        """Return what contains what. What a wheel needs is not looked into, so no wheel is said to need nothing."""
        return [
            {"ref": _RELEASE, "dependsOn": top},
            *(
                {"ref": component, "dependsOn": [_wheel_ref(part) for part in parts]}
                for component, parts in self._parts_of.items()
                if parts[0].wheel is not None
            ),
        ]

    def _compositions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [
            {"aggregate": "complete", "assemblies": self._complete, "dependencies": [_RELEASE]}
        ]
        if self._incomplete:
            found.append({"aggregate": "incomplete", "assemblies": self._incomplete})
        if self._opaque:
            found.append({"aggregate": "unknown", "assemblies": self._opaque, "dependencies": self._opaque})
        return found


def _components(fields: Fields) -> Iterator[Component]:
    """Read two levels of components: no more are ever written."""
    for outer in fields.tables("components", most=_COMPONENTS):
        yield _read(outer)
        for inner in outer.tables("components", most=_COMPONENTS, default=[]):
            if "components" in inner:
                raise inner.fail("holds components of its own; two levels are read")
            yield _read(inner)


def _read(fields: Fields) -> Component:
    hashes = {item.text("alg"): item.text("content") for item in fields.tables("hashes", most=_FEW, default=[])}
    properties = {item.text("name"): item.text("value") for item in fields.tables("properties", most=_FEW, default=[])}
    manifest = properties.get("airpack:manifest")
    return Component(
        ref=fields.text("bom-ref"),
        kind=fields.text("type"),
        name=fields.text("name"),
        version=fields.text("version", ""),
        licenses=tuple(_license(item) for item in fields.tables("licenses", most=_FEW, default=[])),
        digest=Digest(f"sha256:{hashes['SHA-256']}") if "SHA-256" in hashes else None,
        manifest=Digest(manifest) if manifest is not None else None,
    )


def _license(fields: Fields) -> str:
    if "expression" in fields:
        return fields.text("expression")
    inner = fields.table("license")
    return inner.text("id") if "id" in inner else inner.text("name")


def _agree(fields: Fields, components: Iterable[Component], release: Release) -> None:
    """Hold the components to the release: each part of it is there once, with its digest, and nothing else is."""
    wanted = dict(_known(release))
    files = {file.path: file.digest for file in release.files}
    seen: set[str] = set()
    for component in components:
        ref = component.ref
        if ref in seen:
            raise fields.fail(f"has {ref[:80]!r} twice")
        seen.add(ref)
        if ref in wanted:
            if _identity(component) != wanted[ref]:
                raise fields.fail(f"says something else of {ref!r} than the release")
        elif component.kind != "file" or ref not in files or files[ref] != component.digest:
            raise fields.fail(f"has {ref[:80]!r}, which is not of the release, or not with these bytes")
    missing = sorted(wanted.keys() - seen)
    if missing:
        raise fields.fail(f"leaves out {len(missing)} parts of the release, the first is {missing[0]!r}")


def _known(release: Release) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Return what the release itself says of each of its parts, by `bom-ref`: files apart, which need not be listed."""
    for part in release.parts:
        kind, _, name = part.component.partition("/")
        if part.wheel is not None:
            # The wheel's own file is known to the builder alone; what was unpacked from it, to the release.
            yield part.component, ("application", name, release.version, None)
            yield _wheel_ref(part), ("library", part.wheel.name, part.wheel.version, part.manifest)
        else:
            kind = _MODEL if kind == "model" else "application"
            yield part.component, (kind, name, release.version, part.manifest)
    for file in release.files:
        if file.path == GOLDEN_PATH:
            yield GOLDEN_PATH, ("data", GOLDEN_PATH, "", file.digest)


def _identity(component: Component) -> tuple[object, ...]:
    digest = component.manifest if component.kind == "library" else component.digest
    return component.kind, component.name, component.version, digest


def _wheel_ref(part: Part) -> str:
    assert part.wheel is not None
    return f"{part.component}/{part.wheel.name}"


def _hashes(digest: Digest) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest.hex}]


def _properties(**values: str) -> list[dict[str, str]]:
    return [{"name": f"airpack:{name}", "value": value} for name, value in sorted(values.items()) if value]


def _emit_licenses(licenses: Sequence[License]) -> list[dict[str, Any]]:
    """Return a licence choice: one expression, or a list of identifiers and names; `unknown` for none.

    `declared` says that these are the makers' own words, which nobody has looked into.
    """
    if not licenses:
        return [{"license": {"name": UNKNOWN}}]
    if licenses[0].kind == "expression":
        return [{"expression": licenses[0].text, "acknowledgement": "declared"}]
    return [{"license": {item.kind: item.text, "acknowledgement": "declared"}} for item in licenses]
