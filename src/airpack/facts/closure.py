"""What the native files of a folder find in each other, and what they need from the host.

    read_closure({"a/libllama.so": Elf(...), ...})   ->  ClosureFacts(host=(HostNeed("libc.so.6", ...), ...), ...)

As the loader of Linux does it (ld.so(8)): a needed library is looked for in the folders of RUNPATH, or where there is
none in those of RPATH, its own and then of the files that brought it in; symbols of a version must come from a library
that defines it; other symbols from any library that is loaded with the file. No environment is known, and names that a
program opens by itself (dlopen) cannot be seen.
"""

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from airpack.facts.elf import Elf
from airpack.facts.reader import MalformedError
from airpack.facts.symbols import Symbols, Wanted
from airpack.formats.facts import Problem
from airpack.formats.runtimefacts import (
    ClosureFacts,
    ElfFacts,
    HostNeed,
    MissingVersion,
    OutOfPath,
    Unresolved,
)

_FILES: Final = 2048  # native files of one folder
_WANTED: Final = 400_000  # symbols asked for by all of them
_SHOWN: Final = 16  # symbols named of one file
# Libraries that give every symbol a version, so that a symbol without one is not theirs.
_VERSIONED: Final = (
    *("libc.so.", "libm.so.", "libdl.so.", "libpthread.so.", "librt.so.", "libutil.so.", "libresolv.so.", "libnsl.so."),
    *("libanl.so.", "libmvec.so.", "libgcc_s.so.", "libstdc++.so.", "libgomp.so.", "ld-linux"),
)
_PROGRAMS: Final = ((b"Py", "python"), (b"_Py", "python"), (b"napi_", "node"), (b"node_", "node"))


class _File(NamedTuple):
    """A native file.

    Attributes:
        elf: Its headers.
        facts: Its facts.
        libraries: Where each library that it needs is: a path, or empty for the host.
        by_path: Those of these paths to which a search path leads.
    """

    elf: Elf
    facts: ElfFacts
    libraries: dict[str, str]
    by_path: set[str]

    def inherits(self) -> bool:
        """Return whether it is looked for what it needs in RPATH, its own and that of the files that brought it in."""
        return not self.facts.runpath


def read_closure(files: Mapping[str, tuple[Elf, ElfFacts]]) -> ClosureFacts:
    """Return what the files find in each other and what they need besides.

    Args:
        files: Headers and facts of each native file, by its path below the folder.

    Raises:
        MalformedError: They are more than any real runtime has.
        StorageError: One cannot be read.
    """
    if len(files) > _FILES:
        raise MalformedError(f"{len(files)} native files; at most {_FILES} are looked at together", 0)
    linked = _linked(files)
    out_of_path = [
        OutOfPath(path, need.name, found, need.at)
        for path, file in linked.items()
        for need in file.facts.needed
        if (found := file.libraries[need.name]) and found not in file.by_path
    ]
    unresolved, problems = _Resolver(linked).all()
    return ClosureFacts(
        host=tuple(_host(linked)),
        out_of_path=tuple(sorted(out_of_path, key=lambda each: (each.path, each.library))),
        missing=tuple(_missing(linked)),
        unresolved=unresolved,
        problems=problems,
    )


def _names(files: Mapping[str, tuple[Elf, ElfFacts]]) -> Mapping[str, list[str]]:
    """Return the paths by each name under which a loader may know a file."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path, (_, facts) in sorted(files.items()):
        for name in {posixpath.basename(path), facts.soname} - {""}:
            names[name].append(path)
    return names


def _linked(files: Mapping[str, tuple[Elf, ElfFacts]]) -> dict[str, _File]:
    """Return the files with what they need: by their own search path, an inherited one, or by name alone."""
    names = _names(files)
    linked = {path: _File(elf, facts, {}, set()) for path, (elf, facts) in files.items()}
    for path, file in linked.items():
        for need in file.facts.needed:
            found = _by_path(need.name, path, file.facts, files)
            if found:
                file.by_path.add(found)
            else:
                found = next((each for each in names.get(need.name, ()) if _fits(file.facts, each, files)), "")
            file.libraries[need.name] = found
    users: defaultdict[str, list[str]] = defaultdict(list)
    for path, file in linked.items():
        for found in filter(None, file.libraries.values()):
            users[found].append(path)
    for path, file in linked.items():
        for library, found in file.libraries.items():
            if found and found not in file.by_path and file.inherits():
                inherited = _inherited(library, path, linked, users, files)
                if inherited:
                    file.libraries[library] = inherited
                    file.by_path.add(inherited)
    return linked


def _inherited(
    library: str,
    path: str,
    linked: Mapping[str, _File],
    users: Mapping[str, list[str]],
    files: Mapping[str, tuple[Elf, ElfFacts]],
) -> str:
    """Return where the RPATH of a file that brings this one in leads to a library; empty where none does."""
    seen, pending = {path}, [path]
    while pending:
        for user in users.get(pending.pop(0), ()):
            if user in seen:
                continue
            seen.add(user)
            pending.append(user)
            if linked[user].inherits():
                found = _by_path(library, user, linked[user].facts, files)
                if found:
                    return found
    return ""


def _by_path(library: str, path: str, facts: ElfFacts, files: Mapping[str, tuple[Elf, ElfFacts]]) -> str:
    """Return where the search path of the file at `path` leads to a library; empty where it does not."""
    for folder in _folders(path, facts):
        candidate = posixpath.normpath(posixpath.join(folder, library))
        if "/" not in library and _fits(facts, candidate, files):
            return candidate
    return ""


def _fits(facts: ElfFacts, path: str, files: Mapping[str, tuple[Elf, ElfFacts]]) -> bool:
    """Return whether there is a file at `path` of the same machine."""
    found = files.get(path)
    return found is not None and (found[1].architecture, found[1].bits) == (facts.architecture, facts.bits)


def _folders(path: str, facts: ElfFacts) -> Iterator[str]:
    """Yield the folders that the loader searches for the file, of those that lie beside it."""
    origin = posixpath.dirname(path)
    for entry in facts.runpath or facts.rpath:
        for token in ("$ORIGIN", "${ORIGIN}"):
            if entry == token or entry.startswith(token + "/"):
                folder = posixpath.normpath(posixpath.join("/", origin, "." + entry.removeprefix(token)))
                yield folder.lstrip("/")


def _host(files: Mapping[str, _File]) -> Iterator[HostNeed]:
    """Yield each library that must come from the host, with the versions that it must define."""
    users: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    versions: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for path, file in sorted(files.items()):
        for library in (name for name, found in file.libraries.items() if not found):
            users[file.facts.architecture, library].append(path)
        for need in file.facts.versions:
            if not need.weak and not file.libraries.get(need.library):
                versions[file.facts.architecture, need.library].add(need.version)
    for key in sorted(users):
        yield HostNeed(*key, tuple(sorted(versions[key], key=version_key)), len(users[key]), users[key][0])


def version_key(version: str) -> tuple[str, tuple[int, ...], str]:
    """Return what sorts symbol versions: by family, then by number."""
    family, _, number = version.rpartition("_")
    parts = number.split(".")
    if all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):  # noqa: PLR2004 - digits
        return family, tuple(map(int, parts)), ""
    return version, (), version


def _missing(files: Mapping[str, _File]) -> Iterator[MissingVersion]:
    """Yield versions that a library of the folder should define and does not; one that defines none has them all."""
    for path, file in sorted(files.items()):
        for need in file.facts.versions:
            found = file.libraries.get(need.library)
            if found and not need.weak:
                provides = files[found].facts.provides
                if provides and need.version not in provides:
                    yield MissingVersion(path, need.library, need.version, found, need.at)


class _Resolver:
    """Looks for every symbol that a file needs of another."""

    def __init__(self, files: Mapping[str, _File]) -> None:
        self._files = files
        self._symbols = {path: Symbols(file.elf) for path, file in files.items()}
        self._known: dict[tuple[str, bytes, str], bool] = {}
        self._left = _WANTED

    def all(self) -> tuple[tuple[Unresolved, ...], tuple[Problem, ...]]:
        """Return the symbols that no loaded library defines, and the files of which that could not be told."""
        found: list[Unresolved] = []
        problems: list[Problem] = []
        for path in sorted(self._files):
            try:
                found += self._of(path)
            except MalformedError as error:
                problems.append(Problem(f"its symbols: {error.reason}", error.at, path))
        return tuple(found), tuple(problems)

    def _of(self, path: str) -> Iterator[Unresolved]:
        scope = self._scope(path)
        names: defaultdict[str, list[str]] = defaultdict(list)
        for wanted in self._symbols[path].wanted():
            self._left -= 1
            if self._left < 0:
                raise MalformedError(f"more than {_WANTED} symbols are asked for", 0)
            origin = self._origin(path, wanted, scope)
            if origin:
                names[origin].append(wanted.name.decode("utf-8", "backslashreplace"))
        for origin in sorted(names):
            yield Unresolved(path, origin, len(names[origin]), tuple(sorted(names[origin])[:_SHOWN]))

    def _origin(self, path: str, wanted: Wanted, scope: Iterable[str]) -> str:
        """Return where a symbol must come from; empty where the folder has it, or the host by its version."""
        library = self._files[path].libraries.get(wanted.library, "") if wanted.library else ""
        if wanted.library and not library:
            return ""  # of a version that a library of the host must define
        if any(self._defines(other, wanted.name, wanted.version) for other in scope):
            return ""
        program = next((name for prefix, name in _PROGRAMS if wanted.name.startswith(prefix)), "")
        if program:
            return program
        if any(self._defines(other, wanted.name, wanted.version) for other in self._files if other not in scope):
            return "elsewhere"
        return "host" if not wanted.version and self._may_be_host(scope) else "nowhere"

    def _may_be_host(self, scope: Iterable[str]) -> bool:
        return any(
            not found and not library.startswith(_VERSIONED)
            for path in scope
            for library, found in self._files[path].libraries.items()
        )

    def _scope(self, path: str) -> dict[str, None]:
        """Return the files of the folder that are loaded with this one, in order, itself first."""
        scope = {path: None}
        pending = [path]
        while pending:
            for found in self._files[pending.pop(0)].libraries.values():
                if found and found not in scope:
                    scope[found] = None
                    pending.append(found)
        return scope

    def _defines(self, path: str, name: bytes, version: str) -> bool:
        key = (path, name, version)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._symbols[path].defines(name, version)
        return found
