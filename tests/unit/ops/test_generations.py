import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airpack import fsops
from airpack.errors import IntegrityError, StorageError
from airpack.ops.generations import damage, load_release, materialise
from airpack.ops.site import Site


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


class TestLoad:
    def test_reads_what_was_imported(self, site: Site, hold: Callable[..., Any]) -> None:
        held = hold()
        assert load_release(site, held.row.digest) == held.release

    def test_a_document_that_changed_or_is_gone_is_damage(self, site: Site, hold: Callable[..., Any]) -> None:
        held = hold()
        path = site.store.path(held.release.compat_digest)
        overwrite(path, path.read_bytes().replace(b"onnx", b"safe"))
        with pytest.raises(IntegrityError, match="has changed"):
            load_release(site, held.row.digest)
        path.unlink()
        with pytest.raises(IntegrityError, match="is missing"):
            load_release(site, held.row.digest)


class TestMaterialise:
    def test_the_tree_holds_exactly_the_release(self, site: Site, hold: Callable[..., Any]) -> None:
        held = hold()
        tree = site.tree(materialise(site, held.row, held.release))
        files = {path.relative_to(tree).as_posix(): path for path in tree.rglob("*") if path.is_file()}
        assert sorted(files) == [file.path for file in held.release.files]
        assert damage(tree, held.release) == []

    def test_is_read_only_links_but_for_what_must_be_executable(self, site: Site, hold: Callable[..., Any]) -> None:
        held = hold()
        tree = site.tree(materialise(site, held.row, held.release))
        for file in held.release.files:
            path = tree / file.path
            linked = path.samefile(site.store.path(file.digest))
            assert linked is not file.executable
            assert stat.S_IMODE(path.stat().st_mode) == (0o555 if file.executable else 0o444)
        folders = [tree, *(path for path in tree.rglob("*") if path.is_dir())]
        assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o555}

    def test_a_whole_one_is_used_again(self, site: Site, hold: Callable[..., Any]) -> None:
        held = hold()
        first = materialise(site, held.row, held.release)
        assert materialise(site, held.row, held.release) == first
        assert site.catalog.generations() == [first]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda tree: overwrite(tree / "runtime/tool/bin/run", b"#!/bin/evil"),
            lambda tree: [(tree / "model/minilm").chmod(0o755), (tree / "model/minilm/model.onnx").unlink()],
            lambda tree: [tree.chmod(0o755), (tree / "more").write_bytes(b"")],
            lambda tree: [tree.chmod(0o755), (tree / "more").symlink_to("/etc")],
            fsops.remove_tree,
        ],
        ids=["changed", "missing", "extra file", "extra link", "no tree"],
    )
    def test_a_damaged_one_is_never_used(
        self, site: Site, hold: Callable[..., Any], spoil: Callable[[Path], object]
    ) -> None:
        held = hold()
        first = materialise(site, held.row, held.release)
        spoil(site.tree(first))
        assert damage(site.tree(first), held.release)
        second = materialise(site, held.row, held.release)
        assert second.number == first.number + 1
        assert damage(site.tree(second), held.release) == []

    def test_every_blob_is_hashed_first(self, site: Site, hold: Callable[..., Any]) -> None:
        held = hold()
        (model,) = (file for file in held.release.files if file.path.endswith("model.onnx"))
        overwrite(site.store.path(model.digest), b"weightz 1")
        with pytest.raises(IntegrityError, match="has changed"):
            materialise(site, held.row, held.release)
        assert site.catalog.generations() == []
        assert list((site.root / "generations").iterdir()) == []

    def test_a_copy_that_differs_is_found(
        self, site: Site, hold: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = hold()
        real = fsops.copy_in

        def corrupt(source: Path, target: Path, *, mode: int) -> None:
            real(source, target, mode=mode)
            overwrite(target, b"#!/bin/SH\n")

        monkeypatch.setattr(fsops, "copy_in", corrupt)
        with pytest.raises(IntegrityError, match="a copy differs from its blob: runtime/tool/bin/run"):
            materialise(site, held.row, held.release)

    def test_where_a_file_has_all_its_links_a_verified_copy_will_do(
        self, site: Site, hold: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = hold()
        real = os.link

        def limited(source: Any, target: Any) -> None:
            if Path(target).name == "empty":
                raise OSError(errno.EMLINK, "Too many links")
            real(source, target)

        monkeypatch.setattr(os, "link", limited)
        tree = site.tree(materialise(site, held.row, held.release))
        assert damage(tree, held.release) == []
        assert stat.S_IMODE((tree / "model/minilm/a/empty").stat().st_mode) == 0o444

    @pytest.mark.parametrize("name", ["link", "rename", "fchmod"])
    def test_a_failure_leaves_no_tree_and_no_row(
        self, site: Site, hold: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        held = hold()

        def full(*_arguments: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StorageError, match="No space left"):
                materialise(site, held.row, held.release)
        assert site.catalog.generations() == []
        assert list((site.root / "generations/encoder").iterdir()) == []
        assert materialise(site, held.row, held.release).number == 2


def test_damage_names_every_file_and_what_was_expected(site: Site, hold: Callable[..., Any]) -> None:
    held = hold()
    tree = site.tree(materialise(site, held.row, held.release))
    overwrite(tree / "runtime/tool/bin/run", b"x")
    (tree / "model/minilm/a").chmod(0o755)
    (tree / "model/minilm/a/empty").unlink()
    (tree / "model/minilm/a/empty").symlink_to("/dev/null")
    program = next(file for file in held.release.files if file.executable)
    found = [item.line for item in damage(tree, held.release)]
    assert [line.partition(":")[0] for line in found] == ["model/minilm/a/empty", "runtime/tool/bin/run"]
    assert f"expected {program.digest}" in found[1]
