"""Attacks that were run against airpack and got somewhere once. Each names what it stops."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airpack.crypto import signing
from airpack.formats import dsse
from airpack.formats.package import PAYLOAD_TYPE
from airpack.types import Digest

Carry = Callable[[Path], Path]


def renumbered(forger: Any, medium: Path, sequence: int) -> None:
    """Sign the release statement anew with another number: what the release key alone can do."""
    head = forger.read(medium)
    said = {**forger.statements(head)["release"].predicate, "sequence": sequence}
    bare = forger.without(head, "release")
    forger.write(medium, forger.with_blobs(bare, forger.attestation(head, "release", predicate=said)))


def test_the_release_key_alone_cannot_lift_an_old_release_over_the_floor(
    bench: Any, forger: Any, site: Any, carry: Carry
) -> None:
    old = carry(bench.build("1.0.0"))
    site.run("import", bench.build("1.1.0"))
    site.run("activate", "tool@1.1.0")
    renumbered(forger, old, 1000)
    error = site.run("import", old, expect=11).json["error"]
    assert "1000" in error["message"]
    assert site.states() == {"tool@1.1.0": "good"}


def test_a_release_that_is_held_keeps_its_number(bench: Any, forger: Any, site: Any, carry: Carry) -> None:
    medium = carry(bench.build("1.0.0"))
    site.run("import", medium)
    renumbered(forger, medium, 77)
    site.run("import", medium, expect=11)
    assert [row["sequence"] for row in site.run("list").json["releases"]] == [1]


def test_two_signatures_by_one_key_over_a_package_are_refused(bench: Any, forger: Any, site: Any, carry: Carry) -> None:
    medium = carry(bench.build("1.0.0"))
    head = forger.read(medium)
    payload = dsse.parse(head.package).payload
    twice = [signing.sign(forger.keys["packer"], PAYLOAD_TYPE, payload).signatures[0] for _ in range(2)]
    assert twice[0] != twice[1]
    forger.write(medium, replace(head, package=dsse.emit(dsse.Envelope(payload, PAYLOAD_TYPE, tuple(twice)))))
    assert site.run("import", medium, expect=11).json["error"]["code"] == "trust"
    assert site.states() == {}


def test_a_head_alone_with_other_attestations_leaves_no_orphans(
    bench: Any, forger: Any, site: Any, carry: Carry
) -> None:
    medium = carry(bench.build("1.0.0"))
    site.run("import", medium)
    head = forger.read(medium)
    again = forger.attestation(head, "builder")
    forger.write(medium, forger.with_blobs(forger.without(head, "builder"), again))
    for volume in medium.glob("*.airvol"):
        volume.unlink()
    assert site.run("import", medium).json["repeated"] is True
    assert site.run("fsck").json["ok"] is True
    assert site.run("gc", "--dry-run").json["blobs"] == 0


def test_a_name_that_is_no_utf8_does_not_break_the_json_of_what_was_done(
    bench: Any, site: Any, carry: Carry, program: Callable[..., Any]
) -> None:
    medium = carry(bench.build("1.0.0"))
    Path(os.fsdecode(os.fsencode(medium) + b"/\xff\xfe\x9b")).write_bytes(b"")
    for encoding in ("utf-8:strict", "ascii:strict"):
        done = program("import", medium, "--site", site.folder, "--json", PYTHONIOENCODING=encoding)
        assert len(done.json["ignored"]) == 1
        assert done.out.isascii()


def test_lists_without_number_are_refused_before_they_cost_memory(
    bench: Any, forger: Any, carry: Carry, airpack: Callable[..., Any]
) -> None:
    medium = carry(bench.build("1.0.0"))
    forger.write_body(medium, b'{"blobs":[' + b",".join([b"[]"] * 400_000) + b"]}")
    error = airpack("inspect", medium, "--json", expect=10).json["error"]
    assert "more than 400000 values" in error["message"]


def test_an_operator_s_probe_that_leads_nowhere_is_named(bench: Any, site: Any) -> None:
    site.run("import", bench.build("1.0.0"))
    (site.folder / "probes/tool.toml").symlink_to("/nonexistent")
    assert "tool.toml" in site.run("activate", "tool@1.0.0", expect=None).json["error"]["message"]
    assert site.active() is None
    (site.folder / "probes/tool.toml").unlink()
    (site.folder / "probes").rmdir()
    assert site.run("activate", "tool@1.0.0", expect=2).json["error"]["hint"].startswith("mkdir")


def test_one_package_never_replaces_another_release_s_file(bench: Any, airpack: Callable[..., Any]) -> None:
    out = bench.folder / "shared"
    airpack("build", bench.spec("1", "cc-dd"), "-o", out, "--workspace", bench.workspace, "--json")
    before = {path.name: Digest.of(path.read_bytes()) for path in out.iterdir()}
    error = airpack(
        "build", bench.spec("dd-1", "cc"), "-o", out, "--workspace", bench.workspace, "--json", expect=2
    ).json["error"]
    assert "cc-dd@1" in error["message"]
    assert {path.name: Digest.of(path.read_bytes()) for path in out.iterdir()} == before
    airpack("build", bench.spec("1", "cc-dd"), "-o", out, "--workspace", bench.workspace, "--json")


def test_a_link_where_the_build_would_work_is_not_followed(
    bench: Any, airpack: Callable[..., Any], tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / ".airpack-build.part").symlink_to(elsewhere)
    airpack("build", bench.spec("1.0.0"), "-o", out, "--workspace", bench.workspace, "--json")
    assert list(elsewhere.iterdir()) == []


def test_a_file_planted_in_a_generation_is_gone_after_the_next_activation(bench: Any, site: Any) -> None:
    site.run("import", bench.build("1.0.0"))
    site.run("activate", "tool@1.0.0")
    tree = site.folder / "generations/tool/1"
    (tree / "model").chmod(0o755)
    (tree / "model/planted.pyc").write_bytes(b"planted")
    assert site.run("fsck", expect=10).json["ok"] is False
    site.run("activate", "tool@1.0.0")
    assert site.run("fsck").json["ok"] is True
    assert not tree.exists()


def test_a_lost_quarantine_folder_is_made_again(bench: Any, site: Any) -> None:
    shutil.rmtree(site.folder / "ingest")
    site.run("import", bench.build("1.0.0"))
    assert (site.folder / "ingest").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mask", ["000", "077"])
def test_what_airpack_makes_is_written_by_nobody_else_whatever_the_mask(
    bench: Any, tmp_path: Path, program: Callable[..., Any], mask: str
) -> None:
    words = ["sh", "-c", f'umask {mask}; exec "$@"', "sh"]
    program("site", "init", tmp_path / "s", "--root", bench.root, before=words)
    program("import", bench.build("1.0.0"), "--site", tmp_path / "s", before=words)
    loose = [path for path in tmp_path.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert loose == []


def test_five_records_beyond_the_checkpoint_are_no_crash(bench: Any, site: Any) -> None:
    site.run("import", bench.build("1.0.0"))
    log = site.folder / "evidence/log"
    before = (log / "checkpoint").read_bytes()
    site.run("activate", "tool@1.0.0")
    (log / "checkpoint").write_bytes(before)
    assert site.run("gc", expect=10).json["error"]["code"] == "integrity"


@pytest.mark.parametrize("harm", ["lost", "damaged"])
def test_a_trust_state_that_is_lost_or_damaged_bars_imports_and_not_the_way_back(
    bench: Any, site: Any, harm: str
) -> None:
    for version in ("1.0.0", "1.1.0"):
        site.run("import", bench.build(version))
        site.run("activate", f"tool@{version}")
    for path in (site.folder / "trust/current").glob("*.json"):
        if not path.is_symlink():
            path.unlink() if harm == "lost" else path.write_bytes(b"")
    refused = site.run("import", bench.build("1.2.0"), expect=10).json["error"]
    assert "trust" in refused["hint"]
    assert site.run("activate", "tool@1.1.0", expect=10).json["active"]["version"] == "1.1.0"
    assert any(line.startswith("trust") for line in site.run("fsck", expect=10).json["damage"])
    assert site.run("rollback", "tool").json["version"] == "1.0.0"
