"""Generations: one materialised, read-only tree of a release.

Files are hard links to the store's 0444 blobs; executable ones are copies at 0555, for a link cannot have a mode of
its own. Whatever a tree is about to be used for, its bytes are hashed first.
"""

import errno
import os
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from airpack import fsops
from airpack.catalog.catalog import Generation, ReleaseRow
from airpack.errors import AirpackError, IntegrityError, StorageError
from airpack.formats.release import Release, ReleaseFile, read_release
from airpack.ops.site import Site
from airpack.store.blobs import hash_file
from airpack.types import Digest, Limits


def load_release(site: Site, digest: Digest) -> Release:
    """Read a release's documents from the store; each is hashed before it is parsed.

    Raises:
        IntegrityError: One is missing or has changed.
        StorageError: One cannot be read.
    """
    return read_release(site.store.read(digest, Limits.MANIFEST), lambda blob: site.store.read(blob, Limits.MANIFEST))


def materialise(site: Site, row: ReleaseRow, release: Release) -> Generation:
    """Return a generation that holds exactly `release`; an existing one is hashed and used again.

    Raises:
        IntegrityError: A blob is missing or has changed since it was imported.
        StorageError: Disk full or I/O error.
    """
    for generation in site.catalog.generations(row.product):
        if generation.release == row.digest and not damage(site.tree(generation), release):
            return generation
    sizes = {file.digest: file.size for file in release.files}
    for digest, size in sizes.items():
        site.store.verify(digest, size)
    generation = site.catalog.add_generation(row.product, row.digest)
    tree = site.tree(generation)
    part = tree.with_name(f".{tree.name}.part")
    fsops.make_dir(tree.parent)
    try:
        _build(site, part, release)
        fsops.rename_durable(part, tree)
    except AirpackError:
        # A full disk must not stay full of half a tree; what a kill leaves, recovery removes.
        fsops.remove_tree(part)
        site.catalog.drop_generation(generation)
        raise
    return generation


def renew_damaged(site: Site, repaired: AbstractSet[Digest]) -> int:
    """Replace the generations that share a blob which had been damaged, and return how many were.

    A tree's links keep the damaged bytes when the store's name gets good ones. What runs is the same release before
    and after; the link is switched in one step.

    Args:
        site: Its store holds the blobs whole again.
        repaired: Digests of the blobs that were replaced.

    Raises:
        IntegrityError: Something else is damaged too.
        StorageError: Disk full or I/O error.
    """
    renewed = 0
    for row in site.catalog.releases():
        trees = [item for item in site.catalog.generations(row.product) if item.release == row.digest]
        # Most imports bring a release that has no tree yet: its documents need not be read again.
        if trees and repaired & site.catalog.blobs(row.digest).keys():
            renewed += renew(site, row, trees)
    return renewed


def renew(site: Site, row: ReleaseRow, trees: Iterable[Generation]) -> int:
    """Replace those of `trees` that are not whole by one that is, and return how many were.

    Raises:
        IntegrityError: A blob of the release is damaged too.
        StorageError: Disk full or I/O error.
    """
    release = load_release(site, row.digest)
    broken = [generation for generation in trees if damage(site.tree(generation), release)]
    for generation in broken:
        _replace(site, generation, materialise(site, row, release))
    return len(broken)


def keep_only(site: Site, generation: Generation) -> None:
    """Remove the other generations of the same release: older trees that were not whole any more."""
    for other in site.catalog.generations(generation.product):
        if other.release == generation.release and other != generation:
            remove(site, other)


def remove(site: Site, generation: Generation) -> None:
    """Remove a generation that does not run: its row first, so that no half of a tree is ever a generation.

    What a kill leaves of the tree is nobody's then, and the next command removes it.
    """
    site.catalog.drop_generation(generation)
    fsops.remove_tree(site.tree(generation))


def _replace(site: Site, old: Generation, new: Generation) -> None:
    if site.catalog.active(old.product) == old:
        site.catalog.point(old.product, new.number)
        site.point(old.product)
    remove(site, old)


def _build(site: Site, tree: Path, release: Release) -> None:
    fsops.make_dir(tree)
    folders = {tree}
    copies = []
    for file in release.files:
        target = tree / file.path
        fsops.make_dir(target.parent)
        folders |= {folder for folder in target.parents if folder.is_relative_to(tree)}
        source = site.store.path(file.digest)
        if file.executable:
            fsops.copy_in(source, target, mode=0o555)
            copies.append(file)
        elif not _link(source, target):
            fsops.copy_in(source, target, mode=0o444)
            copies.append(file)
    wrong = _differing(tree, copies)  # links share the blobs' bytes, which were just hashed
    if wrong:
        raise IntegrityError(f"a copy differs from its blob: {wrong[0].line}")
    for folder in sorted(folders, reverse=True):
        fsops.seal_dir(folder, 0o555)


def _link(source: Path, target: Path) -> bool:
    """Link `target` to `source`; False where `source` (the empty file, say) has all the links that it can have."""
    try:
        fsops.link_file(source, target)
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EMLINK:
            return False
        raise
    return True


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in a tree that is not as its release says.

    Attributes:
        line: Path and what was found.
        checked: False where it could not be read, so that nobody knows.
    """

    line: str
    checked: bool = True


def damage(tree: Path, release: Release) -> list[Difference]:
    """Return what in `tree` is not as the release says, empty when all is well.

    Args:
        tree: A generation's folder.
        release: What it should hold.
    """
    return _differing(tree, release.files) + _extra(tree, {file.path for file in release.files})


def _differing(tree: Path, files: Iterable[ReleaseFile]) -> list[Difference]:
    wrong = []
    for file in files:
        try:
            digest, size = hash_file(tree / file.path)
        except AirpackError as error:
            wrong.append(Difference(f"{file.path}: {error.message}", checked=not isinstance(error, StorageError)))
            continue
        if (digest, size) != (file.digest, file.size):
            wrong.append(Difference(f"{file.path}: expected {file.digest}, found {digest}"))
    return wrong


def _extra(tree: Path, expected: Iterable[str]) -> list[Difference]:
    known = set(expected)
    found = []
    for folder, folders, files in os.walk(tree):
        for name in files + [name for name in folders if Path(folder, name).is_symlink()]:
            path = Path(folder, name).relative_to(tree).as_posix()
            if path not in known:
                found.append(Difference(f"{path}: not of this release"))
    return found
