"""A workspace with small releases, sites, what can be done at them, and what must hold whatever happened.

The laws are those of docs/design.md:

1. what is visible is whole: each release of the catalog has all its bytes, each name in the store has the bytes of its
   digest, and `current` leads to a whole tree, also before any command has put anything right;
2. what was acknowledged stays: releases, standings, what runs, the floor, every record of the log;
3. nothing takes effect before it is on record.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from airpack.errors import AirpackError
from airpack.evidence.records import Event, Phase, Record
from airpack.ops import maintain
from airpack.ops.activate import activate, rollback
from airpack.ops.audit import audit_evidence
from airpack.ops.build import build
from airpack.ops.evidence import export_evidence
from airpack.ops.generations import damage, load_release
from airpack.ops.import_ import import_package
from airpack.ops.recover import exclusive
from airpack.ops.site import Site
from airpack.ops.workspace import Workspace
from airpack.policy.lifecycle import shown
from airpack.store.blobs import hash_file
from airpack.types import State

PRODUCT: Final = "tool"
FAILING: Final = "1.3.0"
"""The version whose probe does not pass."""
VERSIONS: Final = ("1.0.0", "1.1.0", "1.2.0", FAILING, "1.4.0", "1.5.0")
SEQUENCE: Final = {version: number for number, version in enumerate(VERSIONS, 1)}
_CHECK: Final = '#!/bin/sh\necho "checked"\nexit {code}\n'


class LawBrokenError(AssertionError):
    """A law does not hold: the finding that all of this looks for."""


def hold(condition: object, what: str) -> None:
    """Raise unless `condition` holds.

    Raises:
        LawBrokenError: It does not.
    """
    if not condition:
        raise LawBrokenError(what)


@dataclass(frozen=True, slots=True)
class World:
    """The connected side, and what came from it.

    Attributes:
        folder: Where all of it lies.
        root: The channel's root, to pin.
    """

    folder: Path
    root: Path

    @classmethod
    def make(cls, folder: Path, versions: Sequence[str] = VERSIONS) -> "World":
        """Build one small release for each version: two weights, a program, a probe that runs it.

        Args:
            folder: An empty folder, or one that is made.
            versions: Some of `VERSIONS`, in their order.
        """
        folder.mkdir(parents=True, exist_ok=True)
        workspace = Workspace.create(folder / "workspace", channel="main", passphrase=None, now=now())
        world = cls(folder, workspace.pinned_root)
        for version in versions:
            build(workspace, world._spec(version), world.medium(version), passphrase=lambda: None, now=now())
        return world

    def medium(self, version: str) -> Path:
        """Return the folder of the package of `version`."""
        return self.folder / f"medium-{version}"

    def _spec(self, version: str) -> Path:
        place = self.folder / "specs" / version
        for name in ("model", "tool"):
            (place / name).mkdir(parents=True)
        for name, seed in (("own", SEQUENCE[version]), ("shared", 0)):
            (place / f"model/{name}.safetensors").write_bytes(_safetensors(seed))
        check = place / "tool/check"
        check.write_text(_CHECK.format(code=int(version == FAILING)))
        check.chmod(0o755)
        (place / "pack.toml").write_text(
            f'[release]\nproduct = "{PRODUCT}"\nversion = "{version}"\nsequence = {SEQUENCE[version]}\n'
            '[[model]]\nname = "m"\npath = "model"\nlicense = "MIT"\n'
            '[[runtime]]\nname = "tool"\nkind = "files"\npath = "tool"\n'
            '[probe]\nkind = "command"\ncommand = ["runtime/tool/check"]\n'
        )
        return place / "pack.toml"

    def site(self, place: Path, *, bare: bool = False) -> Path:
        """Make an empty site at `place` and return it; its probes may run where nothing can be isolated.

        Args:
            place: Where.
            bare: Without the store's empty folders, which an import then makes: quicker to copy, and one step more.
        """
        Site.create(place, root=self.root.read_bytes(), minimum={})
        for folder in (place / "store/blobs/sha256").iterdir() if bare else ():
            folder.rmdir()
        policy = place / "policy.toml"
        policy.write_text(policy.read_text().replace("allow_unisolated = false", "allow_unisolated = true"))
        return place


def now() -> datetime:
    """Return the machine's clock, UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def _safetensors(seed: int, count: int = 64) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([seed]) * count


# --- what can be done ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Act:
    """One command at a site.

    Attributes:
        name: import, activate, rollback, gc, export or fsck.
        version: Of what, where it is of one release.
    """

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()

    def run(self, world: World, place: Path) -> None:
        """Do it.

        Raises:
            AirpackError: As the command does.
        """
        site = Site.open(place)
        doing: dict[str, Callable[[], object]] = {
            "import": lambda: import_package(site, [world.medium(self.version)]),
            "activate": lambda: activate(site, f"{PRODUCT}@{self.version}"),
            "rollback": lambda: rollback(site, PRODUCT, None),
            "gc": lambda: maintain.gc(site),
            "export": lambda: export_evidence(site, place.with_name(f"{place.name}.zip"), replace=True),
            "fsck": lambda: maintain.fsck(site),
        }
        doing[self.name]()


def run_all(world: World, place: Path, acts: Sequence[Act]) -> Path:
    """Do all of `acts` at the site `place` and return it; a probe that fails is an end like any other."""
    for act in acts:
        try:
            act.run(world, place)
        except AirpackError as error:
            hold(act.version == FAILING and error.code == "probe", f"{act}: {error.message}")
    return place


def copy_site(template: Path, place: Path) -> Path:
    """Copy a site, links as links, and return the copy."""
    shutil.copytree(template, place, symlinks=True)
    return place


def remove_site(place: Path) -> None:
    """Remove a site, with the generations in it, which are read-only on purpose."""
    for path in (place, *(place / "generations").rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(place)
    place.with_name(f"{place.name}.zip").unlink(missing_ok=True)


# --- what must hold -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """What a site shows to those who ask it.

    Attributes:
        states: Version -> the word that users see, of releases that are held.
        active: The version that runs, "" for none.
        floor: Highest number that proved good.
    """

    states: dict[str, str]
    active: str
    floor: int


def see(place: Path) -> Seen:
    """Return what the site shows now; nothing is changed."""
    site = Site.open(place)
    rows = [row for row in site.catalog.releases(PRODUCT) if row.state is not State.SUPERSEDED]
    running = site.catalog.active(PRODUCT)
    active = next((row.version for row in rows if running is not None and row.digest == running.release), "")
    return Seen({row.version: shown(row.state) for row in rows}, active, site.catalog.floor(PRODUCT))


def entries(place: Path) -> bytes:
    """Return the bytes of the evidence log."""
    return (place / "evidence/log/entries.jsonl").read_bytes()


def check_struck(place: Path, acknowledged: bytes) -> None:
    """Hold a site that was just struck to laws 1 and 2, before anything puts anything right.

    Args:
        place: The site.
        acknowledged: The log's bytes as they were when a command last said that it was done.

    Raises:
        LawBrokenError: A law does not hold.
    """
    try:
        site = Site.open(place)
        hold(not site.catalog.check(), "the catalog is damaged")
        hold(entries(place).startswith(acknowledged), "the log lost or changed an acknowledged record")
        _check_store(place)
        _check_visible(site)
    except AirpackError as error:
        raise LawBrokenError(f"what is visible cannot be read: {error.code}: {error.message}") from error


def _check_visible(site: Site) -> None:
    """Law 1, of releases and of what runs."""
    rows = [row for row in site.catalog.releases(PRODUCT) if row.state is not State.SUPERSEDED]
    for row in rows:
        missing = site.store.missing(site.catalog.blobs(row.digest).items())
        hold(not missing, f"{row.name} is visible and lacks {missing}")
    link = site.current(PRODUCT)
    if link.is_symlink():
        tree = link.resolve()
        hold(tree.is_dir(), f"current leads to {tree}, which is not there")
        whole = [row for row in rows if not damage(tree, load_release(site, row.digest))]
        hold(whole, f"current leads to {tree}, which is no whole release that is held")
        hold(whole[0].state is not State.FAILED, f"current leads to {whole[0].name}, which has failed")


def check_settled(place: Path) -> Seen:
    """Let recovery run, hold the site to all laws, and return what it shows.

    Raises:
        LawBrokenError: A law does not hold.
    """
    try:
        with exclusive(Site.open(place)):
            pass
    except AirpackError as error:
        raise LawBrokenError(f"recovery does not come to its end: {error.code}: {error.message}") from error
    check_struck(place, b"")
    site = Site.open(place)
    seen = see(place)
    running = site.catalog.active(PRODUCT)
    link = site.current(PRODUCT)
    expected = site.tree(running) if running else None
    hold((link.resolve() if link.is_symlink() else None) == expected, "current is not what the catalog says")
    if seen.active:
        hold(seen.states[seen.active] == "good", f"{seen.active} runs and is {seen.states[seen.active]}")
    hold(not site.log.open_intents(), "an intent was left without its result")
    _check_recorded(site, seen)
    return seen


def _check_store(place: Path) -> None:
    for path in (place / "store").rglob("*"):
        if path.is_file() and len(path.name) == 64:
            hold(hash_file(path)[0].hex == path.name, f"{path.name} is visible with other bytes")


def _check_recorded(site: Site, seen: Seen) -> None:
    """Law 3: for all that is so, an intent says that it was going to be."""
    records = site.records()
    versions = {str(row.digest): row.version for row in site.catalog.releases(PRODUCT)}

    def intended(*events: Event) -> set[str]:
        return {
            versions.get(str(subject.digest), "")
            for record in records
            if record.event in events and (record.phase is Phase.INTENT or _fell_back(record))
            for subject in record.subject
        }

    hold(set(seen.states) <= intended(Event.IMPORT), "a release is held whose import was never announced")
    running = {seen.active} - {""}
    hold(running <= intended(Event.ACTIVATE, Event.ROLLBACK), "a release runs whose activation was never announced")


def _fell_back(record: Record) -> bool:
    """Return whether the record is the result of a rollback: a fallback's intent cannot name where it will end."""
    return record.event is Event.ROLLBACK and record.phase is Phase.RESULT


def check_resumed(world: World, place: Path, act: Act, *, thorough: bool = True) -> Seen:
    """Do `act` again, to its end this time, and hold the site to everything, with `check_sound` where `thorough`.

    Raises:
        LawBrokenError: A law does not hold, or the act does not come to its end.
    """
    try:
        act.run(world, place)
    except AirpackError as error:
        hold(expected(act, error, see(place)), f"{act} does not come to its end: {error.code}: {error.message}")
    if thorough:
        check_sound(place)
    return check_settled(place)


def expected(act: Act, error: AirpackError, seen: Seen) -> bool:
    """Return whether `act` may end with `error` at a site that shows `seen`."""
    floor = {version for version in VERSIONS if SEQUENCE[version] < seen.floor}
    return (
        (error.code == "probe" and act.name == "activate" and act.version == FAILING)
        or (error.code == "not_found" and act.name in {"activate", "rollback"})
        or (error.code == "policy" and act.name == "rollback")
        or (error.code == "rollback" and act.version in floor)
    )


def check_sound(place: Path) -> None:
    """Hold a site to fsck before and after a gc that leaves nothing, to an empty quarantine, and to an audit.

    Raises:
        LawBrokenError: Something is found.
    """
    out = place.with_name(f"{place.name}.zip")
    try:
        maintain.fsck(Site.open(place))
        maintain.gc(Site.open(place))
        left = maintain.fsck(Site.open(place)).examined.leftovers
        export_evidence(Site.open(place), out, replace=True)
        audit_evidence(out, key=place / "evidence/site.pub", state=None)
    except AirpackError as error:
        raise LawBrokenError(f"the site is not sound: {error.message}") from error
    hold(not left, f"gc left {left}")
    hold(not list((place / "ingest").iterdir()), "something is left in the quarantine")
