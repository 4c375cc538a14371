"""The site: the disconnected side's folder, its lock, and what is put right after a crash.

site.toml  policy.toml  root.json             what it is, the operator's policy, the pinned root
trust/current -> trust/<n>                    TUF state and the channel's documents, promoted as a whole
store/blobs/sha256/ab/<hex>                   blobs, 0444
ingest/<package>/                             quarantine of an import under way, 0700
generations/<product>/<n>/                    materialised trees, read-only
products/<product>/current -> generation      what runs
probes/<product>.toml                         the operator's own probes
repair/<product>@<version>.json               what imports that are not whole yet still need
evidence/                                     the log, the site's key, receipts
catalog.db
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final, Self

from airpack import fsops
from airpack.catalog.catalog import Catalog, Generation
from airpack.crypto.client import check_root
from airpack.crypto.keys import PrivateKey, PublicKey
from airpack.errors import AirpackError, InputError, IntegrityError, NotFoundError, StorageError
from airpack.evidence.log import EvidenceLog
from airpack.evidence.reading import read_records
from airpack.evidence.records import Event, Outcome, Phase, Record, Subject, Value
from airpack.formats.fields import Fields
from airpack.formats.note import site_origin
from airpack.store.blobs import BlobStore
from airpack.types import Digest, Limits

SCHEMA: Final = "airpack.site/1"
TRUST_ROLES: Final = ("root", "timestamp", "snapshot", "targets")
CATALOG_REVISION: Final = "catalog"
"""Fact in every record: the catalog's revision at the time."""
CATALOG_DIGEST: Final = "catalog_digest"
"""Fact in every record but intents: digest of the catalog's rows at the time."""
FOLDERS: Final = ("trust", "generations", "products", "evidence/receipts", "store/blobs/sha256")
"""Folders that every site has and that are made again where they are lost: not `probes`, for a new one would hide that
the operator's probes are gone."""
_SITE_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
_POLICY: Final = """\
# The operator's policy of this site. Its digest goes on record with every decision that rests on it.

# Activate releases that bring no probe of their own, without one in probes/ either.
allow_no_probe = false

# Run probes without namespaces where the machine offers none.
allow_unisolated = false
"""


def utc_now() -> datetime:
    """Return the machine's clock, UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """`SITE/policy.toml`.

    Attributes:
        allow_no_probe: Activation without any probe is allowed.
        allow_unisolated: Probes may run without namespaces where the machine offers none.
        digest: Digest of the file's bytes.
    """

    allow_no_probe: bool
    allow_unisolated: bool
    digest: Digest

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the file.

        Raises:
            InputError: It is not TOML, or holds unknown keys.
        """
        fields = Fields.from_toml(data, what="policy.toml", error=InputError)
        policy = cls(
            allow_no_probe=fields.flag("allow_no_probe", default=False),
            allow_unisolated=fields.flag("allow_unisolated", default=False),
            digest=Digest.of(data),
        )
        fields.done()
        return policy


class Site:
    """An open site.

    Args:
        root: Its folder, absolute.
        site_id: 128 random bits, hex.
        fingerprint: SHA-256 of the pinned root's bytes.
        minimum: Lowest metadata version accepted per TUF role, from enrolment.
    """

    def __init__(self, root: Path, site_id: str, fingerprint: Digest, minimum: Mapping[str, int]) -> None:
        self.root = root
        self.site_id = site_id
        self.fingerprint = fingerprint
        self.minimum = minimum
        self.store = BlobStore(root / "store")
        self.now: Callable[[], datetime] = utc_now
        self._digested = (-1, "")  # revision and digest of the catalog, as last computed

    @classmethod
    def create(cls, folder: Path, *, root: bytes, minimum: Mapping[str, int]) -> Self:
        """Make a site that trusts the channel of `root`, with an evidence key of its own.

        Args:
            folder: Must be missing or empty.
            root: Bytes of the TUF root to pin.
            minimum: Lowest metadata version to accept per TUF role, as told at enrolment.

        Raises:
            InputError: The folder holds something.
            TrustError: `root` is no root that holds by itself.
        """
        fingerprint = check_root(root).fingerprint
        if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
            raise InputError(f"{folder} is not an empty folder", hint="choose a new folder for the site")
        folder = folder.resolve()
        site = cls(folder, secrets.token_hex(16), fingerprint, dict(minimum))
        for name in (*FOLDERS, "trust/0", "probes"):
            fsops.make_dir(folder / name)
        fsops.make_dir(folder / "ingest", 0o700)
        site.store.create()
        fsops.swap_link(folder / "trust/current", "0")
        fsops.write_durable(folder / "root.json", root)
        fsops.write_durable(folder / "policy.toml", _POLICY.encode())
        key = PrivateKey.generate("ed25519")
        fsops.write_durable(folder / "evidence/site.key", key.to_pem(None), mode=0o600)
        fsops.write_durable(folder / "evidence/site.pub", key.public.pem)
        Catalog.create(folder / "catalog.db").close()
        log = EvidenceLog.create(
            folder / "evidence/log", site_id=site.site_id, key=key, clock=site.now, facts=site._facts
        )
        log.note(
            Event.SITE_INIT,
            Outcome.DONE,
            subject=[Subject("root.json", fingerprint)],
            data={f"minimum_{role}": version for role, version in minimum.items()},
        )
        fsops.write_durable(folder / "site.toml", site.emit())
        return site

    def emit(self) -> bytes:
        """Return the bytes of site.toml."""
        lines = [f'schema = "{SCHEMA}"', f'id = "{self.site_id}"', f'root = "{self.fingerprint}"', "", "[minimum]"]
        lines += [*(f"{role} = {version}" for role, version in sorted(self.minimum.items())), ""]
        return "\n".join(lines).encode()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a site.

        Raises:
            NotFoundError: There is none.
            IntegrityError: site.toml cannot be read, or the pinned root is not the one it names.
        """
        site = cls.identify(folder)
        site.check_root()
        return site

    @classmethod
    def identify(cls, folder: Path) -> Self:
        """Read what site.toml says, and look at nothing else yet.

        Raises:
            NotFoundError: There is none.
            IntegrityError: It cannot be understood.
            StorageError: It cannot be read.
        """
        folder = folder.resolve()
        path = folder / "site.toml"
        if not path.is_file():
            raise NotFoundError(
                f"no site in {folder}: no site.toml",
                hint="name it with --site or AIRPACK_SITE, or make one: airpack site init DIR --root FILE",
            )
        fields = Fields.from_toml(fsops.read_regular(path, Limits.DOCUMENT), what=str(path), error=IntegrityError)
        fields.schema(SCHEMA)
        site_id, fingerprint = fields.text("id"), fields.digest("root")
        table = fields.table("minimum")
        minimum = {role: table.integer(role) for role in TRUST_ROLES if role in table}
        table.done()
        fields.done()
        if not _SITE_ID.match(site_id):
            raise fields.fail(f"'id' is {site_id[:80]!r}; `airpack site init` writes 32 hex digits")
        return cls(folder, site_id, fingerprint, minimum)

    def check_root(self) -> None:
        """Hold the pinned root to its fingerprint.

        Raises:
            NotFoundError: It is not there.
            IntegrityError: It is another one.
            StorageError: It cannot be read.
        """
        found = Digest.of(self.pinned_root())
        if found != self.fingerprint:
            raise IntegrityError(
                f"{self.root / 'root.json'} is not the root that this site was enrolled with: "
                f"expected {self.fingerprint}, found {found}",
                hint="put the root back from where the site was enrolled, or make a new site",
            )

    def pinned_root(self) -> bytes:
        """Return the bytes of the pinned root."""
        return fsops.read_regular(self.root / "root.json", Limits.ROOT)

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog, opened when first needed."""
        return Catalog(self.root / "catalog.db")

    @cached_property
    def key(self) -> PrivateKey:
        """The site's evidence key. It signs unattended, so its file is protected by its mode alone."""
        path = self.root / "evidence/site.key"
        try:
            pem = fsops.read_private(path, Limits.DOCUMENT)
        except NotFoundError as error:
            raise NotFoundError(
                f"the site's evidence key is not there: no file {path}",
                hint="put back its copy, with mode 0600; without one, docs/howto/reach-a-site.md says what is left",
                path=str(path),
            ) from error
        return PrivateKey.from_pem(pem, None)

    @property
    def public_key(self) -> PublicKey:
        """The public half of the evidence key."""
        return self.key.public

    @cached_property
    def log(self) -> EvidenceLog:
        """The evidence log, verified when first needed."""
        return EvidenceLog.open(
            self.root / "evidence/log", site_id=self.site_id, key=self.key, clock=self.now, facts=self._facts
        )

    def _facts(self, phase: Phase) -> Mapping[str, Value]:
        """Return what each record says of the catalog; nothing where that cannot be read, for the log must go on."""
        try:
            revision = self.catalog.revision()
            facts: dict[str, Value] = {CATALOG_REVISION: revision}
            if phase is not Phase.INTENT:
                if self._digested[0] != revision:  # the first record at a revision is the witness; the others repeat it
                    self._digested = revision, str(self.catalog.digest())
                facts[CATALOG_DIGEST] = self._digested[1]
        except AirpackError:
            return {}
        return facts

    def records(self) -> list[Record]:
        """Return the records of the evidence log, without opening it: readers hold no lock and repair nothing.

        Raises:
            IntegrityError: They are not those of the signed checkpoint.
        """
        return read_records(self.root / "evidence/log", origin=site_origin(self.site_id), key=self.public_key)

    def policy(self) -> SitePolicy:
        """Read the operator's policy as it stands now."""
        return SitePolicy.parse(fsops.read_regular(self.root / "policy.toml", Limits.DOCUMENT))

    @property
    def trust(self) -> Path:
        """The folder of the trust state that is in force.

        Raises:
            IntegrityError: Nothing says which it is.
        """
        link = self.root / "trust/current"
        try:
            return link.parent / link.readlink()
        except OSError as error:
            raise IntegrityError(
                f"{link} does not say which trust state is in force: {error.strerror}",
                hint="put the site's folder back from a backup",
                path=str(link),
            ) from error

    @property
    def trust_or_none(self) -> Path | None:
        """The folder of the trust state that is in force, None where nothing says which it is."""
        try:
            return self.trust
        except IntegrityError:
            return None

    def stage_trust(self, state: Path) -> Path:
        """Make a refreshed copy of the trust state durable beside the one in force, and return its folder there."""
        number = max((int(path.name) for path in self._trust_states()), default=0) + 1
        for folder, _, files in os.walk(state):
            for name in files:
                path = Path(folder, name)
                if not path.is_symlink():
                    fsops.sync_file(path)
            fsops.sync_dir(Path(folder))
        staged = self.root / "trust" / str(number)
        fsops.rename_durable(state, staged)
        return staged

    def promote_trust(self, staged: Path) -> None:
        """Put a staged trust state in force: in one step, and never half."""
        fsops.swap_link(self.root / "trust/current", staged.name)
        for path in self._trust_states():
            if path != staged:
                fsops.remove_tree(path)

    def _trust_states(self) -> list[Path]:
        return [path for path in (self.root / "trust").iterdir() if path.name.isdigit()]

    def current(self, product: str) -> Path:
        """Return the link that names what runs of `product`."""
        return self.root / "products" / product / "current"

    def tree(self, generation: Generation) -> Path:
        """Return the folder of a generation."""
        return self.root / "generations" / generation.product / str(generation.number)

    def point(self, product: str) -> None:
        """Make the link of `product` say what the catalog says; the catalog is the truth."""
        active = self.catalog.active(product)
        link = self.current(product)
        if active is None:
            if link.is_symlink():
                fsops.remove_file(link)
            return
        target = f"../../generations/{product}/{active.number}"
        if link.is_symlink() and str(link.readlink()) == target:
            return
        fsops.make_dir(link.parent)
        fsops.swap_link(link, target)


@contextmanager
def recorded(error: AirpackError) -> Iterator[None]:
    """Put on record that something was refused; where the log itself fails, the refusal stays what it is and says so.

    Args:
        error: The refusal, raised by the caller afterwards.
    """
    try:
        yield
    except StorageError as lost:
        error.context["not_recorded"] = lost.message
