"""Generations: one materialised, read-only tree of a release.

Files are hard links to the store's 0444 blobs; executable ones are copies at 0555, for a link cannot have a mode of
its own. Whatever a tree is about to be used for, its bytes are hashed first.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from airpack import fsops
from airpack.catalog.catalog import Generation, ReleaseRow
from airpack.errors import AirpackError, IntegrityError, StorageError
from airpack.formats.release import Release, read_release
from airpack.ops.site import Site
from airpack.store.blobs import hash_file
from airpack.types import Digest, Limits


def load_release(site: Site, digest: Digest) -> Release:
    """Read a release's documents from the store; each is hashed before it is parsed.

    Raises:
        NotFoundError: One is missing.
        IntegrityError: One has changed.
    """
    return read_release(site.store.read(digest, Limits.MANIFEST), lambda blob: site.store.read(blob, Limits.MANIFEST))


def materialise(site: Site, row: ReleaseRow, release: Release) -> Generation:
    """Return a generation that holds exactly `release`; an existing one is hashed and used again.

    Raises:
        NotFoundError: A blob is missing.
        IntegrityError: A blob has changed since it was imported.
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
    fsops.remove_tree(part)
    _build(site, part, release)
    fsops.rename_durable(part, tree)
    return generation


def _build(site: Site, tree: Path, release: Release) -> None:
    fsops.make_dir(tree)
    folders = {tree}
    for file in release.files:
        target = tree / file.path
        fsops.make_dir(target.parent)
        folders |= {folder for folder in target.parents if folder.is_relative_to(tree)}
        source = site.store.path(file.digest)
        if file.executable:
            fsops.copy_in(source, target, mode=0o555)
        else:
            _link(source, target)
    wrong = damage(tree, release, only_copies=True)
    if wrong:
        raise IntegrityError(f"a copy differs from its blob: {wrong[0]}")
    for folder in sorted(folders, reverse=True):
        folder.chmod(0o555)
        fsops.sync_dir(folder)


def _link(source: Path, target: Path) -> None:
    try:
        fsops.link_durable(source, target)
    except StorageError as error:
        # A very common file, the empty one say, can run out of links.
        if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EMLINK):
            raise
        fsops.copy_in(source, target, mode=0o444)


def damage(tree: Path, release: Release, *, only_copies: bool = False) -> list[str]:
    """Return what in `tree` is not as the release says, empty when all is well.

    Args:
        tree: A generation's folder.
        release: What it should hold.
        only_copies: Hash only executable files; links share the blobs' bytes, which were just hashed.
    """
    wrong = []
    for file in release.files:
        if only_copies and not file.executable:
            continue
        try:
            digest, size = hash_file(tree / file.path)
        except AirpackError as error:
            wrong.append(f"{file.path}: {error.message}")
            continue
        if (digest, size) != (file.digest, file.size):
            wrong.append(f"{file.path}: expected {file.digest}, found {digest}")
    if not only_copies:
        wrong += _extra(tree, {file.path for file in release.files})
    return wrong


def _extra(tree: Path, expected: Iterable[str]) -> list[str]:
    known = set(expected)
    found = []
    for folder, folders, files in os.walk(tree):
        for name in files + [name for name in folders if Path(folder, name).is_symlink()]:
            path = Path(folder, name).relative_to(tree).as_posix()
            if path not in known:
                found.append(f"{path}: not of this release")
    return found
