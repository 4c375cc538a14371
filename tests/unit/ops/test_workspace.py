import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airpack.crypto.client import check_root
from airpack.errors import AirpackError, InputError, IntegrityError, NotFoundError, TrustError
from airpack.formats.trust import Revocations, TrustPolicy
from airpack.ops.workspace import ATTESTATION_ROLES, CHANNEL_ROLES, Built, Workspace
from airpack.types import Digest

NOW = datetime(2031, 1, 1, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "desk", channel="main", passphrase=None, now=NOW)


def built(number: int = 1, product: str = "encoder") -> Built:
    index = b"index of %b %d" % (product.encode(), number)
    return Built(product, f"1.{number}.0", number, Digest.of(index), (Digest.of(b"a"),), "2031-01-01T00:00:00Z")


def remember(workspace: Workspace, *numbers: int) -> None:
    for number in numbers:
        item = built(number)
        data = b"index of encoder %d" % number
        workspace.remember(item, {Digest.of(data): data})


def never() -> bytes | None:
    raise AssertionError("no passphrase is needed")


class TestCreate:
    def test_what_was_made_is_found(self, workspace: Workspace) -> None:
        found = Workspace.find(workspace.root, Path("/"))
        assert (found.root, found.channel_name) == (workspace.root, "main")
        assert found.releases() == []

    def test_its_root_says_that_it_is_a_starter(self, workspace: Workspace) -> None:
        root = check_root(workspace.pinned_root.read_bytes())
        assert (root.starter, root.channel) == (True, "main")

    def test_its_channel_has_a_policy_with_one_key_a_role(self, workspace: Workspace) -> None:
        targets = workspace.channel().targets()
        policy = TrustPolicy.parse(targets["policy.json"])
        assert {name: (role.threshold, len(role.keys)) for name, role in policy.roles.items()} == dict.fromkeys(
            (*ATTESTATION_ROLES, "grant"), (1, 1)
        )
        assert policy.roles["packer"].keys == (workspace.public_key("packer").der,)
        assert policy.roles["grant"].keys == policy.roles["release"].keys
        assert Revocations.parse(targets["revocations.json"]).releases == {}

    def test_private_keys_are_their_owners_alone_and_out_of_reach_of_git(self, workspace: Workspace) -> None:
        private = workspace.root / ".airpack/private"
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
        keys = sorted(private.iterdir())
        assert [path.stem for path in keys] == sorted((*CHANNEL_ROLES, *ATTESTATION_ROLES))
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
        assert (workspace.root / ".airpack/.gitignore").read_text() == "*\n"
        tracked = [path for path in workspace.root.rglob("*") if path.is_file() and ".airpack" not in path.parts]
        assert [path for path in tracked if b"PRIVATE KEY" in path.read_bytes()] == []

    def test_every_role_has_a_key_of_its_own(self, workspace: Workspace) -> None:
        keys = {workspace.public_key(role).der for role in (*CHANNEL_ROLES, *ATTESTATION_ROLES)}
        assert len(keys) == len(CHANNEL_ROLES) + len(ATTESTATION_ROLES)

    @pytest.mark.parametrize("taken", ["airpack.toml", ".airpack", "keys/root.json", "registry/channel"])
    def test_what_is_there_is_never_overwritten(self, tmp_path: Path, taken: str) -> None:
        (tmp_path / taken).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / taken).write_bytes(b"precious")
        with pytest.raises(InputError, match=f"already holds {taken}"):
            Workspace.create(tmp_path, channel="main", passphrase=None, now=NOW)
        assert (tmp_path / taken).read_bytes() == b"precious"
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / taken]

    def test_other_files_do_not_hinder(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_bytes(b"mine")
        Workspace.create(tmp_path, channel="main", passphrase=None, now=NOW)
        assert (tmp_path / "README.md").read_bytes() == b"mine"

    @pytest.mark.parametrize("name", ["", "Main", "a/b", "-a", "a..b", "a" * 64, "ä", "main\n"])
    def test_a_channel_needs_a_name_that_can_be_one(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="channel name"):
            Workspace.create(tmp_path, channel=name, passphrase=None, now=NOW)
        assert list(tmp_path.iterdir()) == []


class TestFind:
    def test_the_nearest_one_upwards(self, workspace: Workspace) -> None:
        deep = workspace.root / "manifests/a/b"
        deep.mkdir(parents=True)
        assert Workspace.find(None, deep).root == workspace.root

    def test_a_named_folder_alone(self, workspace: Workspace) -> None:
        with pytest.raises(NotFoundError, match=r"no airpack\.toml in .*manifests$"):
            Workspace.find(workspace.root / "manifests", workspace.root)

    def test_where_there_is_none_a_hint_says_how_to_make_one(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="or any folder above it") as caught:
            Workspace.find(None, tmp_path)
        assert "airpack init" in caught.value.hint

    @pytest.mark.parametrize(
        "text",
        [
            'schema = "airpack.workspace/1"',
            'schema = "airpack.workspace/2"\nchannel = "main"',
            'schema = "airpack.workspace/1"\nchannel = "Main"',
            'schema = "airpack.workspace/1"\nchannel = "main"\nkeys = "elsewhere"',
            "schema =",
        ],
    )
    def test_a_description_that_cannot_be_read_is_bad_input(self, workspace: Workspace, text: str) -> None:
        (workspace.root / "airpack.toml").write_text(text)
        with pytest.raises(InputError, match=r"airpack\.toml"):
            Workspace.find(workspace.root, workspace.root)


class TestPrivateKeys:
    def test_without_a_passphrase_none_is_asked_for(self, workspace: Workspace) -> None:
        keys = workspace.private_keys(("release", "packer"), never)
        assert {role: key.public.der for role, key in keys.items()} == {
            role: workspace.public_key(role).der for role in ("release", "packer")
        }

    def test_a_passphrase_is_asked_for_once_and_must_be_right(self, tmp_path: Path) -> None:
        made = Workspace.create(tmp_path, channel="main", passphrase=b"open sesame", now=NOW)
        asked = []

        def ask(answer: bytes) -> Callable[[], bytes | None]:
            def passphrase() -> bytes | None:
                asked.append(answer)
                return answer

            return passphrase

        assert set(made.private_keys(CHANNEL_ROLES, ask(b"open sesame"))) == set(CHANNEL_ROLES)
        assert asked == [b"open sesame"]
        with pytest.raises(AirpackError):
            made.private_keys(("root",), ask(b"open barley"))

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
    def test_a_key_that_others_reach_is_not_used(self, workspace: Workspace, mode: int) -> None:
        path = workspace.root / ".airpack/private/release.pem"
        path.chmod(mode)
        with pytest.raises(TrustError, match="others than its owner") as caught:
            workspace.private_keys(("release",), never)
        assert caught.value.hint == f"chmod 600 {path}"

    def test_a_key_that_is_not_here_is_named_by_its_role(self, workspace: Workspace) -> None:
        (workspace.root / ".airpack/private/release.pem").unlink()
        with pytest.raises(NotFoundError, match="private key of role 'release'") as caught:
            workspace.private_keys(("packer", "release"), never)
        assert caught.value.hint

    def test_a_link_is_not_followed(self, workspace: Workspace, tmp_path: Path) -> None:
        path = workspace.root / ".airpack/private/release.pem"
        path.rename(tmp_path / "elsewhere.pem")
        path.symlink_to(tmp_path / "elsewhere.pem")
        with pytest.raises(IntegrityError, match="not a regular file"):
            workspace.private_keys(("release",), never)


class TestBuilt:
    def test_what_is_written_reads_back(self) -> None:
        assert Built.parse(built().emit(), "x.json") == built()
        assert built().name == "encoder@1.1.0"

    @pytest.mark.parametrize(
        "change", [{"schema": "airpack.built/2"}, {"sequence": 0}, {"release": "x"}, {"attestations": ["x"]}, {"x": 1}]
    )
    def test_anything_else_is_refused(self, change: dict[str, object]) -> None:
        document = json.loads(built().emit()) | change
        with pytest.raises(IntegrityError):
            Built.parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), "x.json")


class TestRemember:
    def test_releases_are_listed_by_product_and_sequence(self, workspace: Workspace) -> None:
        remember(workspace, 10, 2, 1)
        other = built(5, "a-first-one")
        workspace.remember(other, {other.release: b"index of a-first-one 5"})
        assert workspace.releases() == [other, built(1), built(2), built(10)]

    def test_the_layout_lists_them(self, workspace: Workspace) -> None:
        remember(workspace, 1, 2)
        index = json.loads((workspace.root / "registry/index.json").read_bytes())
        listed = [
            (item["digest"], item["size"], item["annotations"]["org.opencontainers.image.ref.name"])
            for item in index["manifests"]
        ]
        assert listed == [(str(built(number).release), 18, f"encoder@1.{number}.0") for number in (1, 2)]
        assert json.loads((workspace.root / "registry/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}

    def test_a_blob_that_is_kept_is_hashed_when_it_is_read(self, workspace: Workspace) -> None:
        remember(workspace, 1)
        digest = built(1).release
        assert workspace.blob(digest) == b"index of encoder 1"
        path = workspace.root / "registry/blobs/sha256" / digest.hex
        path.write_bytes(b"index of encoder 2")
        with pytest.raises(IntegrityError, match="has changed since it was written") as caught:
            workspace.blob(digest)
        assert caught.value.hint
        with pytest.raises(NotFoundError):
            workspace.blob(Digest.of(b"nothing"))

    def test_building_again_repairs_a_damaged_blob(self, workspace: Workspace) -> None:
        remember(workspace, 1)
        (workspace.root / "registry/blobs/sha256" / built(1).release.hex).write_bytes(b"damaged")
        remember(workspace, 1)
        assert workspace.blob(built(1).release) == b"index of encoder 1"
        assert workspace.releases() == [built(1)]
