"""What a runtime is: all readers of native files and of Python projects, over one folder.

    runtime_facts(Path("wheels"))           ->  RuntimeFacts(native=(...), projects=(...), onnxruntime=(...), ...)
    runtime_facts(Path("runtime/llama"))

A folder of wheels is read as the folder that they unpack to. What a file is, its bytes say: names decide nothing, but
for `.py`, which no loader of native code takes. Nothing is loaded or run.

A file that cannot be read is a `Problem`, and what it would have said is left out: unknown. Only a disk or medium that
fails, or a wheel that is not what its RECORD says, ends the whole.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Never, TypeVar

from airpack.errors import InputError, IntegrityError, StorageError
from airpack.facts import llamacpp, onnxruntime, projects, registries
from airpack.facts.closure import read_closure
from airpack.facts.elf import MAGIC, READ, Elf, facts_of
from airpack.facts.fatbin import read_fatbins
from airpack.facts.projects import Project
from airpack.facts.reader import MalformedError, Reader
from airpack.facts.symbols import Symbols
from airpack.facts.wheel import read_wheel, read_wheels
from airpack.formats.facts import Problem
from airpack.formats.runtimefacts import (
    ClosureFacts,
    CudaFacts,
    ElfFacts,
    GgmlFacts,
    LlamaBuild,
    LlamaFacts,
    NumpyUse,
    OnnxRuntimeFacts,
    RuntimeFacts,
)
from airpack.fsops.files import open_regular
from airpack.types import Limits, Source

_OPEN: Final = 600  # native files open at once, of some thousand that a process may have
_SPOOL: Final = 16 << 30  # bytes of native files inside wheels, which are unpacked to a temporary file each
_PIECE: Final = 1 << 20
_PROBLEMS: Final = 256
_SOURCES: Final = frozenset({registries.VLLM_REGISTRY, registries.VLLM_QUANTIZATION, *registries.TRANSFORMERS})
_LLAMA: Final = (b"llama_model_default_params", b"llama_backend_init", b"llama_load_model_from_file")
_ONNXRUNTIME: Final = (b"OrtGetApiBase", b"PyInit_onnxruntime_pybind11_state")

_T = TypeVar("_T")


def tells(path: str, name: str) -> bool:
    """Return whether a file is one that says what a runtime is: native code, a wheel, a project, or a registry.

    Args:
        path: The file, below the runtime's folder.
        name: What `facts.identify` says that it is.
    """
    return name == "elf" or path.endswith((".whl", ".dist-info/METADATA")) or path in _SOURCES


def runtime_facts(path: Path) -> RuntimeFacts:
    """Return what a runtime is.

    Args:
        path: A folder of a runtime's files, a folder of wheels, one wheel, or one native file.

    Raises:
        InputError: A wheel is none, or stands there twice.
        IntegrityError: A wheel is not what its RECORD says; the path itself is a link or a device.
        NotFoundError: There is no such path.
        StorageError: The disk or medium failed.
    """
    with ExitStack() as stack:
        files, problems = _files(path)
        if files and not problems and all(file.path.endswith(".whl") for file in files):
            wheels = read_wheels(path) if path.is_dir() else (read_wheel(path),)
            for wheel in wheels:
                stack.callback(wheel.close)
            sources = [source for wheel in wheels for source in wheel.sources]
            return read_runtime(sources, found=[projects.of_wheel(wheel) for wheel in wheels])
        return read_runtime(files, problems=problems)


def read_runtime(
    sources: Sequence[Source], *, found: Sequence[Project] | None = None, problems: Sequence[Problem] = ()
) -> RuntimeFacts:
    """Return what a runtime of these files is.

    Args:
        sources: Its files, by their paths below its folder.
        found: Its projects, where wheels told them; else they are looked for in the folder.
        problems: What is known to be unreadable already.

    Raises:
        InputError: More files than a release may have.
        IntegrityError: A file is not what the wheel that it is in says.
        StorageError: The disk or medium failed.
    """
    if len(sources) > Limits.FILES:
        raise InputError(f"{len(sources)} files; at most {Limits.FILES} are read")
    with ExitStack() as stack:
        return _Reading(stack, problems).all(sources, found)


def _files(path: Path) -> tuple[list[Source], list[Problem]]:
    """Return the files below a path, and what there is no file: links and devices, which are never followed."""
    if not path.is_dir():
        return [_source(path, path.name)], []
    found: list[Source] = []
    problems: list[Problem] = []
    for parent, folders, names in os.walk(path, onerror=_unreadable):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*names, *links):
            file = Path(parent, name)
            try:
                found.append(_source(file, file.relative_to(path).as_posix()))
            except IntegrityError:
                problems.append(Problem("a link, a device or a pipe", None, file.relative_to(path).as_posix()))
    return sorted(found, key=lambda source: source.path), sorted(problems, key=lambda problem: problem.path)


def _unreadable(error: OSError) -> Never:
    raise StorageError(f"cannot read folder {error.filename}: {error.strerror}", path=str(error.filename)) from error


def _source(path: Path, name: str) -> Source:
    descriptor = open_regular(path)
    try:
        return Source(name, os.fstat(descriptor).st_size, partial(_open, path))
    finally:
        os.close(descriptor)


def _open(path: Path) -> BinaryIO:
    return os.fdopen(open_regular(path), "rb")


class _Reading:
    """One runtime being read; its native files stay open until all of them were looked at together."""

    def __init__(self, stack: ExitStack, problems: Iterable[Problem]) -> None:
        self._stack = stack
        self._spooled = 0
        self._elves: dict[str, tuple[Elf, ElfFacts]] = {}
        self._python: dict[str, bytes] = {}
        self._numpy: dict[str, NumpyUse] = {}
        self._extensions: set[str] = set()
        self._cuda: list[CudaFacts] = []
        self._onnxruntime: list[OnnxRuntimeFacts] = []
        self._llama: list[LlamaFacts] = []
        self._builds: list[LlamaBuild] = []
        self._ggml: list[GgmlFacts] = []
        self._problems = list(problems)[:_PROBLEMS]

    def all(self, sources: Sequence[Source], found: Sequence[Project] | None) -> RuntimeFacts:
        for source in sources:
            self._tried(source.path, partial(self._file, source))
        for path in sorted(self._elves):
            self._native(path, self._elves[path][0])
        if found is None:
            found = self._tried("", partial(projects.find_projects, sources)) or ()
        native = {path: facts for path, (_, facts) in sorted(self._elves.items())}
        described = tuple(projects.read_project(project, native, self._numpy, self._extensions) for project in found)
        versions = {project.name: project.version for project in found}
        return RuntimeFacts(
            files=len(sources),
            size=sum(source.size for source in sources),
            native=tuple(native.values()),
            closure=self._closure(),
            cuda=tuple(self._cuda),
            projects=described,
            pins=projects.pins(described),
            onnxruntime=tuple(self._onnxruntime),
            llama=tuple(self._llama),
            builds=tuple(self._builds),
            ggml=tuple(self._ggml),
            vllm=self._tried(
                registries.VLLM_REGISTRY, partial(registries.read_vllm, self._python, versions.get("vllm", ""))
            ),
            transformers=self._tried(
                registries.TRANSFORMERS[0],
                partial(registries.read_transformers, self._python, versions.get("transformers", "")),
            ),
            problems=tuple(self._problems),
        )

    def _tried(self, path: str, read: Callable[[], _T]) -> _T | None:
        """Return what a reader returns; None, and a problem, where it can make no sense of the file."""
        try:
            return read()
        except MalformedError as error:
            if len(self._problems) < _PROBLEMS:
                self._problems.append(Problem(error.reason, error.at, path))
            return None

    def _file(self, source: Source) -> None:
        """Keep a file for what follows, when it is native code or a registry."""
        if source.path in _SOURCES:
            if source.size > registries.SOURCE:
                raise MalformedError(f"{source.size} bytes; at most {registries.SOURCE} are read", 0)
            with source.open() as stream:
                self._python[source.path] = stream.read(registries.SOURCE)
        if source.path.endswith(".whl"):
            raise MalformedError("a wheel among other files is not looked into", 0)
        if source.path.endswith(".py") or source.size < len(MAGIC):
            return
        reader = self._reader(source)
        if reader is not None:
            elf = Elf(reader)
            self._elves[source.path] = (elf, facts_of(elf))

    def _reader(self, source: Source) -> Reader | None:
        """Return a reader of a file of native code; None for other files, which are closed."""
        with ExitStack() as opened:
            stream = opened.enter_context(source.open())
            head = stream.read(len(MAGIC))
            if head != MAGIC:
                return None
            if len(self._elves) >= _OPEN:
                raise MalformedError(f"native code beyond the first {_OPEN} files", 0)
            if not stream.seekable():
                stream = self._spool(source, head, stream, opened)
            self._stack.push(opened.pop_all())
            return Reader(stream, source.size, what=source.path, read=READ)

    def _spool(self, source: Source, head: bytes, stream: BinaryIO, opened: ExitStack) -> BinaryIO:
        """Return a file that can be read by offset, with the bytes of one inside a wheel."""
        self._spooled += source.size
        if self._spooled > _SPOOL:
            raise MalformedError(f"more than {_SPOOL} bytes of native code inside wheels", 0)
        try:
            spool = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
            piece = head
            while piece:
                spool.write(piece)
                piece = stream.read(_PIECE)
            spool.flush()
        except OSError as error:
            raise StorageError(
                f"cannot unpack {source.path}: {error.strerror}", hint="TMPDIR names the folder for it"
            ) from error
        return spool

    def _native(self, path: str, elf: Elf) -> None:
        """Read what one native file says beside its headers."""
        if elf.kind not in {"shared", "executable"}:
            return
        code = self._tried(path, partial(read_fatbins, elf))
        if code:
            self._cuda.append(CudaFacts(path, code))
        if self._tried(path, partial(projects.is_extension, path, elf)):
            self._extensions.add(path)
            use = self._tried(path, partial(projects.read_numpy, path, elf))
            if use is not None:
                self._numpy[path] = use
        if self._exports(path, elf, _ONNXRUNTIME):
            self._keep(path, partial(onnxruntime.read_onnxruntime, elf), self._onnxruntime)
        if elf.interpreter or self._exports(path, elf, _LLAMA):
            self._keep(path, partial(llamacpp.read_llama, elf), self._llama)
        self._keep(path, partial(llamacpp.read_build, elf), self._builds)
        self._keep(path, partial(llamacpp.read_ggml, elf), self._ggml)

    def _exports(self, path: str, elf: Elf, names: Iterable[bytes]) -> bool:
        symbols = Symbols(elf)
        return bool(self._tried(path, lambda: any(symbols.defines(name, "") for name in names)))

    def _keep(self, path: str, read: Callable[[], _T | None], kept: list[_T]) -> None:
        found = self._tried(path, read)
        if found is not None:
            kept.append(found)

    def _closure(self) -> ClosureFacts | None:
        linked = {path: each for path, each in self._elves.items() if each[1].kind in {"shared", "executable"}}
        return self._tried("", partial(read_closure, linked))
