"""Every folder of `tests/vectors/`: `_ok` is imported, `_fail` is refused as it says, and nothing else changes.

Each is offered to a site of its own by the real command line at the time that the vector names, to `verify`, which
knows the root alone, and to `inspect`, which must never crash. tests/vectors/README.md says what the folders hold.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.vectors import make
from tests.vectors.vectors import HERE, ROOT, Vector, every

from airpack.ops.probes import isolation_available

Offer = Callable[[Vector], tuple[Any, Any, Path]]
"""Lays a vector out: the site, what it shows, and the medium."""

VECTORS = {vector.name: vector for vector in every()}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    """What only a power cut would show is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, place: Callable[[Path], Any], airpack: Callable[..., Any]
) -> Callable[[Vector], tuple[Path, Any]]:
    """Return what makes a site as a vector wants it, and all it shows; those alike are made once, and copied."""
    made: dict[Any, tuple[Path, Any]] = {}
    folder = tmp_path_factory.mktemp("prepared")

    def prepare(vector: Vector) -> tuple[Path, Any]:
        if vector.before not in made:
            number = len(made)
            site = place(folder / f"site{number}")
            airpack("site", "init", site.folder, "--root", ROOT, "--json")
            if not isolation_available():
                site.allow("allow_unisolated")
            for name, activated in vector.before:
                medium = folder / f"{name}-{number}"
                VECTORS[name].lay_out(medium)
                release = site.run("import", medium).json
                if activated:
                    site.run("activate", f"{release['product']}@{release['version']}")
            made[vector.before] = site.folder, site.visible()
        return made[vector.before]

    return prepare


@pytest.fixture
def offered(
    tmp_path: Path,
    prepared: Callable[[Vector], tuple[Path, Any]],
    place: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Offer:
    """Return what lays a vector out, and makes a site for it whose clock says what the vector says."""

    def offer(vector: Vector) -> tuple[Any, Any, Path]:
        # What was imported beforehand was imported a day after it was built, whatever the vector is judged by.
        monkeypatch.setattr("airpack.ops.site.utc_now", lambda: VECTORS["many_ok"].now)
        template, before = prepared(vector)
        shutil.copytree(template, tmp_path / "site", symlinks=True)
        monkeypatch.setattr("airpack.ops.site.utc_now", lambda: vector.now)
        vector.lay_out(tmp_path / "medium")
        here = json.dumps(before["products"]).replace(str(template), str(tmp_path / "site"))  # `current` is absolute
        return place(tmp_path / "site"), {**before, "products": json.loads(here)}, tmp_path / "medium"

    return offer


def named(end: str) -> list[str]:
    return sorted(name for name in VECTORS if name.endswith(end))


def looked_at(airpack: Callable[..., Any], vector: Vector, medium: Path) -> Any:
    """Hold `verify` to what the vector says, and return its document; `inspect` may refuse, and never crashes."""
    words = ("--root", ROOT, "--at", vector.expect["now"], "--json")
    expected = vector.expect["verify"]
    document = airpack("verify", medium, *words, expect=expected["exit_code"]).json
    inspected = airpack("inspect", medium, "--json", expect=None)
    assert inspected.code in {0, 10}, inspected.err
    if expected["exit_code"]:
        assert document["error"]["code"] == expected["code"]
        assert document["checks"][-1]["name"] == expected["step"]
        assert [check["ok"] for check in document["checks"]] == [True] * (len(document["checks"]) - 1) + [False]
    return document


@pytest.mark.parametrize("name", named("_fail"))
def test_an_attack_is_refused(
    name: str,
    offered: Offer,
    airpack: Callable[..., Any],
    snapshot: Callable[[Path], Any],
) -> None:
    vector = VECTORS[name]
    site, before, medium = offered(vector)
    records = len(site.records())
    bytes_before = snapshot(medium) if not vector.expect["sparse"] else None
    looked_at(airpack, vector, medium)
    expected = vector.expect["import"]
    error = site.run("import", medium, expect=expected["exit_code"]).json["error"]
    assert error["code"] == expected["code"], error["message"]
    assert vector.expect["says"] in error["message"]
    assert site.visible() == before, "a refusal changes nothing visible"
    assert bytes_before is None or snapshot(medium) == bytes_before, "a medium is never written"
    record = [record for record in site.records()[records:] if record["event"] == "import"][-1]
    assert record["outcome"] == ("failed" if expected["code"] == "storage" else "refused")
    assert record["reason"] == expected["code"]
    assert (record["data"]["step"] if record["phase"] == "note" else "volumes") == expected["step"]


@pytest.mark.parametrize("name", named("_ok"))
def test_a_good_package_is_imported(name: str, offered: Offer, airpack: Callable[..., Any]) -> None:
    vector = VECTORS[name]
    site, _, medium = offered(vector)
    expected = vector.expect["import"]
    document = looked_at(airpack, vector, medium)
    assert (document["release"], document["sequence"]) == (expected["release"], expected["sequence"])
    done = site.run("import", medium).json
    assert (f"{done['product']}@{done['version']}", done["release"]) == (expected["name"], expected["release"])
    assert site.states()[expected["name"]] == "ready"
    assert site.run("fsck").json["ok"] is True


@pytest.mark.parametrize("name", ["revocations_schema_fail", "revocations_empty_fail"])
def test_revocations_that_cannot_be_read_bar_imports_and_not_the_way_back(name: str, offered: Offer) -> None:
    """By whoever holds the keys, or by a newer airpack on the build side: operation goes on."""
    site, _, medium = offered(VECTORS[name])
    site.run("import", medium, expect=10)
    assert site.run("activate", "tool@1.1.0").json["state"] == "good"


def test_the_folders_are_those_that_the_generator_makes() -> None:
    assert make.faults() == []
    assert len(named("_fail")) > 400
    assert HERE.is_dir()
