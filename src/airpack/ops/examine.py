"""What fsck looks at: every file of a site, held against what signed it, recorded it, or names it by digest.

Nothing is changed here, and one broken part hides no other: what needs a part that is broken says that it was not
checked. What could not be read is "could not check", never "damaged".
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from airpack import fsops
from airpack.catalog.catalog import ReleaseRow
from airpack.crypto.client import check_root
from airpack.crypto.keys import PublicKey
from airpack.errors import AirpackError, BusyError, IntegrityError, NotFoundError, StorageError
from airpack.evidence.log import CHECKPOINT, Fact
from airpack.evidence.reading import read_records
from airpack.evidence.records import Event, Record
from airpack.formats.note import MAX_NOTE, site_origin
from airpack.formats.trust import POLICY_TARGET, REVOCATIONS_TARGET
from airpack.ops.generations import damage, load_release
from airpack.ops.incomplete import FOLDER as REPORTS
from airpack.ops.incomplete import is_report
from airpack.ops.receipts import check_receipt, kept_path, receipt_path
from airpack.ops.site import FOLDERS, TRUST_ROLES, Site
from airpack.ops.trials import read_probe
from airpack.ops.trust import recorded_state, staged_trust, state_files, stored_channel
from airpack.ops.witness import Recorded, changed_catalog, facts_of
from airpack.store.blobs import hash_file
from airpack.types import Check, Digest, Limits, Reporter, Silent, State

LOG: Final = "evidence/log"
PRIVATE_KEY: Final = "evidence/site.key"
PUBLIC_KEY: Final = "evidence/site.pub"


class Remedy(StrEnum):
    """What would help."""

    PACKAGE = "package"
    REPAIR = "repair"
    GC = "gc"
    BACKUP = "backup"
    OPERATOR = "operator"


HELP: Final[Mapping[Remedy, str]] = {
    Remedy.PACKAGE: "airpack fsck --repair PACKAGE, with a package that holds it",
    Remedy.REPAIR: "airpack fsck --repair",
    Remedy.GC: "airpack gc",
    Remedy.BACKUP: "put the newest copy back from a backup; catalog.db, trust and evidence belong together",
    Remedy.OPERATOR: "look at it: airpack neither made it nor changes it",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        check: The part that it belongs to.
        line: What it is, for people; it begins with its name.
        remedy: What would help.
        checked: False where it could not be read, so that nobody knows.
        blob: The blob that is damaged or missing, None for other things.
        hint: What exactly would help, where that is known better than by `remedy`.
    """

    check: str
    line: str
    remedy: Remedy
    checked: bool = True
    blob: Digest | None = None
    hint: str = ""

    @property
    def is_leftover(self) -> bool:
        """Whether it is no damage, but what a command that was cut short or given up left for `airpack gc`."""
        return self.remedy is Remedy.GC

    @property
    def help(self) -> str:
        """What would help, for people."""
        return self.hint or HELP[self.remedy]

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {"check": self.check, "line": self.line, "remedy": self.remedy.value, "help": self.help}


@dataclass(frozen=True, slots=True)
class Examined:
    """What a look at a whole site came to.

    Attributes:
        checks: One for each part.
        findings: Everything that is not as it should be.
    """

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is not as it was verified, or could not be checked."""
        return tuple(finding for finding in self.findings if not finding.is_leftover)

    @property
    def damage(self) -> list[str]:
        """Lines of what is not as it was verified."""
        return [finding.line for finding in self.problems if finding.checked]

    @property
    def unchecked(self) -> list[str]:
        """Lines of what could not be read."""
        return [finding.line for finding in self.problems if not finding.checked]

    @property
    def leftovers(self) -> list[str]:
        """Lines of what nothing claims and `airpack gc` removes."""
        return [finding.line for finding in self.findings if finding.is_leftover]

    def holds(self, *checks: str) -> bool:
        """Return whether nothing was found in any of `checks`."""
        return not any(finding.check in checks for finding in self.problems)


_T = TypeVar("_T")

Looked = tuple[str, list[Finding]]
"""What a part says when all is well, and what it found."""


def open_damaged(folder: Path) -> Site:
    """Open a site of which anything may be damaged: as its log knows it, else as site.toml says.

    Raises:
        NotFoundError: There is no site.
        BusyError: It cannot be looked at now.
    """
    folder = folder.resolve()
    known = recorded_identity(folder)
    if known is not None:
        return known
    try:
        return Site.identify(folder)
    except NotFoundError:
        if not any((folder / name).exists() for name in ("catalog.db", LOG)):
            raise
    except (IntegrityError, StorageError):
        pass
    return Site(folder, "", Digest.of(b""), {})


def recorded_identity(folder: Path) -> Site | None:
    """Return the site as the first record of its signed log says it is, None where the log does not hold."""
    for key in _public_keys(folder):
        try:
            note = fsops.read_regular(folder / LOG / CHECKPOINT, MAX_NOTE)
            site_id = note.split(b"\n", 1)[0].decode("ascii", "replace").rpartition("/")[2]
            first = read_records(folder / LOG, origin=site_origin(site_id), key=key)[:1]
        except (AirpackError, ValueError):
            continue
        if first and first[0].event is Event.SITE_INIT and first[0].subject:
            return Site(folder, site_id, first[0].subject[0].digest, _minimum(first[0]))
    return None


def _minimum(record: Record) -> dict[str, int]:
    found = {role: record.data.get(f"minimum_{role}") for role in TRUST_ROLES}
    return {role: value for role, value in found.items() if isinstance(value, int)}


def _public_keys(folder: Path) -> list[PublicKey]:
    """Return the public halves of the site's evidence key that can be read, from the private one and from site.pub."""
    found = []
    site = Site(folder, "", Digest.of(b""), {})
    readers: tuple[Callable[[], PublicKey], ...] = (lambda: site.public_key, partial(_stored_public_key, site))
    for read in readers:
        try:
            found.append(read())
        except AirpackError:
            continue
    return found


def _stored_public_key(site: Site) -> PublicKey:
    return PublicKey.from_pem(fsops.read_regular(site.root / PUBLIC_KEY, Limits.DOCUMENT))


def examine(site: Site, reporter: Reporter) -> Examined:
    """Look at all of a site; the caller holds its lock.

    Args:
        site: From `open_damaged`, or any.
        reporter: Receives progress.
    """
    look = _Look(site, reporter)
    checks, findings = [], []
    for name, part in look.parts().items():
        try:
            fine, found = part()
        except AirpackError as error:
            fine, found = "", [problem(name, name, error, Remedy.BACKUP)]
        except OSError as error:
            unread = StorageError(f"cannot look at {error.filename}: {error.strerror}")
            fine, found = "", [problem(name, name, unread, Remedy.OPERATOR)]
        findings += found
        detail = "; ".join(finding.line for finding in found[:3]) or fine
        ok = all(finding.is_leftover for finding in found) and not fine.startswith(_NOT_CHECKED)
        checks.append(Check(name, ok=ok, detail=detail))
    return Examined(tuple(checks), tuple(findings))


_NOT_CHECKED: Final = "not checked"


def problem(check: str, what: str, error: AirpackError, remedy: Remedy, blob: Digest | None = None) -> Finding:
    """Return the finding that `error` is."""
    checked = not isinstance(error, StorageError | BusyError)
    return Finding(check, f"{what}: {error.message}", remedy, checked=checked, blob=blob)


def open_log(site: Site) -> None:
    """Open the log for records.

    Raises:
        IntegrityError: It does not hold, or nothing says whose it is.
        TrustError: It is not signed by the site's key, or others can reach that.
        StorageError: It cannot be read.
    """
    if not site.site_id:
        raise IntegrityError("neither site.toml nor the log says what site this is")
    _ = site.log


def look_at_trust(site: Site) -> list[Finding]:
    """Look at the trust state alone."""
    return _Look(site, Silent()).parts()["trust"]()[1]


class _Look:
    """One look. The log is read first: it is what the other parts are held against."""

    def __init__(self, site: Site, reporter: Reporter) -> None:
        self._site, self._reporter = site, reporter
        self._log = _attempt(partial(open_log, site))
        self._own, self._own_error = _got(lambda: site.public_key)
        self._stored, self._stored_error = _got(partial(_stored_public_key, site))
        # Where the log does not hold under the private key, site.pub may show that it is this key which is wrong.
        signs = self._log is not None and self._stored is not None and self._signs(self._stored)
        self._key = self._stored if signs else self._own or self._stored
        self._facts = self._read_facts(self._key)
        self._recorded = Recorded.of_facts(self._facts) if self._facts is not None else None
        self._catalog = _attempt(lambda: (site.catalog.releases(), site.catalog.blobs(), site.catalog.generations()))
        self._bad: set[Digest] = set()
        # Of what is made from the catalog's rows, and of what they do not claim; a backup, where they do not hold.
        self._by_rows, self._left = Remedy.REPAIR, Remedy.GC

    def parts(self) -> dict[str, Callable[[], Looked]]:
        """Return the parts by name, in order: what comes later may rest on what came before."""
        return {
            "evidence": self._evidence,
            "site": self._identity,
            "catalog": self._rows,
            "blobs": self._blobs,
            "strays": partial(self._with_catalog, self._strays),
            "generations": partial(self._with_catalog, self._generations),
            "links": partial(self._with_catalog, self._links),
            "receipts": partial(self._with_catalog, self._receipts),
            "trust": self._trust,
        }

    def _with_catalog(self, part: Callable[[], Looked]) -> Looked:
        return part() if self._catalog is None else (f"{_NOT_CHECKED}: the catalog cannot be read", [])

    # -- evidence and keys

    def _evidence(self) -> Looked:
        site, own, found = self._site, self._own, []
        if self._own_error is not None:
            key = problem("evidence", PRIVATE_KEY, self._own_error, Remedy.BACKUP)
            found.append(replace(key, hint=self._own_error.hint))
        elif own is not None and self._key is not None and own.der != self._key.der:
            found.append(Finding("evidence", f"{PRIVATE_KEY}: not the key of the log and {PUBLIC_KEY}", Remedy.BACKUP))
        if self._stored_error is not None:
            found.append(problem("evidence", PUBLIC_KEY, self._stored_error, Remedy.REPAIR))
        elif self._key is not None and fsops.read_regular(site.root / PUBLIC_KEY, Limits.DOCUMENT) != self._key.pem:
            found.append(Finding("evidence", f"{PUBLIC_KEY}: not the public half of site.key", Remedy.REPAIR))
        if self._facts is None:
            assert self._log is not None, "a log that was opened can be read"
            found.append(problem("evidence", LOG, self._log, Remedy.BACKUP))
            return "", found
        return f"{len(self._facts)} records match the signed checkpoint", found

    def _read_facts(self, key: PublicKey | None) -> list[Fact] | None:
        """Return what the records say, None where they do not hold; without the private key, site.pub shows it."""
        if self._log is None:
            return list(self._site.log.facts())
        records, _ = _got(partial(self._read_log, key)) if key is not None and self._site.site_id else (None, None)
        return facts_of(records) if records is not None else None

    def _signs(self, key: PublicKey) -> bool:
        """Return whether `key` signed the log that is there."""
        return bool(self._site.site_id) and _attempt(partial(self._read_log, key)) is None

    def _read_log(self, key: PublicKey) -> list[Record]:
        return read_records(self._site.root / LOG, origin=site_origin(self._site.site_id), key=key)

    # -- the site's own files

    def _identity(self) -> Looked:
        site = self._site
        known = recorded_identity(site.root)
        remedy = Remedy.REPAIR if known else Remedy.BACKUP
        found = []
        error = _attempt(lambda: Site.identify(site.root))
        if error is not None:
            found.append(problem("site", "site.toml", error, remedy))
        elif known and fsops.read_regular(site.root / "site.toml", Limits.DOCUMENT) != known.emit():
            found.append(Finding("site", "site.toml: not what the first record of the log says", remedy))
        if site.site_id:
            error = _attempt(site.check_root)
            found += [problem("site", "root.json", error, Remedy.PACKAGE)] if error else []
        lost = [name for name in FOLDERS if not (site.root / name).is_dir()]
        found += [Finding("site", f"{name}: the folder is missing", Remedy.REPAIR) for name in lost]
        if not (site.root / "probes").is_dir():
            found.append(
                Finding("site", "probes: the folder is missing, and what the operator had in it", Remedy.OPERATOR)
            )
        error = _attempt(site.policy)
        found += [problem("site", "policy.toml", error, Remedy.OPERATOR)] if error else []
        probes = sorted((site.root / "probes").glob("*.toml"))
        for path in probes:
            error = _attempt(partial(read_probe, path))
            found += [problem("site", f"probes/{path.name}", error, Remedy.OPERATOR)] if error else []
        return f"site.toml, root.json, policy.toml and {len(probes)} probes", found

    # -- the catalog

    def _rows(self) -> Looked:
        if self._catalog is not None:
            return "", [problem("catalog", "catalog", self._catalog, Remedy.BACKUP)]
        catalog = self._site.catalog
        lines = catalog.check()
        revision = catalog.revision()
        if self._recorded is not None and self._facts is not None:
            said = self._recorded.older_catalog(revision), changed_catalog(self._site, self._facts)
            lines += [line for line in said if line]
        found = [Finding("catalog", f"catalog: {line}", Remedy.BACKUP) for line in lines]
        self._by_rows = Remedy.BACKUP if found else Remedy.REPAIR
        self._left = Remedy.BACKUP if found else Remedy.GC
        return f"{len(catalog.releases())} releases at revision {revision}", found

    # -- the store

    def _blobs(self) -> Looked:
        site = self._site
        expected: dict[Digest, int | None] = (
            dict(site.catalog.blobs()) if self._catalog is None else dict.fromkeys(site.store.digests())
        )
        names = self._names() if self._catalog is None else {}
        found = []
        self._reporter.start("fsck", sum(size or 0 for size in expected.values()))
        for digest, size in sorted(expected.items()):
            finding = _blob(site, digest, size, names.get(digest, ""))
            if finding is not None:
                self._bad.add(digest)
                found.append(finding)
            self._reporter.advance(size or 0, digest.short)
        self._reporter.finish()
        return f"{len(expected)} blobs have their digests", found

    def _names(self) -> dict[Digest, str]:
        """Return which release claims each blob; the newest where several do."""
        return {
            digest: row.name for row in self._site.catalog.releases() for digest in self._site.catalog.blobs(row.digest)
        }

    def _strays(self) -> Looked:
        site, catalog = self._site, self._site.catalog
        known = set(catalog.blobs()) | set(catalog.unclaimed())
        orphans = [digest for digest in site.store.digests() if digest not in known]
        trees = {site.tree(generation) for generation in catalog.generations()}
        unnamed = [path for path in (site.root / "generations").glob("*/*") if path not in trees]
        paths = [*site.store.strays(), *self._stray_links(), *self._stray_receipts(), *self._stray_reports()]
        found = [Finding("strays", f"orphan blob {digest}: no release claims it", self._left) for digest in orphans]
        found += [
            Finding("strays", f"{path.relative_to(site.root)}: no row names this tree", self._left)
            for path in unnamed
            if not path.name.startswith(".")
        ]
        found += [
            Finding("strays", f"stray {path.relative_to(site.root)}", Remedy.OPERATOR)
            for path in paths
            if not fsops.is_temporary(path)
        ]
        return f"{len(known)} blobs and nothing else", found

    def _stray_links(self) -> Iterable[Path]:
        known = {self._site.current(product) for product in self._site.catalog.products()}
        return (path for path in (self._site.root / "products").glob("*/*") if path not in known)

    def _stray_receipts(self) -> Iterable[Path]:
        releases = {row.digest.hex for row in self._site.catalog.releases()}
        receipts = (self._site.root / "evidence/receipts").glob("*")
        return (path for path in receipts if path.name[:64] not in releases or path.suffix != ".json")

    def _stray_reports(self) -> Iterable[Path]:
        """Return what lies among the repair reports and is none; reports of imports that were given up are for gc."""
        return (path for path in (self._site.root / REPORTS).glob("*") if not is_report(path))

    # -- what was made of them

    def _generations(self) -> Looked:
        generations = self._site.catalog.generations()
        found = []
        for generation in generations:
            name = f"generation {generation.product}/{generation.number}"
            row = self._site.catalog.release(generation.release)
            claims = self._site.catalog.blobs(generation.release).keys()
            remedy = Remedy.PACKAGE if claims & self._bad else self._by_rows
            if row is None or row.state is State.SUPERSEDED:
                found.append(Finding("generations", f"{name}: its release is not held", self._left))
            elif not self._site.tree(generation).is_dir():
                found.append(Finding("generations", f"{name}: its tree is missing", remedy))
            else:
                found += self._differences(name, self._site.tree(generation), row, remedy)
        return f"{len(generations)} trees hold exactly their releases", found

    def _differences(self, name: str, tree: Path, row: ReleaseRow, remedy: Remedy) -> list[Finding]:
        try:
            release = load_release(self._site, row.digest)
        except AirpackError as error:
            return [problem("generations", name, error, remedy)]
        return [
            Finding("generations", f"{name}: {difference.line}", remedy, checked=difference.checked)
            for difference in damage(tree, release)
        ]

    def _links(self) -> Looked:
        products = self._site.catalog.products()
        found = []
        for product in products:
            active = self._site.catalog.active(product)
            link = self._site.current(product)
            there = str(link.readlink()) if link.is_symlink() else "a file" if link.exists() else None
            expected = f"../../generations/{product}/{active.number}" if active else None
            if there != expected:
                line = f"link {product}/current says {there or 'nothing'}, the catalog {expected or 'nothing'}"
                found.append(Finding("links", line, self._by_rows))
        return f"{len(products)} products run what the catalog says", found

    def _receipts(self) -> Looked:
        site = self._site
        key = self._key
        if key is None:
            return f"{_NOT_CHECKED}: neither half of the site's key can be read", []
        rows = site.catalog.releases()
        found = []
        for row in rows:
            error = _attempt(partial(check_receipt, row.receipt, key=key, release=row.digest))
            if error is not None:
                what = f"catalog: the receipt of {row.name}"
                found.append(problem("receipts", what, error, Remedy.BACKUP))
            found += _receipt_file(site, row, Remedy.BACKUP if error else self._by_rows)
            found += _kept_receipts(site, row, key)
        return f"{len(rows)} receipts, each signed by the site's key", found

    # -- the channel

    def _trust(self) -> Looked:
        site, recorded = self._site, self._recorded
        if (staged := staged_trust(site, self._facts or [])) is not None:
            line = f"trust: {staged.name} went on record, and trust/current does not say so"
            return "", [Finding("trust", line, Remedy.REPAIR)]
        remedy = (
            Remedy.PACKAGE if recorded and all(recorded.versions[role].value for role in TRUST_ROLES) else Remedy.BACKUP
        )
        if not site.site_id:
            return f"{_NOT_CHECKED}: nothing says which root this site trusts", []
        error = _attempt(site.check_root)
        if error is not None:
            return f"{_NOT_CHECKED}: root.json does not hold", []
        lines = _got(self._trust_files)[0] or []
        channel, error = _got(lambda: stored_channel(site))
        if error is not None:
            return "", [*_trust_findings(lines, remedy), problem("trust", "trust", error, remedy)]
        versions = channel.versions if channel else {}
        if channel is not None:
            for name in (POLICY_TARGET, REVOCATIONS_TARGET):
                error = _attempt(partial(channel.target, name))
                lines += [f"{name}: {error.message}"] if error is not None else []
        older = recorded.older_trust(versions) if recorded else None
        lines += [older] if older else []
        said = ", ".join(f"{role} {version}" for role, version in versions.items())
        return f"channel metadata {said or 'not seen yet'}", _trust_findings(lines, remedy)

    def _trust_files(self) -> list[str]:
        """Return which files of the trust state in force are not those that went on record."""
        site = self._site
        known = recorded_state(self._facts or [])
        if known is None:
            # TUF starts from the pinned root and does not look at the copy that the state keeps of it.
            pinned = site.pinned_root()
            copy = f"root_history/{check_root(pinned).version}.root.json"
            path = site.trust / copy
            same = not path.exists() or fsops.read_regular(path, Limits.ROOT) == pinned
            return [] if same else [f"{site.trust.name}/{copy}: not the pinned root"]
        now = state_files(site.trust)
        changed = sorted({line.split(" ", 1)[0] for line in {*known} ^ {*now}})
        return [f"{site.trust.name}/{name}: not the file that went on record" for name in changed]


def _trust_findings(lines: Iterable[str], remedy: Remedy) -> list[Finding]:
    return [Finding("trust", f"trust: {line}", remedy) for line in lines]


def _blob(site: Site, digest: Digest, size: int | None, name: str) -> Finding | None:
    what = f"blob {digest}" + (f" of {name}" if name else "")
    try:
        found, length = hash_file(site.store.path(digest))
    except NotFoundError:
        return Finding("blobs", f"{what}: is missing", Remedy.PACKAGE, blob=digest)
    except AirpackError as error:
        return problem("blobs", what, error, Remedy.PACKAGE, digest)
    if found == digest and size in {None, length}:
        return None
    line = f"{what}: has {length} bytes with {found}" + (f", not {size} with its own" if size is not None else "")
    return Finding("blobs", line, Remedy.PACKAGE, blob=digest)


def _receipt_file(site: Site, row: ReleaseRow, remedy: Remedy) -> list[Finding]:
    path = receipt_path(site, row.digest)
    what = f"receipt of {row.name}, {path.relative_to(site.root)}"
    data, error = _got(lambda: fsops.read_regular(path, Limits.DOCUMENT))
    if error is not None:
        return [problem("receipts", what, error, remedy)]
    return [Finding("receipts", f"{what}: not the one in the catalog", remedy)] if data != row.receipt else []


def _kept_receipts(site: Site, row: ReleaseRow, key: PublicKey) -> list[Finding]:
    """Look at the receipts of earlier imports of a release: they are named by their own digest."""
    found = []
    for path in sorted((site.root / "evidence/receipts").glob(f"{row.digest.hex}-*.json")):
        what = f"receipt {path.relative_to(site.root)}"
        data, error = _got(partial(fsops.read_regular, path, Limits.DOCUMENT))
        if data is not None:
            error = _attempt(partial(check_receipt, data, key=key, release=row.digest))
            if error is None and kept_path(site, row.digest, data) != path:
                error = IntegrityError("its name is not that of its bytes")
        if error is not None:
            found.append(problem("receipts", what, error, Remedy.BACKUP))
    return found


def _attempt(call: Callable[[], object]) -> AirpackError | None:
    """Return the error that `call` ends with, None for none."""
    return _got(call)[1]


def _got(call: Callable[[], _T]) -> tuple[_T | None, AirpackError | None]:
    """Return what `call` returns, or the error that it ends with."""
    try:
        return call(), None
    except AirpackError as error:
        return None, error
