"""What a site acknowledged comes back to the workspace, inside an export that is audited there."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airpack.crypto.keys import PrivateKey


@pytest.fixture
def workspace(bench: Any, tmp_path: Path) -> Path:
    """The bench's workspace, to be changed."""
    return Path(shutil.copytree(bench.workspace, tmp_path / "workspace"))


@pytest.fixture(scope="module")
def medium(bench: Any) -> Path:
    found: Path = bench.build("1.0.0")
    return found


@pytest.fixture
def desk(workspace: Path, airpack: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command of the workspace."""

    def run(*words: str | Path, expect: int = 0) -> Any:
        return airpack(*words, "--workspace", workspace, "--json", expect=expect).json

    return run


@pytest.fixture
def told(site: Any, medium: Path, desk: Callable[..., Any], tmp_path: Path) -> Path:
    """A site that is pinned and holds a release, and its export."""
    site.run("import", medium)
    site.run("evidence", "export", "-o", tmp_path / "one.zip")
    desk("receipt", "trust", "plant-7", "--key", site.folder / "evidence/site.pub")
    return tmp_path / "one.zip"


def known(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "registry/sites"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_says_what_its_site_holds(told: Path, desk: Callable[..., Any], workspace: Path) -> None:
    found = desk("receipt", "add", told)
    assert [each["name"] for each in found["releases"]] == ["tool@1.0.0"]
    assert found["site"] == "plant-7"
    assert found["export"] == 1
    assert set(known(workspace)) == {"plant-7/site.pub", "plant-7/acknowledged.json"}
    assert desk("receipt", "add", told) == found  # the same again changes nothing


def test_pinning_the_same_key_again_is_no_fault(told: Path, site: Any, desk: Callable[..., Any]) -> None:
    desk("receipt", "add", told)
    found = desk("receipt", "trust", "plant-7", "--key", site.folder / "evidence/site.pub")
    assert [each["name"] for each in found["releases"]] == ["tool@1.0.0"]


def test_another_key_under_a_name_that_is_pinned_is_refused(
    told: Path, desk: Callable[..., Any], workspace: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.pub").write_bytes(PrivateKey.generate("ed25519").public.pem)
    before = known(workspace)
    error = desk("receipt", "trust", "plant-7", "--key", tmp_path / "other.pub", expect=2)["error"]
    assert "another key" in error["message"]
    assert known(workspace) == before
    assert told.exists()


def test_a_key_of_another_kind_is_no_sites(desk: Callable[..., Any], tmp_path: Path, workspace: Path) -> None:
    (tmp_path / "release.pub").write_bytes(PrivateKey.generate().public.pem)
    desk("receipt", "trust", "a", "--key", tmp_path / "release.pub", expect=11)
    desk("receipt", "trust", "a", "--key", tmp_path / "none.pub", expect=3)
    desk("receipt", "trust", "../a", "--key", tmp_path / "release.pub", expect=2)
    assert known(workspace) == {}


def test_without_a_pinned_site_nothing_is_added(desk: Callable[..., Any], site: Any, tmp_path: Path) -> None:
    site.run("evidence", "export", "-o", tmp_path / "one.zip")
    error = desk("receipt", "add", tmp_path / "one.zip", expect=3)["error"]
    assert "receipt trust" in error["hint"]


def test_an_export_of_a_site_that_is_not_pinned_is_refused(
    told: Path, new_site: Callable[..., Any], bench: Any, desk: Callable[..., Any], workspace: Path
) -> None:
    other, export = new_site(bench.root), told.with_name("other.zip")
    other.run("evidence", "export", "-o", export)
    before = known(workspace)
    error = desk("receipt", "add", export, expect=11)["error"]
    assert "plant-7" in error["message"]
    assert known(workspace) == before
    desk("receipt", "trust", "other", "--key", other.folder / "evidence/site.pub")
    assert desk("receipt", "add", export)["site"] == "other"
    assert desk("receipt", "add", told)["site"] == "plant-7"


def rewritten(path: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """Return a copy of an export with one file changed."""
    out = path.with_name("changed.zip")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            new.writestr(member, change(data) if member.filename == name else data)
    return out


def test_a_tampered_export_is_refused_as_the_audit_refuses_it(
    told: Path, desk: Callable[..., Any], workspace: Path
) -> None:
    before = known(workspace)
    changed = rewritten(told, "log/entries.jsonl", lambda data: data.replace(b"tool@1.0.0", b"tool@9.0.0"))
    found = desk("receipt", "add", changed, expect=10)
    assert next(each["name"] for each in found["findings"] if not each["ok"]) == "digests"
    desk(
        "receipt",
        "add",
        rewritten(told, "manifest.json", lambda data: data.replace(b'"export":1', b'"export":2')),
        expect=10,
    )
    cut = told.with_name("cut.zip")
    cut.write_bytes(told.read_bytes()[:-7])
    desk("receipt", "add", cut, expect=10)
    assert known(workspace) == before


def test_an_older_export_does_not_go_back_behind_a_newer_one(
    told: Path, site: Any, desk: Callable[..., Any], workspace: Path, tmp_path: Path
) -> None:
    site.run("evidence", "export", "-o", tmp_path / "two.zip")
    desk("receipt", "add", tmp_path / "two.zip")
    before = known(workspace)
    error = desk("receipt", "add", told, expect=13)["error"]
    assert "older export" in error["message"]
    assert known(workspace) == before


def test_people_are_told_too(told: Path, workspace: Path, airpack: Callable[..., Any]) -> None:
    text = airpack("receipt", "add", told, "--workspace", workspace).out
    assert "plant-7" in text
    assert "tool@1.0.0" in text
