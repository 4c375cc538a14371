"""Reads a wheel without extracting it, and holds every file in it against its RECORD.

    with read_wheel(Path("numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl")) as wheel:
        for source in wheel.sources: ...      # path at the site, size, the digest RECORD gives

Binary distribution format (PyPA specifications, "Binary distribution format" and "Recording installed projects").
Nothing is run and nothing is installed: `NAME.data/purelib` and `NAME.data/platlib` land at the root, as an installer
would put them, while `scripts`, `headers` and `data` keep their own path and have no effect.

A wheel that contradicts itself (its RECORD, METADATA, names) is an `IntegrityError`; one that is no wheel, or that
could not travel in a release, is an `InputError`.
"""

import base64
import binascii
import csv
import email.parser
import hashlib
import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Final, Self

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from airpack.errors import InputError, IntegrityError, NotFoundError, StorageError
from airpack.facts.licenses import of_metadata
from airpack.formats.bom import License
from airpack.formats.names import check_path, check_paths
from airpack.fsops.files import open_regular
from airpack.types import Digest, Limits, Source

_UNPACKED: Final = 64 << 30  # bytes of one unpacked wheel
_METADATA: Final = 4 << 20  # bytes of METADATA or WHEEL
_HEADERS: Final = 1 << 20  # bytes of their headers: each costs some forty times its bytes
_RECORD: Final = 64 << 20  # bytes of RECORD: some 600 for each of the most files there may be
_LINE: Final = Limits.PATH + 176  # bytes of one line of RECORD: path, digest, size
_BLOCK: Final = 1 << 20  # bytes read at once
_BUFFER: Final = 128 << 10  # bytes of a member's buffer
_BLANK = re.compile(rb"\r?\n\r?\n|\r\r")
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  # APPNOTE 4.4.4, bits 0, 6 and 13
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_UNLISTED: Final = frozenset({"RECORD", "RECORD.jws", "RECORD.p7s"})  # they cannot list their own digest
_TO_ROOT: Final = ("purelib", "platlib")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel whose list of files agrees with its RECORD; their bytes are held against it as they are read.

    It keeps one open file until it is closed, which all its sources share: read them before closing it.

    Attributes:
        filename: The name of the .whl file.
        name: Normalised project name (PEP 503).
        version: Version (PEP 440), normalised.
        tags: Compatibility tags of the file name, expanded and sorted.
        declared: The `Tag` lines of its WHEEL file, sorted; for information, since they often contradict the name.
        licenses: What its METADATA declares (`facts.licenses`); empty where that says nothing usable.
        digest: SHA-256 of the .whl file.
        size: Length of the .whl file in bytes.
        sources: Its files, sorted by path; RECORD and its signatures without a known digest.
    """

    filename: str
    name: str
    version: str
    tags: tuple[str, ...]
    declared: tuple[str, ...]
    licenses: tuple[License, ...]
    digest: Digest
    size: int
    sources: tuple[Source, ...]
    _archive: "_Archive" = field(repr=False, compare=False)

    def close(self) -> None:
        """Close the file; a source that is still open keeps it open until that is closed too."""
        self._archive.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_wheels(path: Path) -> tuple[Wheel, ...]:
    """Read the wheels of one runtime.

    Args:
        path: A .whl file, or a folder of nothing but .whl files.

    Returns:
        The wheels, sorted by file name; the caller closes each.

    Raises:
        InputError: There is none, another file lies among them, or one project is there twice; or as `read_wheel`.
        IntegrityError: As `read_wheel`.
        StorageError: The folder cannot be read.
    """
    wheels: list[Wheel] = []
    try:
        for file in _wheel_files(path):
            wheels.append(read_wheel(file))  # noqa: PERF401 - what was opened is closed when a later one fails
        _refuse_twins(wheels)
    except BaseException:
        for wheel in wheels:
            wheel.close()
        raise
    return tuple(wheels)


def read_wheel(path: Path) -> Wheel:
    """Read one wheel.

    Args:
        path: The .whl file.

    Returns:
        The wheel; the caller closes it.

    Raises:
        InputError: No valid wheel file name, no ZIP, encrypted, compressed otherwise than by deflate, links inside,
            over the limits of files and bytes, or a name in it breaks a rule.
        IntegrityError: File name, METADATA and RECORD contradict each other.
        StorageError: It cannot be read.
    """
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise InputError(f"{path.name} is not the name of a wheel: {error}", path=str(path)) from error
    archive = _Archive(path)
    try:
        folder = _dist_info(archive, name, version)
        record = _read_record(archive, folder)
        sources = _sources(archive, record, folder)
        metadata = _headers(archive, f"{folder}/METADATA")
        wheel = Wheel(
            filename=path.name,
            name=str(name),
            version=str(version),
            tags=tuple(sorted(str(tag) for tag in tags)),
            declared=_declared_tags(archive, folder),
            licenses=of_metadata(metadata),
            digest=archive.digest,
            size=archive.size,
            sources=sources,
            _archive=archive,
        )
        _check_metadata(metadata, wheel)
    except BaseException:
        archive.close()
        raise
    return wheel


class _Archive:
    """The ZIP file of one wheel: opened once, its central directory read and checked once."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = _open(path)
        try:
            self.digest, self.size = _hash(self._file, path)
            try:
                self._zip = zipfile.ZipFile(self._file)
            except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                raise InputError(f"{self.name} is not a ZIP file: {error}", path=str(path)) from error
            self.members = self._checked_members()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    def open(self, member: zipfile.ZipInfo) -> BinaryIO:
        """Open a member for one sequential read; the open file is shared, the position is its own."""
        try:
            stream = self._zip.open(member)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
            raise IntegrityError(f"{self.name}: {member.filename} cannot be read: {error}") from error
        return io.BufferedReader(_Member(stream, member, self.name), _BUFFER)

    def read(self, name: str, limit: int) -> bytes:
        """Return all bytes of the member `name`, at most `limit`."""
        member = self.members.get(name)
        if member is None:
            raise IntegrityError(f"{self.name}: {name} is missing")
        if member.file_size > limit:
            raise InputError(f"{self.name}: {name} has {member.file_size} bytes; at most {limit} are read")
        with self.open(member) as stream:
            return stream.read()

    def _checked_members(self) -> Mapping[str, zipfile.ZipInfo]:
        """Return the files by name, once none of them needs anything but reading.

        Folders are left out: they hold nothing, and RECORD does not list them.
        """
        members: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for member in self._zip.infolist():
            if member.orig_filename.endswith("/") and member.file_size == 0:
                continue
            reason = _member_fault(member, self.size)
            if reason:
                raise InputError(f"{self.name}: {member.orig_filename[:200]!r} {reason}")
            if check_path(member.filename, error=InputError) in members:
                raise IntegrityError(f"{self.name}: {member.filename} is in it twice")
            members[member.filename] = member
            total += member.file_size
        if len(members) > Limits.FILES or total > _UNPACKED:
            raise InputError(
                f"{self.name} would unpack to {len(members)} files and {total} bytes; at most {Limits.FILES} files and "
                f"{_UNPACKED} bytes are allowed"
            )
        return members


class _Member(io.RawIOBase):
    """One member being read: exactly its declared size, and the faults of zipfile as errors of airpack."""

    def __init__(self, stream: IO[bytes], member: zipfile.ZipInfo, wheel: str) -> None:
        super().__init__()
        self._stream = stream
        self._member = member
        self._wheel = wheel
        self._left = member.file_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # what BufferedReader hands in
        try:
            data = self._stream.read(min(len(buffer), self._left)) if self._left else b""
        except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
            raise IntegrityError(f"{self._wheel}: {self._member.filename} is damaged: {error}") from error
        except OSError as error:
            raise StorageError(f"cannot read {self._wheel}: {error.strerror}") from error
        if self._left and not data:
            raise IntegrityError(
                f"{self._wheel}: {self._member.filename} ends {self._left} bytes before its {self._member.file_size}"
            )
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _wheel_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        files = sorted(path.iterdir(), key=lambda file: file.name)
    except OSError as error:
        raise StorageError(f"cannot read folder {path}: {error.strerror}", path=str(path)) from error
    for file in files:
        if file.suffix != ".whl":
            raise InputError(
                f"{file.name} in {path} is not a wheel; only .whl files may lie there",
                hint="move it elsewhere; for a source distribution run `pip wheel` first",
                path=str(file),
            )
    if not files:
        raise InputError(
            f"there is no wheel in {path}",
            hint="fetch them with `pip download --only-binary :all: -d FOLDER ...`",
            path=str(path),
        )
    return files


def _refuse_twins(wheels: list[Wheel]) -> None:
    known: dict[str, Wheel] = {}
    for wheel in wheels:
        other = known.setdefault(wheel.name, wheel)
        if other is not wheel:
            raise InputError(
                f"{other.filename} and {wheel.filename} are the same project twice; one runtime holds one of them",
                hint=f"remove {other.filename} or {wheel.filename}",
            )


def _open(path: Path) -> BinaryIO:
    try:
        return os.fdopen(open_regular(path), "rb")
    except NotFoundError as error:
        raise InputError(f"there is no wheel {path}", path=str(path)) from error
    except IntegrityError as error:  # a link or a device that the builder's own pack spec names
        raise InputError(error.message, path=str(path)) from error


def _hash(file: BinaryIO, path: Path) -> tuple[Digest, int]:
    """Return the digest and the length of `file`, reading it once in bounded memory."""
    hashed, size = hashlib.sha256(), 0
    try:
        while block := file.read(_BLOCK):
            hashed.update(block)
            size += len(block)
        file.seek(0)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    return Digest.from_raw(hashed.digest()), size


def _member_fault(member: zipfile.ZipInfo, size: int) -> str:
    """Return why a member of a file of `size` bytes is refused; empty when it is not."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if not 0 <= member.header_offset < size:
        return "lies outside the file"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in _METHODS:
        return f"is compressed by method {member.compress_type}; only stored and deflate are read"
    if kind not in {0, stat.S_IFREG}:
        return "is a link or a device; only regular files are taken"
    if member.orig_filename != member.filename:
        return "has a name that ZIP readers see differently"
    return ""


def _dist_info(archive: _Archive, name: str, version: Version) -> str:
    """Return the one `NAME-VERSION.dist-info` folder, which must speak of the same project as the file name."""
    tops = {path.partition("/")[0] for path in archive.members if "/" in path}
    folders = sorted(top for top in tops if top.endswith(".dist-info"))
    if len(folders) != 1:
        raise IntegrityError(f"{archive.name}: holds {len(folders)} .dist-info folders; expected one")
    found_name, _, found_version = folders[0].removesuffix(".dist-info").rpartition("-")
    if canonicalize_name(found_name) != name or not _same_version(found_version, version):
        raise IntegrityError(f"{archive.name}: its folder {folders[0]} is of another project or version")
    return folders[0]


def _same_version(text: str, version: Version) -> bool:
    try:
        return Version(text.replace("_", "-")) == version
    except ValueError:  # InvalidVersion is one; so is what a number of thousands of digits ends in
        return False


def _check_metadata(metadata: bytes, wheel: Wheel) -> None:
    """Hold METADATA against the file name: one file, one project."""
    headers = email.parser.BytesHeaderParser().parsebytes(metadata)
    names, versions = headers.get_all("Name", []), headers.get_all("Version", [])
    same = (
        len(names) == len(versions) == 1
        and canonicalize_name(str(names[0])) == wheel.name
        and _same_version(str(versions[0]), Version(wheel.version))
    )
    if not same:
        raise IntegrityError(
            f"{wheel.filename}: METADATA is of {names} {versions}, not of {wheel.name} {wheel.version}"
        )


def _headers(archive: _Archive, name: str) -> bytes:
    """Return the headers of METADATA or WHEEL; what follows them, a description, is not parsed."""
    data = _BLANK.split(archive.read(name, _METADATA), 1)[0]
    if len(data) > _HEADERS:
        raise InputError(f"{archive.name}: {name} has {len(data)} bytes of headers; at most {_HEADERS} are read")
    return data


def _declared_tags(archive: _Archive, folder: str) -> tuple[str, ...]:
    headers = email.parser.BytesHeaderParser().parsebytes(_headers(archive, f"{folder}/WHEEL"))
    version = str(headers.get("Wheel-Version", ""))
    if version.partition(".")[0] != "1":
        raise InputError(f"{archive.name}: Wheel-Version is {version[:20]!r}; only 1.x is read")
    return tuple(sorted({str(tag) for tag in headers.get_all("Tag", [])}))


def _read_record(archive: _Archive, folder: str) -> Mapping[str, Digest]:
    """Return the digest of each file that RECORD lists, once it lists exactly the files that are there."""
    unlisted = {f"{folder}/{name}" for name in _UNLISTED}
    record: dict[str, Digest] = {}
    listed: set[str] = set()
    for path, digest, size in _record_rows(archive, folder):
        member = archive.members.get(path)
        if member is None:
            raise IntegrityError(f"{archive.name}: RECORD lists {path[:200]!r}, which is not in it")
        if path in listed:
            raise IntegrityError(f"{archive.name}: RECORD lists {path} twice")
        listed.add(path)
        if path in unlisted and not digest and not size:
            continue
        record[path] = _record_digest(archive, path, digest)
        if size != str(member.file_size):
            raise IntegrityError(f"{archive.name}: {path} has {member.file_size} bytes, RECORD says {size[:20]!r}")
    missing = min(archive.members.keys() - listed - unlisted, default="")
    if missing:
        raise IntegrityError(f"{archive.name}: {missing} is not listed in RECORD")
    return record


def _record_rows(archive: _Archive, folder: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, digest and size of each line, so that the first that is wrong ends the reading."""
    limit = min(_RECORD, (len(archive.members) + 1) * _LINE)
    try:
        text = archive.read(f"{folder}/RECORD", limit).decode("utf-8")
        for row in csv.reader(io.StringIO(text, newline=""), strict=True):
            if len(row) == 3:  # noqa: PLR2004 - path, digest, size
                yield row[0], row[1], row[2]
            elif row:
                raise IntegrityError(
                    f"{archive.name}: a line of RECORD has {len(row)} fields; expected path, digest, size"
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise IntegrityError(f"{archive.name}: RECORD is not CSV in UTF-8: {error}") from error


def _record_digest(archive: _Archive, path: str, text: str) -> Digest:
    """Return a digest in RECORD's notation: `sha256=` and base64url without padding (RFC 4648 section 5)."""
    algorithm, _, encoded = text.partition("=")
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError(f"{archive.name}: RECORD's digest of {path} is not base64url: {error}") from error
    canonical = base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == encoded
    if algorithm != "sha256" or len(raw) != hashlib.sha256().digest_size or not canonical:
        raise IntegrityError(f"{archive.name}: RECORD has no sha256 of {path}, but {text[:80]!r}")
    return Digest.from_raw(raw)


def _sources(archive: _Archive, record: Mapping[str, Digest], folder: str) -> tuple[Source, ...]:
    """Return the files where an installer would put them, sorted by path."""
    data = folder.removesuffix(".dist-info") + ".data"
    sources = [
        Source(
            path=_landing(name, data),
            size=member.file_size,
            open=partial(archive.open, member),
            executable=bool(member.external_attr >> 16 & 0o111),
            digest=record.get(name),
        )
        for name, member in archive.members.items()
    ]
    check_paths([source.path for source in sources], error=InputError)
    return tuple(sorted(sources, key=lambda source: source.path))


def _landing(name: str, data: str) -> str:
    for part in _TO_ROOT:
        prefix = f"{data}/{part}/"
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
