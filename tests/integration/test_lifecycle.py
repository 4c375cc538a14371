"""A release's life at a site: trial, known good, failure, fallback, rollback, the floor, retention, and damage."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airpack.formats.trust import Revocations
from airpack.ops.generations import load_release
from airpack.ops.publish import publish
from airpack.ops.workspace import Workspace
from airpack.types import Digest

VERSIONS = ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0")


@pytest.fixture(scope="module")
def media(bench: Any) -> dict[str, Path]:
    """Six releases of one product. They share the script of their probe, and nothing else."""
    return {version: bench.build(version) for version in VERSIONS}


@pytest.fixture
def held(site: Any, media: dict[str, Path]) -> Callable[..., Any]:
    """Import and activate versions in order, and return the site."""

    def bring(*versions: str, activate: bool = True) -> Any:
        for version in versions:
            site.run("import", media[version])
            if activate:
                site.run("activate", f"tool@{version}")
        return site

    return bring


def operator_probe(site: Any, *words: str, product: str = "tool") -> None:
    """Have the operator probe `product` by the release's own script, which ends as its first word says."""
    command = json.dumps(["runtime/tool/check", *words])
    (site.folder / f"probes/{product}.toml").write_text(f'kind = "command"\ncommand = {command}\n')


def blob_of(site: Any, version: str, path: str = "model/m/weights.safetensors") -> Path:
    """Return the stored blob of one file of a release."""
    document = site.run("show", f"tool@{version}").json
    opened = site.open()
    release = load_release(opened, Digest(document["release"]))
    digest = next(file.digest for file in release.files if file.path == path)
    found: Path = opened.store.path(digest)
    return found


def spoil(file: Path) -> None:
    """Change one byte of a read-only file in place."""
    mode = file.stat().st_mode
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    file.chmod(mode)


# -- probes -----------------------------------------------------------------------------------------------------------


def test_without_any_probe_nothing_is_activated_unless_the_operator_allows_it(bench: Any, site: Any) -> None:
    site.run("import", bench.build("1.0.0", "silent", check=None))
    refused = site.run("activate", "silent@1.0.0", expect=12).json
    assert refused["error"]["code"] == "probe"
    assert "probes/silent.toml" in refused["error"]["message"]
    assert (refused["state"], refused["active"], refused["probe"], refused["probes"]) == ("ready", None, None, [])
    assert site.current("silent") is None
    site.allow("allow_no_probe")
    done = site.run("activate", "silent@1.0.0").json
    assert (done["state"], done["probes"], done["active"]["version"]) == ("good", [], "1.0.0")


def test_the_operator_s_probe_runs_beside_the_release_s_own(held: Callable[..., Any], site: Any) -> None:
    operator_probe(site, "0")
    done = held("1.0.0", activate=False).run("activate", "tool@1.0.0").json
    assert [(probe["origin"], probe["ok"]) for probe in done["probes"]] == [("release", True), ("operator", True)]
    probes = [record["data"]["origin"] for record in site.records() if record["event"] == "probe"]
    assert probes == ["release", "operator"]


def test_the_operator_s_probe_can_refuse_what_the_release_s_own_passes(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", activate=False)
    operator_probe(site, "7")
    failed = site.run("activate", "tool@1.0.0", expect=12).json
    assert [(probe["origin"], probe["ok"]) for probe in failed["probes"]] == [("release", True), ("operator", False)]
    assert failed["probes"][1]["exit_code"] == 7
    assert failed["probe"] == failed["probes"][1], "the one that decided"
    assert (failed["state"], failed["active"]) == ("failed", None)
    assert "operator probe" in failed["error"]["message"]
    assert site.current() is None


def test_an_operator_s_probe_alone_is_enough(bench: Any, site: Any) -> None:
    site.run("import", bench.build("1.0.0", "quiet", probe=None))
    operator_probe(site, "0", product="quiet")
    done = site.run("activate", "quiet@1.0.0").json
    assert [probe["origin"] for probe in done["probes"]] == ["operator"]


def test_an_operator_s_probe_that_cannot_be_read_says_nothing_about_the_release(
    held: Callable[..., Any], site: Any
) -> None:
    held("1.0.0", activate=False)
    (site.folder / "probes/tool.toml").write_text('kind = "command"\ncomand = ["x"]\n')
    error = site.run("activate", "tool@1.0.0", expect=2).json["error"]
    assert error["code"] == "input"
    assert "comand" in error["message"] + error["hint"]
    assert site.states() == {"tool@1.0.0": "ready"}


def test_a_probe_sees_neither_network_nor_the_rest_of_this_machine(bench: Any, site: Any, tmp_path: Path) -> None:
    if "allow_unisolated = true" in (site.folder / "policy.toml").read_text():
        pytest.skip("this machine isolates no probes; airpack says so and asks for allow_unisolated")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    check = (
        f"#!/bin/sh\n[ ! -e {secret} ] && [ ! -w . ] && [ -e model/m/weights.safetensors ] && [ ! -e /etc/passwd ]\n"
    )
    site.run("import", bench.build("1.0.0", "curious", check=check))
    done = site.run("activate", "curious@1.0.0").json
    assert done["probes"][0]["isolation"] == "namespaces"


def test_a_probe_that_hangs_is_ended_and_has_failed(bench: Any, site: Any) -> None:
    probe = '[probe]\nkind = "command"\ncommand = ["runtime/tool/check"]\ntimeout = 1\n'
    site.run("import", bench.build("1.0.0", "slow", check="#!/bin/sh\nsleep 100\n", probe=probe))
    failed = site.run("activate", "slow@1.0.0", expect=12).json
    assert failed["probes"][0]["reason"] == "timeout"
    assert failed["state"] == "failed"


# -- failure, fallback, rollback --------------------------------------------------------------------------------------


def test_a_failed_release_may_be_tried_again_by_the_operator(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", activate=False)
    operator_probe(site, "1")
    site.run("activate", "tool@1.0.0", expect=12)
    assert site.states() == {"tool@1.0.0": "failed"}
    operator_probe(site, "0")
    assert site.run("activate", "tool@1.0.0").json["state"] == "good"


def test_what_is_active_and_fails_its_probe_now_falls_back_to_the_newest_known_good(
    held: Callable[..., Any], site: Any
) -> None:
    held("1.0.0", "1.1.0", "1.2.0")
    operator_probe(site, "1")
    failed = site.run("activate", "tool@1.2.0", expect=12).json
    assert (failed["version"], failed["state"]) == ("1.2.0", "failed")
    assert failed["active"]["version"] == "1.1.0", "what runs afterwards, on failure too"
    assert site.active() == "1.1.0"
    assert site.run("status").json["products"]["tool"]["known_good"] == ["1.1.0", "1.0.0"]
    automatic = [record for record in site.records() if record["data"].get("automatic")]
    assert len(automatic) == 1


def test_without_another_known_good_one_a_failing_active_release_is_stopped(
    held: Callable[..., Any], site: Any
) -> None:
    held("1.0.0")
    operator_probe(site, "1")
    failed = site.run("activate", "tool@1.0.0", expect=12).json
    assert (failed["state"], failed["active"]) == ("failed", None)
    assert site.active() is None
    assert site.current() is None
    assert site.run("status").json["products"]["tool"]["known_good"] == []
    assert site.run("fsck").json["ok"] is True


def test_fallback_never_goes_to_a_failed_release(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0")
    operator_probe(site, "1")
    site.run("activate", "tool@1.1.0", expect=12)
    assert site.active() == "1.0.0"
    failed = site.run("rollback", "tool", "--to", "1.0.0", expect=12).json
    assert failed["active"] is None, "1.1.0 has failed and is not gone back to"
    assert site.states() == {"tool@1.0.0": "failed", "tool@1.1.0": "failed"}


def test_fallback_passes_over_a_release_whose_bytes_have_changed(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0", "1.2.0")
    spoil(blob_of(site, "1.1.0"))
    operator_probe(site, "1")
    failed = site.run("activate", "tool@1.2.0", expect=12).json
    assert failed["active"]["version"] == "1.0.0"
    assert site.active() == "1.0.0"


def test_known_good_is_listed_newest_first_whatever_runs(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0", "1.2.0")
    site.run("rollback", "tool", "--to", "1.0.0")
    found = site.run("status").json["products"]["tool"]
    assert found["known_good"] == ["1.2.0", "1.1.0", "1.0.0"]
    assert found["active"]["version"] == "1.0.0"


def test_a_release_that_was_good_once_and_failed_since_is_gone_back_to_when_it_is_named(
    held: Callable[..., Any], site: Any
) -> None:
    held("1.0.0", "1.1.0")
    operator_probe(site, "1")
    site.run("rollback", "tool", expect=12)
    assert site.states() == {"tool@1.0.0": "failed", "tool@1.1.0": "good"}
    operator_probe(site, "0")
    assert site.run("rollback", "tool", expect=12).json["error"]["code"] == "policy", "nothing chooses it by itself"
    assert site.run("rollback", "tool", "--to", "1.0.0").json["state"] == "good"


def test_a_release_that_was_never_good_is_not_rolled_back_to(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", activate=False)
    held("1.1.0")
    error = site.run("rollback", "tool", "--to", "1.0.0", expect=12).json["error"]
    assert "never known good" in error["message"]


def test_rollback_goes_one_known_good_release_back_each_time(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0", "1.2.0")
    assert site.run("rollback", "tool").json["version"] == "1.1.0"
    assert site.run("rollback", "tool").json["version"] == "1.0.0"
    error = site.run("rollback", "tool", expect=12).json["error"]
    assert error["code"] == "policy"
    assert site.active() == "1.0.0"


def test_rollback_of_what_is_not_here_is_not_found(site: Any) -> None:
    assert site.run("rollback", "tool", expect=3).json["error"]["code"] == "not_found"
    assert site.run("activate", "tool@9", expect=3).json["error"]["code"] == "not_found"
    assert site.run("activate", "To ol", expect=2).json["error"]["code"] == "input"


def test_a_refused_rollback_is_on_record(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0")
    site.run("rollback", "tool", expect=12)
    record = site.records()[-1]
    assert (record["event"], record["outcome"], record["reason"]) == ("rollback", "refused", "policy")


def test_a_refused_activation_is_on_record(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0")
    site.run("activate", "tool@1.0.0", expect=13)
    record = site.records()[-1]
    assert (record["event"], record["outcome"], record["reason"]) == ("activate", "refused", "rollback")


def test_the_floor_binds_activate_and_not_rollback(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0")
    assert site.run("status").json["products"]["tool"]["floor"] == 2
    refused = site.run("activate", "tool@1.0.0", expect=13).json
    assert refused["error"]["code"] == "rollback"
    assert refused["active"]["version"] == "1.1.0"
    assert site.run("rollback", "tool").json["version"] == "1.0.0"
    assert site.run("status").json["products"]["tool"]["floor"] == 2, "the floor never falls"
    assert site.run("activate", "tool@1.1.0").json["state"] == "good"


def test_a_release_that_was_never_good_does_not_raise_the_floor(held: Callable[..., Any], site: Any) -> None:
    held("1.1.0", activate=False)
    operator_probe(site, "1")
    site.run("activate", "tool@1.1.0", expect=12)
    assert site.run("status").json["products"]["tool"]["floor"] == 0
    operator_probe(site, "0")
    assert held("1.0.0").active() == "1.0.0"


def test_a_release_is_named_by_product_version_or_digest(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0", activate=False)
    digest = site.run("show", "tool@1.0.0").json["release"]
    assert site.run("activate", digest).json["version"] == "1.0.0"
    assert site.run("activate", "tool").json["version"] == "1.1.0"


def test_a_revoked_release_is_blocked_and_never_fallen_back_to(
    held: Callable[..., Any], site: Any, media: dict[str, Path], carry: Callable[[Path], Path], forger: Any
) -> None:
    held("1.0.0", "1.1.0", "1.2.0")
    medium = carry(media["1.5.0"])
    head = forger.read(medium)
    revoked = Revocations({Digest(site.run("show", "tool@1.1.0").json["release"]): "bad data"})
    forger.write(medium, forger.listed(head, {"revocations.json": revoked.emit()}))
    site.run("import", medium)
    assert site.states()["tool@1.1.0"] == "blocked"
    refused = site.run("rollback", "tool", "--to", "1.1.0", expect=12).json
    assert refused["error"]["code"] == "policy"
    assert site.active() == "1.2.0"
    operator_probe(site, "1")
    assert site.run("activate", "tool@1.2.0", expect=12).json["active"]["version"] == "1.0.0"


def test_expired_metadata_never_stops_activation_rollback_or_fallback(
    held: Callable[..., Any], site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held("1.0.0", "1.1.0")
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: datetime(2099, 1, 1, tzinfo=UTC))
    assert set(site.run("status").json["expired"]) == {"timestamp", "snapshot", "targets", "root"}
    assert site.run("rollback", "tool").json["version"] == "1.0.0"
    assert site.run("activate", "tool@1.1.0").json["state"] == "good"
    operator_probe(site, "1")
    assert site.run("activate", "tool@1.1.0", expect=12).json["active"]["version"] == "1.0.0"


# -- retention --------------------------------------------------------------------------------------------------------


def test_gc_keeps_the_active_one_two_known_good_ones_and_what_is_newer(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0")
    held("1.5.0", activate=False)
    before = set(site.states())
    plan = site.run("gc", "--dry-run").json
    assert plan["releases"] == ["tool@1.0.0", "tool@1.1.0"]
    assert set(site.states()) == before, "a dry run removes nothing"
    stored = {path: path.stat().st_size for path in (site.folder / "store").rglob("*") if path.is_file()}
    done = site.run("gc").json
    assert done == plan, "the dry run was exact"
    left = {path for path in (site.folder / "store").rglob("*") if path.is_file()}
    gone = set(stored) - left
    assert (len(gone), sum(stored[path] for path in gone)) == (plan["blobs"], plan["bytes"])
    assert not any(Path(path).exists() for path in plan["generations"])
    assert len(plan["generations"]) == 2
    assert set(site.states()) == {f"tool@{version}" for version in VERSIONS[2:]}
    assert site.active() == "1.4.0"
    assert site.run("fsck").json["ok"] is True
    assert site.run("gc").json["releases"] == []
    assert site.run("rollback", "tool", "--to", "1.2.0").json["state"] == "good"
    assert site.run("rollback", "tool", "--to", "1.0.0", expect=12).json["error"]["code"] == "policy"
    assert site.run("activate", "tool@1.0.0", expect=3).json["error"]["code"] == "not_found"


def test_gc_after_a_rollback_keeps_what_runs_and_the_two_newest_good_ones(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0", "1.2.0", "1.3.0")
    site.run("rollback", "tool", "--to", "1.0.0")
    assert site.run("gc").json["releases"] == ["tool@1.1.0"]
    assert site.active() == "1.0.0"
    assert site.run("fsck").json["ok"] is True


def test_gc_removes_old_failures_and_quarantines(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", activate=False)
    operator_probe(site, "1")
    site.run("activate", "tool@1.0.0", expect=12)
    operator_probe(site, "0")
    held("1.1.0")
    quarantine = site.folder / "ingest" / ("0" * 32)
    quarantine.mkdir()
    (quarantine / "part").write_bytes(b"x")
    done = site.run("gc").json
    assert (done["releases"], done["quarantines"]) == (["tool@1.0.0"], 1)
    assert not quarantine.exists()


def test_a_release_that_gc_removed_is_older_than_the_floor(
    held: Callable[..., Any], site: Any, media: dict[str, Path]
) -> None:
    held("1.0.0", "1.1.0", "1.2.0", "1.3.0")
    site.run("gc")
    assert site.run("import", media["1.0.0"], expect=13).json["error"]["code"] == "rollback"


# -- fsck and repair --------------------------------------------------------------------------------------------------


def test_fsck_of_a_healthy_site_finds_nothing(held: Callable[..., Any]) -> None:
    document = held("1.0.0", "1.1.0").run("fsck").json
    assert (document["ok"], document["damage"]) == (True, [])
    assert all(check["ok"] for check in document["checks"])


def flipped(site: Any) -> str:
    file = blob_of(site, "1.0.0")
    spoil(file)
    return file.name


def missing(site: Any) -> str:
    file = blob_of(site, "1.0.0")
    file.unlink()
    return file.name


def missing_document(site: Any) -> str:
    digest = str(site.run("show", "tool@1.0.0").json["release"]).removeprefix("sha256:")
    (site.folder / "store/blobs/sha256" / digest[:2] / digest).unlink()
    return digest


def stray(site: Any) -> str:
    file = blob_of(site, "1.0.0").with_name("stray-file")
    file.write_bytes(b"x")
    return file.name


def stray_beside_the_shards(site: Any) -> str:
    file = site.folder / "store/blobs/sha256/stray-file"
    file.write_bytes(b"x")
    return str(file.name)


def orphan(site: Any) -> str:
    digest = Digest.of(b"orphan").hex
    file = site.folder / "store/blobs/sha256" / digest[:2] / digest
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"orphan")
    return digest


def wrong_link(site: Any) -> str:
    link = site.folder / "products/tool/current"
    link.unlink()
    link.symlink_to("../../generations/tool/999")
    return "tool/current"


def no_link(site: Any) -> str:
    (site.folder / "products/tool/current").unlink()
    return "tool/current"


def changed_tree(site: Any) -> str:
    tree = (site.folder / "products/tool/current").resolve()
    spoil(tree / "runtime/tool/check")  # a copy, for it is executable
    return "runtime/tool/check"


def more_in_the_tree(site: Any) -> str:
    tree = (site.folder / "products/tool/current").resolve()
    (tree / "runtime/tool").chmod(0o755)
    (tree / "runtime/tool/more").write_text("x")
    return "runtime/tool/more"


def lost_tree(site: Any) -> str:
    tree = (site.folder / "products/tool/current").resolve()
    for folder in [tree, *[path for path in tree.rglob("*") if path.is_dir()]]:
        folder.chmod(0o755)
    shutil.rmtree(tree)
    return f"tool/{tree.name}"


DAMAGE = (
    flipped,
    missing,
    missing_document,
    stray,
    stray_beside_the_shards,
    wrong_link,
    no_link,
    changed_tree,
    more_in_the_tree,
    lost_tree,
)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_fsck_finds_damage_and_names_it(held: Callable[..., Any], site: Any, damage: Callable[[Any], str]) -> None:
    held("1.0.0")
    name = damage(site)
    document = site.run("fsck", expect=10).json
    assert document["ok"] is False
    assert document["error"]["code"] == "integrity"
    assert any(name in line for line in document["damage"]), document["damage"]
    assert any(not check["ok"] for check in document["checks"])
    record = site.records()[-1]
    assert (record["event"], record["outcome"], record["reason"]) == ("fsck", "failed", "integrity")


def test_an_orphan_is_named_and_no_damage(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0")
    name = orphan(site)
    document = site.run("fsck").json
    assert document["ok"] is True
    assert [name in line for line in document["leftovers"]] == [True]
    assert site.records()[-1]["outcome"] == "done"


@pytest.mark.parametrize("damage", [flipped, missing, missing_document], ids=lambda damage: damage.__name__)
def test_importing_again_repairs_what_was_damaged(
    held: Callable[..., Any], site: Any, media: dict[str, Path], damage: Callable[[Any], str]
) -> None:
    held("1.0.0")
    damage(site)
    site.run("fsck", expect=10)
    assert site.run("import", media["1.0.0"]).json["state"] == "good"
    site.run("activate", "tool@1.0.0")
    assert site.run("fsck").json["ok"] is True
    assert site.active() == "1.0.0"


def test_the_receipt_on_disk_stays_the_one_on_record_when_an_import_is_repeated_later(
    held: Callable[..., Any], site: Any, media: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held("1.0.0")
    missing(site)
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: later)
    receipt = Path(site.run("import", media["1.0.0"]).json["receipt"])
    logged = [record["data"]["receipt"] for record in site.records() if "receipt" in record["data"]]
    assert str(Digest.of(receipt.read_bytes())) == logged[-1]


@pytest.mark.parametrize("damage", [flipped, missing], ids=lambda damage: damage.__name__)
def test_a_damaged_release_is_not_activated(held: Callable[..., Any], site: Any, damage: Callable[[Any], str]) -> None:
    held("1.0.0")
    held("1.1.0", activate=False)
    file = blob_of(site, "1.1.0")
    if damage is flipped:
        spoil(file)
    else:
        file.unlink()
    failed = site.run("activate", "tool@1.1.0", expect=10).json
    assert failed["error"]["code"] == "integrity"
    assert failed["active"]["version"] == "1.0.0"
    assert site.states()["tool@1.1.0"] == "ready"
    assert site.active() == "1.0.0"


def test_a_lost_or_wrong_link_is_put_right_by_the_next_command(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0")
    right = site.current()
    for damage in (wrong_link, no_link):
        damage(site)
        site.run("gc")
        assert site.current() == right


# -- imports again ----------------------------------------------------------------------------------------------------


def test_an_import_repeated_is_done_and_changes_nothing(
    held: Callable[..., Any], site: Any, media: dict[str, Path]
) -> None:
    held("1.0.0")
    before = site.visible()
    again = site.run("import", media["1.0.0"]).json
    assert (again["repeated"], again["state"], again["bytes_needed"]) == (True, "good", 0)
    assert site.visible() == before
    assert Path(again["receipt"]).is_file()


def test_an_import_repeated_still_looks_at_every_byte(
    held: Callable[..., Any], site: Any, media: dict[str, Path], carry: Callable[[Path], Path]
) -> None:
    held("1.0.0")
    medium = carry(media["1.0.0"])
    (volume,) = medium.glob("*.airvol")
    spoil(volume)
    assert site.run("import", medium, expect=30).json["error"]["code"] == "damaged"


def test_an_older_release_that_is_held_may_be_imported_again_below_the_floor(
    held: Callable[..., Any], site: Any, media: dict[str, Path]
) -> None:
    held("1.0.0", "1.1.0")
    assert site.run("import", media["1.0.0"]).json["repeated"] is True


def test_a_renewed_head_alone_refreshes_what_is_held(  # noqa: PLR0917, fixtures come by name
    held: Callable[..., Any],
    site: Any,
    bench: Any,
    media: dict[str, Path],
    carry: Callable[[Path], Path],
    expiry: Callable[[Path], datetime],
) -> None:
    held("1.0.0")
    medium = carry(media["1.0.0"])
    before, volumes = expiry(medium), {path: path.read_bytes() for path in medium.glob("*.airvol")}
    workspace = Workspace.find(bench.workspace, bench.workspace)
    later = datetime.now(UTC) + timedelta(days=30)
    made = publish(workspace, medium, passphrase=lambda: None, now=later)
    assert made.head is not None
    assert expiry(medium) > before
    assert {path: path.read_bytes() for path in medium.glob("*.airvol")} == volumes, "only the head changes"
    for path in volumes:
        path.unlink()
    done = site.run("import", medium).json
    assert (done["repeated"], done["state"]) == (True, "good")
    assert site.run("status").json["expires"]["timestamp"] > before.isoformat()[:10]
    versions = [record["data"]["timestamp_version"] for record in site.records() if record["event"] == "trust"]
    assert versions == sorted(set(versions))


def test_a_head_alone_is_not_enough_for_what_is_not_held(
    site: Any, media: dict[str, Path], carry: Callable[[Path], Path]
) -> None:
    medium = carry(media["1.0.0"])
    for path in medium.glob("*.airvol"):
        path.unlink()
    assert site.run("import", medium, expect=30).json["error"]["code"] == "partial"
    assert site.states() == {}


def test_publish_from_the_command_line_renews_a_head(
    bench: Any, media: dict[str, Path], carry: Callable[[Path], Path], airpack: Callable[..., Any], forger: Any
) -> None:
    medium = carry(media["1.1.0"])
    before = forger.read(medium)
    done = airpack("publish", medium, "--workspace", bench.workspace, "--json").json
    after = forger.read(medium)
    assert done["head"] == str(forger.file(medium))
    assert replace(after, metadata={}, targets={}) == replace(before, metadata={}, targets={})
    assert after.metadata["timestamp.json"] != before.metadata["timestamp.json"]
    assert airpack("verify", medium, "--root", bench.root, "--json").json["ok"] is True


def test_releases_share_blobs_and_trees_share_their_bytes(held: Callable[..., Any], site: Any) -> None:
    held("1.0.0", "1.1.0")
    blob = blob_of(site, "1.0.0")
    tree = site.folder / "generations/tool/1/model/m/weights.safetensors"
    assert blob.samefile(tree)
    assert blob.stat().st_mode & 0o777 == 0o444
    assert (site.folder / "generations/tool/1/runtime/tool/check").stat().st_mode & 0o777 == 0o555
    assert blob_of(site, "1.0.0", "runtime/tool/check") == blob_of(site, "1.1.0", "runtime/tool/check")
