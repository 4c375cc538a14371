"""Imports of several volumes that are killed while they read, and machines that start anew between two tries.

Whatever was verified when it struck, no later run reads it from the medium again; and when an import comes to its end,
the store is byte for byte what an import that nobody disturbed leaves. The kill is a real SIGKILL, at a random moment
after a random read.
"""

import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from tests.crashes import world as worlds
from tests.crashes.strike import THROUGH, kill
from tests.crashes.world import World, hold

from airpack.formats import dsse
from airpack.formats import head as heads
from airpack.formats.package import PackageManifest
from airpack.formats.volume import ENTRY, HEADER
from airpack.ops import journal as journals
from airpack.ops import quarantine as quarantines
from airpack.ops.build import build
from airpack.ops.import_ import import_package
from airpack.ops.journal import read_progress
from airpack.ops.quarantine import quarantine_of
from airpack.ops.site import Site
from airpack.ops.workspace import Workspace
from airpack.store.blobs import hash_file
from airpack.types import Digest

_BYTES: Final = 7 << 20  # of weights that do not compress, in frames of 1 MiB
_TRIES: Final = 6  # kills of one import, at most
_SECONDS: Final = 0.03  # between a read and the kill, at most: several frames, and a sync


@dataclass(frozen=True, slots=True)
class Package:
    """A package of several volumes.

    Attributes:
        world: The channel that it is of.
        medium: Its folder.
        manifest: Its manifest.
        digest: Digest of the manifest's bytes.
        store: Digest and size of each blob that an undisturbed import leaves.
    """

    world: World
    medium: Path
    manifest: PackageManifest
    digest: Digest
    store: dict[str, tuple[Digest, int]]


@dataclass(slots=True)
class Tally:
    """What was done.

    Attributes:
        imports: How many came to their end.
        kills: How many chunks the journal had at a kill, by share of all: 0, some, all.
        restarts: How often the machine was as if started anew between two tries.
    """

    imports: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    restarts: int = 0


def make(folder: Path) -> Package:
    """Build the package, and import it once undisturbed."""
    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace.create(folder / "workspace", channel="main", passphrase=None, now=worlds.now())
    spec = folder / "spec"
    (spec / "model").mkdir(parents=True)
    dice = random.Random(1)
    for number, size in enumerate((_BYTES // 2, 700_000, _BYTES // 2 + 12_345, 5)):
        (spec / f"model/part{number}.dat").write_bytes(dice.randbytes(size))
    (spec / "pack.toml").write_text(
        '[release]\nproduct = "tool"\nversion = "1.0.0"\n[[model]]\nname = "m"\npath = "model"\nlicense = "MIT"\n'
    )
    medium = folder / "medium"
    build(workspace, spec / "pack.toml", medium, passphrase=lambda: None, now=worlds.now(), volume_size=2 << 20)
    world = World(folder, workspace.pinned_root)
    (path,) = medium.glob("*.airpack")
    payload = dsse.parse(heads.parse(path.read_bytes()).package).payload
    site = world.site(folder / "undisturbed")
    import_package(Site.open(site), [medium])
    return Package(world, medium, PackageManifest.parse(payload), Digest.of(payload), blobs(site))


def blobs(site: Path) -> dict[str, tuple[Digest, int]]:
    """Return digest and size of each file of a store, read anew."""
    return {path.name: hash_file(path) for path in (site / "store").rglob("?" * 64)}


def journaled(package: Package, site: Path) -> set[tuple[str, int]]:
    """Return volume and number of each chunk that need not be read again."""
    folder = quarantine_of(Site.open(site), package.digest)
    if not folder.exists():
        return set()
    progress = read_progress(folder, package.manifest, package.digest)
    return {
        (info.name, number)
        for position, info in enumerate(package.manifest.volumes)
        for number in range(1, info.entries + 1)
        if progress.has(position, number)
    }


def chunks_at(package: Package) -> dict[tuple[str, int], int]:
    """Return the number of the chunk that begins at a place of a volume."""
    found = {}
    for info in package.manifest.volumes:
        table = (package.medium / info.name).read_bytes()[HEADER : HEADER + info.entries * ENTRY]
        place = HEADER + info.slots * ENTRY
        for number in range(info.entries):
            found[info.name, place] = number + 1
            place += int.from_bytes(table[number * ENTRY + 48 : number * ENTRY + 52], "little")
    return found


def struck_reading(at: int, delay: float, act: Callable[[], object], log: Path) -> bool:
    """Do `act` in a child that dies `delay` seconds after its `at`-th read; return whether it came to its end before.

    Args:
        at: Counted from 1; 0 never strikes.
        delay: In seconds.
        act: What is done.
        log: Takes volume and offset of each read, a line each.
    """
    log.write_text("")
    child = os.fork()
    if child == 0:
        _child(at, delay, act, log)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    hold(os.WEXITSTATUS(status) == THROUGH, f"the import ended with {os.WEXITSTATUS(status)}")
    return True


def _child(at: int, delay: float, act: Callable[[], object], log: Path) -> None:
    os.fsync = lambda fd: None  # noqa: ARG005, the system's name: a kill loses nothing that was written
    preadv, count = os.preadv, 0
    stream = os.open(log, os.O_WRONLY | os.O_APPEND)

    def noted(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        nonlocal count
        count += 1
        if count == at:
            threading.Timer(delay, kill).start()
        os.write(stream, f"{Path(os.readlink(f'/proc/self/fd/{descriptor}')).name} {offset}\n".encode())  # noqa: PTH115
        return preadv(descriptor, buffers, offset)

    os.preadv = noted  # type: ignore[assignment]
    try:
        act()
    except BaseException as error:  # noqa: BLE001, a forked child must never go on as its parent
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(THROUGH)


def run(count: int, seed: int, say: Callable[[str], None], folder: Path | None = None) -> Tally:
    """Kill imports until `count` kills were dealt out, each import until it comes to its end; return what was done.

    Args:
        count: How many kills.
        seed: The same gives the same draws, though not the same instants.
        say: Told now and then how far it is.
        folder: Where sites lie; in memory is quickest.

    Raises:
        LawBrokenError: Something was read twice, or the store is another one.
    """
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="airpack-unplug-", dir=folder) as name:
        package = make(Path(name) / "world")
        template = package.world.site(Path(name) / "template")
        while sum(tally.kills.values()) < count:
            dice = random.Random(f"{seed}:{tally.imports}")
            site = worlds.copy_site(template, Path(name) / "site")
            try:
                _one(package, site, dice, tally)
            finally:
                worlds.remove_site(site)
            if tally.imports % 10 == 0:
                say(f"{tally.imports} imports, {sum(tally.kills.values())} kills")
    return tally


def _one(package: Package, site: Path, dice: random.Random, tally: Tally) -> None:
    """Import once, killed several times on the way."""
    places, log = chunks_at(package), site.with_name("reads")
    boot = 1
    often = dice.choice((1 << 20, 3 << 20, quarantines._CHECKPOINT))
    with (
        patch.object(quarantines, "_CHECKPOINT", often),
        patch.object(journals, "this_boot", lambda: boot.to_bytes(16, "little")),
    ):
        for number in range(_TRIES + 1):
            if number and dice.random() < 0.3:
                boot += 1
                tally.restarts += 1
            before = journaled(package, site)
            at = dice.randint(1, len(places) + 6) if number < _TRIES else 0
            through = struck_reading(at, dice.random() * _SECONDS, lambda: _import(package, site), log)
            lines = (line.split() for line in log.read_text().splitlines())
            read = {(name, places[name, int(at)]) for name, at in lines if (name, int(at)) in places}
            hold(not read & before, f"read twice: {sorted(read & before)[:3]}")
            if through:
                break
            done = len(journaled(package, site))
            tally.kills["none" if not done else "some" if done < len(places) else "all"] += 1
    tally.imports += 1
    hold(blobs(site) == package.store, "the store is not what an undisturbed import leaves")
    worlds.check_sound(site)


def _import(package: Package, site: Path) -> None:
    import_package(Site.open(site), [package.medium])
