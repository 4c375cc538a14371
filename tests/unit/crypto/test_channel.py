import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root

from airpack.crypto import channel as channel_module
from airpack.crypto.channel import LIFETIMES, Channel
from airpack.crypto.client import ROLES, TrustedChannel, refresh
from airpack.crypto.keys import PrivateKey
from airpack.errors import (
    BusyError,
    ExpiredError,
    InputError,
    IntegrityError,
    NotFoundError,
    StorageError,
    TrustError,
)
from airpack.fsops import Lock, write_durable

KEYS = {role: PrivateKey.generate("ed25519") for role in ROLES}
FIRST = {"policy.json": b"policy 1", "revocations.json": b"revocations 1"}
DAY = timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "channel"


@pytest.fixture
def made(folder: Path, now: datetime) -> Channel:
    return Channel.create(folder, name="main", keys=KEYS, targets=FIRST, now=now, starter=True)


def seen(channel: Channel, state: Path, now: datetime) -> TrustedChannel:
    """What a fresh site makes of the channel's head."""
    return refresh(state, metadata=channel.metadata(), targets=channel.targets(), root=channel.root, now=now)


class TestCreate:
    def test_makes_what_a_site_accepts(self, made: Channel, tmp_path: Path, now: datetime) -> None:
        trusted = seen(made, tmp_path / "site", now)
        assert (trusted.channel, trusted.starter, trusted.issued) == ("main", True, now)
        assert trusted.target("policy.json") == b"policy 1"
        assert trusted.expires == {role: now + LIFETIMES[role] for role in ROLES}

    def test_writes_the_files_of_a_tuf_repository(self, made: Channel, folder: Path) -> None:
        assert {path.name for path in (folder / "metadata").iterdir()} == {
            "1.root.json",
            "1.snapshot.json",
            "1.targets.json",
            "timestamp.json",
        }
        assert set(made.metadata()) == {"1.root.json", "1.snapshot.json", "1.targets.json", "timestamp.json"}

    def test_gives_each_role_its_own_key_and_threshold_one(self, made: Channel) -> None:
        root = Metadata[Root].from_bytes(made.root).signed
        assert all(role.threshold == 1 and len(role.keyids) == 1 for role in root.roles.values())
        assert len(root.keys) == 4
        assert root.consistent_snapshot is True

    def test_reads_back_the_same(self, made: Channel, folder: Path) -> None:
        again = Channel.load(folder)
        assert (again.name, again.starter, again.root) == ("main", True, made.root)
        assert again.metadata() == made.metadata()
        assert again.targets() == FIRST
        assert again.versions == dict.fromkeys(ROLES, 1)

    def test_never_replaces_a_channel(self, made: Channel, folder: Path, now: datetime) -> None:
        with pytest.raises(InputError, match="already"):
            Channel.create(folder, name="main", keys=KEYS, targets={}, now=now, starter=True)
        assert Channel.load(folder).metadata() == made.metadata()

    @pytest.mark.parametrize("name", ["", "Main", "a b", "-a", "a" * 64, "a\n"])
    def test_refuses_such_names(self, folder: Path, now: datetime, name: str) -> None:
        with pytest.raises(InputError, match="channel's name"):
            Channel.create(folder, name=name, keys=KEYS, targets={}, now=now, starter=True)

    @pytest.mark.parametrize(
        "keys",
        [{}, {role: KEYS[role] for role in ROLES[1:]}, dict.fromkeys(ROLES, KEYS["root"]), KEYS | {"x": KEYS["root"]}],
    )
    def test_wants_four_different_keys(self, folder: Path, now: datetime, keys: dict[str, PrivateKey]) -> None:
        with pytest.raises(InputError, match="four different keys"):
            Channel.create(folder, name="main", keys=keys, targets={}, now=now, starter=True)

    def test_needs_a_zone(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="time zone"):
            Channel.create(folder, name="main", keys=KEYS, targets={}, now=datetime(2031, 1, 1), starter=True)  # noqa: DTZ001


class TestPublish:
    def test_lists_a_release(self, made: Channel, folder: Path, tmp_path: Path, now: datetime) -> None:
        made.publish(KEYS, {"enc@1.json": b"index"}, now + DAY, {"enc@1.json": {"sequence": 1}})
        trusted = seen(made, tmp_path / "site", now + DAY)
        assert trusted.target("enc@1.json") == b"index"
        assert trusted.custom("enc@1.json") == {"sequence": 1}
        assert trusted.issued == now + DAY
        assert Channel.load(folder).custom == {
            "enc@1.json": {"sequence": 1},
            "policy.json": {},
            "revocations.json": {},
        }

    def test_with_nothing_new_renews_timestamp_and_snapshot_only(self, made: Channel, now: datetime) -> None:
        later = now + 80 * DAY
        made.publish({role: KEYS[role] for role in ("snapshot", "timestamp")}, {}, later)
        assert made.versions == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1}
        assert made.expires["timestamp"] == made.expires["snapshot"] == later + 90 * DAY
        assert made.expires["targets"] == now + 365 * DAY

    def test_renews_targets_past_half_its_life(self, made: Channel, tmp_path: Path, now: datetime) -> None:
        later = now + 183 * DAY
        made.publish(KEYS, {}, later)
        assert made.versions["targets"] == 2
        assert made.expires["targets"] == later + 365 * DAY
        assert seen(made, tmp_path / "site", later).target("policy.json") == b"policy 1"

    def test_the_same_release_again_changes_no_target(self, made: Channel, now: datetime) -> None:
        made.publish(KEYS, {"enc@1.json": b"index"}, now, {"enc@1.json": {"sequence": 1}})
        made.publish(KEYS, {"enc@1.json": b"index"}, now)
        assert made.versions["targets"] == 2
        assert made.custom["enc@1.json"] == {"sequence": 1}

    @pytest.mark.parametrize(
        ("data", "custom"), [(b"other", {"sequence": 1}), (b"index", {"sequence": 2}), (b"other", {})]
    )
    def test_a_release_never_changes(self, made: Channel, now: datetime, data: bytes, custom: dict[str, Any]) -> None:
        made.publish(KEYS, {"enc@1.json": b"index"}, now, {"enc@1.json": {"sequence": 1}})
        before = made.metadata()
        with pytest.raises(InputError, match="published already") as caught:
            made.publish(KEYS, {"enc@1.json": data}, now, {"enc@1.json": custom})
        assert "another version" in caught.value.hint
        assert made.metadata() == before

    def test_the_policy_is_replaced(self, made: Channel, folder: Path, now: datetime) -> None:
        made.publish(KEYS, {"policy.json": b"policy 2"}, now)
        assert made.target("policy.json") == b"policy 2"
        assert Channel.load(folder).targets() == FIRST | {"policy.json": b"policy 2"}

    @pytest.mark.parametrize("path", ["", "../x", "a/b", ".hidden", "a b", "é", "a" * 300])
    def test_refuses_such_target_names(self, made: Channel, now: datetime, path: str) -> None:
        with pytest.raises(InputError, match="target's name"):
            made.publish(KEYS, {path: b""}, now)

    def test_refuses_a_target_that_no_site_would_read(self, made: Channel, now: datetime) -> None:
        with pytest.raises(InputError, match="at most"):
            made.publish(KEYS, {"big.json": bytes((4 << 20) + 1)}, now)

    @pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
    def test_a_missing_or_wrong_key_is_found_before_anything_is_written(
        self, made: Channel, folder: Path, now: datetime, role: str
    ) -> None:
        before = sorted(path.name for path in folder.rglob("*"))
        missing = {name: key for name, key in KEYS.items() if name != role}
        with pytest.raises(InputError, match=f"{role} key is needed"):
            made.publish(missing, {"enc@1.json": b"index"}, now)
        with pytest.raises(InputError, match=f"not the channel's {role} key"):
            made.publish(missing | {role: KEYS["root"]}, {"enc@1.json": b"index"}, now)
        assert sorted(path.name for path in folder.rglob("*")) == before

    def test_refuses_under_an_expired_root(self, made: Channel, now: datetime) -> None:
        with pytest.raises(ExpiredError, match="root expired at"):
            made.publish(KEYS, {}, now + LIFETIMES["root"])

    def test_one_at_a_time(self, made: Channel, folder: Path, now: datetime) -> None:
        with Lock(folder / ".lock"), pytest.raises(BusyError):
            made.publish(KEYS, {}, now)

    def test_builds_on_what_another_process_published(self, made: Channel, folder: Path, now: datetime) -> None:
        Channel.load(folder).publish(KEYS, {"enc@1.json": b"index"}, now)
        made.publish(KEYS, {"enc@2.json": b"index 2"}, now)
        assert set(made.targets()) == {"enc@1.json", "enc@2.json", *FIRST}
        assert made.versions["timestamp"] == 3

    @pytest.mark.parametrize("writes", range(5))
    def test_a_crash_at_any_write_leaves_the_old_state_whole(
        self,
        made: Channel,
        folder: Path,
        tmp_path: Path,
        now: datetime,
        *,
        monkeypatch: pytest.MonkeyPatch,
        writes: int,
    ) -> None:
        """The writes are two targets, targets.json, snapshot.json and, last, timestamp.json."""
        before, new = made.metadata(), {"enc@1.json": b"index", "policy.json": b"policy 2"}
        left = [writes]

        def failing(path: Path, data: bytes) -> None:
            if left[0] == 0:
                raise StorageError("disk full")
            left[0] -= 1
            write_durable(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(channel_module, "write_durable", failing)
            with pytest.raises(StorageError):
                made.publish(KEYS, new, now)
        assert Channel.load(folder).metadata() == before
        assert Channel.load(folder).targets() == FIRST
        made.publish(KEYS, new, now)
        assert Channel.load(folder).targets() == FIRST | new
        assert seen(made, tmp_path / "site", now).target("policy.json") == b"policy 2"


class TestLoad:
    def test_without_a_channel_says_so(self, folder: Path) -> None:
        with pytest.raises(NotFoundError, match="no channel") as caught:
            Channel.load(folder)
        assert "airpack init" in caught.value.hint

    @pytest.mark.parametrize("name", ["1.root.json", "1.snapshot.json", "1.targets.json", "timestamp.json"])
    def test_a_changed_file_is_found(self, made: Channel, folder: Path, name: str) -> None:
        path = folder / "metadata" / name
        document = json.loads(path.read_bytes())
        document["signed"]["expires"] = "2099-01-01T00:00:00Z"
        path.write_text(json.dumps(document))
        with pytest.raises(TrustError):
            Channel.load(folder)
        assert made.name == "main"

    @pytest.mark.parametrize(("name", "role"), [("1.snapshot.json", "snapshot"), ("1.targets.json", "targets")])
    def test_another_file_by_the_same_key_is_found(self, made: Channel, folder: Path, name: str, role: str) -> None:
        path = folder / "metadata" / name
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        metadata.signed.expires += DAY
        path.write_bytes(channel_module._signed(metadata.signed, KEYS[role]))
        with pytest.raises(TrustError, match="not the file that was signed"):
            Channel.load(folder)
        assert made.name == "main"

    def test_a_changed_target_is_found(self, made: Channel, folder: Path) -> None:
        (path,) = (folder / "targets").glob("*.policy.json")
        path.write_bytes(b"policy X")
        with pytest.raises(TrustError, match=r"policy\.json is not the file that was signed"):
            made.targets()

    def test_an_unlisted_target_is_not_found(self, made: Channel) -> None:
        with pytest.raises(NotFoundError, match="does not list"):
            made.target("enc@1.json")

    def test_a_link_is_not_followed(self, made: Channel, folder: Path, tmp_path: Path) -> None:
        path = folder / "metadata" / "timestamp.json"
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(IntegrityError, match="not a regular file"):
            Channel.load(folder)
        assert made.starter

    def test_carries_every_root_from_1(self, made: Channel, folder: Path, tmp_path: Path, now: datetime) -> None:
        metadata: Metadata[Any] = Metadata.from_bytes(made.root)
        metadata.signed.version = 2
        second = channel_module._signed(metadata.signed, KEYS["root"])
        (folder / "metadata" / "2.root.json").write_bytes(second)
        again = Channel.load(folder)
        assert (again.root, again.versions["root"]) == (second, 2)
        assert {"1.root.json", "2.root.json"} < set(again.metadata())
        assert seen(again, tmp_path / "site", now).versions["root"] == 2

    def test_a_root_by_other_keys_is_refused(self, made: Channel, folder: Path, sim: Any) -> None:
        sim.rotate("root")
        (folder / "metadata" / "2.root.json").write_bytes(sim.files["2.root.json"])
        with pytest.raises(TrustError, match="root metadata does not hold"):
            Channel.load(folder)
        assert made.name == "main"

    def test_a_root_under_a_wrong_version_is_refused(self, made: Channel, folder: Path) -> None:
        (folder / "metadata" / "2.root.json").write_bytes(made.root)
        with pytest.raises(TrustError, match="holds root version 1"):
            Channel.load(folder)


def test_fractions_of_a_second_are_dropped(folder: Path) -> None:
    moment = datetime(2031, 1, 1, 12, 0, 0, 999_999, tzinfo=UTC)
    made = Channel.create(folder, name="main", keys=KEYS, targets={}, now=moment, starter=False)
    assert made.expires["timestamp"] == moment.replace(microsecond=0) + 90 * DAY
    assert made.starter is False
