"""Every kind of file of a site, changed, lost or put elsewhere: fsck names it, and what can be repaired is.

The table has an entry for each kind of file, and a rich site is walked to see that no file is without one.
"""

import contextlib
import errno
import itertools
import os
import random
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airpack.catalog.catalog import Catalog
from airpack.errors import IntegrityError
from airpack.evidence.records import Event
from airpack.formats import bundle
from airpack.ops.activate import activate, rollback
from airpack.ops.examine import examine, open_damaged
from airpack.ops.fallback import fall_back
from airpack.ops.generations import load_release
from airpack.ops.maintain import fsck
from airpack.ops.recover import exclusive
from airpack.ops.site import Site
from airpack.store.blobs import hash_file
from airpack.types import Digest, Silent

HEX = "[0-9a-f]{64}"


@pytest.fixture(autouse=True)
def _no_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, so nothing need wait for a disk."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@dataclass(frozen=True)
class Kind:
    """A kind of file that a site holds.

    Attributes:
        name: For people.
        pattern: Of its path in the site.
        line: What fsck's line must match when a bit of it is flipped; None where nobody but the operator can tell.
        fixed: Whether `fsck --repair` with the packages puts it right.
    """

    name: str
    pattern: str
    line: str | None
    fixed: bool


KINDS = (
    Kind("site.toml", r"site\.toml", r"^site\.toml: ", fixed=True),
    Kind("pinned root", r"root\.json", r"^root\.json: ", fixed=True),
    Kind("policy", r"policy\.toml", r"^policy\.toml: ", fixed=False),
    Kind("operator's probe", r"probes/[a-z]+\.toml", r"^probes/tool\.toml: ", fixed=False),
    Kind("private key", r"evidence/site\.key", r"^evidence/site\.key: ", fixed=False),
    Kind("public key", r"evidence/site\.pub", r"^evidence/site\.pub: ", fixed=True),
    Kind("records", r"evidence/log/entries\.jsonl", r"^evidence/log: ", fixed=False),
    Kind("checkpoint", r"evidence/log/checkpoint", r"^evidence/log: ", fixed=False),
    Kind("receipt", rf"evidence/receipts/{HEX}\.json", r"^receipt of tool@", fixed=True),
    Kind("earlier receipt", rf"evidence/receipts/{HEX}-[0-9a-f]{{12}}\.json", r"^receipt evidence/", fixed=False),
    Kind("blob", rf"store/blobs/sha256/[0-9a-f]{{2}}/{HEX}", r"^blob sha256:", fixed=True),
    Kind("generation's file", r"generations/tool/[0-9]+/.+", r"^generation tool/[0-9]+: ", fixed=True),
    Kind("trust metadata", r"trust/[0-9]+/(timestamp|snapshot|targets)\.json", r"^trust: ", fixed=True),
    Kind("trust root", r"trust/[0-9]+/root_history/[0-9]+\.root\.json", r"^trust: .*root_history", fixed=True),
    Kind("kept target", rf"trust/[0-9]+/targets/{HEX}\.[a-z]+\.json", r"^trust: .*(policy|revocations)", fixed=True),
    Kind("catalog", r"catalog\.db", r"^catalog: ", fixed=False),  # by rows below: SQLite has room that says nothing
    Kind("lock", r"\.lock", None, fixed=False),  # no content
    Kind("journal", r"catalog\.db-journal", None, fixed=False),  # no content between two transactions
)
LINKS = (r"trust/current", r"trust/[0-9]+/root\.json", r"products/[a-z]+/current")
BY_ROWS = {"catalog", "lock", "journal"}
# Nothing in a site says that there was one; earlier receipts are in the auditor's last export.
UNMISSED = BY_ROWS | {"operator's probe", "earlier receipt"}


def kind_of(path: str) -> Kind | None:
    return next((kind for kind in KINDS if re.fullmatch(kind.pattern, path)), None)


@pytest.fixture(scope="module")
def media(bench: Any) -> list[Path]:
    """Two releases, the newest first: its metadata is what the site has seen last."""
    return [bench.build(version) for version in ("1.0.0", "1.1.0")][::-1]


@pytest.fixture(scope="module")
def rich(bench: Any, media: list[Path], tmp_path_factory: pytest.TempPathFactory, airpack: Any) -> Path:
    """A site that holds every kind of file there is: two releases that proved good, receipts of an earlier import."""
    folder = tmp_path_factory.mktemp("rich") / "site"
    words = ("--site", folder, "--json")
    airpack("site", "init", folder, "--root", bench.root, "--minimum", "timestamp=1", "--json")
    policy = folder / "policy.toml"
    policy.write_text(policy.read_text().replace("allow_unisolated = false", "allow_unisolated = true"))
    (folder / "probes/tool.toml").write_text('kind = "command"\ncommand = ["runtime/tool/check", "0"]\n')
    for medium, version in zip(media[::-1], ("1.0.0", "1.1.0"), strict=True):
        airpack("import", medium, *words)
        airpack("activate", f"tool@{version}", *words)
    model_of(Site.open(folder), "1.0.0").unlink()
    with pytest.MonkeyPatch.context() as patch:
        later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        patch.setattr("airpack.ops.site.utc_now", lambda: later)
        airpack("import", media[1], *words)
    assert airpack("fsck", *words).json["ok"] is True
    return folder


@pytest.fixture
def place(rich: Path, tmp_path: Path, site: Any) -> Any:
    """A copy of the rich site, its hard links kept."""
    return copied(rich, tmp_path / "place", site)


def copied(rich: Path, folder: Path, site: Any) -> Any:
    subprocess.run(["cp", "-a", rich, folder], check=True)
    return type(site)(folder)


def model_of(site: Site, version: str, path: str = "model/m/weights.safetensors") -> Path:
    """Return the stored blob of one file of a release."""
    (row,) = [row for row in site.catalog.releases("tool") if row.version == version]
    release = load_release(site, row.digest)
    return site.store.path(next(file.digest for file in release.files if file.path == path))


def flip(file: Path, at: int) -> None:
    """Change one bit in place, so that hard links share it."""
    mode = file.stat().st_mode
    file.chmod(0o600)
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    file.chmod(mode)


@contextlib.contextmanager
def flipped(file: Path, at: int) -> Iterator[None]:
    flip(file, at)
    try:
        yield
    finally:
        flip(file, at)


def files_of(folder: Path) -> dict[str, Path]:
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def looked(folder: Path) -> list[str]:
    """Return what a look finds, as lines."""
    return [finding.line for finding in examine(open_damaged(folder), Silent()).findings]


def test_every_file_and_link_of_a_site_is_of_a_kind_that_fsck_knows(rich: Path) -> None:
    seen = {name: kind_of(name) for name in files_of(rich)}
    assert [name for name, kind in seen.items() if kind is None] == []
    assert [kind.name for kind in KINDS if kind not in seen.values()] == [], "the rich site lacks a kind"
    links = [path.relative_to(rich).as_posix() for path in rich.rglob("*") if path.is_symlink()]
    assert [link for link in links if not any(re.fullmatch(pattern, link) for pattern in LINKS)] == []


def test_a_flipped_bit_in_any_file_is_named(place: Any) -> None:
    """Every file, at its first byte, in the middle and at its last: a look names it, and nothing when it is back."""
    count = 0
    for name, file in files_of(place.folder).items():
        kind = kind_of(name)
        assert kind is not None
        size = file.stat().st_size
        if kind.name in BY_ROWS or not size:
            continue
        spots = {0} if kind.name in {"policy", "operator's probe"} else {0, size // 2, size - 1}
        for at in sorted(spots):
            if kind.name == "private key" and at == size - 1:
                continue  # the newline after the PEM block is no part of the key
            with flipped(file, at):
                lines = looked(place.folder)
            assert kind.line is not None
            assert any(re.search(kind.line, line) for line in lines), f"{name} at {at}: {lines}"
            count += 1
    assert count > 100
    assert looked(place.folder) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name not in BY_ROWS], ids=lambda kind: kind.name)
def test_a_flipped_bit_is_named_by_the_command_and_repaired_where_it_can_be(
    place: Any, media: list[Path], kind: Kind
) -> None:
    file = next(path for name, path in files_of(place.folder).items() if re.fullmatch(kind.pattern, name))
    before = {name: path.read_bytes() for name, path in files_of(place.folder).items()}
    flip(file, 0)
    document = place.run("fsck", expect=10).json
    assert document["ok"] is False
    assert any(re.search(str(kind.line), line) for line in document["damage"])
    if kind.fixed:
        repaired = place.run("fsck", "--repair", *media).json
        assert repaired["ok"] is True
        assert repaired["repair"]["fixed"]
        assert place.run("fsck").json["ok"] is True
        assert place.run("rollback", "tool").json["version"] == "1.0.0"
        assert place.run("import", media[0]).json["repeated"] is True
    else:
        left = place.run("fsck", "--repair", *media, expect=10).json
        assert any(re.search(str(kind.line), line) for line in left["damage"])
        assert {item["remedy"] for item in left["findings"]} <= {"backup", "operator"}
        flip(file, 0)
        assert place.run("fsck").json["ok"] is True
        after = {name: path.read_bytes() for name, path in files_of(place.folder).items()}
        changed = {name for name in before if before[name] != after.get(name)}
        assert changed <= {"evidence/log/entries.jsonl", "evidence/log/checkpoint"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name not in UNMISSED], ids=lambda kind: kind.name)
def test_a_lost_file_is_named_and_repaired_where_it_can_be(place: Any, media: list[Path], kind: Kind) -> None:
    file = next(path for name, path in files_of(place.folder).items() if re.fullmatch(kind.pattern, name))
    file.parent.chmod(0o755)
    file.unlink()
    assert any(re.search(str(kind.line), line) for line in place.run("fsck", expect=10).json["damage"])
    place.run("fsck", "--repair", *media, expect=0 if kind.fixed else 10)
    if kind.fixed:
        assert place.run("fsck").json["ok"] is True


FLIPPED = [kind for kind in KINDS if kind.name not in BY_ROWS]


def test_no_broken_part_hides_another(place: Any) -> None:
    """Every two kinds: both are named, or what rests on the other says that it was not checked."""
    files = {
        kind.name: next(path for name, path in files_of(place.folder).items() if kind_of(name) is kind)
        for kind in FLIPPED
    }
    for one, other in itertools.combinations(FLIPPED, 2):
        with flipped(files[one.name], 0), flipped(files[other.name], 0):
            found = examine(open_damaged(place.folder), Silent())
        said = [*found.damage, *(check.detail for check in found.checks if check.detail.startswith("not checked"))]
        for kind in (one, other):
            rests = "not checked" if "trust" in kind.name or kind.name in {"kept target", "pinned root"} else kind.line
            named = any(re.search(str(kind.line), line) for line in said)
            assert named or any(line.startswith(str(rests)) for line in said), f"{one.name} and {other.name}: {said}"
    assert looked(place.folder) == []


@pytest.mark.parametrize("name", ["site.toml", "evidence/site.key", "evidence/site.pub", "evidence/log/entries.jsonl"])
def test_with_half_the_site_gone_the_rest_is_still_looked_at(place: Any, name: str) -> None:
    for lost in ("trust", "evidence/receipts", "products", "probes"):
        shutil.rmtree(place.folder / lost)
    (place.folder / "evidence/log/checkpoint").unlink()
    (place.folder / name).unlink()
    flip(largest_blob(place.folder), 0)
    found = place.run("fsck", expect=10).json["findings"]
    assert {"evidence", "site", "blobs", "links", "receipts"} <= {item["check"] for item in found}


@pytest.mark.parametrize("lost", ["trust", "evidence/receipts", "products", "probes", "generations", "ingest", "store"])
def test_a_lost_folder_is_named_and_made_again(place: Any, media: list[Path], lost: str) -> None:
    for path in [place.folder / lost, *(place.folder / lost).rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(place.folder / lost)
    if lost == "ingest":
        assert place.run("fsck").json["ok"] is True, "a quarantine is nobody's loss"
        return
    assert any(lost in line for line in place.run("fsck", expect=10).json["damage"])
    left = place.run("fsck", "--repair", *media, expect=None).json
    gone = {"evidence/receipts": "receipt evidence/", "probes": "probes: "}.get(lost, "nothing")
    assert [line for line in left["damage"] if not line.startswith(gone)] == []
    assert bool(left["damage"]) is (lost == "probes"), "nobody but the operator can say what was in it"
    assert place.active() == "1.1.0"


def test_a_private_key_that_others_reach_is_named_with_what_helps(place: Any) -> None:
    (place.folder / "evidence/site.key").chmod(0o644)
    found = place.run("fsck", expect=10).json["findings"]
    (item,) = [item for item in found if item["line"].startswith("evidence/site.key")]
    assert item["help"].startswith("chmod 600")


# -- the catalog ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE releases SET proven = 0",
        "UPDATE releases SET state = 'failed' WHERE version = '1.0.0'",
        "UPDATE products SET floor = 1",
        "UPDATE blobs SET size = size + 1 WHERE rowid = 1",
        "DELETE FROM release_blobs WHERE rowid = 1",
        "UPDATE meta SET value = '7' WHERE key = 'generation:tool'",
        "UPDATE meta SET value = 'x' WHERE key = 'revision'",
        "UPDATE releases SET receipt = x'00'",
        "UPDATE releases SET imported = CAST(x'ff' AS TEXT)",
        "UPDATE releases SET sequence = 'two' WHERE version = '1.1.0'",
        "UPDATE products SET active = 999",
    ],
)
def test_a_changed_row_is_named(place: Any, change: str) -> None:
    with contextlib.closing(sqlite3.connect(place.folder / "catalog.db")) as connection, connection:
        connection.execute(change)
    assert any(line.startswith("catalog: ") for line in place.run("fsck", expect=10).json["damage"])
    again = place.run("fsck", expect=10).json["damage"]
    assert any(line.startswith("catalog: ") for line in again), "the record of the first fsck hides nothing"
    assert place.run("gc", expect=10).json["error"]["code"] == "integrity", "nothing is removed by a damaged catalog"


def test_any_flipped_bit_of_the_catalog_is_named_or_says_nothing(place: Any) -> None:
    """120 bits, anywhere: an airpack answer each time, and `ok` only where every row is what it was."""
    file = place.folder / "catalog.db"
    good = Catalog(file).digest()
    chance, found = random.Random(13), 0
    for _ in range(120):
        at = chance.randrange(file.stat().st_size)
        before = file.read_bytes()
        data = bytearray(before)
        data[at] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        lines = looked(place.folder)
        found += bool(lines)
        assert lines or Catalog(file).digest() == good, f"byte {at}"
        file.write_bytes(before)
        for rest in place.folder.glob("catalog.db-*"):
            rest.unlink()
    assert found > 5
    assert looked(place.folder) == []


def test_a_lost_catalog_leaves_the_other_parts_checked(place: Any) -> None:
    (place.folder / "catalog.db").unlink()
    flip(largest_blob(place.folder), 0)
    lines = place.run("fsck", expect=10).json["damage"]
    assert any(line.startswith("catalog: ") for line in lines)
    assert any(line.startswith("blob sha256:") for line in lines)


def largest_blob(folder: Path) -> Path:
    return max((folder / "store").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)


# -- what lies where it should not, or leads elsewhere ----------------------------------------------------------------


def wrong_link(folder: Path) -> str:
    (folder / "products/tool/current").unlink()
    (folder / "products/tool/current").symlink_to("../../generations/tool/1")
    return "link tool/current says"


def link_to_nowhere(folder: Path) -> str:
    (folder / "products/tool/current").unlink()
    (folder / "products/tool/current").symlink_to("../../generations/tool/999")
    return "link tool/current says"


def missing_link(folder: Path) -> str:
    (folder / "products/tool/current").unlink()
    return "link tool/current says nothing"


def file_for_a_link(folder: Path) -> str:
    (folder / "products/tool/current").unlink()
    (folder / "products/tool/current").write_text("")
    return "link tool/current says a file"


def tree_without_row(folder: Path) -> str:
    (folder / "generations/tool/77").mkdir()
    return "generations/tool/77: no row"


def row_without_tree(folder: Path) -> str:
    tree = (folder / "products/tool/current").resolve()
    for path in [tree, *tree.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(tree)
    return "its tree is missing"


def file_too_many(folder: Path) -> str:
    tree = (folder / "products/tool/current").resolve()
    (tree / "model").chmod(0o755)
    (tree / "model/planted").write_text("x")
    return "model/planted: not of this release"


def link_in_a_tree(folder: Path) -> str:
    file = (folder / "products/tool/current").resolve() / "runtime/tool/check"
    file.parent.chmod(0o755)
    file.unlink()
    file.symlink_to("/bin/true")
    return "runtime/tool/check"


def no_trust_link(folder: Path) -> str:
    (folder / "trust/current").unlink()
    return "trust: "


def trust_link_to_nowhere(folder: Path) -> str:
    (folder / "trust/current").unlink()
    (folder / "trust/current").symlink_to("99")
    return "trust: "


def planted_trust_file(folder: Path) -> str:
    (folder / "trust/current/more.json").write_text("{}")
    return "more.json: not the file that went on record"


def orphan(folder: Path) -> str:
    digest = Digest.of(b"orphan").hex
    (folder / "store/blobs/sha256" / digest[:2] / digest).write_bytes(b"orphan")
    return f"orphan blob sha256:{digest}"


def stray(folder: Path) -> str:
    (folder / "store/blobs/sha256/ab/notes.txt").write_bytes(b"x")
    return "stray store/blobs/sha256/ab/notes.txt"


def stray_receipt(folder: Path) -> str:
    (folder / "evidence/receipts" / ("0" * 64 + ".json")).write_bytes(b"{}")
    return "stray evidence/receipts/000"


def other_key(folder: Path) -> str:
    other = folder.parent / "other"
    Site.create(other, root=(folder / "root.json").read_bytes(), minimum={})
    shutil.copy(other / "evidence/site.key", folder / "evidence/site.key")
    return "evidence/site.key: not the key of the log"


def torn_off_records(folder: Path) -> str:
    file = folder / "evidence/log/entries.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))
    return "evidence/log: "


def older_checkpoint_of_another_log(folder: Path) -> str:
    other = folder.parent / "foreign"
    Site.create(other, root=(folder / "root.json").read_bytes(), minimum={})
    shutil.copy(other / "evidence/log/checkpoint", folder / "evidence/log/checkpoint")
    return "evidence/log: "


PLACES = (
    (wrong_link, "repair"),
    (link_to_nowhere, "repair"),
    (missing_link, "repair"),
    (file_for_a_link, "repair"),
    (tree_without_row, "gc"),
    (row_without_tree, "repair"),
    (file_too_many, "repair"),
    (link_in_a_tree, "repair"),
    (no_trust_link, "repair"),
    (trust_link_to_nowhere, "repair"),
    (planted_trust_file, "package"),
    (orphan, "gc"),
    (stray, "operator"),
    (stray_receipt, "operator"),
    (other_key, "backup"),
    (torn_off_records, "backup"),
    (older_checkpoint_of_another_log, "backup"),
)


@pytest.mark.parametrize(("harm", "remedy"), PLACES, ids=[harm.__name__ for harm, _ in PLACES])
def test_what_is_out_of_place_is_named_with_what_helps(
    place: Any, media: list[Path], harm: Callable[[Path], str], remedy: str
) -> None:
    line = harm(place.folder)
    document = place.run("fsck", expect=0 if remedy == "gc" else 10).json
    found = document["findings"]
    assert (remedy == "gc") == any(line in left for left in document["leftovers"])
    assert [item["remedy"] for item in found if line in item["line"]], found
    assert {item["remedy"] for item in found if line in item["line"]} == {remedy}
    if remedy == "repair":
        assert place.run("fsck", "--repair").json["ok"] is True
    elif remedy == "package":
        place.run("fsck", "--repair", expect=10)
        assert place.run("fsck", "--repair", *media).json["ok"] is True
    elif remedy == "gc":
        place.run("gc")
        assert place.run("fsck").json["leftovers"] == []
    else:
        left = place.run("fsck", "--repair", *media, expect=10).json
        assert any(line in item for item in left["damage"]), "what airpack did not make, or cannot make, stays"
    if remedy in {"repair", "package", "gc"}:
        assert place.run("status").json["products"]["tool"]["active"]["version"] == "1.1.0"


# -- could not check --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_what_cannot_be_read_is_not_called_damaged(place: Any, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    blob = model_of(Site.open(place.folder), "1.0.0")
    real = os.open

    def unreadable(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if Path(path) == blob:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", unreadable)
    document = place.run("fsck", expect=20).json
    assert (document["ok"], document["damage"], document["error"]["code"]) == (False, [], "storage")
    (line,) = document["unchecked"]
    assert blob.name in line
    record = place.records()[-1]
    assert (record["event"], record["outcome"], record["reason"]) == ("fsck", "failed", "storage")


def test_half_a_site_that_cannot_be_read_hides_no_damage_in_the_other(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(next((place.folder / "evidence/receipts").glob("?" * 64 + ".json")), 0)
    real, store = os.open, place.folder / "store"

    def unreadable(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if isinstance(path, str | Path) and Path(path).is_relative_to(store):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", unreadable)
    document = place.run("fsck", expect=10).json
    assert [line.startswith("receipt of tool@") for line in document["damage"]] == [True]
    assert len(document["unchecked"]) > 10


# -- the command ------------------------------------------------------------------------------------------------------


def test_several_kinds_of_damage_are_all_named_at_once(place: Any, media: list[Path]) -> None:
    for name in ("site.toml", "evidence/site.pub", "root.json", "trust/current/timestamp.json"):
        flip(place.folder / name, 3)
    flip(largest_blob(place.folder), 0)
    (place.folder / "products/tool/current").unlink()
    found = {item["check"] for item in place.run("fsck", expect=10).json["findings"]}
    assert {"site", "evidence", "blobs", "links"} <= found
    assert place.run("fsck", "--repair", *media).json["ok"] is True


def test_with_a_broken_log_fsck_reports_and_repairs_nothing(place: Any, media: list[Path]) -> None:
    flip(place.folder / "evidence/log/entries.jsonl", 40)
    blob = largest_blob(place.folder)
    flip(blob, 0)
    before = blob.read_bytes()
    lines = place.run("fsck", expect=10).json["damage"]
    assert any(line.startswith("evidence/log") for line in lines)
    assert any(line.startswith("blob") for line in lines)
    left = place.run("fsck", "--repair", *media, expect=10).json
    assert "takes no records" in left["repair"]["refused"]
    assert blob.read_bytes() == before, "law 8: what cannot go on record is not done"


def test_a_repair_goes_on_record_with_its_result(place: Any, media: list[Path], tmp_path: Path) -> None:
    flip(largest_blob(place.folder), 0)
    done = place.run("fsck", "--repair", *media).json
    intent, *_, result = [record for record in place.records() if record["event"] == "fsck"][-2:]
    assert (intent["phase"], result["phase"], result["outcome"]) == ("intent", "result", "done")
    assert result["data"]["blobs"] == len(done["repair"]["restored"]) == 1
    assert result["data"]["left"] == 0
    place.audit(tmp_path / "evidence.zip")


def test_a_dry_run_says_what_a_repair_would_do_and_does_nothing(
    place: Any, media: list[Path], snapshot: Callable[[Path], Any]
) -> None:
    flip(largest_blob(place.folder), 0)
    (place.folder / "products/tool/current").unlink()
    before = snapshot(place.folder)
    planned = place.run("fsck", "--repair", "--dry-run", *media, expect=10).json["repair"]
    assert snapshot(place.folder) == before
    done = place.run("fsck", "--repair", *media).json["repair"]
    assert planned["restored"] == done["restored"]
    assert planned["dry_run"] is True
    assert any("link tool/current" in line for line in planned["rewritten"])


def test_packages_go_with_repair(place: Any, media: list[Path], tmp_path: Path) -> None:
    assert place.run("fsck", media[0], expect=2).json["error"]["code"] == "input"
    assert place.run("fsck", "--dry-run", expect=2).json["error"]["code"] == "input"
    assert place.run("fsck", "--repair", tmp_path / "nothing", expect=3).json["error"]["code"] == "not_found"
    assert place.run("fsck", "--repair").json["ok"] is True, "a whole site needs nothing"


def test_people_see_every_line_and_what_helps(place: Any, airpack: Callable[..., Any]) -> None:
    flip(largest_blob(place.folder), 0)
    (place.folder / "products/tool/current").unlink()
    shown = airpack("fsck", "--site", place.folder, expect=10)
    assert "link tool/current says nothing" in shown.out
    assert "airpack fsck --repair PACKAGE" in shown.out


# -- where repairs may come from --------------------------------------------------------------------------------------


def test_an_expired_package_repairs(place: Any, media: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 6: the bytes have digests that the site trusts already; no date makes them better or worse."""
    flip(largest_blob(place.folder), 0)
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: datetime(2099, 1, 1, tzinfo=UTC))
    place.run("import", media[0], expect=11)
    assert place.run("fsck", "--repair", *media).json["ok"] is True


def test_a_package_that_the_packer_did_not_sign_gives_nothing(
    place: Any, media: list[Path], forger: Any, carry: Callable[[Path], Path]
) -> None:
    flip(largest_blob(place.folder), 0)
    forged = [carry(medium) for medium in media]
    for medium in forged:
        head = forger.read(medium)
        payload = forger.manifest(head).emit()
        forger.write(medium, forger.packed(head, payload, key=forger.keys["release"]))
    left = place.run("fsck", "--repair", *forged, expect=10).json
    assert {item["error"]["code"] for item in left["repair"]["packages"]} == {"threshold"}
    assert left["repair"]["restored"] == []


def test_a_package_of_something_else_gives_nothing_and_brings_nothing(place: Any, bench: Any) -> None:
    flip(largest_blob(place.folder), 0)
    before = set(files_of(place.folder / "store"))
    left = place.run("fsck", "--repair", bench.build("1.0.0", "other"), expect=10).json
    assert left["repair"]["packages"][0]["blobs"] == 0
    assert set(files_of(place.folder / "store")) == before
    assert {row["product"] for row in place.run("list").json["releases"]} == {"tool"}


def test_a_medium_that_is_damaged_where_it_matters_is_refused_and_the_next_one_taken(
    place: Any, media: list[Path], carry: Callable[[Path], Path]
) -> None:
    blob = model_of(Site.open(place.folder), "1.1.0")
    flip(blob, 0)
    bad = [carry(medium) for medium in media]
    for medium in bad:
        (volume,) = medium.glob("*.airvol")
        slots = int.from_bytes(volume.read_bytes()[52:56], "little")
        flip(volume, 128 + 64 * slots)  # the model, which stands first
    left = place.run("fsck", "--repair", *bad, expect=10).json
    assert any(item["error"] for item in left["repair"]["packages"])
    done = place.run("fsck", "--repair", *bad, *media).json
    assert done["ok"] is True
    assert hash_file(blob)[0].hex == blob.name


def test_a_package_without_its_volumes_is_said_and_its_documents_are_taken(
    place: Any, media: list[Path], carry: Callable[[Path], Path]
) -> None:
    site = Site.open(place.folder)
    (row,) = [row for row in site.catalog.releases() if row.version == "1.1.0"]
    index = site.store.path(row.digest)
    flip(index, 0)
    medium = carry(media[0])
    for volume in medium.glob("*.airvol"):
        volume.unlink()
    assert place.run("fsck", "--repair", medium).json["ok"] is True
    flip(model_of(Site.open(place.folder), "1.1.0"), 0)
    left = place.run("fsck", "--repair", medium, expect=10).json
    assert left["repair"]["packages"][0]["error"]["code"] == "partial"


def test_an_older_package_does_not_make_a_lost_trust_state_anew(place: Any, media: list[Path]) -> None:
    shutil.rmtree((place.folder / "trust/current").resolve())
    left = place.run("fsck", "--repair", media[1], expect=10).json
    assert any("older than the log" in line for line in left["repair"]["failed"])
    assert place.run("fsck", "--repair", media[0]).json["ok"] is True


def test_an_expired_package_does_not_make_a_lost_trust_state_anew(
    place: Any, media: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(place.folder / "trust/current/timestamp.json", 3)
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: datetime(2099, 1, 1, tzinfo=UTC))
    left = place.run("fsck", "--repair", media[0], expect=10).json
    assert any("expired" in line for line in left["repair"]["failed"])


def test_a_repair_cut_short_goes_on_and_its_intent_is_closed(
    place: Any, media: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(largest_blob(place.folder), 0)

    def cut(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("airpack.ops.repair._renew_trees", cut)
        with pytest.raises(KeyboardInterrupt):
            fsck(Site.open(place.folder), repair=True, packages=media)
    assert place.run("fsck", "--repair", *media).json["ok"] is True
    outcomes = [record["outcome"] for record in place.records() if record["event"] == "fsck"]
    assert "interrupted" in outcomes


# -- a verified blob that changed later is never activated -------------------------------------------------------------


def shared(site: Site) -> Path:
    """A model file: the generation's link shares its bytes."""
    return model_of(site, "1.1.0")


def document(site: Site) -> Path:
    (row,) = [row for row in site.catalog.releases() if row.version == "1.1.0"]
    return site.store.path(load_release(site, row.digest).compat_digest)


def index(site: Site) -> Path:
    (row,) = [row for row in site.catalog.releases() if row.version == "1.1.0"]
    return site.store.path(row.digest)


def program(site: Site) -> Path:
    """The stored blob of the executable: trees hold copies of it."""
    return model_of(site, "1.1.0", "runtime/tool/check")


@pytest.mark.parametrize("which", [shared, document, index], ids=lambda which: which.__name__)
@pytest.mark.parametrize("how", ["activate", "rollback", "fallback"])
def test_what_changed_after_it_was_verified_is_never_made_active(
    place: Any, which: Callable[[Site], Path], how: str
) -> None:
    """1.1.0 has a tree from before. Whatever way leads to it, its bytes are hashed, and it does not run."""
    place.run("rollback", "tool", "--to", "1.0.0")
    site = Site.open(place.folder)
    flip(which(site), 5)
    site = Site.open(place.folder)
    before = place.current()
    if how == "activate":
        with pytest.raises(IntegrityError):
            activate(site, "tool@1.1.0")
    elif how == "rollback":
        with pytest.raises(IntegrityError):
            rollback(site, "tool", "1.1.0")
    else:
        (row,) = [row for row in site.catalog.releases() if row.version == "1.0.0"]
        with exclusive(site):
            fall_back(site, row, Silent())
        assert place.active() is None, "a safe stop, rather than bytes that nobody signed"
        return
    assert place.current() == before
    assert place.active() == "1.0.0"


def test_a_changed_copy_in_a_tree_is_made_anew_from_a_blob_that_holds(place: Any) -> None:
    place.run("rollback", "tool", "--to", "1.0.0")
    numbers = {path.name for path in (place.folder / "generations/tool").iterdir()}
    for check in (place.folder / "generations/tool").glob("*/runtime/tool/check"):
        flip(check, 30)
    assert place.run("activate", "tool@1.1.0").json["state"] == "good"
    running = (place.folder / "products/tool/current").resolve()
    assert running.name not in numbers, "a tree of its own"
    assert hash_file(running / "runtime/tool/check") == hash_file(program(Site.open(place.folder)))


def test_a_changed_program_in_the_store_is_not_copied_into_a_tree(place: Any) -> None:
    place.run("rollback", "tool", "--to", "1.0.0")
    flip(program(Site.open(place.folder)), 30)
    for check in (place.folder / "generations/tool").glob("*/runtime/tool/check"):
        flip(check, 30)
    assert place.run("activate", "tool@1.1.0", expect=10).json["active"]["version"] == "1.0.0"


def test_a_tree_that_lost_its_link_to_the_store_is_no_way_around(place: Any) -> None:
    """Replaced, not changed in place: the blob holds, the tree's file is another one."""
    place.run("rollback", "tool", "--to", "1.0.0")
    blob = shared(Site.open(place.folder))
    (file,) = [path for path in (place.folder / "generations").rglob("weights.safetensors") if path.samefile(blob)]
    file.parent.chmod(0o755)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    file.write_bytes(data)
    place.run("activate", "tool@1.1.0")
    running = (place.folder / "products/tool/current").resolve() / "model/m/weights.safetensors"
    assert running.samefile(blob)


def test_an_attestation_that_changed_does_not_stop_what_runs_and_is_named(place: Any) -> None:
    site = Site.open(place.folder)
    bundles = [digest for digest in site.store.digests() if bundle.is_referrer(site.store.path(digest).read_bytes())]
    assert bundles
    flip(site.store.path(bundles[0]), 5)
    assert any(bundles[0].hex in line for line in place.run("fsck", expect=10).json["damage"])
    assert place.run("rollback", "tool").json["version"] == "1.0.0"


def test_records_of_fsck_carry_what_the_catalog_held(place: Any) -> None:
    place.run("fsck")
    record = place.records()[-1]
    assert record["event"] == Event.FSCK
    assert record["data"]["catalog"] == Site.open(place.folder).catalog.revision()
    assert record["data"]["catalog_digest"] == str(Site.open(place.folder).catalog.digest())
