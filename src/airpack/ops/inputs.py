"""What a pack spec names, found on disk: files to pack, opened only when they are read."""

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Never

from airpack import fsops
from airpack.errors import IncompatibleError, InputError
from airpack.facts.golden import check_golden
from airpack.facts.identify import HEAD, identify
from airpack.facts.tensors import FORMATS, Layout, fit, read_layout
from airpack.facts.wheel import Wheel, read_wheels
from airpack.formats.compat import GOLDEN_PATH, CompatWheel
from airpack.formats.names import check_paths
from airpack.formats.package import FileInfo
from airpack.formats.packspec import ModelSpec, PackSpec, RuntimeSpec
from airpack.formats.release import ModelPart, PackedFile, RuntimePart
from airpack.ops.places import LEAST, Place, Placed
from airpack.types import Digest, Source, Tensor


@dataclass(frozen=True, slots=True)
class Component:
    """One part of the release before it is packed.

    Attributes:
        spec: What the pack spec says of it.
        sources: Its files, sorted by path; those of a model with the bounds of their tensors, those of a runtime solid.
        formats: Format by content of each file, for models.
        wheel: The wheel that the files come from, for runtimes of that kind.
        places: Where the bytes of each file lie.
    """

    spec: ModelSpec | RuntimeSpec
    sources: tuple[Source, ...]
    formats: tuple[str, ...] = ()
    wheel: Wheel | None = None
    places: tuple[Place, ...] = ()

    @property
    def folder(self) -> str:
        """The folder that the files land in, in a generation."""
        return f"{'model' if isinstance(self.spec, ModelSpec) else 'runtime'}/{self.spec.name}"


@dataclass(slots=True)
class Inputs:
    """Everything that goes into one release.

    Attributes:
        components: Models and runtimes, a runtime of wheels being one component per wheel.
        golden: The golden arrays, None without a probe that compares.
        golden_place: Where they lie.
    """

    components: list[Component] = field(default_factory=list)
    golden: Source | None = None
    golden_place: Place | None = None

    @property
    def sources(self) -> list[Source]:
        """All files in the order of the stream."""
        files = [source for component in self.components for source in component.sources]
        return files if self.golden is None else [*files, self.golden]

    @property
    def places(self) -> list[Place]:
        """Where each of `sources` lies."""
        places = [place for component in self.components for place in component.places]
        return places if self.golden_place is None else [*places, self.golden_place]

    @property
    def paths(self) -> list[str]:
        """The path of each of `sources` in a generation."""
        paths = [f"{each.folder}/{source.path}" for each in self.components for source in each.sources]
        return paths if self.golden is None else [*paths, GOLDEN_PATH]

    @property
    def size(self) -> int:
        """Bytes of all files; equal ones are counted each time."""
        return sum(source.size for source in self.sources)

    def distinct_size(self, digests: Sequence[Digest]) -> int:
        """Return the bytes of all files, equal ones once, given the digest of each in the order of `sources`."""
        return sum({digest: source.size for digest, source in zip(digests, self.sources, strict=True)}.values())

    def placed(self, digests: Sequence[Digest]) -> Iterator[Placed]:
        """Yield what to remember of where files lie: all of models, the large ones of everything else.

        Args:
            digests: The digest of each file, in the order of `sources`.
        """
        for source, digest, place, path in zip(self.sources, digests, self.places, self.paths, strict=True):
            if path.startswith("model/") or source.size >= LEAST:
                yield Placed(FileInfo(digest, source.size), place)

    def parts(self, digests: list[Digest]) -> tuple[list[ModelPart], list[RuntimePart], PackedFile | None]:
        """Return the parts of the release, given the digest of each file in the order of `sources`."""
        packed = iter(zip(self.sources, digests, strict=True))
        models: list[ModelPart] = []
        runtimes: list[RuntimePart] = []
        for component in self.components:
            files = tuple(_packed(component, packed))
            if isinstance(component.spec, ModelSpec):
                models.append(ModelPart(component.spec.name, files, component.spec.license))
            else:
                spec, wheel = component.spec, component.wheel
                compat = CompatWheel(wheel.name, wheel.version, wheel.tags) if wheel else None
                runtimes.append(RuntimePart(spec.name, spec.kind, spec.platform, files, compat))
        golden = next((PackedFile(source.path, digest, source.size) for source, digest in packed), None)
        return models, runtimes, golden


def _packed(component: Component, packed: Iterator[tuple[Source, Digest]]) -> Iterator[PackedFile]:
    formats = component.formats or ("",) * len(component.sources)
    for (source, digest), name in zip((next(packed) for _ in component.sources), formats, strict=True):
        yield PackedFile(source.path, digest, source.size, source.executable, name)


def gather(spec: PackSpec, base: Path, stack: ExitStack) -> Inputs:
    """Find everything that `spec` names.

    Args:
        spec: The pack spec.
        base: The folder that its paths are relative to.
        stack: Closes what stays open until the files are packed (wheels).

    Raises:
        InputError: A path is missing, or holds what cannot be packed.
        IncompatibleError: A model file is of a format that runs code when it is loaded.
        IntegrityError: A wheel is not what its RECORD says.
    """
    inputs = Inputs()
    for model in spec.models:
        sources, places = _collect(base / model.path, f"model {model.name!r}", modes=False)
        formats = tuple(_format(source) for source in sources)
        inputs.components.append(Component(model, bounded(sources, formats), formats, places=places))
    for runtime in spec.runtimes:
        inputs.components += _runtime(runtime, base, stack)
    if spec.probe is not None and spec.probe.golden:
        path = base / spec.probe.golden
        check_golden(path)
        inputs.golden, inputs.golden_place = _source(path, "golden.npz", modes=False), _place(path)
    return inputs


def _runtime(spec: RuntimeSpec, base: Path, stack: ExitStack) -> list[Component]:
    folder = base / spec.path
    if spec.kind != "wheels":
        sources, places = _collect(folder, f"runtime {spec.name!r}", modes=spec.kind != "web")
        return [Component(spec, _solid(sources), places=places)]
    if not _is_folder(folder):
        raise InputError(f"runtime {spec.name!r}: no folder {folder}", hint="pip download -d puts wheels into a folder")
    wheels = read_wheels(folder)
    for wheel in wheels:
        stack.callback(wheel.close)
    return [
        Component(
            spec,
            _solid(wheel.sources),
            wheel=wheel,
            places=tuple(replace(_place(folder / wheel.filename), member=source.path) for source in wheel.sources),
        )
        for wheel in wheels
    ]


def _solid(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """Return the files of a runtime, which are much alike and so are packed in one run."""
    return tuple(replace(source, solid=True) for source in sources)


def bounded(sources: tuple[Source, ...], formats: tuple[str, ...]) -> tuple[Source, ...]:
    """Return the files of a model with the bounds of tensors, as each file, or one that refers to it, says.

    Args:
        sources: All files of the model.
        formats: Format by content of each.
    """
    found: dict[str, list[Tensor]] = {}
    for source, name in zip(sources, formats, strict=True):
        layout = _layout(source, name)
        found.setdefault(source.path, []).extend(layout.tensors)
        folder = posixpath.dirname(source.path)
        for location, tensors in layout.external.items():
            found.setdefault(posixpath.normpath(posixpath.join(folder, location)), []).extend(tensors)
    return tuple(replace(source, tensors=fit(found[source.path], source.size)) for source in sources)


def _layout(source: Source, name: str) -> Layout:
    if name not in FORMATS:
        return Layout()
    with source.open() as stream:
        return read_layout(name, stream, source.size)


def _collect(path: Path, what: str, *, modes: bool) -> tuple[tuple[Source, ...], tuple[Place, ...]]:
    """Return the file at `path`, or all files below the folder at `path`, sorted, and where they lie."""
    if _is_folder(path):
        files = sorted(_walk(path))
        found = [_source(file, file.relative_to(path).as_posix(), modes=modes) for file in files]
    else:
        files, found = [path], [_source(path, path.name, modes=modes)]
    if not found:
        raise InputError(f"{what}: {path} holds no files")
    check_paths([source.path for source in found], error=InputError)
    return tuple(found), tuple(_place(file) for file in files)


def _place(path: Path) -> Place:
    return Place(Path(os.path.abspath(path)))  # noqa: PTH100 - links stay: the folder they lead to may be a newer one


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise InputError(f"cannot look at {path}: {error.strerror}", path=str(path)) from error


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        for name in files + [name for name in folders if Path(parent, name).is_symlink()]:
            yield Path(parent, name)


def _unreadable(error: OSError) -> Never:
    raise InputError(f"cannot read folder {error.filename}: {error.strerror}", path=str(error.filename)) from error


def _source(path: Path, name: str, *, modes: bool) -> Source:
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise InputError(f"no file or folder {path}", path=str(path)) from error
    except OSError as error:
        raise InputError(f"cannot look at {path}: {error.strerror}", path=str(path)) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{path} is not a regular file; links and devices are not packed",
            hint="`cp -rL` copies a folder with its links resolved",
        )
    executable = modes and bool(status.st_mode & 0o111)
    return Source(name, status.st_size, partial(_open, path), executable)


def _open(path: Path) -> BinaryIO:
    return os.fdopen(fsops.open_regular(path), "rb", buffering=0)


def _format(source: Source) -> str:
    with source.open() as stream:
        head = stream.read(HEAD)
    fact = identify(source.path, head, source.size)
    if fact.unsafe or fact.reason:
        raise IncompatibleError(
            f"{source.path} is {fact.name} by its bytes: {fact.reason}",
            hint="convert it to safetensors, GGUF or ONNX",
        )
    return fact.name
