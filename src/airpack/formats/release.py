"""A release: an OCI index that names its model, runtime and compatibility manifests.

    documents = assemble("encoder", "1.2.0", models=[...], runtimes=[...])     # at build
    release = read_release(documents.index, documents.blobs.__getitem__)       # at a site, once the index is trusted

The SHA-256 of the index is the release's identity. From the index everything else follows by digest, so that whoever
trusts the index needs no further signature to trust each file. `docs/spec/release.md`.

Law: `read_release` accepts whatever `assemble` returns, and gives back the same files; the same parts in any order give
the same bytes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from airpack.errors import AirpackError, InputError, IntegrityError
from airpack.formats import oci
from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.compat import (
    GOLDEN_PATH,
    KINDS,
    NATIVE,
    CompatDoc,
    CompatFile,
    CompatRuntime,
    CompatWheel,
    emit_wheel,
    read_wheel_fields,
)
from airpack.formats.fields import Fields
from airpack.formats.modelpack import ModelFile, emit_model, read_model
from airpack.formats.names import (
    Ref,
    check_component,
    check_path,
    check_paths,
    check_product,
    check_version,
    parse_release_name,
)
from airpack.formats.oci import require
from airpack.formats.probe import Probe
from airpack.types import Descriptor, Digest, Limits

RUNTIME_SCHEMA: Final = "airpack.runtime/1"
_EXECUTABLE: Final = "0755"
_GOLDEN_TITLE: Final = GOLDEN_PATH.rpartition("/")[2]
_COMPAT: Final = "compat"


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file whose digest is known because it has been packed.

    Attributes:
        path: Relative path below its component's folder.
        digest: Digest of the raw bytes.
        size: Length in bytes.
        executable: Whether it becomes mode 0755; of no effect on model files.
        format: Its format by content (`facts.identify`); needed for model files only.
    """

    path: str
    digest: Digest
    size: int
    executable: bool = False
    format: str = ""


@dataclass(frozen=True, slots=True)
class ModelPart:
    """A model to be released: its name, its files, its licence (SPDX expression or empty)."""

    name: str
    files: tuple[PackedFile, ...]
    license: str = ""


@dataclass(frozen=True, slots=True)
class RuntimePart:
    """A runtime to be released, or one wheel of it: then several parts share name and platform.

    Attributes:
        name: The folder below `runtime/`.
        kind: `wheels`, `binary`, `web` or `files`.
        platform: `os/architecture`; empty where any will do.
        files: The files.
        wheel: The wheel they come from, for the kind `wheels`; None otherwise.
    """

    name: str
    kind: str
    platform: str
    files: tuple[PackedFile, ...]
    wheel: CompatWheel | None = None


@dataclass(frozen=True, slots=True)
class ReleaseDocs:
    """The small blobs of a release.

    Attributes:
        index: The bytes of the index.
        digest: Their digest: the release digest.
        blobs: The index, the manifests and the configs, by digest.
        compat: What the compat document says.
        compat_digest: The digest of the compat document, which the release attestation repeats.
    """

    index: bytes
    digest: Digest
    blobs: Mapping[Digest, bytes]
    compat: CompatDoc
    compat_digest: Digest


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file of a generation.

    Attributes:
        path: Path in the generation: `model/NAME/...`, `runtime/NAME/...` or `probe/golden.npz`.
        digest: Digest of the raw bytes.
        size: Length in bytes.
        executable: Whether it is executable at the site.
        media_type: The media type of its layer.
        component: `model/NAME`, `runtime/NAME` or `compat`.
        license: The licence of its model; empty for anything else.
    """

    path: str
    digest: Digest
    size: int
    executable: bool
    media_type: str
    component: str
    license: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model of a release: its name, its licence, and the one format of its weights (empty for several)."""

    name: str
    license: str
    format: str


@dataclass(frozen=True, slots=True)
class Part:
    """A manifest of files in a release: a model, a runtime, or one wheel of a runtime.

    Attributes:
        component: `model/NAME` or `runtime/NAME`.
        manifest: Digest of its OCI manifest.
        wheel: The wheel that its files come from; None for anything else.
    """

    component: str
    manifest: Digest
    wheel: CompatWheel | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Everything a site needs to know of a release whose index it trusts.

    Attributes:
        product: The product.
        version: Its version.
        digest: The release digest.
        files: Every file of the generation, sorted by path.
        models: Every model, sorted by name.
        parts: Every manifest of a model or of a runtime, sorted by component and wheel.
        compat: The compat document, which also lists the runtimes.
        compat_digest: The digest of the compat document.
        small: Digests of the index, the manifests and the configs: what must be kept beside the files.
    """

    product: str
    version: str
    digest: Digest
    files: tuple[ReleaseFile, ...]
    models: tuple[ModelInfo, ...]
    parts: tuple[Part, ...]
    compat: CompatDoc
    compat_digest: Digest
    small: frozenset[Digest]

    @property
    def name(self) -> str:
        """`product@version`."""
        return f"{self.product}@{self.version}"


def assemble(
    product: str,
    version: str,
    *,
    models: Sequence[ModelPart],
    runtimes: Sequence[RuntimePart] = (),
    probe: Probe | None = None,
    golden: PackedFile | None = None,
    memory: int = 0,
) -> ReleaseDocs:
    """Return the documents of a release whose files have been packed.

    Args:
        product: The product.
        version: Its version.
        models: At least one, names unique.
        runtimes: One part per wheel for the kind `wheels`, one per runtime otherwise.
        probe: The smoke test; its `golden` is replaced by the place where `golden` lands.
        golden: The golden arrays, given exactly when `probe` names some; its path does not matter.
        memory: Asserted need of memory in bytes; 0 for none.

    Returns:
        Documents that depend on nothing but the arguments, and not on their order.

    Raises:
        InputError: A name or path breaks a rule, two files collide in the generation, or a limit is exceeded.
    """
    check_product(product, error=InputError)
    check_version(version, error=InputError)
    if (golden is not None) != bool(probe and probe.golden):
        raise InputError("golden arrays and a probe that compares with them are needed together")
    if not models:
        raise InputError("a release holds at least one model")
    if probe is not None and probe.golden:
        probe = replace(probe, golden=GOLDEN_PATH)
    builder = _Builder()
    for model in sorted(models, key=lambda part: part.name):
        builder.add_model(model)
    for runtime in sorted(runtimes, key=_runtime_order):
        builder.add_runtime(runtime)
    if golden is not None:
        builder.add_golden(golden)
    compat = builder.compat(product, version, probe=probe, memory=memory)
    return builder.finish(compat, golden)


def read_release(index: bytes, blob: Callable[[Digest], bytes]) -> Release:
    """Return the release that a trusted index describes.

    Args:
        index: The bytes of the index; the caller has checked that its digest is trusted.
        blob: Returns the bytes of a manifest or config by digest, or raises KeyError; they are hashed again here.

    Raises:
        IntegrityError: A document is not of its one form, does not have its digest or size, or two contradict each
            other; a path breaks a rule; two files collide; or a limit is exceeded.
    """
    parsed = oci.parse_index(index)
    ref = _release_name(parsed)
    # Each is read once: an index of 4 MiB could name one manifest of 4 MiB twenty thousand times.
    distinct = {child.digest for child in parsed.manifests}
    require(len(distinct) == len(parsed.manifests), "the release names one manifest twice")
    reader = _Reader(blob)
    for child in parsed.manifests:
        reader.add(child)
    files = _merge(reader.files, error=IntegrityError)
    compat = reader.compat
    if compat is None or reader.compat_digest is None:
        raise IntegrityError("the release has no compat manifest")
    require(Ref(compat.product, compat.version) == ref, "the compat document is of another release than the index")
    _agree(compat, reader, files)
    return Release(
        product=compat.product,
        version=compat.version,
        digest=Digest.of(index),
        files=files,
        models=tuple(sorted(reader.models, key=lambda model: model.name)),
        parts=tuple(sorted(reader.parts, key=lambda part: (part.component, part.wheel.name if part.wheel else ""))),
        compat=compat,
        compat_digest=reader.compat_digest,
        small=frozenset(reader.small | {Digest.of(index)}),
    )


class _Builder:
    """Collects the children of an index, and the files of the generation that they give."""

    def __init__(self) -> None:
        self._children: list[Descriptor] = []
        self._blobs: dict[Digest, bytes] = {}
        self._files: list[ReleaseFile] = []
        self._model_files: list[CompatFile] = []
        self._runtimes: list[RuntimePart] = []
        self._models: set[str] = set()

    def add_model(self, part: ModelPart) -> None:
        check_component(part.name, error=InputError)
        component = f"model/{part.name}"
        if part.name in self._models:
            raise InputError(f"two models have the name {part.name!r}")
        self._models.add(part.name)
        _need_files(part.files, component)
        manifest, config = emit_model(
            part.name, part.license, [ModelFile(file.path, file.digest, file.size, file.format) for file in part.files]
        )
        self._keep(config)
        self._child(manifest, component)
        for file in part.files:
            path = f"{component}/{file.path}"
            self._files.append(ReleaseFile(path, file.digest, file.size, False, "", component, part.license))
            self._model_files.append(CompatFile(path, file.format, file.size))

    def add_runtime(self, part: RuntimePart) -> None:
        check_component(part.name, error=InputError)
        component = f"runtime/{part.name}"
        _need_files(part.files, component)
        self._runtimes.append(part)
        config: dict[str, Any] = {"schema": RUNTIME_SCHEMA, "name": part.name, "kind": part.kind}
        if part.wheel is not None:
            config["wheel"] = emit_wheel(part.wheel)
        layers = tuple(_runtime_layer(file) for file in sorted(part.files, key=lambda file: file.path))
        manifest = oci.Manifest(oci.RUNTIME, self._config(emit(config), oci.RUNTIME_CONFIG), layers)
        self._child(oci.emit_manifest(manifest), component, platform=_platform_value(part.platform))
        for file in part.files:
            path = f"{component}/{file.path}"
            self._files.append(ReleaseFile(path, file.digest, file.size, file.executable, "", component))

    def add_golden(self, golden: PackedFile) -> None:
        self._files.append(ReleaseFile(GOLDEN_PATH, golden.digest, golden.size, False, "", _COMPAT))

    def compat(self, product: str, version: str, *, probe: Probe | None, memory: int) -> CompatDoc:
        files = _merge(self._files, error=InputError)
        return CompatDoc(
            product=product,
            version=version,
            files=tuple(sorted(self._model_files)),
            runtimes=_runtimes(self._runtimes, error=InputError),
            total_bytes=sum(file.size for file in files),
            total_files=len(files),
            memory=memory,
            probe=probe,
        )

    def finish(self, compat: CompatDoc, golden: PackedFile | None) -> ReleaseDocs:
        document = compat.emit()
        if len(document) > Limits.DOCUMENT:
            raise InputError(
                f"the compat document would have {len(document)} bytes; at most {Limits.DOCUMENT} are read"
            )
        layers = () if golden is None else (_golden_layer(golden),)
        manifest = oci.Manifest(oci.COMPAT, self._config(document, oci.COMPAT_CONFIG), layers)
        self._child(oci.emit_manifest(manifest), _COMPAT)
        name = {oci.RELEASE_ANNOTATION: f"{compat.product}@{compat.version}"}
        index = oci.emit_index(oci.Index(tuple(self._children), name))
        digest = self._keep(index)
        if len(self._blobs) > Limits.BLOBS:
            raise InputError(f"the release would have {len(self._blobs)} small blobs; at most {Limits.BLOBS} are read")
        return ReleaseDocs(index, digest, dict(sorted(self._blobs.items())), compat, Digest.of(document))

    def _keep(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        self._blobs[digest] = data
        return digest

    def _config(self, data: bytes, media_type: str) -> Descriptor:
        return Descriptor(media_type, self._keep(data), len(data))

    def _child(self, manifest: bytes, component: str, platform: Mapping[str, str] | None = None) -> None:
        self._children.append(
            Descriptor(
                media_type=oci.MANIFEST,
                digest=self._keep(manifest),
                size=len(manifest),
                annotations={oci.COMPONENT_ANNOTATION: component},
                platform=platform or {},
            )
        )


class _Reader:
    """Reads the children of an index one by one, each byte hashed before it is parsed."""

    def __init__(self, blob: Callable[[Digest], bytes]) -> None:
        self._blob = blob
        self.files: list[ReleaseFile] = []
        self.models: list[ModelInfo] = []
        self.runtimes: list[RuntimePart] = []
        self.parts: list[Part] = []
        self.compat: CompatDoc | None = None
        self.compat_digest: Digest | None = None
        self.golden = False
        self.small: set[Digest] = set()

    def add(self, child: Descriptor) -> None:
        component = child.annotations.get(oci.COMPONENT_ANNOTATION, "")
        require(child.media_type == oci.MANIFEST, f"{component!r} of the release is not an OCI manifest")
        require(len(child.annotations) == 1, f"{component!r} of the release carries unknown annotations")
        kind, _, name = component.partition("/")
        require(kind == "runtime" or not child.platform, f"{component}: only a runtime has a platform")
        manifest = oci.parse_manifest(self._bytes(child, component), what=component)
        require(manifest.subject is None and not manifest.annotations, f"{component}: its manifest has foreign fields")
        plain = Descriptor(manifest.config.media_type, manifest.config.digest, manifest.config.size)
        require(manifest.config == plain, f"{component}: its config descriptor has foreign fields")
        config = self._bytes(manifest.config, f"{component} config")
        if kind == "model":
            self._model(check_component(name), manifest, config)
            self.parts.append(Part(component, child.digest))
        elif kind == "runtime":
            self._runtime(check_component(name), child, manifest, config)
        elif component == _COMPAT:
            self._compat(manifest, config)
        else:
            raise IntegrityError(f"the release holds a component of unknown kind: {component[:80]!r}")

    def _bytes(self, descriptor: Descriptor, what: str) -> bytes:
        try:
            data = self._blob(descriptor.digest)
        except KeyError as error:
            raise IntegrityError(f"{what}: the blob {descriptor.digest} is not there") from error
        require(
            len(data) == descriptor.size and Digest.of(data) == descriptor.digest,
            f"{what}: the bytes are not those of {descriptor.digest} with {descriptor.size} bytes",
        )
        self.small.add(descriptor.digest)
        return data

    def _model(self, name: str, manifest: oci.Manifest, config: bytes) -> None:
        component = f"model/{name}"
        model = read_model(manifest, config, what=component)
        require(model.name == name, f"{component}: its config calls it {model.name[:80]!r}")
        require(all(other.name != name for other in self.models), f"two models have the name {name!r}")
        self.models.append(ModelInfo(name, model.license, model.format))
        self.files += [
            ReleaseFile(
                f"{component}/{path}", layer.digest, layer.size, False, layer.media_type, component, model.license
            )
            for path, layer in model.layers
        ]

    def _runtime(self, name: str, child: Descriptor, manifest: oci.Manifest, config: bytes) -> None:
        component = f"runtime/{name}"
        require(
            manifest.artifact_type == oci.RUNTIME and manifest.config.media_type == oci.RUNTIME_CONFIG,
            f"{component}: not a runtime manifest",
        )
        fields = Fields(parse_canonical(config, what=f"{component} config"), what=f"{component} config")
        fields.schema(RUNTIME_SCHEMA)
        require(fields.text("name") == name, f"{component}: its config has another name")
        kind = fields.text("kind", choices=KINDS)
        wheel = read_wheel_fields(fields.table("wheel")) if kind == "wheels" else None
        fields.done()
        files = [_runtime_file(component, layer) for layer in manifest.layers]
        paths = [file.path for file in files]
        require(
            bool(paths) and paths == sorted(set(paths)), f"{component}: its layers are not one or more files in order"
        )
        self.files += files
        self.parts.append(Part(component, child.digest, wheel))
        platform = "/".join((child.platform["os"], child.platform["architecture"])) if child.platform else ""
        self.runtimes.append(RuntimePart(name, kind, platform, (), wheel))

    def _compat(self, manifest: oci.Manifest, config: bytes) -> None:
        require(self.compat is None, "the release has two compat manifests")
        require(
            manifest.artifact_type == oci.COMPAT and manifest.config.media_type == oci.COMPAT_CONFIG,
            "compat: not a compat manifest",
        )
        self.compat, self.compat_digest = CompatDoc.parse(config), manifest.config.digest
        require(len(manifest.layers) <= 1, "compat: holds more than the golden arrays")
        for layer in manifest.layers:
            expected = _golden_layer(PackedFile(_GOLDEN_TITLE, layer.digest, layer.size))
            require(layer == expected, "compat: its layer is not of the one form for golden arrays")
            self.golden = True
            self.files.append(ReleaseFile(GOLDEN_PATH, layer.digest, layer.size, False, oci.GOLDEN, _COMPAT))


def _release_name(index: oci.Index) -> Ref:
    require(
        index.annotations.keys() == {oci.RELEASE_ANNOTATION}, f"the index must carry {oci.RELEASE_ANNOTATION} alone"
    )
    return parse_release_name(index.annotations[oci.RELEASE_ANNOTATION])


def _agree(compat: CompatDoc, reader: _Reader, files: Sequence[ReleaseFile]) -> None:
    """Hold the compat document against the manifests: it may not speak of other files than those that are there."""
    models = [(file.path, file.size) for file in files if file.component.startswith("model/")]
    require([(file.path, file.size) for file in compat.files] == models, "the compat document lists other model files")
    require(
        compat.runtimes == _runtimes(reader.runtimes, error=IntegrityError), "the compat document lists other runtimes"
    )
    totals = (sum(file.size for file in files), len(files))
    require((compat.total_bytes, compat.total_files) == totals, "the compat document has other totals than the files")
    golden = compat.probe.golden if compat.probe else ""
    require(golden == (GOLDEN_PATH if reader.golden else ""), "the probe's golden arrays are not those of the release")


def _merge(files: Iterable[ReleaseFile], *, error: type[AirpackError]) -> tuple[ReleaseFile, ...]:
    """Return the files of the generation, sorted, once they can stand in one tree.

    The same path with the same bytes and mode may come from several wheels (a shared `__init__.py`); anything else that
    meets at one path is refused.
    """
    merged: dict[str, ReleaseFile] = {}
    sizes: dict[Digest, int] = {}
    for file in files:
        if sizes.setdefault(file.digest, file.size) != file.size:
            raise error(f"{file.path}: {file.digest} is said to have both {sizes[file.digest]} and {file.size} bytes")
        if file.size > Limits.FILE:
            raise error(f"{file.path} has {file.size} bytes; at most {Limits.FILE} are allowed")
        known = merged.setdefault(file.path, file)
        shareable = file.component.startswith("runtime/") and known.component == file.component
        if known is not file and not (shareable and known == file):
            raise error(f"two different files would land at {file.path}", path=file.path)
    if len(merged) > Limits.FILES:
        raise error(f"the release has {len(merged)} files; at most {Limits.FILES} are allowed")
    check_paths(merged, error=error)
    return tuple(sorted(merged.values(), key=lambda file: file.path))


def _runtimes(parts: Iterable[RuntimePart], *, error: type[AirpackError]) -> tuple[CompatRuntime, ...]:
    """Return one entry per runtime: the wheels of one name together, any other kind alone."""
    groups: dict[str, list[RuntimePart]] = {}
    for part in parts:
        if (part.wheel is not None) != (part.kind == "wheels"):
            raise error(f"runtime/{part.name}: a wheel belongs to the kind wheels, and to no other")
        if part.kind in NATIVE and not part.platform:
            raise error(f"runtime/{part.name}: the kind {part.kind} needs a platform")
        groups.setdefault(part.name, []).append(part)
    return tuple(_one_runtime(groups[name], error) for name in sorted(groups))


def _one_runtime(parts: Sequence[RuntimePart], error: type[AirpackError]) -> CompatRuntime:
    first = parts[0]
    if any((part.kind, part.platform) != (first.kind, first.platform) for part in parts):
        raise error(f"runtime/{first.name}: its wheels differ in kind or platform")
    wheels = sorted(part.wheel for part in parts if part.wheel is not None)
    if len(parts) > 1 and first.kind != "wheels":
        raise error(f"two runtimes have the name {first.name!r}")
    if len({wheel.name for wheel in wheels}) != len(wheels):
        raise error(f"runtime/{first.name}: holds one project twice")
    return CompatRuntime(first.name, first.kind, first.platform, tuple(wheels))


def _runtime_order(part: RuntimePart) -> tuple[str, str]:
    return part.name, part.wheel.name if part.wheel else ""


def _runtime_layer(file: PackedFile) -> Descriptor:
    annotations = {oci.TITLE_ANNOTATION: file.path}
    if file.executable:
        annotations[oci.MODE_ANNOTATION] = _EXECUTABLE
    return Descriptor(oci.RUNTIME_FILE, file.digest, file.size, annotations)


def _runtime_file(component: str, layer: Descriptor) -> ReleaseFile:
    path = check_path(layer.annotations.get(oci.TITLE_ANNOTATION, ""))
    executable = oci.MODE_ANNOTATION in layer.annotations
    file = ReleaseFile(f"{component}/{path}", layer.digest, layer.size, executable, oci.RUNTIME_FILE, component)
    expected = _runtime_layer(PackedFile(path, layer.digest, layer.size, executable))
    require(layer == expected, f"{component}: the layer of {path} is not of the one form for a runtime's file")
    return file


def _golden_layer(golden: PackedFile) -> Descriptor:
    return Descriptor(oci.GOLDEN, golden.digest, golden.size, {oci.TITLE_ANNOTATION: _GOLDEN_TITLE})


def _platform_value(platform: str) -> Mapping[str, str]:
    system, _, architecture = platform.partition("/")
    return {"os": system, "architecture": architecture} if platform else {}


def _need_files(files: Sequence[PackedFile], component: str) -> None:
    if not files:
        raise InputError(f"{component} holds no file", hint="look at its `path` in the pack spec")
    for file in files:
        check_path(file.path, error=InputError)
