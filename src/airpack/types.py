"""The few nouns that every layer shares. Values only: no I/O, no clock."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import BinaryIO, Final, Protocol, Self

from airpack.errors import IntegrityError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest in OCI notation, `sha256:<64 lower-case hex digits>`.

    OCI image-spec v1.1, descriptor.md, "Digests". Only SHA-256 exists here, so that one file has one name.
    """

    value: str

    def __post_init__(self) -> None:
        if not _DIGEST.match(self.value):
            raise IntegrityError(f"not a digest: {self.value[:80]!r}; expected sha256: and 64 lower-case hex digits")

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Self:
        """Return the digest of `data` (any length in bytes)."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @classmethod
    def from_raw(cls, raw: bytes) -> Self:
        """Return the digest whose 32 bytes are `raw`."""
        return cls("sha256:" + raw.hex())

    @property
    def hex(self) -> str:
        """The 64 hex digits without the algorithm."""
        return self.value.removeprefix("sha256:")

    @property
    def raw(self) -> bytes:
        """The 32 bytes."""
        return bytes.fromhex(self.hex)

    @property
    def short(self) -> str:
        """The first twelve hex digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return self.value


_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at a blob: OCI image-spec v1.1, descriptor.md.

    Attributes:
        media_type: RFC 6838 media type.
        digest: Digest of the blob's raw bytes.
        size: Length of the blob in bytes.
        annotations: OCI annotations.
        artifact_type: Only on descriptors of referrers, never on an index's children.
        platform: OCI platform such as `{"os": "linux", "architecture": "amd64"}`; empty for none.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    artifact_type: str = ""
    platform: Mapping[str, str] = field(default_factory=lambda: _NOTHING)


class Limits:
    """Caps on everything read from outside, in bytes unless the name says otherwise."""

    HEAD: Final = 16 << 20
    MANIFEST: Final = 4 << 20  # one OCI manifest or index
    DOCUMENT: Final = 4 << 20  # one JSON document: policy, statement, bundle, spec
    JSON_DEPTH: Final = 32  # nesting levels
    JSON_CONTAINERS: Final = 300_000  # lists and objects in one document: each costs far more memory than its bytes
    JSON_VALUES: Final = 400_000  # those and all commas: as the largest package manifest has 360,000
    ROOT: Final = 512_000  # TUF root, python-tuf's own cap
    ROOTS: Final = 256  # number of root versions in one head
    CHUNK: Final = 1 << 20  # one stored chunk
    FRAME: Final = 64 << 20  # one decoded frame
    WINDOW: Final = 64 << 20  # zstd window
    VOLUME: Final = 1 << 40  # one volume file
    TABLE_ENTRIES: Final = 1 << 20  # chunk-table entries in one volume (64 MiB of table)
    VOLUMES: Final = 9999  # volumes in one package
    FILES: Final = 100_000  # files in one release
    BLOBS: Final = 10_000  # small blobs in one head
    NAME: Final = 255  # bytes in one path part
    PATH: Final = 1024  # bytes in one relative path
    FILE: Final = 1 << 44  # one file of a release
    EVIDENCE_RECORD: Final = 65_535  # C2SP tlog-tiles entry limit
    EVIDENCE_BUNDLE: Final = 256 << 20  # everything in an evidence export, unpacked
    PROBE_OUTPUT: Final = 1 << 20  # what a probe may print


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's bytes lie in its file. Decides how they are coded, and nothing else.

    Attributes:
        name: Its name, by which a later version of the file finds it again.
        start: First byte in the file.
        stop: End in the file.
        dtype: `bf16`, `fp16` or `fp32`; `other` for what has no planes.
    """

    name: str
    start: int
    stop: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Source:
    """One file to be packed, wherever its bytes lie now (on disk, or inside a wheel).

    Attributes:
        path: Relative path at the site below the component's folder, `/`-separated.
        size: Length in bytes.
        open: Opens the bytes for one sequential read.
        executable: Whether it becomes mode 0755 rather than 0644.
        digest: The digest the bytes must have, when it is known before they are read (a wheel's RECORD).
        tensors: Where tensors lie in it, in order and without overlap; between them are headers and padding.
        solid: Whether it is best coded together with its neighbours: files of a runtime.
    """

    path: str
    size: int
    open: Callable[[], BinaryIO]
    executable: bool = False
    digest: Digest | None = None
    tensors: tuple[Tensor, ...] = ()
    solid: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One step of a verification: its name, whether it held, and what was found."""

    name: str
    ok: bool
    detail: str


class State(StrEnum):
    """Where a release stands at this site."""

    IMPORTED = "imported"
    STAGED = "staged"
    TRIAL = "trial"
    PROBATION = "probation"
    KNOWN_GOOD = "known_good"
    FAILED = "failed"
    INCOMPATIBLE = "incompatible"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Standing:
    """What the decisions below need to know of one release.

    Attributes:
        release: Its digest.
        version: Its version, for messages.
        sequence: Monotone number within its product, from the signed release attestation.
        state: Where it stands.
        proven: Whether it was known good at this site at some time and has not failed or been revoked since.
        was_good: Whether it was known good at this site at some time, also if it failed since.
    """

    release: Digest
    version: str
    sequence: int
    state: State
    proven: bool
    was_good: bool = False


class Reporter(Protocol):
    """Receives progress. The command line shows it; libraries and tests may ignore it."""

    def start(self, task: str, total: int) -> None:
        """Begin `task`, of `total` bytes (0 when unknown)."""

    def advance(self, done: int, item: str = "", volume: str = "") -> None:
        """Add `done` bytes; `item` names the file or medium in hand, `volume` the volume."""

    def finish(self) -> None:
        """End the task."""

    def note(self, text: str) -> None:
        """Say one line that is not an error (an unlisted file, a fallback)."""


class Silent:
    """A `Reporter` that says nothing."""

    def start(self, task: str, total: int) -> None:
        """Ignore."""

    def advance(self, done: int, item: str = "", volume: str = "") -> None:
        """Ignore."""

    def finish(self) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""
