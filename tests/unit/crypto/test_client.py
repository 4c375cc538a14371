"""Attacks on the channel's metadata, a few lines each, and what a site makes of them."""

import json
import shutil
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Key, MetaFile, Root, TargetFile

from airpack.crypto.client import check_root, reload, root_fingerprint
from airpack.crypto.keys import PrivateKey
from airpack.errors import (
    ExpiredError,
    IntegrityError,
    NotFoundError,
    RollbackError,
    StorageError,
    ThresholdError,
    TrustError,
)
from airpack.types import Digest


def publish(sim: Any, **contents: bytes) -> None:
    sim.contents |= {name.replace("_", "@", 1) + ".json": data for name, data in contents.items()}
    sim.issue()


class TestFreshSite:
    def test_accepts_a_genuine_head_and_says_what_it_trusts(self, sim: Any, site: Any, now: datetime) -> None:
        publish(sim, enc_1=b"index")
        trusted = site.refresh(sim.medium())
        assert trusted.channel == "main"
        assert trusted.starter is True
        assert trusted.older_medium is False
        assert trusted.names == ("enc@1.json", "policy.json", "revocations.json")
        assert trusted.versions == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
        assert trusted.expires["timestamp"] == now + timedelta(days=90)
        assert trusted.issued == now
        assert trusted.root_fingerprint == Digest.of(site.root)
        assert trusted.target("enc@1.json") == b"index"
        assert trusted.digest("enc@1.json") == Digest.of(b"index")

    def test_says_what_the_targets_role_signed_beside_the_digest(self, sim: Any, site: Any) -> None:
        publish(sim, enc_1=b"index")
        sim.targets.targets["enc@1.json"].unrecognized_fields["custom"] = {"sequence": 7}
        sim.issue_targets()
        sim.issue_snapshot()
        sim.issue_timestamp()
        trusted = site.refresh(sim.medium())
        assert trusted.custom("enc@1.json") == {"sequence": 7}
        assert trusted.custom("policy.json") == {}

    def test_needs_no_network(self, sim: Any, site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a socket was made")

        monkeypatch.setattr(socket, "socket", refuse)
        assert site.refresh(sim.medium()).versions["timestamp"] == 1

    def test_refuses_an_old_medium_below_its_enrolment(self, sim: Any, site: Any) -> None:
        old = sim.medium()
        with pytest.raises(RollbackError, match="version 1; this site was enrolled with 2"):
            site.refresh(old, minimum={"timestamp": 2})
        sim.issue()
        assert site.refresh(sim.medium(), minimum={"timestamp": 2}).versions["timestamp"] == 2


class TestTime:
    def test_is_the_argument_and_not_the_clock(self, sim: Any, site: Any, now: datetime) -> None:
        with pytest.raises(ExpiredError):
            site.refresh(sim.medium(), now + timedelta(days=90))
        assert site.refresh(sim.medium(), now + timedelta(days=89)).versions["timestamp"] == 1

    def test_may_lie_in_the_past_of_the_clock(self, sim: Any, new_site: Any) -> None:
        past = type(sim)(now=datetime(2001, 1, 1, tzinfo=UTC))
        site = new_site(past.files["1.root.json"])
        assert site.refresh(past.medium(), past.now).versions["timestamp"] == 1

    def test_needs_a_zone(self, sim: Any, site: Any) -> None:
        with pytest.raises(ValueError, match="time zone"):
            site.refresh(sim.medium(), datetime(2031, 1, 1))  # noqa: DTZ001

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_an_expired_role_is_named_with_its_date_and_a_way_out(
        self, sim: Any, site: Any, now: datetime, role: str
    ) -> None:
        getattr(sim, role).expires = now - timedelta(days=1)
        sim.issue()
        with pytest.raises(ExpiredError, match=f"{role} metadata expired at 2030-12-31T00:00:00Z") as caught:
            site.refresh(sim.medium())
        assert "airpack publish" in caught.value.hint
        assert caught.value.context["role"] == role

    def test_an_expired_root_asks_for_its_owners(self, sim: Any, site: Any, now: datetime) -> None:
        with pytest.raises(ExpiredError, match="root metadata expired") as caught:
            site.refresh(sim.medium(), now + timedelta(days=1825))
        assert "new root" in caught.value.hint

    def test_a_site_with_expired_state_takes_fresh_metadata(self, sim: Any, site: Any, now: datetime) -> None:
        site.refresh(sim.medium())
        later = now + timedelta(days=100)
        for signed in (sim.timestamp, sim.snapshot):
            signed.expires = later + timedelta(days=90)
        sim.issue()
        assert site.refresh(sim.medium(), later).versions["timestamp"] == 2


class TestOlderMedium:
    def test_is_served_the_sites_own_set_and_lowers_nothing(self, sim: Any, site: Any) -> None:
        publish(sim, enc_1=b"index 1")
        old = sim.medium()
        publish(sim, enc_2=b"index 2", policy=b"policy 2")
        site.refresh(sim.medium())
        trusted = site.refresh(old)
        assert trusted.older_medium is True
        assert trusted.versions["timestamp"] == 3
        assert trusted.target("enc@1.json") == b"index 1"

    def test_is_judged_by_the_sites_policy_not_its_own(self, sim: Any, site: Any) -> None:
        old = sim.medium()
        publish(sim, policy=b"policy 2")
        site.refresh(sim.medium())
        assert old.targets["policy.json"] == b"policy 1"
        assert site.refresh(old).target("policy.json") == b"policy 2"

    def test_brings_no_release_that_was_withdrawn_since(self, sim: Any, site: Any) -> None:
        publish(sim, enc_1=b"index 1")
        old = sim.medium()
        del sim.contents["enc@1.json"]
        sim.issue()
        site.refresh(sim.medium())
        trusted = site.refresh(old)
        with pytest.raises(TrustError, match=r"does not list enc@1.json"):
            trusted.target("enc@1.json")

    def test_may_have_expired_while_the_sites_set_has_not(self, sim: Any, site: Any, now: datetime) -> None:
        old = sim.medium()
        sim.timestamp.expires = sim.snapshot.expires = now + timedelta(days=200)
        sim.issue()
        site.refresh(sim.medium())
        assert site.refresh(old, now + timedelta(days=100)).versions["timestamp"] == 2

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_does_not_help_where_the_sites_set_has_expired(self, sim: Any, site: Any, now: datetime, role: str) -> None:
        old = sim.medium()
        for signed in (sim.timestamp, sim.snapshot, sim.targets):
            signed.expires = now + timedelta(days=400)
        getattr(sim, role).expires = now + timedelta(days=20)
        sim.issue()
        site.refresh(sim.medium())
        with pytest.raises(ExpiredError, match=f"{role} metadata expired"):
            site.refresh(old, now + timedelta(days=30))

    @pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
    def test_may_be_from_before_a_key_rotation(self, sim: Any, site: Any, role: str) -> None:
        old = sim.medium()
        sim.rotate(role)
        sim.issue()
        site.refresh(sim.medium())
        trusted = site.refresh(old)
        assert trusted.older_medium is True
        assert trusted.versions["root"] == 2
        assert trusted.versions["timestamp"] == 2

    def test_is_not_believed_when_it_is_forged(self, sim: Any, site: Any) -> None:
        forged = sim.medium()
        sim.rotate("timestamp")
        sim.issue()
        site.refresh(sim.medium())
        forged.metadata["timestamp.json"] = sim.sign(sim.timestamp, [PrivateKey.generate("ed25519")])
        with pytest.raises(ThresholdError, match="timestamp was signed by 0/1 keys"):
            site.refresh(forged)

    def test_still_brings_newer_roots(self, sim: Any, site: Any) -> None:
        old = sim.medium()
        sim.issue()
        site.refresh(sim.medium())
        sim.rotate("root")
        old.metadata["2.root.json"] = sim.files["2.root.json"]
        trusted = site.refresh(old)
        assert (trusted.older_medium, trusted.versions["root"]) == (True, 2)

    def test_at_a_site_with_stale_state_is_no_older_medium(self, sim: Any, site: Any) -> None:
        site.refresh(sim.medium())
        backup = shutil.copytree(site.state, site.folder / "backup", symlinks=True)
        sim.issue()
        middle = sim.medium()
        sim.issue()
        site.refresh(sim.medium())
        shutil.rmtree(site.state)
        backup.rename(site.state)
        assert site.refresh(middle).versions["timestamp"] == 2
        assert site.refresh(sim.medium()).versions["timestamp"] == 3


class TestRollback:
    def test_a_timestamp_that_lowers_the_snapshot_is_refused(self, sim: Any, site: Any) -> None:
        first = sim.timestamp.snapshot_meta
        sim.issue()
        site.refresh(sim.medium())
        sim.timestamp.version += 1
        sim.timestamp.snapshot_meta = first
        sim.issue_timestamp()
        with pytest.raises(RollbackError, match="older version"):
            site.refresh(sim.medium())

    def test_a_snapshot_that_lowers_the_targets_is_refused(self, sim: Any, site: Any) -> None:
        first = sim.snapshot.meta["targets.json"]
        sim.issue()
        site.refresh(sim.medium())
        sim.snapshot.version += 1
        sim.timestamp.version += 1
        sim.snapshot.meta["targets.json"] = first
        sim.issue_snapshot()
        sim.issue_timestamp()
        with pytest.raises(RollbackError, match="older version"):
            site.refresh(sim.medium())

    def test_fast_forward_is_recovered_from_by_rotation(self, sim: Any, site: Any) -> None:
        sim.timestamp.version = sim.snapshot.version = 100_000
        sim.issue()
        site.refresh(sim.medium())
        sim.rotate("timestamp")
        sim.rotate("snapshot")
        sim.timestamp.version = sim.snapshot.version = 2
        sim.issue()
        trusted = site.refresh(sim.medium())
        assert (trusted.older_medium, trusted.versions["timestamp"]) == (False, 3)


class TestMixAndMatch:
    @pytest.mark.parametrize("role", ["snapshot", "targets"])
    def test_an_older_file_under_a_newer_name_is_refused(self, sim: Any, site: Any, role: str) -> None:
        old = sim.medium()
        sim.issue()
        mixed = sim.medium()
        mixed.metadata[f"2.{role}.json"] = old.metadata[f"1.{role}.json"]
        with pytest.raises(TrustError, match="do not belong together"):
            site.refresh(mixed)

    @pytest.mark.parametrize("role", ["snapshot", "targets"])
    def test_is_found_by_version_where_no_digest_pins_it(self, sim: Any, site: Any, role: str) -> None:
        old = sim.medium()
        sim.issue()
        sim.snapshot.meta["targets.json"] = MetaFile(2)
        sim.issue_snapshot()
        sim.timestamp.snapshot_meta = MetaFile(2)
        sim.issue_timestamp()
        mixed = sim.medium()
        mixed.metadata[f"2.{role}.json"] = old.metadata[f"1.{role}.json"]
        with pytest.raises(TrustError, match="do not belong together"):
            site.refresh(mixed)

    @pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
    def test_a_missing_file_is_named(self, sim: Any, site: Any, name: str) -> None:
        medium = sim.medium()
        del medium.metadata[name]
        with pytest.raises(TrustError, match=f"incomplete: {name} is missing"):
            site.refresh(medium)


class TestTargets:
    def test_tampered_bytes_are_refused_with_both_digests(self, sim: Any, site: Any) -> None:
        publish(sim, enc_1=b"index")
        medium = sim.medium()
        medium.targets["enc@1.json"] = b"other"
        trusted = site.refresh(medium)
        with pytest.raises(TrustError, match=f"expected 5 bytes with {Digest.of(b'index')}, got 5 bytes with"):
            trusted.target("enc@1.json")

    def test_bytes_from_elsewhere_are_checked_too(self, sim: Any, site: Any) -> None:
        publish(sim, enc_1=b"index")
        trusted = site.refresh(sim.medium())
        assert trusted.check("enc@1.json", b"index") == b"index"
        with pytest.raises(TrustError, match="is not the one"):
            trusted.check("enc@1.json", b"index ")

    def test_an_unlisted_name_is_not_trusted(self, sim: Any, site: Any) -> None:
        medium = sim.medium()
        medium.targets["evil@1.json"] = b"index"
        trusted = site.refresh(medium)
        for ask in (trusted.target, trusted.digest, trusted.custom):
            with pytest.raises(TrustError, match="does not list"):
                ask("evil@1.json")

    def test_listed_but_absent_is_not_found(self, sim: Any, site: Any) -> None:
        publish(sim, enc_1=b"index")
        medium = sim.medium()
        del medium.targets["enc@1.json"]
        with pytest.raises(NotFoundError):
            site.refresh(medium).target("enc@1.json")

    def test_a_tampered_policy_keeps_the_state_as_it_was(self, sim: Any, site: Any) -> None:
        site.refresh(sim.medium())
        publish(sim, policy=b"policy 2")
        medium = sim.medium()
        medium.targets["policy.json"] = b"policy X"
        with pytest.raises(TrustError, match=r"policy\.json is not the one"):
            site.refresh(medium)
        assert [path.read_bytes() for path in sorted((site.state / "targets").glob("*.policy.json"))] == [b"policy 1"]

    def test_only_the_current_policy_is_kept(self, sim: Any, site: Any) -> None:
        site.refresh(sim.medium())
        publish(sim, policy=b"policy 2")
        site.refresh(sim.medium())
        assert [path.read_bytes() for path in sorted((site.state / "targets").glob("*.policy.json"))] == [b"policy 2"]

    def test_without_sha256_nothing_is_accepted(self, sim: Any, site: Any) -> None:
        sim.targets.targets["policy.json"] = TargetFile.from_data("policy.json", b"policy 1", ["sha512"])
        sim.issue_targets()
        sim.issue_snapshot()
        sim.issue_timestamp()
        with pytest.raises(TrustError, match="without a SHA-256"):
            site.refresh(sim.medium())


class TestRoots:
    def test_of_another_channel_is_refused_with_both_fingerprints(self, sim: Any, new_site: Any) -> None:
        other = type(sim)()
        site = new_site(other.files["1.root.json"])
        with pytest.raises(TrustError, match="from another channel") as caught:
            site.refresh(sim.medium())
        assert caught.value.context["expected"] == str(root_fingerprint(site.root))
        assert caught.value.context["found"] == str(root_fingerprint(sim.files["1.root.json"]))

    def test_are_walked_from_1_to_3(self, sim: Any, site: Any) -> None:
        sim.rotate("root")
        sim.rotate("timestamp")
        sim.issue()
        assert site.refresh(sim.medium()).versions["root"] == 3

    def test_a_site_enrolled_with_a_later_root_needs_no_earlier_one(self, sim: Any, new_site: Any) -> None:
        sim.rotate("root")
        sim.rotate("root")
        sim.issue()
        assert new_site(sim.files["2.root.json"]).refresh(sim.medium()).versions["root"] == 3

    def test_signed_by_too_few_is_refused(self, sim: Any, new_site: Any) -> None:
        sim.keys["root"].append(PrivateKey.generate("ed25519"))
        sim.root.add_key(CryptoSigner(sim.keys["root"][1].native).public_key, "root")
        sim.root.roles["root"].threshold = 2
        sim.issue_root()
        site = new_site(sim.files["1.root.json"])
        site.refresh(sim.medium())
        sim.root.version = 2
        sim.files["2.root.json"] = sim.sign(sim.root, sim.keys["root"][:1])
        with pytest.raises(ThresholdError, match="root was signed by 1/2 keys"):
            site.refresh(sim.medium())

    def test_by_the_new_keys_alone_is_refused(self, sim: Any, site: Any) -> None:
        sim.rotate("root")
        sim.issue_root()
        with pytest.raises(ThresholdError, match="root was signed by 0/1 keys"):
            site.refresh(sim.medium())

    def test_one_key_that_signs_twice_counts_once(self, sim: Any, new_site: Any) -> None:
        other = CryptoSigner(PrivateKey.generate("ed25519").native).public_key
        sim.root.add_key(other, "targets")
        sim.root.roles["targets"].threshold = 2
        sim.issue_root()
        document = json.loads(sim.files["1.targets.json"])
        document["signatures"] = [document["signatures"][0], document["signatures"][0] | {"keyid": other.keyid}]
        sim.files["1.targets.json"] = json.dumps(document).encode()
        sim.snapshot.meta["targets.json"] = MetaFile(1)
        sim.issue_snapshot()
        sim.issue_timestamp()
        with pytest.raises(ThresholdError, match="targets was signed by 1/2 keys"):
            new_site(sim.files["1.root.json"]).refresh(sim.medium())

    def test_one_key_id_twice_in_the_signatures_is_refused(self, sim: Any, site: Any) -> None:
        document = json.loads(sim.files["timestamp.json"])
        document["signatures"] *= 2
        sim.files["timestamp.json"] = json.dumps(document).encode()
        with pytest.raises(TrustError, match="does not hold"):
            site.refresh(sim.medium())

    def test_one_key_under_two_key_ids_is_refused(self, sim: Any) -> None:
        key = CryptoSigner(sim.keys["targets"][0].native).public_key
        sim.root.add_key(Key.from_dict("0" * 64, key.to_dict()), "targets")
        sim.issue_root()
        with pytest.raises(TrustError, match="lists one key twice"):
            check_root(sim.files["1.root.json"])

    def test_one_key_under_two_key_ids_is_refused_in_a_later_root_too(self, sim: Any, site: Any) -> None:
        sim.rotate("timestamp")
        key = CryptoSigner(sim.keys["targets"][0].native).public_key
        sim.root.add_key(Key.from_dict("0" * 64, key.to_dict()), "targets")
        sim.issue_root()
        sim.issue()
        with pytest.raises(TrustError, match="lists one key twice"):
            site.refresh(sim.medium())

    def test_endless_ones_are_not_followed(self, sim: Any, site: Any) -> None:
        medium = sim.medium()
        medium.metadata |= {f"{version}.root.json": b"{}" for version in range(2, 300)}
        with pytest.raises(TrustError, match="299 root versions; at most 256"):
            site.refresh(medium)

    def test_a_gap_is_named(self, sim: Any, site: Any) -> None:
        sim.rotate("root")
        sim.rotate("root")
        medium = sim.medium()
        del medium.metadata["2.root.json"]
        with pytest.raises(TrustError, match="root version 2 is missing"):
            site.refresh(medium)

    def test_none_at_all_is_named(self, sim: Any, site: Any) -> None:
        medium = sim.medium()
        del medium.metadata["1.root.json"]
        with pytest.raises(TrustError, match="root version 1 is missing"):
            site.refresh(medium)

    def test_a_wrong_version_inside_is_refused(self, sim: Any, site: Any) -> None:
        sim.files["2.root.json"] = sim.files["1.root.json"]
        with pytest.raises(TrustError, match="do not belong together"):
            site.refresh(sim.medium())

    def test_cannot_rename_the_channel(self, sim: Any, site: Any) -> None:
        sim.root.unrecognized_fields["x-airpack"] = {"channel": "other", "starter": True}
        sim.rotate("timestamp")
        sim.issue()
        with pytest.raises(TrustError, match="of channel other, not of main"):
            site.refresh(sim.medium())


class TestForm:
    @pytest.mark.parametrize("data", [b"not json", b'{"a":1,"a":2}', b"[" * 5000 + b"]" * 5000, b"\xff"])
    def test_metadata_is_strict_json_before_tuf_sees_it(self, sim: Any, site: Any, data: bytes) -> None:
        medium = sim.medium()
        medium.metadata["timestamp.json"] = data
        with pytest.raises(IntegrityError):
            site.refresh(medium)

    def test_a_name_that_is_no_tuf_file_is_refused(self, sim: Any, site: Any) -> None:
        medium = sim.medium()
        medium.metadata["../timestamp.json"] = b"{}"
        with pytest.raises(TrustError, match="no TUF file name"):
            site.refresh(medium)

    def test_an_oversized_timestamp_is_refused(self, sim: Any, site: Any) -> None:
        sim.timestamp.unrecognized_fields["padding"] = "x" * 20_000
        sim.issue_timestamp()
        with pytest.raises(TrustError, match="at most 16384 are read"):
            site.refresh(sim.medium())

    @pytest.mark.parametrize("value", [None, 5])
    def test_a_timestamp_says_when_it_was_issued(self, sim: Any, site: Any, value: object) -> None:
        sim.timestamp.unrecognized_fields["x-airpack-issued"] = value
        sim.issue_timestamp()
        with pytest.raises(TrustError, match="x-airpack-issued"):
            site.refresh(sim.medium())

    def test_a_state_that_cannot_be_written_is_a_storage_error(self, sim: Any, site: Any) -> None:
        site.state.mkdir()
        (site.state / "root_history").write_text("a file where a folder should be")
        with pytest.raises(StorageError, match="trust state"):
            site.refresh(sim.medium())


class TestReload:
    def test_says_what_the_site_last_saw_expired_or_not(self, sim: Any, site: Any) -> None:
        past = type(sim)(now=datetime(2001, 1, 1, tzinfo=UTC))
        site.root = past.files["1.root.json"]
        publish(past, enc_1=b"index", policy=b"policy 2")
        seen = site.refresh(past.medium(), past.now)
        again = reload(site.state, root=site.root)
        assert (again.versions, again.names, again.issued) == (seen.versions, seen.names, seen.issued)
        assert again.target("policy.json") == b"policy 2"

    def test_finds_nothing_before_the_first_refresh(self, site: Any, tmp_path: Any) -> None:
        with pytest.raises(NotFoundError, match="no channel metadata yet"):
            reload(tmp_path / "trust", root=site.root)

    @pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json"])
    def test_checks_every_signature_again(self, sim: Any, site: Any, name: str) -> None:
        site.refresh(sim.medium())
        path = site.state / name
        path.write_bytes(path.read_bytes().replace(b'"expires":"2031', b'"expires":"2039').replace(b"2032", b"2039"))
        with pytest.raises(TrustError):
            reload(site.state, root=site.root)


class TestCheckRoot:
    def test_says_what_people_compare(self, sim: Any, now: datetime) -> None:
        data = sim.files["1.root.json"]
        info = check_root(data)
        assert (info.channel, info.starter, info.version) == ("main", True, 1)
        assert info.expires == now + timedelta(days=1825)
        assert info.fingerprint == root_fingerprint(data) == Digest.of(data)

    def test_refuses_what_is_no_root(self, sim: Any) -> None:
        with pytest.raises(TrustError, match="type 'timestamp'"):
            check_root(sim.files["timestamp.json"])

    @pytest.mark.parametrize("data", [b"{}", b'{"signed":{"_type":"root"},"signatures":[]}', b"[]"])
    def test_refuses_what_is_no_tuf_metadata(self, data: bytes) -> None:
        with pytest.raises(TrustError, match="not a TUF root"):
            check_root(data)

    @pytest.mark.parametrize("value", [0.5, {"a": [1e-7]}])
    def test_refuses_a_root_with_fractions_which_no_tuf_key_can_sign(self, sim: Any, value: object) -> None:
        root = json.loads(sim.files["1.root.json"])
        root["signed"]["x-more"] = value
        with pytest.raises(TrustError, match="not a TUF root"):
            check_root(json.dumps(root).encode())

    def test_refuses_a_root_that_others_signed(self, sim: Any) -> None:
        with pytest.raises(ThresholdError, match="does not vouch for itself"):
            check_root(sim.sign(sim.root, [PrivateKey.generate("ed25519")]))

    @pytest.mark.parametrize("extra", [None, {"channel": "main"}, {"channel": "Main!", "starter": True}, 7])
    def test_refuses_a_root_that_does_not_name_its_channel(self, sim: Any, extra: object) -> None:
        sim.root.unrecognized_fields["x-airpack"] = extra
        sim.issue_root()
        with pytest.raises(TrustError, match="x-airpack"):
            check_root(sim.files["1.root.json"])

    def test_refuses_other_kinds_of_keys(self, sim: Any) -> None:
        key = ec.generate_private_key(ec.SECP384R1())
        sim.root.add_key(CryptoSigner(key).public_key, "targets")
        sim.issue_root()
        with pytest.raises(TrustError, match="only P-256 and Ed25519"):
            check_root(sim.files["1.root.json"])

    def test_refuses_a_role_whose_key_is_not_there(self, sim: Any) -> None:
        root: Root = sim.root
        root.roles["targets"].keyids.append("0" * 64)
        sim.issue_root()
        with pytest.raises(TrustError, match="does not hold"):
            check_root(sim.files["1.root.json"])

    def test_refuses_a_key_that_is_no_key(self, sim: Any) -> None:
        public = Key.from_dict("0" * 64, {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "not hex"}})
        sim.root.add_key(public, "targets")
        sim.issue_root()
        with pytest.raises(TrustError, match="is not hex"):
            check_root(sim.files["1.root.json"])
