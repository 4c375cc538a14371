"""Parity and repair as a site meets them: what is lost is rebuilt, or brought again, and the store is the same."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airpack.formats import dsse
from airpack.formats import head as heads
from airpack.formats.volume import HEADER
from airpack.types import Limits

COUNT = 1_900_000  # floats: eight chunks, in four volumes of at most 3 MiB
Site = Any


@pytest.fixture(scope="module")
def spec(bench: Any) -> Path:
    path: Path = bench.spec(count=COUNT)
    return path


@pytest.fixture(scope="module")
def make(bench: Any, spec: Path, airpack: Callable[..., Any]) -> Callable[..., Path]:
    """Return what builds the package with some parity, once for each number."""
    made: dict[int, Path] = {}

    def build(parity: int) -> Path:
        if parity not in made:
            out = bench.folder / f"medium-{parity}"
            words = ("--volume-size", "3MiB", "--parity", str(parity), "--workspace", bench.workspace, "--json")
            airpack("build", spec, "-o", out, *words)
            made[parity] = out
        return made[parity]

    return build


@pytest.fixture(scope="module")
def store(bench: Any, make: Callable[..., Path], place: Any, airpack: Callable[..., Any], tmp_path_factory: Any) -> Any:
    """Return what the store of a site holds after an import of undamaged media."""
    folder = tmp_path_factory.mktemp("reference") / "site"
    airpack("site", "init", folder, "--root", bench.root, "--json")
    place(folder).run("import", make(0))
    return stored(place(folder))


@dataclass
class Desk:
    """Both sides of a gap: packages, copies of them that may be damaged, and a site."""

    bench: Any
    airpack: Callable[..., Any]
    make: Callable[[int], Path]
    carry: Callable[[Path], Path]
    site: Site
    out: Path

    def repair(self, report: Path, source: Path, *words: str, expect: int = 0) -> Any:
        """Make what a report asks for, into the folder for repairs."""
        words = ("build", "--repair", str(report), "--from", str(source), "-o", str(self.out), "--json", *words)
        return self.airpack(*words, expect=expect).json

    def verify(self, medium: Path) -> Any:
        return self.airpack("verify", medium, "--root", self.bench.root, "--json").json


@pytest.fixture
def desk(bench: Any, airpack: Any, make: Any, carry: Any, site: Site, tmp_path: Path) -> Desk:  # noqa: PLR0917
    return Desk(bench, airpack, make, carry, site, tmp_path / "repair")


def stored(site: Site) -> dict[str, str]:
    """Return the digest of each blob in a site's store, by its name."""
    files = [path for path in (site.folder / "store").rglob("*") if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def volumes(medium: Path, kind: str = "") -> list[Path]:
    """Return the volumes of a medium in order; with "p", its parity volumes."""
    return sorted(medium.glob(f"*.{kind}[0-9][0-9].airvol") if kind else medium.glob("*.[0-9][0-9][0-9][0-9].airvol"))


def flip(path: Path, count: int, seed: int = 0) -> None:
    """Change bytes behind the header."""
    rng, data = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(count):
        data[rng.randrange(HEADER, len(data))] ^= rng.randint(1, 255)
    path.write_bytes(data)


# --- parity -----------------------------------------------------------------------------------------------------------


def test_parity_volumes_lie_beside_the_others(desk: Desk) -> None:
    medium = desk.make(2)
    assert len(volumes(medium)) == 4
    assert [path.name for path in volumes(medium, "p")] == ["tool-1.0.0.p01.airvol", "tool-1.0.0.p02.airvol"]
    assert max(path.stat().st_size for path in medium.glob("*.airvol")) <= 3 << 20


@pytest.mark.parametrize("lost", [(0,), (3, 1), (0, 2), (2, 4), (4, 5)])
def test_lost_volumes_are_rebuilt(lost: tuple[int, ...], desk: Desk, store: Any) -> None:
    medium = desk.carry(desk.make(2))
    names = [path.name for path in (*volumes(medium), *volumes(medium, "p"))]
    sizes = {name: (medium / name).stat().st_size for name in names}
    for number in lost:
        (medium / names[number]).unlink()

    found = desk.verify(medium)

    assert found["ok"] is True
    data = [names[number] for number in sorted(lost) if number < 4]
    assert found["mended"] == [{"volume": name, "ranges": [[HEADER, sizes[name] - HEADER]]} for name in data]
    assert found["parity"] == {"missing": [names[number] for number in lost if number >= 4], "damaged": []}
    desk.site.run("import", medium)
    assert stored(desk.site) == store


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_flipped_bytes_are_rebuilt(count: int, desk: Desk, store: Any) -> None:
    medium = desk.carry(desk.make(1))
    flip(volumes(medium)[count % 4], count)

    said = desk.airpack("verify", medium, "--root", desk.bench.root)

    assert "is damaged in" in said.err
    assert "parity" in said.err
    desk.site.run("import", medium)
    assert stored(desk.site) == store


def test_a_volume_cut_short_is_rebuilt(desk: Desk, store: Any) -> None:
    medium = desk.carry(desk.make(1))
    data = volumes(medium)[1].read_bytes()
    volumes(medium)[1].write_bytes(data[: len(data) // 3])
    desk.site.run("import", medium)
    assert stored(desk.site) == store


def test_damaged_parity_is_told_and_keeps_nothing_from_an_import(desk: Desk) -> None:
    medium = desk.carry(desk.make(1))
    (parity,) = volumes(medium, "p")
    flip(parity, 1)
    found = desk.verify(medium)
    assert (found["ok"], found["mended"]) == (True, [])
    assert [place["volume"] for place in found["parity"]["damaged"]] == [parity.name]
    desk.site.run("import", medium)


def test_without_parity_there_is_no_word_of_it(desk: Desk) -> None:
    found = desk.verify(desk.make(0))
    assert (found["mended"], found["parity"]) == ([], None)


def test_volumes_of_another_package_are_of_no_use(desk: Desk) -> None:
    medium, other = desk.carry(desk.make(1)), desk.make(2)
    for path in volumes(medium)[:2]:
        shutil.copy(other / path.name, path)  # the same release, another package
    shutil.copy(volumes(other, "p")[0], volumes(medium, "p")[0])
    failed = desk.site.run("import", medium, expect=30).json["error"]
    assert failed["code"] == "damaged"
    assert "belongs to another package" in failed["message"]
    desk.airpack("verify", medium, "--root", desk.bench.root, "--json", expect=10)
    assert desk.site.run("list").json["releases"] == []


def test_more_than_parity_covers_is_named_and_nothing_is_imported(desk: Desk) -> None:
    medium = desk.carry(desk.make(1))
    first, second, third, _ = volumes(medium)
    for path in (first, third):
        path.unlink()
    failed = desk.site.run("import", medium, expect=30).json["error"]
    assert (failed["code"], failed["context"]["missing"]) == ("partial", [first.name, third.name])
    assert desk.site.run("list").json["releases"] == []
    second.unlink()
    waits = desk.site.run("import", medium, expect=30).json["error"]["context"]["waits_for"]
    assert waits == [first.name, third.name]  # the second was read


def test_of_a_lost_volume_only_what_parity_cannot_rebuild_is_asked_for(desk: Desk, store: Any) -> None:
    medium = desk.carry(desk.make(1))
    first, second, *_ = volumes(medium)
    data = bytearray(first.read_bytes())
    data[len(data) // 3] ^= 1
    first.write_bytes(data)
    size = second.stat().st_size
    second.unlink()

    context = desk.site.run("import", medium, expect=30).json["error"]["context"]

    assert context["missing"] == []
    assert [place["volume"] for place in context["damaged"]] == [first.name, second.name]
    ((offset, length),) = context["damaged"][1]["ranges"]
    assert HEADER < offset < offset + length <= size
    made = desk.repair(Path(context["report"]), desk.make(1))
    assert [part["chunks"] for part in made["repair"]] == [1, 1]
    desk.site.run("import", desk.out)
    assert stored(desk.site) == store


def test_a_build_without_parity_leaves_no_parity_volume_behind(desk: Desk, spec: Path) -> None:
    medium = desk.carry(desk.make(2))
    words = ("--volume-size", "3MiB", "--workspace", desk.bench.workspace, "--json")
    desk.airpack("build", spec, "-o", medium, *words)
    assert volumes(medium, "p") == []
    desk.airpack("verify", medium, "--root", desk.bench.root, "--json")


@pytest.mark.parametrize("count", ["-1", "129"])
def test_parity_has_bounds(count: str, desk: Desk, spec: Path) -> None:
    words = ("--parity", count, "--workspace", desk.bench.workspace, "--json")
    failed = desk.airpack("build", spec, "-o", desk.out, *words, expect=2).json["error"]
    assert "parity must be from 0 to 128" in failed["message"]


# --- repair -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(make: Callable[..., Path], carry: Any) -> Path:
    """A medium with one damaged chunk, one damaged table and one volume that is missing."""
    medium: Path = carry(make(0))
    first, second, third, _ = volumes(medium)
    data = bytearray(first.read_bytes())
    data[-5] ^= 1
    first.write_bytes(data)
    data = bytearray(second.read_bytes())
    data[HEADER + 3] ^= 1
    second.write_bytes(data)
    third.unlink()
    return medium


def report_of(desk: Desk, medium: Path) -> Path:
    failed = desk.site.run("import", medium, expect=30).json["error"]
    assert failed["code"] == "damaged"
    return Path(failed["context"]["report"])


def test_what_a_report_asks_for_is_brought_and_joined(desk: Desk, damaged: Path, store: Any) -> None:
    report = report_of(desk, damaged)

    made = desk.repair(report, desk.make(0))

    first, second, third, _ = (path.name for path in volumes(desk.make(0)))
    assert [part["volume"] for part in made["repair"]] == [first, second, third]
    assert [part["chunks"] for part in made["repair"]] == [1, 0, None]
    names = [first.replace(".airvol", ".01.airfix"), second.replace(".airvol", ".01.airfix"), third]
    assert [Path(part["path"]).name for part in made["repair"]] == names
    assert all(Path(part["path"]).stat().st_size == part["size"] for part in made["repair"])
    assert made["bytes_packed"] == sum(part["size"] for part in made["repair"])
    assert (desk.out / third).read_bytes() == (desk.make(0) / third).read_bytes()
    desk.site.run("import", damaged, desk.out)
    assert stored(desk.site) == store
    assert not report.exists()


def test_a_repair_alone_is_enough_where_the_rest_was_read_before(desk: Desk, damaged: Path, store: Any) -> None:
    shutil.copy(volumes(desk.make(0))[1], damaged)  # whose table is whole
    desk.repair(report_of(desk, damaged), desk.make(0))
    desk.site.run("import", desk.out)
    assert stored(desk.site) == store


def test_a_repair_helps_whoever_verifies_too(desk: Desk, damaged: Path) -> None:
    desk.repair(report_of(desk, damaged), desk.make(0))
    root = ("--root", desk.bench.root, "--json")
    found = desk.airpack("verify", damaged, desk.out, *root).json
    assert [place["volume"] for place in found["mended"]] == [path.name for path in volumes(desk.make(0))[:2]]
    assert found["ignored"] == []


def test_a_hostile_repair_is_left_alone_and_told(desk: Desk, damaged: Path) -> None:
    desk.repair(report_of(desk, damaged), desk.make(0))
    for path in desk.out.glob("*.airfix"):
        path.write_bytes(path.read_bytes() + b"!")
    said = desk.airpack("import", damaged, desk.out, "--site", desk.site.folder, expect=30)
    assert said.err.count("is not used: it has") == 2
    assert desk.site.run("list").json["releases"] == []


def test_a_dry_run_of_a_repair_says_what_it_would_copy(desk: Desk, damaged: Path) -> None:
    report = report_of(desk, damaged)
    would = desk.repair(report, desk.make(0), "--dry-run")
    assert would["head"] is None
    assert not desk.out.exists()
    words = ("build", "--repair", report, "--from", desk.make(0), "-o", desk.out)
    assert "would copy" in desk.airpack(*words, "--dry-run").out
    done = desk.repair(report, desk.make(0))
    assert done == would | {"head": done["head"]}


def test_a_second_repair_takes_further_names(desk: Desk, damaged: Path) -> None:
    report = report_of(desk, damaged)
    third = volumes(desk.make(0))[2].name
    desk.repair(report, desk.make(0))
    failed = desk.repair(report, desk.make(0), expect=2)["error"]
    assert "never replaced" in failed["message"]
    (desk.out / third).unlink()
    names = [Path(part["path"]).name for part in desk.repair(report, desk.make(0))["repair"]]
    assert [name.rpartition(".")[0][-2:] for name in names[:2]] == ["02", "02"]


def test_a_report_of_another_package_is_refused(desk: Desk, damaged: Path) -> None:
    report = report_of(desk, damaged)
    failed = desk.repair(report, desk.make(1), expect=2)["error"]
    assert "asks for another package" in failed["message"]
    assert not desk.out.exists()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda report: report["volumes"][0].update(name="other.0001.airvol"), 2, "which this package does not have"),
        (lambda report: report["volumes"][0].update(ranges=[[1 << 30, 5]]), 2, "asks for bytes of volume"),
        (lambda report: report["volumes"][0].update(ranges=[[5, 5], [3, 1]]), 10, "not in order"),
        (lambda report: report.update(schema="airpack.repair/2"), 10, "schema is"),
        (lambda report: report.update(more=1), 10, "unknown key"),
    ],
)
def test_a_report_that_asks_for_what_is_not_there_is_refused(
    change: Any, code: int, message: str, desk: Desk, damaged: Path
) -> None:
    document = json.loads(report_of(desk, damaged).read_bytes())
    change(document)
    path = desk.out.with_name("report.json")
    path.write_text(json.dumps(document, separators=(",", ":"), sort_keys=True))
    assert message in desk.repair(path, desk.make(0), expect=code)["error"]["message"]
    assert not desk.out.exists()


def test_a_report_may_ask_for_a_parity_volume(desk: Desk, damaged: Path) -> None:
    medium = desk.make(1)
    (parity,) = volumes(medium, "p")
    payload = hashlib.sha256(manifest_of(medium)).hexdigest()
    document = json.loads(report_of(desk, damaged).read_bytes()) | {
        "package": f"sha256:{payload}",
        "volumes": [{"name": parity.name, "ranges": [[0, parity.stat().st_size]]}],
    }
    path = desk.out.with_name("report.json")
    path.write_text(json.dumps(document, separators=(",", ":"), sort_keys=True))
    desk.repair(path, medium)
    assert (desk.out / parity.name).read_bytes() == parity.read_bytes()


def manifest_of(medium: Path) -> bytes:
    (head,) = medium.glob("*.airpack")
    return dsse.parse(heads.parse(head.read_bytes()).package, "package envelope", limit=Limits.HEAD).payload


def test_a_package_that_is_damaged_where_it_was_built_repairs_nothing(desk: Desk, damaged: Path) -> None:
    report = report_of(desk, damaged)
    built = desk.carry(desk.make(0))
    data = bytearray(volumes(built)[0].read_bytes())
    data[-7] ^= 1
    volumes(built)[0].write_bytes(data)
    assert "does not have its signed digest" in desk.repair(report, built, expect=10)["error"]["message"]
    assert list(desk.out.iterdir()) == []


def test_build_takes_a_spec_or_a_repair(desk: Desk, spec: Path) -> None:
    out = ("-o", desk.out, "--json")
    for words in (
        (),
        (spec, "--repair", "report.json", "--from", desk.make(0)),
        ("--repair", "report.json"),
        ("--from", desk.make(0)),
        (spec, "--from", desk.make(0)),
    ):
        failed = desk.airpack("build", *words, *out, expect=2).json["error"]
        assert "either a pack spec, or --repair REPORT" in failed["message"]
    desk.airpack("build", "--repair", "none.json", "--from", desk.make(0), *out, expect=3)
    assert not desk.out.exists()


def test_the_size_of_a_repair_is_checked_first(desk: Desk, damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(desk, damaged)
    monkeypatch.setattr("airpack.fsops.free_bytes", lambda _: 100)
    assert "not enough space" in desk.repair(report, desk.make(0), expect=20)["error"]["message"]
    assert not desk.out.exists()
