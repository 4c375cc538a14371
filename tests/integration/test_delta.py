"""A release that builds on another: built against it, imported where it is held, refused where it is not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from airpack.formats import dsse, head
from airpack.formats.package import PackageManifest

RANDOM = np.random.default_rng(11)
TENSORS = {f"layer{number}": RANDOM.normal(0, 0.02, 60_000).astype("f4") for number in range(8)}
LIBRARY = b"".join(b"symbol %d of the library\n" % (number * number % 7919) for number in range(20_000))
CHECK = b'#!/bin/sh\necho "checked $0"\n'


def changed(by: float, *names: str) -> dict[str, Any]:
    return {
        name: (array * (1 + by * RANDOM.normal(0, 1, array.shape))).astype("f4") if name in names else array
        for name, array in TENSORS.items()
    }


@dataclass
class Bench:
    """A workspace, and a folder of inputs for each version."""

    folder: Path
    run: Callable[..., Any]

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def root(self) -> Path:
        return self.workspace / "keys/root.json"

    def spec(self, version: str, tensors: dict[str, Any], library: bytes = LIBRARY, release: str = "") -> Path:
        place = self.folder / "specs" / version
        for name in ("model", "tool"):
            (place / name).mkdir(parents=True, exist_ok=True)
        (place / "model/weights.safetensors").write_bytes(safetensors.numpy.save(tensors))
        (place / "tool/lib.so").write_bytes(library)
        (place / "tool/check").write_bytes(CHECK)
        (place / "tool/check").chmod(0o755)
        (place / "pack.toml").write_text(
            f'[release]\nproduct = "tool"\nversion = "{version}"\n{release}\n[[model]]\nname = "m"\npath = "model"\n'
            '[[runtime]]\nname = "tool"\nkind = "files"\npath = "tool"\n'
        )
        return place / "pack.toml"

    def build(self, spec: Path, *words: str | Path, expect: int = 0) -> Any:
        out = self.folder / "media" / f"{spec.parent.name}{'-delta' if words else ''}"
        words = ("build", spec, "-o", out, "--workspace", self.workspace, *words, "--json")
        return self.run(*words, expect=expect).json


def stored(built: Any) -> int:
    return sum(Path(path).stat().st_size for path in built["volumes"])


def manifest(built: Any) -> PackageManifest:
    data = Path(built["head"]).read_bytes()
    return PackageManifest.parse(dsse.parse(head.parse(data).package).payload)


@pytest.fixture
def bench(tmp_path: Path, airpack: Callable[..., Any]) -> Bench:
    airpack("init", tmp_path / "workspace", "--channel", "main", "--no-passphrase", "--json")
    return Bench(tmp_path, airpack)


@pytest.fixture
def first(bench: Bench) -> Any:
    """Release 1.0.0."""
    return bench.build(bench.spec("1.0.0", TENSORS))


@pytest.fixture
def site(bench: Bench, new_site: Callable[..., Any]) -> Any:
    return new_site(bench.root)


def held(site: Any) -> set[str]:
    return {path.name for path in site.folder.glob("store/blobs/sha256/*/*")}


def test_a_delta_is_imported_where_its_base_is_held(bench: Bench, first: Any, site: Any) -> None:
    spec = bench.spec("1.1.0", changed(3e-3, "layer1", "layer3", "layer5", "layer7"))
    full = bench.build(spec)
    delta = bench.build(spec, "--base", "tool@1.0.0")
    assert delta["release"] == full["release"]
    assert delta["repeated"] is True
    assert [base["version"] for base in delta["bases"]] == ["1.0.0"]
    assert delta["bytes_raw"] == full["bytes_raw"]
    assert stored(delta) < stored(full) * 0.35
    site.run("import", Path(first["head"]).parent)
    site.run("import", Path(delta["head"]).parent)
    assert site.states() == {"tool@1.0.0": "ready", "tool@1.1.0": "ready"}
    site.run("fsck")
    again = site.run("import", Path(full["head"]).parent).json
    assert again["repeated"] is True


def test_a_changed_model_ships_no_bytes_of_an_unchanged_runtime(bench: Bench, first: Any) -> None:
    delta = bench.build(bench.spec("1.1.0", changed(1e-3, *TENSORS)), "--base", first["release"])
    found = manifest(delta)
    assert len(found.files) == 1
    assert len(found.base_files) == 3  # two of the runtime, and the weights that it builds on
    assert delta["delta"]["reused_files"] == 2
    assert delta["delta"]["rest"] < 4096


def test_a_changed_runtime_is_patched_and_the_model_stays(bench: Bench, first: Any, site: Any) -> None:
    delta = bench.build(
        bench.spec("1.1.0", TENSORS, LIBRARY.replace(b"symbol 99 ", b"symbol ninety-nine ")), "--base", "tool"
    )
    assert delta["delta"]["patched_files"] == 1
    assert stored(delta) < 3000
    site.run("import", Path(first["head"]).parent)
    site.run("import", Path(delta["head"]).parent)
    site.run("fsck")


def test_tensors_that_moved_cost_nothing(bench: Bench, first: Any, site: Any) -> None:
    moved = {f"model.{name}": array for name, array in reversed(TENSORS.items())}
    delta = bench.build(bench.spec("1.1.0", moved), "--base", "tool@1.0.0")
    assert delta["delta"]["same_tensors"] == len(TENSORS)
    assert stored(delta) < 8192
    site.run("import", Path(first["head"]).parent)
    site.run("import", Path(delta["head"]).parent)
    site.run("fsck")


def test_a_release_of_the_same_bytes_has_no_volumes(bench: Bench, first: Any, site: Any) -> None:
    delta = bench.build(bench.spec("1.1.0", TENSORS), "--base", "tool@1.0.0")
    assert delta["volumes"] == []
    site.run("import", Path(first["head"]).parent)
    assert site.run("import", Path(delta["head"]).parent, "--dry-run").json["bytes_needed"] == 0
    site.run("import", Path(delta["head"]).parent)
    assert site.states() == {"tool@1.0.0": "ready", "tool@1.1.0": "ready"}
    site.run("fsck")


def test_a_delta_on_a_delta(bench: Bench, first: Any, site: Any) -> None:
    second = bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")), "--base", "tool")
    third = bench.build(bench.spec("1.2.0", changed(1e-3, "layer2")), "--base", "tool")
    assert [base["version"] for base in third["bases"]] == ["1.1.0"]
    for built in (first, second, third):
        site.run("import", Path(built["head"]).parent)
    site.run("fsck")


def test_a_site_without_the_base_says_which_release_it_lacks_and_reads_nothing(
    bench: Bench, first: Any, site: Any
) -> None:
    delta = bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")), "--base", "tool@1.0.0")
    for path in delta["volumes"]:
        Path(path).write_bytes(b"never looked at")
    before = site.visible()
    found = site.run("import", Path(delta["head"]).parent, expect=30).json
    assert found["error"]["code"] == "partial"
    assert "tool@1.0.0" in found["error"]["message"]
    assert first["release"] in found["error"]["message"]
    assert "full package" in found["error"]["hint"]
    assert found["checks"][-1]["name"] == "bases"
    assert site.visible() == before
    assert site.records()[-1]["outcome"] == "refused"


def test_a_site_whose_base_was_damaged_refuses_before_it_reads(bench: Bench, first: Any, site: Any) -> None:
    delta = bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")), "--base", "tool@1.0.0")
    site.run("import", Path(first["head"]).parent)
    blob = max(site.folder.glob("store/blobs/sha256/*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    found = site.run("import", Path(delta["head"]).parent, expect=30).json
    assert "as they were verified" in found["error"]["message"]
    assert site.states() == {"tool@1.0.0": "ready"}
    site.run("import", Path(first["head"]).parent)  # brings the bytes again
    site.run("import", Path(delta["head"]).parent)
    site.run("fsck")


def test_a_delta_is_verified_without_a_site(bench: Bench, first: Any, airpack: Callable[..., Any]) -> None:
    delta = bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")), "--base", "tool@1.0.0")
    found = airpack("verify", Path(delta["head"]).parent, "--root", bench.root, "--json").json
    assert found["ok"] is True
    assert first


def test_a_base_may_be_named_in_the_spec(bench: Bench, first: Any) -> None:
    spec = bench.spec("1.1.0", changed(1e-3, "layer1"), release=f'base = ["{first["release"]}"]')
    assert [base["version"] for base in bench.build(spec)["bases"]] == ["1.0.0"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--base", "tool@9"], 3, "was not built in this workspace"),
        (["--base", "sha256:" + "0" * 64], 3, "was not built in this workspace"),
        (["--base", "site:nowhere"], 3, "no site nowhere is pinned"),
        (["--base", "site:../x"], 2, "not a name for a site"),
        (["--base", "Tool"], 2, "product"),
        (["--base", "tool@1.1.0"], 2, "its own base"),
        (["--base", "tool@1.0.0", "--format", "oci"], 2, "plain layout"),
    ],
)
def test_a_base_that_cannot_be_one_is_refused(
    bench: Bench, first: Any, words: list[str], code: int, message: str
) -> None:
    spec = bench.spec("1.1.0", changed(1e-3, "layer1"))
    bench.build(spec)
    error = bench.build(spec, *words, expect=code)["error"]
    assert message in error["message"]
    assert first


def test_a_package_that_is_no_smaller_for_its_base_stands_alone(bench: Bench, first: Any, site: Any) -> None:
    fresh = {name: RANDOM.normal(0, 1, 60_000).astype("f4") for name in TENSORS}
    spec = bench.spec("1.1.0", fresh, library=bytes(reversed(LIBRARY)))
    (spec.parent / "tool/check").write_bytes(CHECK + b"# more\n")
    full, delta = bench.build(spec), bench.build(spec, "--base", "tool@1.0.0")
    assert delta["bases"] == []
    assert (manifest(delta).files, manifest(delta).stored) == (manifest(full).files, manifest(full).stored)
    site.run("import", Path(delta["head"]).parent)
    assert first


class TestDryRun:
    def test_it_says_what_each_way_would_come_to(self, bench: Bench, first: Any) -> None:
        bench.build(bench.spec("1.0.1", changed(1e-1, *TENSORS)))
        spec = bench.spec("1.1.0", changed(1e-3, "layer1"))
        words = ("--base", "tool@1.0.1", "--base", "tool@1.0.0")
        found = bench.build(spec, *words, "--dry-run")
        assert [way["bases"] for way in found["ways"]] == [
            [],
            ["tool@1.0.1"],
            ["tool@1.0.0"],
            ["tool@1.0.1", "tool@1.0.0"],
        ]
        assert not (bench.folder / "media/1.1.0-delta").exists()
        alone, poor, good, both = (way["bytes"] for way in found["ways"])
        assert good <= both < poor < alone
        assert all(way["exact"] for way in found["ways"])
        assert found["ways"][2]["delta"]["reused_files"] == 2
        assert stored(bench.build(spec)) == alone
        assert stored(bench.build(spec, "--base", "tool@1.0.0")) == good
        assert first

    def test_people_are_told_what_is_an_estimate(
        self, bench: Bench, first: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airpack.transport.forecast._SAMPLES", 2)
        spec = bench.spec("1.1.0", changed(1e-3, "layer1"))
        words = ("build", spec, "-o", bench.folder / "x", "--base", "tool", "--workspace", bench.workspace)
        text = bench.run(*words, "--dry-run").out
        assert "alone: " in text
        assert "an estimate" in text
        assert "on tool@1.0.0: " in text
        assert "left out   2 files" in text
        assert first


class TestBytesInTheWorkspace:
    def test_changed_ones_are_refused_and_nothing_is_written(self, bench: Bench, first: Any) -> None:
        weights = bench.folder / "specs/1.0.0/model/weights.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        error = bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")), "--base", "tool", expect=10)["error"]
        assert "weights.safetensors of the base is not what was packed" in error["message"]
        assert "--keep" in error["hint"]
        assert list((bench.folder / "media/1.1.0-delta").iterdir()) == []
        assert first

    def test_missing_ones_are_refused(self, bench: Bench, first: Any) -> None:
        shutil.rmtree(bench.folder / "specs/1.0.0")
        error = bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")), "--base", "tool", expect=3)["error"]
        assert "weights.safetensors of tool@1.0.0 is not where its bytes lay" in error["message"]
        assert first

    def test_a_release_that_was_built_before_places_were_remembered(self, bench: Bench, first: Any) -> None:
        shutil.rmtree(bench.workspace / "registry/places")
        error = bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")), "--base", "tool", expect=3)["error"]
        assert "does not know where" in error["message"]
        same = bench.build(bench.spec("1.2.0", TENSORS), "--base", "tool@1.0.0")  # of what is the same none is needed
        assert same["delta"]["reused_files"] == 3
        assert first

    def test_kept_ones_are_used_when_the_others_are_gone(self, bench: Bench, site: Any) -> None:
        first = bench.build(bench.spec("1.0.0", TENSORS), "--keep")
        shutil.rmtree(bench.folder / "specs/1.0.0")
        delta = bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")), "--base", "tool")
        assert delta["delta"]["same_tensors"] == 7
        site.run("import", Path(first["head"]).parent)
        site.run("import", Path(delta["head"]).parent)
        site.run("fsck")

    def test_kept_ones_that_were_changed_are_refused(self, bench: Bench) -> None:
        bench.build(bench.spec("1.0.0", TENSORS), "--keep")
        kept = max((bench.workspace / "registry/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        data = bytearray(kept.read_bytes())
        data[-1] ^= 1
        kept.write_bytes(data)
        bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")), "--base", "tool", expect=10)


class TestSites:
    def test_the_newest_release_that_a_site_acknowledged_is_the_base(
        self, bench: Bench, first: Any, site: Any, tmp_path: Path
    ) -> None:
        def desk(*words: str | Path, expect: int = 0) -> Any:
            return bench.run(*words, "--workspace", bench.workspace, "--json", expect=expect).json

        second = bench.build(bench.spec("1.1.0", changed(1e-3, "layer1")))
        desk("receipt", "trust", "plant-7", "--key", site.folder / "evidence/site.pub")
        third = bench.spec("1.2.0", changed(1e-3, "layer2"))
        error = bench.build(third, "--base", "site:plant-7", expect=3)["error"]
        assert "has not acknowledged" in error["message"]
        for number, built in enumerate((first, second)):
            site.run("import", Path(built["head"]).parent)
            site.run("evidence", "export", "-o", tmp_path / f"{number}.zip")
            desk("receipt", "add", tmp_path / f"{number}.zip")
            delta = bench.build(third, "--base", "site:plant-7")
            assert [base["version"] for base in delta["bases"]] == [("1.0.0", "1.1.0")[number]]
        site.run("import", Path(delta["head"]).parent)
        site.run("fsck")


def test_places_are_as_the_specification_says(bench: Bench, first: Any) -> None:
    path = bench.workspace / "registry/places" / f"{first['release'].removeprefix('sha256:')}.json"
    found = json.loads(path.read_bytes())
    assert found["schema"] == "airpack.places/1"
    places = {each["path"]: each["size"] for each in found["files"]}
    weights = bench.folder / "specs/1.0.0/model/weights.safetensors"
    library = bench.folder / "specs/1.0.0/tool/lib.so"
    assert places == {str(weights): weights.stat().st_size, str(library): len(LIBRARY)}
