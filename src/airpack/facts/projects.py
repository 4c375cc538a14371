"""What a Python project in a runtime says of itself, held against what its files are.

    find_projects(sources)                     ->  the projects whose .dist-info lies in an unpacked runtime
    read_project(project, native, numpy)       ->  ProjectFacts(tags=..., glibc="2.28", contradictions=(...), ...)
    pins(projects)                             ->  which of their requirements hold between them

Core metadata and binary distribution format (PyPA specifications); platform tags: PEP 513, 571, 599, 600, 656.
Tags are claims: files of another machine, or that need a newer C library than the tag allows, contradict them.
"""

import csv
import email.parser
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from airpack.facts.closure import version_key
from airpack.facts.elf import Elf
from airpack.facts.names import find_names, search
from airpack.facts.reader import MalformedError
from airpack.facts.symbols import Symbols
from airpack.facts.wheel import Wheel
from airpack.formats.runtimefacts import Contradiction, ElfFacts, NumpyUse, Pin, ProjectFacts
from airpack.types import Source

_METADATA: Final = 4 << 20  # bytes of METADATA or WHEEL
_HEADERS: Final = 1 << 20  # bytes of their headers
_RECORD: Final = 64 << 20  # bytes of RECORD
_REQUIREMENTS: Final = 2000  # of one project
_REQUIREMENT: Final = 1024  # characters of one
_TAGS: Final = 256
_BLANK: Final = re.compile(rb"\r?\n\r?\n|\r\r")
_INFO: Final = re.compile(r"([^/]+)-([^-/]+)\.dist-info/METADATA\Z")
_EXTENSION: Final = re.compile(r"([^/.]+)\.(?:(cpython-(\d)(\d{1,2})t?|abi3)[^/]*\.)?so\Z")
_PLATFORM: Final = re.compile(
    r"(manylinux|musllinux)_(\d{1,3})_(\d{1,3})_(\w+)\Z|(manylinux(?:1|2010|2014)|linux)_(\w+)\Z"
)
_OLDER: Final = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_MACHINES: Final = {
    "x86_64": "amd64",
    "i686": "386",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}
_GLIBC: Final = re.compile(r"GLIBC_(\d{1,3})\.(\d{1,3})(?:\.\d{1,3})?\Z")
_EVERYWHERE: Final = frozenset(  # libraries that PEP 600's tags promise of every host
    {
        "libgcc_s.so.1",
        "libstdc++.so.6",
        "libm.so.6",
        "libmvec.so.1",
        "libdl.so.2",
        "librt.so.1",
        "libc.so.6",
        "libnsl.so.1",
        "libutil.so.1",
        "libpthread.so.0",
        "libresolv.so.2",
        "libanl.so.1",
        "libX11.so.6",
        "libXext.so.6",
        "libXrender.so.1",
        "libICE.so.6",
        "libSM.so.6",
        "libGL.so.1",
        "libgobject-2.0.so.0",
        "libgthread-2.0.so.0",
        "libglib-2.0.so.0",
        "libz.so.1",
        "libexpat.so.1",
        "libatomic.so.1",
        "ld-linux-x86-64.so.2",
        "ld-linux.so.2",
        "ld-linux-aarch64.so.1",
        "ld-linux-armhf.so.3",
        "ld64.so.2",
        "ld64.so.1",
        "ld-linux-riscv64-lp64d.so.1",
        "ld-linux-loongarch-lp64d.so.1",
    }
)
_ARRAY: Final = "_ARRAY_API"  # NumPy's C interface, as a module asks for it
_NEW: Final = ("numpy._core._multiarray_umath", "numpy._core.multiarray", "numpy._core")
_LEAST: Final = re.compile(rb"\(NumPy (\d{1,2}\.\d{1,3})\+?\) but the running NumPy")


@dataclass(frozen=True, slots=True)
class Project:
    """A project before its files are looked at.

    Attributes:
        name: Normalised project name (PEP 503).
        version: Its version, as it is given.
        filename: Of its wheel; empty where it was unpacked.
        tags: Tags of the wheel's name; of its WHEEL file where that is all there is.
        metadata: The headers of METADATA.
        paths: Its files.
    """

    name: str
    version: str
    filename: str
    tags: tuple[str, ...]
    metadata: bytes
    paths: frozenset[str]


def of_wheel(wheel: Wheel) -> Project:
    """Return the project of a wheel that was read."""
    paths = {source.path: source for source in wheel.sources}
    metadata = next(source for path, source in paths.items() if _INFO.match(path))
    return Project(wheel.name, wheel.version, wheel.filename, wheel.tags, _headers(metadata), frozenset(paths))


def find_projects(sources: Iterable[Source]) -> tuple[Project, ...]:
    """Return the projects that lie unpacked in a folder, sorted by name.

    Args:
        sources: Its files.

    Raises:
        MalformedError: Metadata is longer than any real one.
        StorageError: It cannot be read.
    """
    by_path = {source.path: source for source in sources}
    found = []
    for path, source in by_path.items():
        match = _INFO.match(path)
        if match is None:
            continue
        folder = path.removesuffix("/METADATA")
        wheel, record = by_path.get(f"{folder}/WHEEL"), by_path.get(f"{folder}/RECORD")
        tags = email.parser.BytesHeaderParser().parsebytes(_headers(wheel)).get_all("Tag", []) if wheel else []
        paths = frozenset(_recorded(record)) if record else frozenset()
        name = canonicalize_name(match[1])
        found.append(Project(name, match[2], "", tuple(sorted(set(map(str, tags))))[:_TAGS], _headers(source), paths))
    return tuple(sorted(found, key=lambda project: (project.name, project.version)))


def read_project(
    project: Project, native: Mapping[str, ElfFacts], numpy: Mapping[str, NumpyUse], extensions: Iterable[str] = ()
) -> ProjectFacts:
    """Return what a project says, and what its native files say against it.

    Args:
        project: The project.
        native: Facts of native files by path, of this project and of others.
        numpy: Uses of NumPy's C interface by path, likewise.
        extensions: Paths of native files that are Python extension modules, likewise.
    """
    headers = email.parser.BytesHeaderParser().parsebytes(project.metadata)
    own = {path: facts for path, facts in sorted(native.items()) if path in project.paths}
    inside = {name for path, facts in own.items() for name in (path.rpartition("/")[2], facts.soname)}
    outside = {need.name for facts in own.values() for need in facts.needed} - inside - _EVERYWHERE
    needs = [
        (version_key(need.version), path, need.version, need.at)
        for path, facts in own.items()
        for need in facts.versions
        if _GLIBC.match(need.version) and not need.weak
    ]
    highest = max(needs, default=None)
    return ProjectFacts(
        name=project.name,
        version=project.version,
        filename=project.filename,
        tags=project.tags,
        requires_python=str(headers.get("Requires-Python", ""))[:_REQUIREMENT],
        requires=tuple(str(each)[:_REQUIREMENT] for each in headers.get_all("Requires-Dist", [])[:_REQUIREMENTS]),
        architectures=tuple(sorted({facts.architecture for facts in own.values()})),
        glibc=highest[2].removeprefix("GLIBC_") if highest else "",
        outside=tuple(sorted(outside)),
        numpy=tuple(numpy[path] for path in sorted(numpy) if path in project.paths),
        contradictions=(*_platforms(project.tags, own, highest), *_pythons(project.tags, own.keys() & set(extensions))),
    )


def _platforms(
    tags: Sequence[str], own: Mapping[str, ElfFacts], highest: tuple[object, str, str, int] | None
) -> Iterator[Contradiction]:
    """Yield what native files say against platform tags; tags of other systems are not looked at."""
    for platform in sorted({tag.split("-", 2)[-1] for tag in tags}):
        match = _PLATFORM.match(platform)
        first = next(iter(own), None)
        if platform == "any" and first is not None:
            yield Contradiction(platform, f"holds native code for {own[first].architecture}", first, 0)
        if match is None:
            continue
        machine = _MACHINES.get(match[4] or match[6], "")
        for path, facts in own.items():
            if machine and facts.architecture != machine:
                yield Contradiction(platform, f"is for {facts.architecture}", path, 18)
                break
        yield from _libraries(platform, match, own)
        limit = _OLDER.get(
            match[5] or "", (int(match[2] or 0), int(match[3] or 0)) if match[1] == "manylinux" else None
        )
        found = _GLIBC.match(highest[2]) if highest else None
        if limit and highest and found and (int(found[1]), int(found[2])) > limit:
            yield Contradiction(platform, f"needs {highest[2]}", highest[1], highest[3])


def _libraries(platform: str, match: "re.Match[str]", own: Mapping[str, ElfFacts]) -> Iterator[Contradiction]:
    """Yield a file that needs the other C library than the tag says."""
    musl = match[1] == "musllinux"
    for path, facts in own.items():
        for need in facts.needed:
            if need.name.startswith("libc.so." if musl else "libc.musl-"):
                yield Contradiction(platform, f"needs {need.name}", path, need.at)
                return


def _pythons(tags: Sequence[str], extensions: Iterable[str]) -> Iterator[Contradiction]:
    """Yield an extension module that another version of CPython loads than the tags say."""
    versions = {tag.split("-", 1)[0] for tag in tags}
    if not any(version.startswith("cp") for version in versions):
        return
    for path in sorted(extensions):
        match = _EXTENSION.search(path)
        if match and match[3] and f"cp{match[3]}{match[4]}" not in versions:
            yield Contradiction("-".join(sorted(versions)), f"is built for cp{match[3]}{match[4]}", path, 0)
            return


def is_extension(path: str, elf: Elf) -> bool:
    """Return whether a native file is a Python extension module: one that defines what an import calls.

    Raises:
        MalformedError: Its symbols contradict themselves.
        StorageError: They cannot be read.
    """
    match = _EXTENSION.search(path)
    return match is not None and Symbols(elf).defines(b"PyInit_" + match[1].encode(), "")


def read_numpy(path: str, elf: Elf) -> NumpyUse | None:
    """Return how an extension module uses NumPy's C interface; None when it does not.

    One that was built with NumPy 2 looks for `numpy._core` first, and runs with NumPy 1 as well; one built with NumPy 1
    knows `numpy.core` alone, and fails with NumPy 2 (numpy.org/doc, "NumPy 2.0 migration guide", C-API).

    Raises:
        MalformedError: The file contradicts itself.
        StorageError: It cannot be read.
    """
    found = find_names(elf, (_ARRAY, *_NEW))
    if _ARRAY not in found:
        return None
    least = next((match[1].decode() for _, match in search(elf, _LEAST, longest=64)), "")
    new = [found[name] for name in _NEW if name in found]
    return NumpyUse(path, 2 if new else 1, least, new[0] if new else found[_ARRAY])


def pins(projects: Sequence[ProjectFacts]) -> tuple[Pin, ...]:
    """Return the requirements of projects that another one here bears on, or that none here meets.

    Args:
        projects: Those that are installed together.

    Returns:
        One for each requirement outside extras, sorted; whether it holds is None where its marker decides, for the
        environment that it speaks of is not known here.
    """
    versions = {project.name: project.version for project in projects}
    found = []
    for project in projects:
        for text in project.requires:
            pin = _pin(project.name, text, versions)
            if pin is not None:
                found.append(pin)
    return tuple(sorted(found, key=lambda pin: (pin.project, pin.requirement)))


def _pin(project: str, text: str, versions: Mapping[str, str]) -> Pin | None:
    try:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        if re.search(r"\bextra\b", marker):
            return None
        found = versions.get(canonicalize_name(requirement.name), "")
        holds = bool(found) and requirement.specifier.contains(Version(found), prereleases=True)
    except (InvalidRequirement, InvalidVersion, RecursionError, ValueError):
        return Pin(project, text, "", None)
    return Pin(project, text, found, holds if holds or not marker else None)


def _headers(source: Source) -> bytes:
    data = _BLANK.split(_bytes(source, _METADATA), maxsplit=1)[0]
    if len(data) > _HEADERS:
        raise MalformedError(f"{source.path} has {len(data)} bytes of headers; at most {_HEADERS} are read", 0)
    return data


def _recorded(record: Source) -> Iterator[str]:
    """Yield the paths in a RECORD, which is unchecked here: those that are not there matter to nobody."""
    text = _bytes(record, _RECORD).decode("utf-8", "replace")
    try:
        for row in csv.reader(io.StringIO(text, newline="")):
            if row:
                yield row[0]
    except csv.Error as error:
        raise MalformedError(f"{record.path} is not CSV: {error}", 0) from error


def _bytes(source: Source, limit: int) -> bytes:
    if source.size > limit:
        raise MalformedError(f"{source.path} has {source.size} bytes; at most {limit} are read", 0)
    with source.open() as stream:
        return stream.read(limit)
