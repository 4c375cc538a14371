"""A catalog or a trust state that was put back older, and a clock that was set back: seen, said, on record."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from airpack.formats.trust import Revocations
from airpack.ops.import_ import import_package
from airpack.ops.recover import exclusive
from airpack.ops.site import Site
from airpack.types import Digest


@pytest.fixture(scope="module")
def media(bench: Any) -> dict[str, Path]:
    """Three releases, each on a medium as it was when it was built: a later one has newer metadata."""
    return {version: bench.build(version) for version in ("1.0.0", "1.1.0", "1.2.0")}


@pytest.fixture
def aged(media: dict[str, Path], site: Any, tmp_path: Path) -> Any:
    """A site where 1.0.0 and then 1.1.0 proved good; `tmp_path/old` is its whole folder as it was in between."""
    site.run("import", media["1.0.0"])
    site.run("activate", "tool@1.0.0")
    shutil.copytree(site.folder, tmp_path / "old", symlinks=True)
    site.run("import", media["1.1.0"])
    site.run("activate", "tool@1.1.0")
    return site


def put_back(site: Any, old: Path, name: str) -> None:
    """Put the older copy of one file or folder in place of what is there."""
    target = site.folder / name
    if target.is_dir():
        shutil.rmtree(target)
        shutil.copytree(old / name, target, symlinks=True)
    else:
        shutil.copy2(old / name, target)


@pytest.mark.parametrize("words", ["activate tool@1.0.0", "rollback tool", "gc", "import"])
def test_a_catalog_put_back_older_stops_every_change_and_nothing_that_runs(
    aged: Any, media: dict[str, Path], tmp_path: Path, words: str
) -> None:
    put_back(aged, tmp_path / "old", "catalog.db")
    link, trees = aged.current(), sorted((aged.folder / "generations/tool").iterdir())
    command = words.split() if words != "import" else ["import", media["1.2.0"]]
    error = aged.run(*command, expect=10).json["error"]
    assert error["code"] == "integrity"
    assert "the catalog is older than the log" in error["message"]
    assert error["context"]["revision"] < error["context"]["recorded"]
    assert "newest catalog.db" in error["hint"]
    assert (aged.current(), sorted((aged.folder / "generations/tool").iterdir())) == (link, trees)
    assert Path(aged.folder / "products/tool/current").resolve().is_dir(), "recovery has touched no tree"
    record = aged.records()[-1]
    assert (record["event"], record["outcome"], record["reason"]) == ("recover", "refused", "integrity")
    assert record["data"]["catalog"] == error["context"]["revision"]


def test_a_catalog_put_back_older_is_said_by_status_and_named_by_fsck(aged: Any, tmp_path: Path) -> None:
    newest = (aged.folder / "catalog.db").read_bytes()
    assert aged.run("status").json["warnings"] == []
    put_back(aged, tmp_path / "old", "catalog.db")
    (warning,) = aged.run("status").json["warnings"]
    assert "the catalog is older than the log" in warning
    assert f"tool/current -> {aged.current()}" in warning, "what runs is what the link says"
    assert any("older than the log" in line for line in aged.run("fsck", expect=10).json["damage"])
    aged.run("gc", expect=10)
    (aged.folder / "catalog.db").write_bytes(newest)
    assert aged.run("status").json["warnings"] == []
    assert aged.run("fsck").json["ok"] is True
    assert aged.run("rollback", "tool").json["version"] == "1.0.0"


def test_evidence_leaves_a_site_whose_catalog_is_older_and_says_so(aged: Any, tmp_path: Path) -> None:
    put_back(aged, tmp_path / "old", "catalog.db")
    aged.audit(tmp_path / "evidence.zip")
    refused = [record for record in aged.records() if record["event"] == "recover" and record["outcome"] == "refused"]
    assert len(refused) == 1


def test_a_whole_site_from_one_backup_is_consistent_and_only_the_auditor_knows(
    aged: Any, airpack: Callable[..., Any], tmp_path: Path
) -> None:
    export, state = tmp_path / "evidence.zip", tmp_path / "auditor.json"
    words = ["audit", "verify", export, "--key", aged.folder / "evidence/site.pub", "--state", state, "--json"]
    aged.run("evidence", "export", "-o", export)
    airpack(*words, expect=0)
    shutil.rmtree(aged.folder, ignore_errors=False)
    shutil.copytree(tmp_path / "old", aged.folder, symlinks=True)
    assert aged.run("fsck").json["ok"] is True
    assert aged.run("status").json["warnings"] == []
    aged.run("evidence", "export", "-o", export, "--force")
    assert airpack(*words, expect=13).json["error"]["code"] == "rollback"


def test_a_site_that_never_counted_goes_on(media: dict[str, Path], site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site made before revisions were counted has none, and its records name none."""
    with monkeypatch.context() as before:
        before.setattr(Site, "_facts", lambda _site, _phase: {})
        before.setattr("airpack.catalog.catalog._COUNT", text("SELECT 1"))
        site.run("import", media["1.0.0"])
        site.run("activate", "tool@1.0.0")
    assert site.open().catalog.revision() == 0
    assert not any("catalog" in record["data"] for record in site.records()[1:])
    assert site.run("fsck").json["ok"] is True
    site.run("import", media["1.1.0"])
    assert site.open().catalog.revision() > 0
    assert site.run("fsck").json["ok"] is True
    assert site.run("status").json["warnings"] == []


@pytest.mark.parametrize("after", ["1.1.0", "1.2.0"])
def test_a_trust_state_put_back_older_takes_no_package_below_what_is_on_record(
    aged: Any, media: dict[str, Path], tmp_path: Path, after: str
) -> None:
    put_back(aged, tmp_path / "old", "trust")
    assert any("metadata is older than the log" in line for line in aged.run("fsck", expect=10).json["damage"])
    (warning,) = aged.run("status").json["warnings"]
    assert "metadata is older than the log" in warning
    refused = aged.run("import", media["1.0.0"], expect=13).json["error"]
    assert "older than the log" in refused["message"]
    assert "newest package" in refused["hint"]
    assert aged.run("rollback", "tool").json["version"] == "1.0.0", "law 6: never the way to what is known good"
    assert aged.run("activate", "tool@1.1.0").json["state"] == "good"
    aged.run("import", media[after])
    assert aged.run("fsck").json["ok"] is True, "a package as new as what is on record puts it right"
    assert aged.run("status").json["warnings"] == []


def test_revocations_come_back_with_the_newest_package(
    aged: Any, media: dict[str, Path], forger: Any, carry: Callable[[Path], Path], tmp_path: Path
) -> None:
    medium = carry(media["1.2.0"])
    head = forger.read(medium)
    revoked = Revocations({Digest(aged.run("show", "tool@1.0.0").json["release"]): "bad data"})
    forger.write(medium, forger.listed(head, {"revocations.json": revoked.emit()}))
    aged.run("import", medium)
    put_back(aged, tmp_path / "old", "trust")
    aged.run("import", media["1.2.0"], expect=13)
    assert aged.run("rollback", "tool", "--to", "1.0.0", expect=12).json["error"]["code"] == "policy"


def test_a_refresh_that_is_on_record_is_in_force_after_a_crash(
    aged: Any, media: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state stands beside the old one before the record is made; recovery needs only to switch the link."""

    def cut(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Site, "promote_trust", cut)
        with pytest.raises(KeyboardInterrupt):
            import_package(Site.open(aged.folder), [media["1.2.0"]])
    assert any("trust/current does not say so" in line for line in aged.run("fsck", expect=10).json["damage"])
    aged.run("gc")
    assert aged.run("fsck").json["ok"] is True
    assert aged.run("status").json["warnings"] == []
    assert len(list((aged.folder / "trust").iterdir())) == 2


def test_a_refresh_that_did_not_go_on_record_is_cleared_away(
    aged: Any, media: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = aged.current("tool"), (aged.folder / "trust/current").readlink()

    def cut(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("airpack.evidence.log.EvidenceLog.note", cut)
        with pytest.raises(KeyboardInterrupt):
            import_package(Site.open(aged.folder), [media["1.2.0"]])
    aged.run("gc")
    assert (aged.current("tool"), (aged.folder / "trust/current").readlink()) == before
    assert aged.run("fsck").json["ok"] is True
    assert len(list((aged.folder / "trust").iterdir())) == 2


# -- the clock --------------------------------------------------------------------------------------------------------


def test_a_clock_behind_the_log_is_on_record_once_and_said_until_it_is_right(
    aged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: real - timedelta(days=400))
    (warning,) = aged.run("status").json["warnings"]
    assert "clock" in warning
    for _ in range(2):
        aged.run("gc")
    (record,) = [record for record in aged.records() if record["event"] == "clock"]
    assert record["data"]["clock"] < record["data"]["newest"]
    assert aged.run("rollback", "tool").json["version"] == "1.0.0"
    assert any("clock" in warning for warning in aged.run("status").json["warnings"]), "the channel's own time is later"
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: real + timedelta(hours=1))
    assert aged.run("status").json["warnings"] == []


def test_expired_metadata_is_not_brought_back_to_life_below_the_channels_own_time(
    aged: Any, media: dict[str, Path], expiry: Callable[[Path], datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    medium = media["1.2.0"]
    late = expiry(medium) + timedelta(days=1)
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: late)
    aged.run("import", medium, expect=11)
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
    aged.run("import", medium)
    noted = [record["data"] for record in aged.records() if record["event"] == "clock"]
    assert [sorted(set(data) & {"floor", "newest"}) for data in noted] == [["newest"], ["floor"]]


def test_one_site_two_clocks_do_not_hide_a_step_from_the_auditor(aged: Any, tmp_path: Path) -> None:
    site = aged.open()
    site.now = lambda: datetime(2001, 1, 1, tzinfo=UTC)
    with exclusive(site):
        pass
    found = aged.audit(tmp_path / "evidence.zip")
    (clock,) = [item["detail"] for item in found["findings"] if item["name"] == "clock"]
    assert clock.startswith("stepped back 1 times")
