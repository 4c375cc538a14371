import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airpack import fsops
from airpack.catalog.catalog import Generation
from airpack.crypto import signing
from airpack.crypto.keys import PrivateKey
from airpack.errors import AirpackError, InputError, IntegrityError, NotFoundError, StorageError, TrustError
from airpack.evidence.records import Event, Outcome, Record, Subject
from airpack.formats.statement import PREDICATE_VSA, Statement
from airpack.ops.receipts import write_receipt
from airpack.ops.recover import exclusive
from airpack.ops.site import Site, SitePolicy
from airpack.types import Digest, State


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def catalog_facts(record: Record) -> dict[str, Any]:
    """Return what every record says of the catalog."""
    return {key: record.data[key] for key in ("catalog", "catalog_digest")}


class TestCreate:
    def test_what_was_made_opens_as_it_was_made(self, tmp_path: Path, root: bytes) -> None:
        made = Site.create(tmp_path / "site", root=root, minimum={"root": 1, "snapshot": 4})
        opened = Site.open(tmp_path / "site")
        assert (opened.site_id, opened.fingerprint, opened.minimum) == (made.site_id, made.fingerprint, made.minimum)
        assert opened.minimum == {"root": 1, "snapshot": 4}
        assert opened.fingerprint == Digest.of(root)
        assert opened.pinned_root() == root
        assert opened.catalog.releases() == []
        assert opened.log.size == 1
        assert len(opened.records()) == 1

    def test_every_site_has_an_id_and_a_key_of_its_own(self, tmp_path: Path, root: bytes) -> None:
        sites = [Site.create(tmp_path / name, root=root, minimum={}) for name in "ab"]
        assert len({site.site_id for site in sites}) == 2
        assert len({site.public_key.der for site in sites}) == 2

    def test_secrets_are_its_owners_alone(self, site: Site) -> None:
        for name, mode in {"evidence/site.key": 0o600, "catalog.db": 0o600, "ingest": 0o700}.items():
            assert stat.S_IMODE((site.root / name).stat().st_mode) == mode

    def test_by_default_nothing_is_allowed(self, site: Site) -> None:
        policy = site.policy()
        assert (policy.allow_no_probe, policy.allow_unisolated) == (False, False)
        assert policy.digest == Digest.of((site.root / "policy.toml").read_bytes())

    @pytest.mark.parametrize("kind", ["file", "full folder", "link"])
    def test_only_a_new_or_empty_folder_becomes_one(self, tmp_path: Path, root: bytes, kind: str) -> None:
        place = tmp_path / "site"
        if kind == "file":
            place.write_bytes(b"")
        elif kind == "link":
            place.symlink_to(tmp_path)
        else:
            (place / "deep").mkdir(parents=True)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match="is not an empty folder"):
            Site.create(place, root=root, minimum={})
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("spoil", [lambda root: root[:0], lambda root: root.replace(b'"main"', b'"mine"')])
    def test_a_root_that_does_not_hold_makes_nothing(
        self, tmp_path: Path, root: bytes, spoil: Callable[[bytes], bytes]
    ) -> None:
        with pytest.raises(AirpackError):
            Site.create(tmp_path / "site", root=spoil(root), minimum={})
        assert list(tmp_path.iterdir()) == []


class TestOpen:
    def test_where_there_is_none_a_hint_says_how_to_make_one(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"no site\.toml") as caught:
            Site.open(tmp_path)
        assert "airpack site init" in caught.value.hint

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('id = "', 'id = "X'),
            ('id = "', 'name = "'),
            ('schema = "airpack.site/1"', 'schema = "airpack.site/2"'),
            ("[minimum]", "[minimum]\nroot = true"),
            ("[minimum]", "[minimum]\nroot = -1"),
            ("[minimum]", "[minimum]\nroots = 1"),
            ("[minimum]", "[minimum"),
            ("[minimum]", "[maximum]"),
            ('root = "sha256:', 'root = "sha256:0'),
        ],
    )
    def test_a_description_that_init_did_not_write_is_refused(self, site: Site, old: str, new: str) -> None:
        rewrite(site.root / "site.toml", old, new)
        with pytest.raises(IntegrityError, match=r"site\.toml"):
            Site.open(site.root)

    def test_another_root_than_it_was_enrolled_with_is_refused(self, site: Site) -> None:
        rewrite(site.root / "root.json", '"main"', '"mine"')
        with pytest.raises(IntegrityError, match="not the root that this site was enrolled with"):
            Site.open(site.root)

    def test_an_evidence_key_that_others_reach_is_refused(self, site: Site) -> None:
        (site.root / "evidence/site.key").chmod(0o640)
        with pytest.raises(TrustError, match="has mode 0640") as caught:
            _ = Site.open(site.root).key
        assert caught.value.hint.startswith("chmod 600")

    def test_an_evidence_key_that_is_lost_is_named_with_what_is_left(self, site: Site) -> None:
        (site.root / "evidence/site.key").unlink()
        with pytest.raises(NotFoundError, match="evidence key is not there") as caught:
            _ = Site.open(site.root).key
        assert "docs/howto/reach-a-site.md" in caught.value.hint


class TestPolicy:
    def test_is_read_with_its_digest(self) -> None:
        data = b"allow_no_probe = true\n"
        assert SitePolicy.parse(data) == SitePolicy(allow_no_probe=True, allow_unisolated=False, digest=Digest.of(data))

    @pytest.mark.parametrize("data", [b"allow_no_prob = true", b"allow_no_probe = 1", b"allow_no_probe =", b"\xff"])
    def test_what_is_misspelt_is_refused(self, data: bytes) -> None:
        with pytest.raises(InputError, match=r"policy\.toml"):
            SitePolicy.parse(data)

    def test_a_missing_one_is_not_a_lenient_one(self, site: Site) -> None:
        (site.root / "policy.toml").unlink()
        with pytest.raises(NotFoundError):
            site.policy()


class TestTrust:
    def fresh(self, site: Site, name: str) -> Path:
        state = site.root / "ingest" / name
        (state / "deep").mkdir(parents=True)
        (state / "deep/file").write_text(name)
        return state

    def test_a_new_state_replaces_the_old_one_whole(self, site: Site) -> None:
        for name in ("a", "b"):
            site.promote_trust(site.stage_trust(self.fresh(site, name)))
            assert (site.trust / "deep/file").read_text() == name
        assert sorted(path.name for path in (site.root / "trust").iterdir()) == ["2", "current"]
        assert list((site.root / "ingest").iterdir()) == []

    def test_is_durable_before_it_is_in_force(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[str] = []
        state = self.fresh(site, "a")
        for name in ("sync_file", "sync_dir", "rename_durable", "swap_link", "remove_tree"):
            real = getattr(fsops, name)

            def call(path: Path, *rest: Any, name: str = name, real: Any = real) -> Any:
                done.append(f"{name} {path.name}")
                return real(path, *rest)

            monkeypatch.setattr(fsops, name, call)
        site.promote_trust(site.stage_trust(state))
        assert set(done[:3]) == {"sync_file file", "sync_dir deep", "sync_dir a"}
        assert done[3:] == ["rename_durable a", "swap_link current", "remove_tree 0"]

    def test_a_failure_leaves_the_old_one_in_force(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        site.promote_trust(site.stage_trust(self.fresh(site, "a")))
        state = self.fresh(site, "b")

        def broken(*_arguments: Any) -> None:
            raise OSError(5, "I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "symlink", broken)
            with pytest.raises(StorageError):
                site.promote_trust(site.stage_trust(state))
        assert (site.trust / "deep/file").read_text() == "a"
        site.promote_trust(site.stage_trust(self.fresh(site, "c")))
        assert (site.trust / "deep/file").read_text() == "c"

    def test_a_site_that_lost_it_says_so(self, site: Site) -> None:
        (site.root / "trust/current").unlink()
        with pytest.raises(IntegrityError, match="does not say which trust state is in force"):
            _ = site.trust


class TestPoint:
    def current(self, site: Site) -> str | None:
        link = site.current("encoder")
        return str(link.readlink()) if link.is_symlink() else None

    def test_the_link_follows_the_catalog(self, site: Site, hold: Callable[..., Any]) -> None:
        held = hold()
        generation = site.catalog.add_generation("encoder", held.row.digest)
        site.point("encoder")
        assert self.current(site) is None
        site.catalog.point("encoder", generation.number)
        site.point("encoder")
        assert self.current(site) == "../../generations/encoder/1"
        site.catalog.point("encoder", None)
        site.point("encoder")
        assert self.current(site) is None

    def test_a_right_link_is_left_alone(self, site: Site, hold: Callable[..., Any]) -> None:
        site.catalog.point("encoder", site.catalog.add_generation("encoder", hold().row.digest).number)
        site.point("encoder")
        before = site.current("encoder").lstat().st_ino
        site.point("encoder")
        assert site.current("encoder").lstat().st_ino == before

    def test_leads_to_the_tree(self, site: Site) -> None:
        tree = site.tree(Generation("encoder", 7, Digest.of(b"")))
        link = site.current("encoder")
        assert tree == (link.parent / "../../generations/encoder/7").resolve()


class TestRecovery:
    """What `exclusive` has put right when it is entered."""

    def test_keeps_others_out(self, site: Site) -> None:
        with exclusive(site), pytest.raises(AirpackError, match="another airpack"), exclusive(site):
            pass

    def test_what_was_left_half_written_is_gone_and_all_else_stays(self, site: Site, hold: Callable[..., Any]) -> None:
        held = hold()
        kept = site.catalog.add_generation("encoder", held.row.digest)
        site.tree(kept).mkdir(parents=True)
        (site.root / "products/encoder").mkdir()
        left = [
            site.store.path(held.row.digest).with_name(".x.1.part"),
            site.root / "products/encoder/.current.1.part",
            site.root / "evidence/receipts/.x.json.1.part",
            site.root / "evidence/log/.checkpoint.1.part",
            site.root / "trust/.current.1.part",
            site.root / ".policy.toml.1.part",
        ]
        for path in left:
            path.write_bytes(b"")
        trees = [
            site.root / "generations/encoder/.9.part",
            site.root / "generations/encoder/8",
            site.root / "ingest/trust-x",
            site.root / "trust/7",
        ]
        for path in trees:
            path.mkdir()
        quarantine = site.root / "ingest/0123"
        quarantine.mkdir()
        with exclusive(site):
            assert [path for path in (*left, *trees) if path.exists()] == []
        assert quarantine.exists()
        assert site.tree(kept).exists()
        assert site.trust.exists()
        assert list(site.store.strays()) == []

    def test_a_generation_that_never_got_its_tree_is_forgotten(self, site: Site, hold: Callable[..., Any]) -> None:
        site.catalog.add_generation("encoder", hold().row.digest)
        with exclusive(site):
            assert site.catalog.generations() == []

    def test_the_active_generation_is_never_forgotten(self, site: Site, hold: Callable[..., Any]) -> None:
        generation = site.catalog.add_generation("encoder", hold().row.digest)
        site.catalog.confirm(generation, 1)
        with exclusive(site):
            assert site.catalog.generations() == [generation]

    @pytest.mark.parametrize(
        ("proven", "tries", "after"),
        [
            (False, 2, State.STAGED),
            (True, 1, State.KNOWN_GOOD),
            (False, 0, State.FAILED),
        ],
    )
    def test_a_trial_that_was_cut_short_counts(
        self, site: Site, hold: Callable[..., Any], proven: bool, tries: int, after: State
    ) -> None:
        held = hold()
        site.catalog.set_state(held.row.digest, State.TRIAL, tries=tries, proven=proven)
        with exclusive(site):
            row = site.catalog.release(held.row.digest)
        assert row is not None
        assert (row.state, row.tries, row.proven) == (after, tries, after is State.KNOWN_GOOD)
        record = site.records()[-1]
        assert (record.event, record.outcome) == (Event.RECOVER, Outcome.INTERRUPTED)
        assert record.data == {"state": after.value, "tries_left": tries} | catalog_facts(record)

    @pytest.mark.parametrize("visible", [False, True])
    def test_an_import_without_a_result_gets_the_true_one(
        self, site: Site, hold: Callable[..., Any], visible: bool
    ) -> None:
        held = hold() if visible else None
        digest = held.row.digest if held else Digest.of(b"never came")
        site.log.intent(Event.IMPORT, subject=[Subject("encoder@1.1.0", digest)])
        with exclusive(site):
            record = site.records()[-1]
        assert record.outcome == (Outcome.DONE if visible else Outcome.INTERRUPTED)
        assert record.data == {"recovered": True} | catalog_facts(record)
        receipts = list((site.root / "evidence/receipts").iterdir())
        assert [path.name for path in receipts] == ([f"{digest.hex}.json"] if visible else [])

    def test_a_retired_release_is_not_there_because_its_row_is(self, site: Site, hold: Callable[..., Any]) -> None:
        held = hold()
        site.catalog.retire([held.row.digest])
        site.log.intent(Event.IMPORT, subject=[Subject(held.row.name, held.row.digest)])
        with exclusive(site):
            assert site.records()[-1].outcome == Outcome.INTERRUPTED
        assert list((site.root / "evidence/receipts").iterdir()) == []

    @pytest.mark.parametrize("switched", [False, True])
    def test_an_activation_without_a_result_gets_the_true_one_and_its_link(
        self, site: Site, hold: Callable[..., Any], switched: bool
    ) -> None:
        held = hold()
        generation = site.catalog.add_generation("encoder", held.row.digest)
        site.tree(generation).mkdir(parents=True)
        site.log.intent(Event.ACTIVATE, subject=[Subject(held.row.name, held.row.digest)])
        if switched:
            site.catalog.confirm(generation, 1)
        with exclusive(site):
            assert site.current("encoder").is_symlink() is switched
        assert site.records()[-1].outcome == (Outcome.DONE if switched else Outcome.INTERRUPTED)

    def test_nothing_is_touched_where_the_log_does_not_hold(self, site: Site) -> None:
        entries = site.root / "evidence/log/entries.jsonl"
        entries.write_bytes(entries.read_bytes().replace(b"root.json", b"ROOT.json"))
        left = site.root / "trust/.current.1.part"
        left.write_bytes(b"")
        (site.root / "generations/encoder/8").mkdir(parents=True)
        with pytest.raises(IntegrityError), exclusive(Site.open(site.root)):
            pass
        assert left.exists()
        assert (site.root / "generations/encoder/8").exists()

    def test_a_second_run_finds_nothing_to_do(self, site: Site, hold: Callable[..., Any]) -> None:
        site.catalog.set_state(hold().row.digest, State.PROBATION, tries=2)
        with exclusive(site):
            before = site.log.size
        with exclusive(Site.open(site.root)) as _:
            assert site.log.size == before


class TestReceipt:
    def test_is_written_once(self, site: Site, hold: Callable[..., Any]) -> None:
        row = hold().row
        path = write_receipt(site, row)
        assert path.read_bytes() == row.receipt
        before = path.stat().st_ino
        assert write_receipt(site, row) == path
        assert path.stat().st_ino == before

    def test_that_of_an_earlier_import_stays_as_evidence(self, site: Site, hold: Callable[..., Any]) -> None:
        row = hold().row
        path = write_receipt(site, row)
        earlier = signing.sign_statement(site.key, Statement(row.name, row.digest, PREDICATE_VSA, {}))
        path.write_bytes(earlier)
        assert write_receipt(site, row).read_bytes() == row.receipt
        kept = path.with_name(f"{row.digest.hex}-{Digest.of(earlier).short}.json")
        assert kept.read_bytes() == earlier

    def test_what_is_no_receipt_of_this_site_is_not_kept_for_an_auditor(
        self, site: Site, hold: Callable[..., Any]
    ) -> None:
        row = hold().row
        path = write_receipt(site, row)
        forged = signing.sign_statement(
            PrivateKey.generate("ed25519"), Statement(row.name, row.digest, PREDICATE_VSA, {})
        )
        other = signing.sign_statement(site.key, Statement(row.name, Digest.of(b""), PREDICATE_VSA, {}))
        for data in (b"rotten", forged, other):
            path.write_bytes(data)
            assert write_receipt(site, row).read_bytes() == row.receipt
            assert list(path.parent.iterdir()) == [path]


def test_a_site_may_be_moved(site: Site, tmp_path: Path, hold: Callable[..., Any]) -> None:
    held = hold()
    generation = site.catalog.add_generation("encoder", held.row.digest)
    site.tree(generation).mkdir(parents=True)
    site.catalog.confirm(generation, 1)
    site.point("encoder")
    shutil.move(site.root, tmp_path / "moved")
    moved = Site.open(tmp_path / "moved")
    assert moved.current("encoder").resolve() == moved.tree(generation)
