from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tuf.api.metadata import TargetFile

from airpack.crypto import signing
from airpack.crypto.client import TrustedChannel
from airpack.crypto.keys import PrivateKey
from airpack.errors import (
    AirpackError,
    IncompatibleError,
    IntegrityError,
    PolicyError,
    RevokedError,
    ThresholdError,
    TrustError,
)
from airpack.formats import bundle, dsse, head, oci
from airpack.formats.head import Head
from airpack.formats.package import PAYLOAD_TYPE, FileInfo, PackageManifest, VolumeInfo
from airpack.formats.release import ModelPart, PackedFile, ReleaseDocs, assemble
from airpack.formats.statement import ReleasePredicate, Statement
from airpack.formats.trust import DOCUMENT_ROLES, STATEMENT_ROLES, Revocations, Role, TrustPolicy
from airpack.policy.admission import Admitted, Steps, admit, check_formats, documents
from airpack.types import Check, Descriptor, Digest, Limits

NOW = datetime(2031, 1, 1, tzinfo=UTC)
WEIGHTS = b"weights"
STEPS = ["head", "channel", "policy", "package", "release", "attestations"]


def docs_of(version: str = "1.0.0", content: bytes = WEIGHTS) -> ReleaseDocs:
    file = PackedFile("model.onnx", Digest.of(content), len(content), format="onnx")
    return assemble("encoder", version, models=[ModelPart("minilm", (file,))])


def manifest_of(docs: ReleaseDocs, **changes: Any) -> PackageManifest:
    plain = PackageManifest(
        release=docs.digest,
        product="encoder",
        version="1.0.0",
        needs_airpack="0.1.0",
        files=(FileInfo(Digest.of(WEIGHTS), len(WEIGHTS)),),
        volumes=(VolumeInfo("encoder.0001.airvol", 128 + 64 + 7, 1, 1, Digest.of(b"table")),),
    )
    return replace(plain, **changes)


@dataclass
class Desk:
    """A build side that holds every key and can be made to sign anything; nothing it makes is checked."""

    keys: dict[str, PrivateKey] = field(
        default_factory=lambda: {
            name: PrivateKey.generate("ed25519") for name in (*STATEMENT_ROLES, *DOCUMENT_ROLES, "stranger")
        }
    )
    docs: ReleaseDocs = field(default_factory=docs_of)
    name: str = "encoder@1.0.0"
    changes: dict[str, Any] = field(default_factory=dict)  # of the package manifest
    predicate: dict[str, Any] = field(default_factory=dict)  # of the release attestation
    signers: dict[str, str] = field(default_factory=dict)  # role -> whose key signs instead; "" for nobody
    statement_names: dict[str, str] = field(default_factory=dict)
    revoked: dict[Digest, str] = field(default_factory=dict)
    thresholds: dict[str, int] = field(default_factory=dict)
    policy_channel: str = "main"
    unlisted: bool = False
    listed: bytes | None = None
    listed_sequence: int = 5
    subject: Descriptor | None = None
    blobs: dict[Digest, bytes] = field(default_factory=dict)  # added
    dropped: set[Digest] = field(default_factory=set)

    def policy(self) -> TrustPolicy:
        def role(name: str) -> Role:
            keys = (self.keys[name].public.der, self.keys["stranger"].public.der)[: self.thresholds.get(name, 1)]
            return Role(len(keys), keys, STATEMENT_ROLES.get(name, ""), DOCUMENT_ROLES.get(name, ""))

        return TrustPolicy(self.policy_channel, {name: role(name) for name in (*STATEMENT_ROLES, *DOCUMENT_ROLES)})

    def channel(self) -> TrustedChannel:
        targets = {"policy.json": self.policy().emit(), "revocations.json": Revocations(self.revoked).emit()}
        listed = {name: TargetFile.from_data(name, data) for name, data in targets.items()}
        if not self.unlisted:
            index = f"{self.name}.json"
            listed[index] = TargetFile.from_data(index, self.listed or self.docs.index)
            if self.listed_sequence:
                listed[index].unrecognized_fields["custom"] = {"sequence": self.listed_sequence}
        return TrustedChannel(
            channel="main",
            starter=True,
            root_fingerprint=Digest.of(b"root"),
            issued=NOW,
            versions={"root": 1, "timestamp": 4, "snapshot": 3, "targets": 2},
            expires=dict.fromkeys(("root", "timestamp", "snapshot", "targets"), NOW + timedelta(days=1)),
            older_medium=False,
            _listed=listed,
            _offered={name: (data,) for name, data in targets.items()},
        )

    def statement(self, role: str) -> Statement:
        content: dict[str, Any] = {}
        if role == "release":
            said: dict[str, Any] = {
                "product": "encoder",
                "version": "1.0.0",
                "sequence": 5,
                "channel": "main",
                "compat": self.docs.compat_digest,
            }
            content = ReleasePredicate(**(said | self.predicate)).emit()
        return Statement(
            self.statement_names.get(role, "encoder@1.0.0"), self.docs.digest, STATEMENT_ROLES[role], content
        )

    def attach(self, signed: bytes, predicate_type: str) -> dict[Digest, bytes]:
        subject = self.subject or Descriptor(oci.INDEX, self.docs.digest, len(self.docs.index))
        manifest = bundle.referrer(signed, subject, predicate_type, "2031-01-01T00:00:00Z")
        return {Digest.of(data): data for data in (signed, manifest, bundle.EMPTY)}

    def head(self) -> bytes:
        payload = manifest_of(self.docs, **self.changes).emit()
        packer = self.keys[self.signers.get("packer", "packer")]
        blobs = dict(self.docs.blobs)
        for role, predicate_type in STATEMENT_ROLES.items():
            signer = self.signers.get(role, role)
            if signer:
                blobs |= self.attach(signing.sign_statement(self.keys[signer], self.statement(role)), predicate_type)
        blobs |= self.blobs
        envelope = dsse.emit(signing.sign(packer, PAYLOAD_TYPE, payload))
        kept = {digest: data for digest, data in blobs.items() if digest not in self.dropped}
        return head.emit(Head({"timestamp.json": b"{}"}, {}, envelope, kept))

    def admit(self, *, data: bytes | None = None, have: str = "0.1.0", steps: Steps | None = None) -> Admitted:
        return admit(
            self.head() if data is None else data,
            refresh=lambda _head: self.channel(),
            have=have,
            steps=steps or Steps(),
        )


def added(desk: Desk, *blobs: bytes) -> None:
    desk.blobs |= {Digest.of(data): data for data in blobs}


class TestSteps:
    def test_keep_what_each_found_in_order(self) -> None:
        steps = Steps()
        with steps.step("one") as found:
            found("a")
            found("b")
        with steps.step("two"):
            pass
        assert steps.checks == [Check("one", ok=True, detail="a; b"), Check("two", ok=True, detail="")]

    def test_keep_what_failed_and_let_it_pass_on(self) -> None:
        steps = Steps()

        def run() -> None:
            with steps.step("one") as found:
                found("half-way")
                raise TrustError("no such key")

        with pytest.raises(TrustError):
            run()
        assert documents(steps.checks) == [{"name": "one", "ok": False, "detail": "no such key"}]

    def test_a_bug_is_no_finding(self) -> None:
        steps = Steps()
        with pytest.raises(ZeroDivisionError), steps.step("one"):
            raise ZeroDivisionError
        assert steps.checks == []


class TestAdmitted:
    def test_what_holds_is_admitted_with_all_that_was_proven(self) -> None:
        desk, steps = Desk(), Steps()
        data = desk.head()
        admitted = desk.admit(data=data, steps=steps)
        assert [(check.name, check.ok) for check in steps.checks] == [(name, True) for name in STEPS]
        assert admitted.name == admitted.release.name == "encoder@1.0.0"
        assert admitted.release.digest == desk.docs.digest
        assert admitted.predicate.sequence == 5
        assert admitted.manifest == manifest_of(desk.docs)
        assert admitted.manifest_digest == Digest.of(manifest_of(desk.docs).emit())
        assert admitted.policy_digest == Digest.of(desk.policy().emit())
        assert [item.role for item in admitted.attestations] == ["builder", "cosign", "release"]
        assert admitted.small == head.parse(data).blobs

    def test_every_named_key_counts_where_the_policy_asks_for_two(self) -> None:
        desk = Desk(thresholds={"release": 2})
        second = signing.sign_statement(desk.keys["stranger"], desk.statement("release"))
        with pytest.raises(ThresholdError, match="2 of 2 trusted keys"):
            desk.admit()
        desk.blobs |= desk.attach(second, STATEMENT_ROLES["release"])
        assert desk.admit().predicate.sequence == 5

    @pytest.mark.parametrize(("have", "needs"), [("0.1.0", "0.1.0"), ("0.2.0.dev1", "0.1.9"), ("1.0.0", "0.99.99")])
    def test_an_airpack_that_is_new_enough_reads_it(self, have: str, needs: str) -> None:
        assert Desk(changes={"needs_airpack": needs}).admit(have=have).manifest.needs_airpack == needs


Forge = Callable[[Desk], object]
REFUSED: list[tuple[str, Forge, type[AirpackError], str]] = [
    ("policy", lambda d: setattr(d, "policy_channel", "other"), TrustError, "policy.json is of channel 'other'"),
    ("package", lambda d: d.signers.update(packer="stranger"), ThresholdError, "1 of 1 trusted keys"),
    ("package", lambda d: d.signers.update(packer="release"), ThresholdError, "1 of 1 trusted keys"),
    ("package", lambda d: d.changes.update(needs_airpack="0.1.1"), PolicyError, "needs airpack 0.1.1 or newer"),
    ("package", lambda d: d.changes.update(volumes=()), IntegrityError, "cannot hold exactly"),
    ("release", lambda d: setattr(d, "unlisted", True), TrustError, "does not list encoder@1.0.0.json"),
    ("release", lambda d: d.changes.update(version="1.0.1"), TrustError, "does not list encoder@1.0.1.json"),
    ("release", lambda d: setattr(d, "listed", docs_of(content=b"x").index), IntegrityError, "the channel lists"),
    ("release", lambda d: d.changes.update(release=Digest.of(b"x")), IntegrityError, "the package carries"),
    ("release", lambda d: d.dropped.add(d.docs.digest), IntegrityError, "the head lacks blob"),
    ("release", lambda d: d.dropped.add(d.docs.compat_digest), IntegrityError, "the head lacks blob"),
    ("release", lambda d: setattr(d, "docs", docs_of("1.0.1")), IntegrityError, "its index says encoder@1.0.1"),
    ("release", lambda d: setattr(d, "docs", docs_of(content=b"others!")), IntegrityError, "1 files missing, 1 not of"),
    ("release", lambda d: d.revoked.update({d.docs.digest: "bad weights"}), RevokedError, "revoked .*: bad weights"),
    ("attestations", lambda d: d.signers.update(release=""), ThresholdError, "1 of 1"),
    ("attestations", lambda d: d.signers.update(release="stranger"), ThresholdError, "1 of 1"),
    ("attestations", lambda d: d.signers.update(release="builder"), ThresholdError, "1 of 1"),
    ("attestations", lambda d: d.signers.update(builder=""), ThresholdError, "1 of 1"),
    ("attestations", lambda d: d.signers.update(cosign=""), ThresholdError, "1 of 1"),
    (
        "attestations",
        lambda d: d.signers.update(release="", builder="", cosign=""),
        ThresholdError,
        "carries no attestation",
    ),
    ("attestations", lambda d: d.statement_names.update(cosign="encoder@2"), TrustError, "'cosign' names encoder@2"),
    ("attestations", lambda d: d.predicate.update(version="1.0.1"), TrustError, "says encoder@1.0.1 in channel main"),
    ("attestations", lambda d: d.predicate.update(product="other"), TrustError, "says other@1.0.0"),
    ("attestations", lambda d: d.predicate.update(channel="other"), TrustError, "in channel other"),
    ("attestations", lambda d: d.predicate.update(compat=Digest.of(b"x")), TrustError, "with compat document sha256"),
    ("attestations", lambda d: added(d, b"anything"), IntegrityError, "1 small blobs belong to nothing"),
    ("attestations", lambda d: added(d, docs_of("2").index), IntegrityError, "belong to nothing"),
    ("attestations", lambda d: added(d, b"{}", b"[1]", b"[2]"), IntegrityError, "2 small blobs belong to nothing"),
    (
        "attestations",
        lambda d: setattr(d, "subject", Descriptor(oci.INDEX, Digest.of(b"x"), len(d.docs.index))),
        IntegrityError,
        "not about this release",
    ),
    (
        "attestations",
        lambda d: setattr(d, "subject", Descriptor(oci.INDEX, d.docs.digest, 1)),
        IntegrityError,
        "of 1 bytes, not about this release",
    ),
    (
        "attestations",
        lambda d: d.dropped.add(Digest.of(signing.sign_statement(d.keys["cosign"], d.statement("cosign")))),
        IntegrityError,
        "is missing, or of another size",
    ),
    (
        "attestations",
        lambda d: d.blobs.update(d.attach(b'{"mediaType":"other"}', "x")),
        IntegrityError,
        "Sigstore bundle",
    ),
]


class TestRefused:
    @pytest.mark.parametrize(("step", "forge", "kind", "message"), REFUSED)
    def test_at_its_step_with_its_error(self, step: str, forge: Forge, kind: type[AirpackError], message: str) -> None:
        desk, steps = Desk(), Steps()
        forge(desk)
        with pytest.raises(kind, match=message) as caught:
            desk.admit(steps=steps)
        passed = [(name, True) for name in STEPS[: STEPS.index(step)]]
        assert [(check.name, check.ok) for check in steps.checks] == [*passed, (step, False)]
        assert steps.checks[-1].detail == caught.value.message

    def test_a_changed_byte_at_the_head(self) -> None:
        desk = Desk()
        data = bytearray(desk.head())
        data[len(data) // 2] ^= 1
        with pytest.raises(IntegrityError, match="is damaged"):
            desk.admit(data=bytes(data))

    def test_a_channel_that_does_not_hold(self) -> None:
        def refresh(_head: Head) -> TrustedChannel:
            raise TrustError("another root")

        steps = Steps()
        with pytest.raises(TrustError, match="another root"):
            admit(Desk().head(), refresh=refresh, have="0.1.0", steps=steps)
        assert [check.name for check in steps.checks] == ["head", "channel"]

    def test_a_newer_package_says_what_to_bring(self) -> None:
        with pytest.raises(PolicyError) as caught:
            Desk(changes={"needs_airpack": "9.0.0"}).admit()
        assert caught.value.context == {"needs": "9.0.0", "have": "0.1.0"}
        assert "newer airpack" in caught.value.hint
        assert "release of the product airpack" in caught.value.hint
        assert "site kit" in caught.value.hint

    def test_a_package_of_as_many_files_as_a_head_has_room_for_is_read(self) -> None:
        many = tuple(FileInfo(Digest.of(number.to_bytes(4, "big")), 10) for number in range(50_000))
        desk = Desk(changes={"files": many})
        assert len(head.parse(desk.head()).package) > Limits.DOCUMENT
        with pytest.raises(IntegrityError, match="not exactly its release: 1 files missing, 50000 not of it"):
            desk.admit()


class TestFormats:
    def test_what_was_signed_is_what_is_found(self) -> None:
        check_formats(docs_of().compat, {"model/minilm/model.onnx": "onnx"})

    def test_another_format_by_content_is_incompatible(self) -> None:
        with pytest.raises(IncompatibleError, match="is pickle by its bytes; the release calls it onnx") as caught:
            check_formats(docs_of().compat, {"model/minilm/model.onnx": "pickle"})
        assert caught.value.context == {"path": "model/minilm/model.onnx"}
