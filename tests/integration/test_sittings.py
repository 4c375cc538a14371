"""A package over several media and sittings: what an import waits for, asks for, and never reads twice."""

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.vectors.vectors import HERE, ROOT, Vector

from airpack.formats.repair import RepairReport

SCHEMA = json.loads((Path(__file__).parents[2] / "manifests/schemas/repair.schema.json").read_text())
NAME = "many@1.0.0"


@dataclass
class Scene:
    """A fresh site, and a medium of four volumes."""

    site: Any
    medium: Path
    folder: Path
    reads: list[tuple[str, int]] = field(default_factory=list)

    @property
    def head(self) -> Path:
        return self.medium / "many-1.0.0.airpack"

    @property
    def volumes(self) -> list[Path]:
        return sorted(self.medium.glob("*.airvol"))

    def stick(self, *numbers: int, head: bool = True) -> Path:
        """Return a new medium with some of the volumes (from 1)."""
        target = self.folder / f"stick-{len(list(self.folder.glob('stick-*')))}"
        target.mkdir()
        for path in [*(self.volumes[number - 1] for number in numbers), *([self.head] if head else [])]:
            shutil.copy(path, target)
        return target

    def names(self, *numbers: int) -> list[str]:
        return [f"many-1.0.0.{number:04d}.airvol" for number in numbers]

    def waits(self, *media: Path, code: str = "partial", expect: int = 30) -> Any:
        """Import, and return the context of the refusal; what it wrote is of its form, and on record."""
        before = self.site.visible()
        error = self.site.run("import", *media, expect=expect).json["error"]
        assert error["code"] == code, error["message"]
        assert self.site.visible() == before, "nothing half-done shows"
        assert self.site.run("fsck").json["ok"] is True
        result = [record for record in self.site.records() if record["event"] == "import"][-1]
        assert (result["phase"], result["outcome"], result["reason"]) == ("result", "refused", code)
        context = error["context"]
        report = Path(context["report"])
        assert report == self.site.folder / "repair" / f"{NAME}.json"
        jsonschema.validate(json.loads(report.read_bytes()), SCHEMA)
        parsed = RepairReport.parse(report.read_bytes())
        assert (parsed.product, parsed.version) == ("many", "1.0.0")
        assert [needed.name for needed in parsed.volumes] == context["waits_for"]
        told = {item["volume"]: item["ranges"] for item in context["damaged"]}
        for needed in parsed.volumes:
            size = next(path.stat().st_size for path in self.volumes if path.name == needed.name)
            expected = [[0, size]] if needed.name in context["missing"] else told[needed.name]
            assert [list(place) for place in needed.ranges] == expected
        return context

    def ends(self, *media: Path) -> None:
        """Import, and hold the site to have all of the release, and nothing else left."""
        done = self.site.run("import", *media).json
        assert (done["state"], done["repeated"]) == ("ready", False)
        assert self.site.run("fsck").json["ok"] is True
        assert list((self.site.folder / "ingest").iterdir()) == []
        assert list((self.site.folder / "repair").glob("*")) == []


@pytest.fixture
def scene(
    tmp_path: Path, place: Callable[[Path], Any], airpack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Scene:
    vector = Vector.load(HERE / "many_ok")
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: vector.now)
    site = place(tmp_path / "site")
    airpack("site", "init", site.folder, "--root", ROOT, "--json")
    vector.lay_out(tmp_path / "medium")
    scene = Scene(site, tmp_path / "medium", tmp_path)
    preadv = os.preadv

    def counted(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        scene.reads.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, offset))  # noqa: PTH115
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    return scene


def flip(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for at in places:
        data[at] ^= 1
    path.write_bytes(data)


def test_one_volume_after_the_other_in_any_order(scene: Scene) -> None:
    first = scene.waits(scene.stick(3))
    assert (first["missing"], first["damaged"], first["waits_for"]) == (scene.names(1, 2, 4), [], scene.names(1, 2, 4))
    assert scene.waits(scene.stick(1))["waits_for"] == scene.names(2, 4)
    assert scene.waits(scene.stick(4), scene.stick(3, head=False))["waits_for"] == scene.names(2)
    scene.ends(scene.stick(2))
    chunks = [read for read in scene.reads if read[1] >= 128 + 3 * 64]
    assert len(chunks) == len(set(chunks)) == 7, "each of the seven chunks was read once"


def test_several_mount_points_at_once(scene: Scene) -> None:
    scene.ends(scene.stick(2, head=False), scene.stick(4, 1), scene.stick(3, head=False))


def test_the_head_may_be_named_beside_folders_that_have_none(scene: Scene) -> None:
    empty = scene.stick(head=True)
    scene.ends(empty / scene.head.name, scene.stick(1, 2, head=False), scene.stick(3, 4, head=False))


def test_people_are_told_what_is_still_needed(scene: Scene, airpack: Callable[..., Any]) -> None:
    said = airpack("import", scene.stick(1), "--site", scene.site.folder, expect=30)
    assert f"{NAME} is not whole yet: 3 of 4 volumes are missing: {', '.join(scene.names(2, 3, 4))}" in said.err
    assert "what was read is kept" in said.err


def test_what_will_be_written_is_said_to_the_byte_before_anything_is_read(
    scene: Scene, airpack: Callable[..., Any]
) -> None:
    def said(medium: Path, expect: int) -> int:
        err = airpack("import", medium, "--site", scene.site.folder, expect=expect).err
        return int(err.partition("airpack: note: ")[2].partition(" bytes will be written")[0] or 0)

    whole = scene.site.run("import", scene.medium, "--dry-run").json["bytes_needed"]
    assert said(scene.stick(1), 30) == whole
    first = said(scene.stick(2), 30)
    assert 0 < said(scene.stick(4), 30) < first < whole
    assert said(scene.stick(3), 0) > 0
    stored = [path for path in (scene.site.folder / "store").rglob("?" * 64) if path.stat().st_size]
    assert sum(path.stat().st_size for path in stored) > whole


def test_a_dry_run_counts_what_is_here_already(scene: Scene) -> None:
    stick = scene.stick(1, 2)
    assert scene.site.run("import", stick, "--dry-run", expect=30).json["error"]["context"]["missing"] == scene.names(
        3, 4
    )
    assert not (scene.site.folder / "repair").exists(), "a dry run writes nothing"
    scene.waits(stick)
    rest = scene.stick(3, 4)
    assert scene.site.run("import", rest, "--dry-run").json["bytes_needed"] > 0
    scene.ends(rest)


def test_damage_is_told_and_only_the_damaged_volume_brought_again(scene: Scene) -> None:
    good = scene.stick(2)
    flip(scene.volumes[1], scene.volumes[1].stat().st_size - 1)
    size = scene.volumes[1].stat().st_size
    context = scene.waits(scene.medium, code="damaged")
    assert (context["missing"], context["waits_for"]) == ([], scene.names(2))
    ((offset, length),) = context["damaged"][0]["ranges"]
    assert (context["volume"], offset + length) == (scene.names(2)[0], size)
    scene.reads.clear()
    scene.ends(good)
    assert [read for read in scene.reads if read[1] >= 128] == [(scene.names(2)[0], 128), (scene.names(2)[0], offset)]


def test_what_one_medium_has_damaged_another_may_have_whole(scene: Scene) -> None:
    """Two copies, each damaged somewhere else, are as good as one that is whole."""
    one, two = scene.stick(1, 2, 3, 4), scene.stick(1, 2, 3, 4)
    flip(one / scene.names(1)[0], -1, 3)
    flip(two / scene.names(2)[0], -1)
    flip(two / scene.names(4)[0], 130)
    os.truncate(two / scene.names(3)[0], 200)
    scene.ends(one, two)


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_flipped_bytes_keep_out_nothing_but_themselves(scene: Scene, count: int, seed: int) -> None:
    dice = random.Random(seed * 10_000 + count)
    good = scene.stick(1, 2, 3, 4)
    struck = set()
    for _ in range(count):
        volume = dice.choice(scene.volumes)
        flip(volume, dice.randrange(volume.stat().st_size))
        struck.add(volume.name)
    context = scene.waits(scene.medium, code="damaged")
    assert set(context["waits_for"]) <= struck
    scene.ends(good)


def test_volumes_of_two_packages_are_told_apart(scene: Scene) -> None:
    """The other package has the same names: a rebuild of the same release, say."""
    other = scene.stick(1, 2, 3, 4)
    for path in other.glob("*.airvol"):
        flip(path, 9)  # a byte of the digest of its package
    for name in scene.names(2, 4):
        shutil.copy(other / name, scene.medium / name)
    good = scene.folder / "good"
    vector = Vector.load(HERE / "many_ok")
    vector.lay_out(good)
    context = scene.waits(scene.medium, code="damaged")
    assert context["waits_for"] == scene.names(2, 4)
    assert context["damaged"][0]["ranges"] == [[0, context["length"]]]
    scene.ends(scene.medium, good)


def test_a_head_that_is_damaged_on_one_medium_is_read_from_another(scene: Scene) -> None:
    one, two = scene.stick(1, 2), scene.stick(3, 4)
    flip(one / scene.head.name, 1000)
    scene.ends(one, two)


def test_heads_that_differ_are_a_question(scene: Scene) -> None:
    one, two = scene.stick(1, 2), scene.stick(3, 4)
    renewed = Vector.load(HERE / "renewed_ok").files()
    (two / scene.head.name).write_bytes(renewed[scene.head.name])
    error = scene.site.run("import", one, two, expect=2).json["error"]
    assert "are not the same" in error["message"]
    scene.ends(one / scene.head.name, two)


def test_giving_up_leaves_nothing_behind(scene: Scene) -> None:
    scene.waits(scene.stick(1))
    assert scene.site.run("gc").json["quarantines"] == 1
    assert not (scene.site.folder / "repair").exists()
    assert scene.site.run("fsck").json["ok"] is True
    scene.ends(scene.medium)


def test_fsck_knows_the_reports_and_nothing_else_among_them(scene: Scene) -> None:
    scene.waits(scene.stick(1))
    folder = scene.site.folder / "repair"
    (folder / "evil.json").write_bytes((folder / f"{NAME}.json").read_bytes())
    (folder / "notes.txt").write_text("?")
    damage = scene.site.run("fsck", expect=10).json["damage"]
    assert sorted(damage) == ["stray repair/evil.json", "stray repair/notes.txt"]


def test_verify_takes_several_folders_and_nothing_less_than_all(scene: Scene, airpack: Callable[..., Any]) -> None:
    words = ("--root", ROOT, "--at", "2026-06-02T00:00:00Z", "--json")
    one, two = scene.stick(1, 4), scene.stick(2, 3, head=False)
    assert airpack("verify", one, two, *words).json["ok"] is True
    missing = airpack("verify", one, *words, expect=30).json["error"]
    assert (missing["code"], missing["context"]["missing"]) == ("partial", scene.names(2, 3))
    flip(two / scene.names(3)[0], -1)
    damaged = airpack("verify", one, two, *words, expect=10).json["error"]
    assert (damaged["code"], damaged["context"]["volume"]) == ("integrity", scene.names(3)[0])
    assert damaged["context"]["damaged"][0]["volume"] == scene.names(3)[0]


def test_one_medium_of_what_is_held_already_is_looked_at_and_waits_for_nothing(scene: Scene) -> None:
    scene.ends(scene.medium)
    stick = scene.stick(2)
    assert scene.site.run("import", stick).json["repeated"] is True
    flip(stick / scene.names(2)[0], -1)
    error = scene.site.run("import", stick, expect=30).json["error"]
    assert (error["code"], error["context"]["waits_for"]) == ("damaged", scene.names(2))


def test_a_disk_that_is_short_refuses_before_anything_is_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airpack.fsops.free_bytes", lambda _folder: 4096)
    error = scene.site.run("import", scene.medium, expect=20).json["error"]
    assert (error["context"]["free"], error["context"]["needed"] > 4096) == (4096, True)
    assert scene.reads == []
