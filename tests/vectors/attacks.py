"""What the attacks are: each takes a good package and gives back the files of a hostile medium.

    attack("package_unsigned", "nobody signed", PACKAGE, lambda kit: ...)

An attacker here holds every key that the attack needs: what a vector shows is the one check named in its `step`, and
nothing before it refuses.
"""

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from securesystemslib.signer import CryptoSigner
from tests.vectors import vectors
from tests.vectors.forge import KeyHolder, Package, key
from tests.vectors.vectors import HERE, Vector
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from airpack.crypto.keys import PrivateKey
from airpack.formats import canonical, dsse, oci
from airpack.formats import head as heads
from airpack.formats.head import Head
from airpack.formats.package import PAYLOAD_TYPE, PackageManifest
from airpack.types import Digest

BASE: Final = "many_ok"
HELD: Final = "second_ok"
EXIT: Final = {
    "integrity": 10,
    "trust": 11,
    "threshold": 11,
    "expired": 11,
    "policy": 12,
    "incompatible": 12,
    "revoked": 12,
    "rollback": 13,
    "storage": 20,
    "partial": 30,
    "damaged": 30,
}


@dataclass(frozen=True)
class Refusal:
    """Which step of admission refuses, and with which error."""

    step: str
    code: str = "integrity"

    def document(self) -> dict[str, Any]:
        return {"exit_code": EXIT[self.code], "code": self.code, "step": self.step}


PASSES: Final = Refusal("", "")
"""For `verify`, where only a site can know better."""


@dataclass(frozen=True)
class Kit:
    """What an attacker begins with: good packages, and the keys."""

    forger: KeyHolder = field(default_factory=KeyHolder)

    def package(self, name: str = BASE) -> Package:
        return _package(name)

    @property
    def head(self) -> Head:
        return self.package().head

    @property
    def manifest(self) -> PackageManifest:
        return self.package().manifest

    @property
    def text(self) -> bytes:
        """The JSON text of the head."""
        return heads.emit(self.head)[:-73]

    def blob(self, component: str, *, config: bool = False) -> dict[str, Any]:
        """Return the manifest of a component, or its config, as JSON."""
        index = json.loads(self.head.blobs[self.manifest.release])
        for child in index["manifests"]:
            if child["annotations"][oci.COMPONENT_ANNOTATION] == component:
                found: dict[str, Any] = json.loads(self.head.blobs[Digest(child["digest"])])
                return json.loads(self.head.blobs[Digest(found["config"]["digest"])]) if config else found
        raise KeyError(component)


@cache
def _package(name: str) -> Package:
    files = Vector.load(HERE / name).files()
    (head,) = [file for file in files if file.endswith(heads.SUFFIX)]
    volumes = {file: data for file, data in files.items() if file != head}
    return Package(KeyHolder(), head.removesuffix(heads.SUFFIX), heads.parse(files[head]), volumes)


def sealed(text: bytes) -> bytes:
    """Return the head file of a JSON text, whatever it is, under a right checksum line."""
    body = text + b"\n"
    return body + f"{Digest.of(body)}\n".encode()


Made = bytes | Head | Package | Mapping[str, bytes]
Make = Callable[[Kit], Made]


@dataclass(frozen=True)
class Attack:
    """One attack, and how it must end."""

    text: str
    refusal: Refusal
    make: Make
    source: str = ""
    base: str = BASE
    after: tuple[str, ...] = (HELD,)
    now: str = "2026-06-02T00:00:00Z"
    verify: Refusal | None = None
    says: str = ""
    sparse: Mapping[str, int] = field(default_factory=dict)

    def expect(self) -> dict[str, Any]:
        """Return `expect.json`."""
        again = self.verify or self.refusal
        return vectors.expectation(
            self.text,
            self.refusal.document(),
            verify={"exit_code": 0} if again is PASSES else again.document(),
            base=self.base,
            source=self.source,
            after=[{"import": name, "activate": name == HELD} for name in self.after],
            now=self.now,
            says=self.says,
            sparse=dict(self.sparse),
        )

    def files(self, kit: Kit) -> dict[str, bytes]:
        """Return the files of the medium."""
        made, package = self.make(kit), kit.package(self.base)
        if isinstance(made, bytes):
            return {**package.files(), package.head_name: made}
        if isinstance(made, Head):
            return package.with_head(made).files()
        return made.files() if isinstance(made, Package) else dict(made)


ATTACKS: Final[dict[str, Attack]] = {}


def given(make: Callable[..., Any], *values: Any) -> Callable[[Any], Any]:
    """Return `make` with its further arguments, as they are now."""
    return lambda first: make(first, *values)


def attack(name: str, text: str, refusal: Refusal, make: Make, **more: Any) -> None:
    """Add one attack."""
    assert name not in ATTACKS, name
    ATTACKS[name] = Attack(text, refusal, make, **more)


# -- 1. head ----------------------------------------------------------------------------------------------------------

HEAD: Final = Refusal("head")
SCHEMA: Final = b'"schema":"airpack.head/1"'


def heads_in_text() -> None:
    """Attacks on the head's JSON, each under a right checksum: nothing but the strict reader can refuse."""

    def swap(old: bytes, new: bytes) -> Make:
        def make(kit: Kit) -> bytes:
            assert old in kit.text
            return sealed(kit.text.replace(old, new, 1))

        return make

    def edit(change: Callable[[dict[str, Any]], object]) -> Make:
        def make(kit: Kit) -> bytes:
            document = json.loads(kit.text)
            change(document)
            return sealed(canonical.emit(document))

        return make

    def schema(value: bytes) -> Make:
        return swap(SCHEMA, b'"schema":' + value)

    python = "measured: Python's json reads it"
    table: list[tuple[str, str, str, Make]] = [
        (
            "duplicate_key",
            "a key twice: readers take the first or the last",
            python,
            swap(SCHEMA, SCHEMA + b"," + SCHEMA),
        ),
        (
            "duplicate_key_inside",
            "a key twice in the envelope",
            python,
            swap(b'"payloadType":', b'"payloadType":"application/x","payloadType":'),
        ),
        (
            "duplicate_key_escaped",
            "a key twice, once with an escape in it",
            python,
            swap(SCHEMA, b'"sch\\u0065ma":"airpack.head/1",' + SCHEMA),
        ),
        ("escaped_key", "a key spelled with an escape", "", swap(b'"schema":', b'"sch\\u0065ma":')),
        ("nan", "NaN, which is not JSON", python, schema(b"NaN")),
        ("infinity", "-Infinity, which is not JSON", python, schema(b"-Infinity")),
        ("overflow", "a float that overflows to infinity", python, schema(b"1e999")),
        ("float", "a float for a whole number", "", schema(b"1.0")),
        ("minus_zero", "minus zero", "", schema(b"-0")),
        ("integer_2_53", "an integer that a double does not hold", "", schema(b"9007199254740993")),
        ("integer_2_64", "an integer beyond 64 bits", "", schema(b"18446744073709551616")),
        ("integer_5000_digits", "an integer of 5000 digits", "CVE-2020-10735", schema(b"9" * 5000)),
        ("leading_zero", "a number with a leading zero", "", schema(b"01")),
        ("hex_number", "a number in hex", "", schema(b"0x1")),
        ("deep", "5000 lists in each other", "stack exhaustion", schema(b"[" * 5000 + b"]" * 5000)),
        ("deep_33", "one level deeper than is read", "", schema(b"[" * 33 + b"]" * 33)),
        ("lone_surrogate", "half of a surrogate pair", python, schema(b'"\\ud800"')),
        ("surrogate_utf8", "a surrogate in UTF-8", "", schema(b'"\xed\xa0\x80"')),
        ("overlong_utf8", "a slash in two bytes of UTF-8", "CVE-2000-0884", schema(b'"\xc0\xaf"')),
        ("invalid_utf8", "bytes that are no UTF-8", "", schema(b'"\xff"')),
        ("nul_raw", "a raw NUL in a string", "", schema(b'"airpack.head/1\x00"')),
        ("nul_escaped", "an escaped NUL at the end of a string", "", schema(b'"airpack.head/1\\u0000"')),
        ("control_raw", "a raw control character in a string", "", schema(b'"airpack.head/1\x1b"')),
        ("bom", "a byte order mark", "", lambda kit: sealed(b"\xef\xbb\xbf" + kit.text)),
        ("utf16", "UTF-16", "", lambda kit: sealed(kit.text.decode().encode("utf-16"))),
        ("white_space", "white space", "", swap(b'{"blobs":', b'{ "blobs":')),
        ("white_space_end", "white space behind the text", "", lambda kit: sealed(kit.text + b" ")),
        ("newline_inside", "a second newline", "", swap(b'{"blobs":', b'{\n"blobs":')),
        ("carriage_return", "a carriage return before the newline", "", lambda kit: sealed(kit.text + b"\r")),
        ("two_documents", "a second document behind the first", "", lambda kit: sealed(kit.text + kit.text)),
        ("comment", "a comment", "", lambda kit: sealed(kit.text + b"/**/")),
        ("trailing_comma", "a trailing comma", "", lambda kit: sealed(kit.text[:-1] + b",}")),
        ("single_quotes", "single quotes", "", schema(b"'airpack.head/1'")),
        (
            "key_order",
            "keys in another order",
            "",
            lambda kit: sealed(
                json.dumps(dict(reversed(json.loads(kit.text).items())), separators=(",", ":")).encode()
            ),
        ),
        ("escaped_slash", "an escaped slash, which is another spelling", "", schema(b'"airpack.head\\/1"')),
        ("list", "a list", "", lambda _kit: sealed(b"[]")),
        ("empty_text", "no text", "", lambda _kit: sealed(b"")),
        ("null", "null", "", lambda _kit: sealed(b"null")),
        ("unknown_key", "an unknown key", "", edit(lambda document: document.update(extra=1))),
        ("unknown_key_proto", "a key that is a prototype elsewhere", "", edit(lambda head: head.update(__proto__={}))),
        ("missing_key", "a missing key", "", edit(lambda document: document.pop("trust"))),
        ("other_schema", "another schema", "", edit(lambda document: document.update(schema="airpack.head/2"))),
        ("package_list", "a list for an object", "", edit(lambda document: document.update(package=[]))),
        ("blobs_order", "blobs in another order", "", edit(lambda document: document["blobs"].reverse())),
        ("blob_twice", "a blob twice", "", edit(lambda document: document["blobs"].insert(0, document["blobs"][0]))),
        ("blob_number", "a number for a blob", "", edit(lambda document: document["blobs"].append(7))),
        ("base64_unpadded", "base64 without padding", "", edit(lambda head: head["blobs"].__setitem__(0, "e30"))),
        ("base64_newline", "a newline in base64", "", edit(lambda head: head["blobs"].__setitem__(0, "e30=\n"))),
        (
            "base64_bits",
            "bits set behind the end of base64",
            "",
            edit(lambda head: head["blobs"].__setitem__(0, "e31=")),
        ),
        ("base64_urlsafe", "the other alphabet of base64", "", edit(lambda head: head["blobs"].__setitem__(0, "-_-_"))),
        (
            "metadata_name_escape",
            "metadata under a name that leads out",
            "CVE-2026-24686",
            edit(lambda head: head["trust"]["metadata"].update({"../1.root.json": "e30="})),
        ),
        (
            "metadata_name_nul",
            "metadata under a name with a NUL",
            "GHSA-pqhf-p39g-3x64",
            edit(lambda head: head["trust"]["metadata"].update({"1.root\x00.json": "e30="})),
        ),
        (
            "metadata_name_long",
            "metadata under a name of 300 characters",
            "",
            edit(lambda head: head["trust"]["metadata"].update({"1" * 295 + ".json": "e30="})),
        ),
        (
            "target_name_absolute",
            "a target under an absolute name",
            "CVE-2007-4559",
            edit(lambda head: head["trust"]["targets"].update({"/policy.json": "e30="})),
        ),
        (
            "metadata_321_files",
            "more metadata files than are read",
            "",
            edit(lambda head: head["trust"]["metadata"].update({f"{at}.x.json": "" for at in range(321)})),
        ),
        (
            "targets_65_files",
            "more targets than are read",
            "",
            edit(lambda head: head["trust"]["targets"].update({f"x{at}": "" for at in range(65)})),
        ),
    ]
    for name, text, source, make in table:
        attack(f"head_{name}", f"head: {text}", HEAD, make, source=source)


def heads_in_bytes() -> None:
    """Attacks on the head file around its text."""
    table: list[tuple[str, str, Make]] = [
        ("empty", "no byte", lambda _kit: b""),
        ("one_newline", "one newline", lambda _kit: b"\n"),
        ("checksum_alone", "the checksum line alone", lambda kit: heads.emit(kit.head)[-72:]),
        ("checksum_missing", "no checksum line", lambda kit: kit.text + b"\n"),
        ("checksum_wrong", "the checksum of something else", lambda kit: kit.text + b"\n" + sealed(b"x")[-72:]),
        ("checksum_upper", "the checksum in upper case", lambda kit: upper(heads.emit(kit.head))),
        ("checksum_sha512", "a checksum of another kind", lambda kit: kit.text + b"\nsha512:" + b"0" * 128 + b"\n"),
        ("last_newline_missing", "no newline at the end", lambda kit: heads.emit(kit.head)[:-1]),
        ("trailing_newline", "a newline too many", lambda kit: heads.emit(kit.head) + b"\n"),
        ("trailing_bytes", "bytes behind the end", lambda kit: heads.emit(kit.head) + b"PK\x05\x06" + bytes(18)),
        ("leading_bytes", "bytes before the text", lambda kit: b"#!/bin/sh\n" + heads.emit(kit.head)),
        ("twice", "the head twice", lambda kit: heads.emit(kit.head) * 2),
        ("cut", "cut in the middle", lambda kit: heads.emit(kit.head)[: len(kit.text) // 2]),
        ("bit", "one bit changed", lambda kit: flipped(heads.emit(kit.head), len(kit.text) // 2)),
        ("gzip", "the head compressed", lambda kit: gzip.compress(heads.emit(kit.head), mtime=0)),
        ("zip", "an archive in the head's place", lambda kit: zipped({"../../evil": kit.text})),
    ]
    for name, text, make in table:
        attack(f"headfile_{name}", f"head file: {text}", HEAD, make)
    attack(
        "headfile_sparse_1TiB",
        "head file: endless: a terabyte of nothing behind it",
        HEAD,
        lambda kit: kit.head,
        source="resource exhaustion",
        sparse={f"many-1.0.0{heads.SUFFIX}": 1 << 40},
    )
    attack(
        "headfile_too_long",
        "head file: one byte longer than is read",
        HEAD,
        lambda kit: kit.head,
        sparse={f"many-1.0.0{heads.SUFFIX}": (16 << 20) + 1},
    )


def upper(data: bytes) -> bytes:
    """Return a head whose checksum is in upper case."""
    return data[:-65] + data[-65:].upper()


def flipped(data: bytes, at: int) -> bytes:
    """Return `data` with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive of fixed bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


# -- 2. channel -------------------------------------------------------------------------------------------------------

CHANNEL: Final = "channel"
Edit = Callable[[str, Any], object]


def reissued(
    head: Head, edit: Edit, *, keys: Mapping[str, PrivateKey] | None = None, step: Mapping[str, int] | None = None
) -> Head:
    """Return the head with a new set of channel metadata, signed anew.

    Args:
        head: As it was.
        edit: Called with `targets`, `snapshot` and `timestamp` and their parsed metadata before each is signed.
        keys: Role -> another key to sign with.
        step: Role -> what is added to its version, 1 for those not named.
    """
    signers = {**KeyHolder().keys, **(keys or {})}
    files = dict(head.metadata)
    timestamp = Metadata[Timestamp].from_bytes(files.pop("timestamp.json")).signed
    snapshot = Metadata[Snapshot].from_bytes(files.pop(f"{timestamp.snapshot_meta.version}.snapshot.json")).signed
    targets = Metadata[Targets].from_bytes(files.pop(f"{snapshot.meta['targets.json'].version}.targets.json")).signed

    def signed(role: str, value: Any) -> bytes:
        value.version += (step or {}).get(role, 1)
        edit(role, value)
        metadata: Metadata[Any] = Metadata(value)
        metadata.sign(CryptoSigner(signers[role].native))
        return metadata.to_bytes()

    data = signed("targets", targets)
    files[f"{targets.version}.targets.json"] = data
    snapshot.meta["targets.json"] = MetaFile.from_data(targets.version, data, ["sha256"])
    data = signed("snapshot", snapshot)
    files[f"{snapshot.version}.snapshot.json"] = data
    timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
    files["timestamp.json"] = signed("timestamp", timestamp)
    return replace(head, metadata=files)


def at(role: str, change: Callable[[Any], object]) -> Edit:
    """Return an edit of one role alone."""
    return lambda name, value: change(value) if name == role else None


def field_of(name: str, value: Any) -> Callable[[Any], object]:
    """Return what sets one attribute."""
    return lambda signed: setattr(signed, name, value)


def file_of(head: Head, role: str) -> str:
    """Return the name of a role's metadata file in a head."""
    return next(name for name in head.metadata if role in name)


def with_file(head: Head, name: str, data: bytes | None) -> Head:
    """Return the head with one metadata file replaced, or taken out."""
    files = {key: value for key, value in head.metadata.items() if key != name}
    return replace(head, metadata=files if data is None else {**files, name: data})


def rooted(head: Head, change: Callable[[Root], object], *signers: str, version: int = 2, name: int = 0) -> Head:
    """Return the head with a further root, which `change` makes of the first and `signers` sign."""
    root = Metadata[Root].from_bytes(head.metadata["1.root.json"]).signed
    root.version = version
    change(root)
    metadata: Metadata[Any] = Metadata(root)
    for signer in signers:
        metadata.sign(CryptoSigner(key(signer).native), append=True)
    return with_file(head, f"{name or version}.root.json", metadata.to_bytes())


def rekeyed(role: str, name: str) -> Callable[[Root], object]:
    """Return what gives a role another key."""

    def change(root: Root) -> None:
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        root.add_key(CryptoSigner(key(name).native).public_key, role)

    return change


def twice(root: Root) -> None:
    """List the timestamp's key under a second id, with a threshold of two."""
    again = CryptoSigner(key("timestamp").native).public_key
    again.keyid = "0" * 64
    root.add_key(again, "timestamp")
    root.roles["timestamp"].threshold = 2


def signed_twice(head: Head) -> Head:
    """Return the head with the timestamp's signature under that second id as well."""
    document = json.loads(head.metadata["timestamp.json"])
    document["signatures"].append({**document["signatures"][0], "keyid": "0" * 64})
    return with_file(head, "timestamp.json", canonical.emit(document))


def same(_role: str, _value: Any) -> None:
    """Change nothing."""


def channels() -> None:
    """Attacks on the channel: TUF specification section 5, and what airpack asks beyond."""
    trust, threshold = Refusal(CHANNEL, "trust"), Refusal(CHANNEL, "threshold")
    integrity, expired, rollback = Refusal(CHANNEL), Refusal(CHANNEL, "expired"), Refusal(CHANNEL, "rollback")
    past = datetime(2026, 6, 1, 12, tzinfo=UTC)

    def missing(kit: Kit, role: str) -> Head:
        """Return newer metadata without one file."""
        newer = reissued(kit.head, same)
        return with_file(newer, file_of(newer, role), None)

    def confused(kit: Kit) -> Head:
        """Return newer metadata with one role's file under the name of another."""
        newer = reissued(kit.head, same)
        return with_file(newer, file_of(newer, "targets"), newer.metadata[file_of(newer, "snapshot")])

    def mixed(kit: Kit, role: str) -> Head:
        """Return newer metadata with one file of an older state under the name of the newer one."""
        newer = reissued(kit.head, same)
        return with_file(newer, file_of(newer, role), kit.head.metadata[file_of(kit.head, role)])

    for role in ("timestamp", "snapshot", "targets"):
        attack(
            f"channel_{role}_expired",
            f"freeze: the {role} has expired",
            expired,
            given(lambda kit, role: reissued(kit.head, at(role, field_of("expires", past))), role),
            source="TUF: indefinite freeze",
        )
        attack(
            f"channel_{role}_by_stranger",
            f"the {role} is signed by an unknown key",
            threshold,
            given(lambda kit, role: reissued(kit.head, same, keys={role: key("stranger")}), role),
        )
        attack(
            f"channel_{role}_by_other_role",
            f"the {role} is signed by the key of another role",
            threshold,
            given(lambda kit, role: reissued(kit.head, same, keys={role: key("release")}), role),
        )
        attack(
            f"channel_{role}_missing",
            f"partial bundle: the {role} is not there",
            trust,
            given(missing, role),
            source="Uptane: partial bundle",
        )
        attack(
            f"channel_{role}_fast_forward",
            f"fast forward: the {role} has version 2^31",
            trust,
            given(lambda kit, role: reissued(kit.head, same, step={role: 2**31}), role),
            source="TUF: fast-forward",
        )
    attack(
        "channel_frozen_later",
        "freeze: a package that was good, judged four months later",
        expired,
        lambda kit: kit.head,
        source="TUF: indefinite freeze",
        now="2026-10-01T00:00:00Z",
    )
    attack(
        "channel_targets_lowered",
        "rollback: newer snapshot and timestamp with an older targets version",
        rollback,
        lambda kit: reissued(kit.head, same, step={"targets": -1}),
        source="CVE-2022-29173",
        after=(HELD, BASE),
        verify=PASSES,
    )
    attack(
        "channel_snapshot_lowered",
        "rollback: a newer timestamp with an older snapshot version",
        rollback,
        lambda kit: reissued(kit.head, same, step={"snapshot": -1}),
        source="CVE-2022-29173",
        after=(HELD, BASE),
        verify=PASSES,
    )

    for role in ("snapshot", "targets"):
        attack(
            f"channel_{role}_mixed",
            f"mix and match: the {role} of an older state under the newer one's name",
            trust,
            given(mixed, role),
            source="TUF: mix-and-match",
        )
    attack(
        "channel_timestamp_mixed",
        "mix and match: an older timestamp with newer snapshot and targets",
        trust,
        lambda kit: with_file(reissued(kit.head, same), "timestamp.json", kit.head.metadata["timestamp.json"]),
        source="TUF: mix-and-match",
        after=(),
    )
    attack(
        "channel_role_confused",
        "the snapshot's bytes in the place of the targets",
        trust,
        confused,
    )
    attack(
        "channel_unsigned",
        "the timestamp carries no signature",
        threshold,
        lambda kit: with_file(
            kit.head,
            "timestamp.json",
            canonical.emit({**json.loads(reissued(kit.head, same).metadata["timestamp.json"]), "signatures": []}),
        ),
    )
    attack(
        "channel_signature_garbage",
        "the timestamp's signature is hex, but none",
        threshold,
        lambda kit: with_file(kit.head, "timestamp.json", garbage(reissued(kit.head, same).metadata["timestamp.json"])),
        source="CVE-2026-39395: a parse error taken for success",
    )
    attack(
        "channel_changed_after_signing",
        "the timestamp's expiry was put off after it was signed",
        threshold,
        lambda kit: with_file(
            kit.head,
            "timestamp.json",
            kit.head.metadata["timestamp.json"]
            .replace(b'"expires": "2026', b'"expires": "2027')
            .replace(b'"expires":"2026', b'"expires":"2027'),
        ),
    )
    attack(
        "channel_duplicate_key",
        "the timestamp holds a key twice",
        integrity,
        lambda kit: with_file(
            kit.head, "timestamp.json", b'{"signed":{},' + kit.head.metadata["timestamp.json"].lstrip()[1:]
        ),
        source="measured: Python's json reads it",
    )
    attack(
        "channel_not_json",
        "the snapshot is not JSON",
        integrity,
        lambda kit: with_file(kit.head, file_of(kit.head, "snapshot"), b"\x00" * 64),
    )
    attack(
        "channel_unknown_file",
        "metadata under a name that TUF does not know",
        trust,
        lambda kit: with_file(kit.head, "evil.json", b"{}"),
    )
    attack(
        "channel_not_dated",
        "the timestamp does not say when it was signed",
        trust,
        lambda kit: reissued(kit.head, at("timestamp", lambda signed: signed.unrecognized_fields.clear())),
    )
    attack(
        "channel_target_other_digest",
        "the policy is listed with a digest that is not its own",
        trust,
        lambda kit: reissued(
            kit.head, at("targets", lambda signed: signed.targets["policy.json"].hashes.update({"sha256": "0" * 64}))
        ),
        source="CVE-2024-3727",
    )
    attack(
        "channel_target_no_sha256",
        "the policy is listed with MD5 alone",
        trust,
        lambda kit: reissued(
            kit.head,
            at("targets", lambda signed: field_of("hashes", {"md5": "0" * 32})(signed.targets["policy.json"])),
        ),
        source="CVE-2024-3727",
    )
    attack(
        "channel_target_digest_path",
        "the policy is listed with a path for a digest",
        integrity,
        lambda kit: reissued(
            kit.head,
            at("targets", lambda signed: field_of("hashes", {"sha256": "../../evil"})(signed.targets["policy.json"])),
        ),
        source="CVE-2024-3727",
    )
    # roots
    attack(
        "root_of_another_channel",
        "another channel's root, with everything else in order",
        trust,
        lambda kit: rooted(kit.head, rekeyed("root", "stranger"), "stranger", version=1),
        source="wrong root",
    )
    attack(
        "root_gap",
        "roots 1 and 3 without 2",
        trust,
        lambda kit: rooted(kit.head, same_root, "root", version=3),
        source="CVE-2025-2885",
    )
    attack(
        "root_version_named_wrong",
        "root 3 under the name of root 2",
        trust,
        lambda kit: rooted(kit.head, same_root, "root", version=3, name=2),
        source="CVE-2025-2885",
    )
    attack(
        "root_not_signed_by_old",
        "a new root that only its own new key signed",
        threshold,
        lambda kit: rooted(kit.head, rekeyed("root", "stranger"), "stranger"),
        source="TUF: arbitrary keys",
    )
    attack(
        "root_not_signed_by_new",
        "a new root that only the old key signed",
        threshold,
        lambda kit: rooted(kit.head, rekeyed("root", "stranger"), "root"),
    )
    attack(
        "root_revoked_timestamp_key",
        "a timestamp by a key that root 2 has taken away",
        threshold,
        lambda kit: rooted(reissued(kit.head, same), rekeyed("timestamp", "stranger"), "root"),
        source="key compromise",
    )
    attack(
        "root_threshold_one_key_twice",
        "root 2 lists one key under two ids, for a threshold of two",
        trust,
        lambda kit: rooted(signed_twice(reissued(kit.head, same)), twice, "root"),
        source="CVE-2020-6174",
    )
    attack(
        "root_threshold_zero",
        "root 2 asks for no signature on timestamps",
        trust,
        lambda kit: with_file(reissued(kit.head, same), "2.root.json", threshold_zero(kit)),
        source="CVE-2026-23992",
    )
    attack(
        "root_channel_changed",
        "root 2 is of another channel",
        trust,
        lambda kit: rooted(
            reissued(kit.head, same),
            lambda root: root.unrecognized_fields.update({"x-airpack": {"channel": "other", "starter": True}}),
            "root",
        ),
    )
    attack(
        "root_expired",
        "root 2 has expired",
        expired,
        lambda kit: rooted(reissued(kit.head, same), field_of("expires", past), "root"),
    )


def same_root(_root: Root) -> None:
    """Change nothing."""


def threshold_zero(kit: Kit) -> bytes:
    """Return root 2 with a threshold of 0, signed over exactly these bytes' canonical form."""
    document = json.loads(rooted(kit.head, same_root, "root").metadata["2.root.json"])
    document["signed"]["roles"]["timestamp"]["threshold"] = 0
    return canonical.emit(document)


def garbage(data: bytes) -> bytes:
    """Return TUF metadata with a signature that is none."""
    document = json.loads(data)
    for signature in document["signatures"]:
        signature["sig"] = "00" * 70
    return canonical.emit(document)


# -- 3. policy --------------------------------------------------------------------------------------------------------

POLICY: Final = Refusal("policy")


def policies() -> None:
    """Attacks by whoever can list another policy."""

    def edit(change: Callable[[dict[str, Any]], object]) -> Make:
        def make(kit: Kit) -> Head:
            document = json.loads(kit.head.targets["policy.json"])
            change(document)
            return kit.forger.listed(kit.head, {"policy.json": canonical.emit(document)})

        return make

    def raw(data: Callable[[bytes], bytes], name: str = "policy.json") -> Make:
        return lambda kit: kit.forger.listed(kit.head, {name: data(kit.head.targets[name])})

    def role(name: str, **change: Any) -> Make:
        return edit(lambda policy: policy["roles"][name].update(change))

    table: list[tuple[str, str, str, Make]] = [
        ("threshold_zero", "a threshold of 0", "CVE-2026-23992", role("release", threshold=0)),
        ("threshold_negative", "a threshold of -1", "CVE-2026-23992", role("release", threshold=-1)),
        ("threshold_above_keys", "a threshold above the number of keys", "", role("release", threshold=2)),
        ("threshold_true", "true for a threshold of 1", "", role("release", threshold=True)),
        ("no_keys", "a role without keys", "", role("release", keys=[])),
        (
            "key_twice",
            "a key twice",
            "",
            edit(lambda policy: policy["roles"]["release"].update(keys=policy["roles"]["release"]["keys"] * 2)),
        ),
        (
            "role_unknown",
            "a role that nobody knows",
            "",
            edit(lambda policy: policy["roles"].update(evil=policy["roles"]["release"])),
        ),
        ("role_missing", "no role 'packer'", "", edit(lambda policy: policy["roles"].pop("packer"))),
        (
            "role_other_type",
            "builders who may sign releases",
            "CVE-2022-35929",
            role("builder", predicateType="https://airpack.dev/release/v1"),
        ),
        ("unknown_key", "an unknown field", "", edit(lambda policy: policy.update(extra=True))),
        (
            "unknown_permission",
            "a permission that this version does not know",
            "",
            edit(lambda policy: policy["sites"]["*"].update(allow_formats=["pickle"])),
        ),
        (
            "duplicate_key",
            "a field twice",
            "",
            raw(lambda data: data.replace(b'"channel":', b'"channel":"other","channel":', 1)),
        ),
        ("white_space", "not canonical", "", raw(lambda data: data + b"\n")),
        ("empty", "no byte", "", raw(lambda _data: b"")),
    ]
    for name, text, source, make in table:
        attack(f"policy_{name}", f"policy: {text}", POLICY, make, source=source)
    unsorted = [{"digest": "sha256:" + digit * 64, "reason": "x"} for digit in "ba"]
    for name, text, data in (
        ("empty", "without a byte", b""),
        ("order", "not sorted", canonical.emit({"schema": "airpack.revocations/1", "releases": unsorted})),
        ("schema", "of a schema to come", canonical.emit({"schema": "airpack.revocations/2", "releases": []})),
    ):
        attack(
            f"revocations_{name}",
            f"revocations: {text}",
            Refusal(CHANNEL),  # a site applies them as soon as it has them
            raw(given(lambda _before, data: data, data), "revocations.json"),
            verify=POLICY,
        )
    attack(
        "policy_other_channel",
        "policy: of another channel",
        Refusal("policy", "trust"),
        edit(lambda policy: policy.update(channel="other")),
    )
    attack(
        "policy_not_listed_bytes",
        "policy: other bytes than those that the channel lists",
        Refusal(CHANNEL, "trust"),
        lambda kit: replace(
            kit.forger.listed(kit.head, {"policy.json": b"{}"}), targets={**kit.head.targets, "policy.json": b"{ }"}
        ),
        source="arbitrary software",
    )
    attack(
        "policy_key_garbage",
        "policy: a packer's key that is no key",
        Refusal("package", "trust"),
        role("packer", keys=["AAAA"]),
    )


# -- 4. package -------------------------------------------------------------------------------------------------------

PACKAGE: Final = Refusal("package")


def packages() -> None:
    """Attacks on the package manifest: its signature, then what a packer's right key may not say either."""
    threshold, trust = Refusal("package", "threshold"), Refusal("package", "trust")

    def signed_by(name: str) -> Make:
        return lambda kit: kit.forger.packed(kit.head, kit.manifest.emit(), key=key(name))

    def envelope(change: Callable[[dict[str, Any]], object]) -> Make:
        def make(kit: Kit) -> bytes:
            document = json.loads(kit.text)
            change(document["package"])
            return sealed(canonical.emit(document))

        return make

    def signature_over(data: Callable[[bytes], bytes]) -> Make:
        def make(kit: Kit) -> Head:
            payload = kit.manifest.emit()
            forged = dsse.Envelope(payload, PAYLOAD_TYPE, (key("packer").sign(data(payload)),))
            return replace(kit.head, package=dsse.emit(forged))

        return make

    table: list[tuple[str, str, Refusal, str, Make]] = [
        ("unsigned", "no signature", PACKAGE, "", envelope(lambda value: value.update(signatures=[]))),
        (
            "signature_empty",
            "an empty signature",
            PACKAGE,
            "",
            envelope(lambda value: value.update(signatures=[{"sig": ""}])),
        ),
        (
            "signature_garbage",
            "a signature that is none",
            threshold,
            "CVE-2026-39395",
            envelope(lambda value: value.update(signatures=[{"sig": "AAAA"}])),
        ),
        (
            "signatures_17",
            "more signatures than are looked at",
            PACKAGE,
            "",
            envelope(lambda value: value.update(signatures=value["signatures"] * 17)),
        ),
        (
            "keyid",
            "a key id that asks for another key",
            PACKAGE,
            "",
            envelope(lambda value: value["signatures"][0].update(keyid="release")),
        ),
        (
            "algorithm",
            "an algorithm that asks for none",
            PACKAGE,
            "JWT: alg none",
            envelope(lambda value: value["signatures"][0].update(alg="none")),
        ),
        (
            "certificate",
            "a certificate that brings its own key",
            PACKAGE,
            "CVE-2026-109399",
            envelope(lambda value: value["signatures"][0].update(cert="MII=")),
        ),
        ("by_stranger", "an unknown key signed", threshold, "", signed_by("stranger")),
        ("by_release_key", "the key of another role signed", threshold, "", signed_by("release")),
        ("by_targets_key", "the key of a role of TUF signed", threshold, "", signed_by("targets")),
        (
            "other_type",
            "another payload type, rightly signed",
            trust,
            "CVE-2022-35929",
            lambda kit: kit.forger.packed(kit.head, kit.manifest.emit(), kind="application/vnd.in-toto+json"),
        ),
        (
            "type_swapped",
            "the payload type was changed after signing",
            trust,
            "",
            envelope(lambda value: value.update(payloadType="application/vnd.in-toto+json")),
        ),
        (
            "changed",
            "the payload was changed after signing",
            threshold,
            "",
            lambda kit: replace(
                kit.head,
                package=dsse.emit(
                    replace(dsse.parse(kit.head.package), payload=kit.manifest.emit().replace(b'"1.0.0"', b'"1.0.1"'))
                ),
            ),
        ),
        (
            "signed_payload_alone",
            "a signature over the payload without its type",
            threshold,
            "DSSE 1.0.2, PAE",
            signature_over(bytes),
        ),
        (
            "signed_first_bytes",
            "a signature over the first bytes alone",
            threshold,
            "CVE-2026-34155",
            signature_over(lambda payload: dsse.pae(PAYLOAD_TYPE, payload[:100])),
        ),
        (
            "signed_other_length",
            "a signature over a PAE with another length",
            threshold,
            "DSSE 1.0.2, PAE",
            signature_over(
                lambda payload: dsse.pae(PAYLOAD_TYPE, payload).replace(
                    b" %d " % len(payload), b" %d " % (len(payload) + 1)
                )
            ),
        ),
        (
            "signed_base64",
            "a signature over the base64 text",
            threshold,
            "",
            signature_over(
                lambda payload: json.loads(dsse.emit(dsse.Envelope(payload, PAYLOAD_TYPE, (b"x",))))["payload"].encode()
            ),
        ),
        (
            "one_key_twice",
            "two signatures by one key",
            trust,
            "CVE-2020-6174",
            lambda kit: replace(
                kit.head,
                package=dsse.emit(
                    dsse.Envelope(
                        kit.manifest.emit(),
                        PAYLOAD_TYPE,
                        tuple(key("packer").sign(dsse.pae(PAYLOAD_TYPE, kit.manifest.emit())) for _ in range(2)),
                    )
                ),
            ),
        ),
        (
            "needs_newer",
            "it needs a newer airpack",
            Refusal("package", "policy"),
            "",
            lambda kit: kit.forger.packed(kit.head, replace(kit.manifest, needs_airpack="99.0.0").emit()),
        ),
    ]
    for name, text, refusal, source, make in table:
        attack(f"package_{name}", f"package: {text}", refusal, make, source=source)


def manifests() -> None:
    """Package manifests that are signed by the packer, and wrong."""

    def edit(change: Callable[[dict[str, Any]], object]) -> Make:
        def make(kit: Kit) -> Head:
            document = json.loads(kit.manifest.emit())
            change(document)
            return kit.forger.packed(kit.head, json_like(document))

        return make

    def raw(old: bytes, new: bytes) -> Make:
        def make(kit: Kit) -> Head:
            payload = kit.manifest.emit()
            assert old in payload
            return kit.forger.packed(kit.head, payload.replace(old, new, 1))

        return make

    def volume(**change: Any) -> Make:
        return edit(lambda manifest: manifest["volumes"][0].update(change))

    def file(**change: Any) -> Make:
        return edit(lambda manifest: manifest["files"][0].update(change))

    zero = "sha256:" + "0" * 64
    table: list[tuple[str, str, str, Make]] = [
        (
            "duplicate_key",
            "a field twice",
            "measured: Python's json reads it",
            raw(b'"bases":[]', b'"bases":[],"bases":[]'),
        ),
        ("nan", "NaN", "", raw(b'"bases":[]', b'"bases":NaN')),
        ("deep", "1000 lists in each other", "", raw(b'"bases":[]', b'"bases":' + b"[" * 1000 + b"]" * 1000)),
        ("white_space", "white space", "", raw(b'"bases":[]', b'"bases": []')),
        ("bom", "a byte order mark", "", raw(b'{"bases"', b'\xef\xbb\xbf{"bases"')),
        (
            "trailing_newline",
            "a newline behind it",
            "",
            lambda kit: kit.forger.packed(kit.head, kit.manifest.emit() + b"\n"),
        ),
        ("empty", "no byte", "", lambda kit: kit.forger.packed(kit.head, b"")),
        ("unknown_key", "an unknown field", "", edit(lambda manifest: manifest.update(extra=1))),
        ("missing_key", "a missing field", "", edit(lambda manifest: manifest.pop("files"))),
        ("other_schema", "another schema", "", edit(lambda manifest: manifest.update(schema="airpack.package/2"))),
        ("base", "a base, which this version does not know", "", edit(lambda manifest: manifest.update(bases=[zero]))),
        ("volume_name_escape", "a volume name that leads out", "CVE-2007-4559", volume(name="../many.airvol")),
        ("volume_name_absolute", "an absolute volume name", "CVE-2014-9356", volume(name="/etc/many.airvol")),
        (
            "volume_name_backslash",
            "a volume name with a backslash",
            "ZIP traversal on Windows",
            volume(name="..\\many.airvol"),
        ),
        ("volume_name_drive", "a volume name with a drive", "ZIP traversal on Windows", volume(name="c:many.airvol")),
        ("volume_name_nul", "a volume name with a NUL", "GHSA-pqhf-p39g-3x64", volume(name="a\x00.airvol")),
        ("volume_name_newline", "a volume name with a newline", "", volume(name="a\n.airvol")),
        ("volume_name_upper", "a volume name in upper case", "CVE-2026-23950", volume(name="MANY-1.0.0.0001.airvol")),
        ("volume_name_sharp_s", "a volume name with an eszett", "CVE-2026-23950", volume(name="ma\u00df.airvol")),
        ("volume_name_long", "a volume name of 300 characters", "", volume(name="a" * 293 + ".airvol")),
        ("volume_name_space", "a volume name that ends in a space", "", volume(name="many.airvol ")),
        ("volume_name_dot", "a volume name that ends in a dot", "", volume(name="many.airvol.")),
        ("volume_name_head", "the head as a volume", "", volume(name="many-1.0.0.airpack")),
        ("volume_name_empty", "a volume without a name", "", volume(name="")),
        (
            "volume_twice",
            "a volume twice",
            "",
            edit(lambda manifest: manifest["volumes"].insert(0, manifest["volumes"][0])),
        ),
        ("volumes_none", "files, but no volumes", "", edit(lambda manifest: manifest.update(volumes=[]))),
        ("entries_zero", "a volume of no chunks", "", volume(entries=0)),
        ("entries_above_slots", "more chunks than slots", "", volume(entries=1 << 19)),
        ("slots_2_20", "more slots than are read", "memory exhaustion", volume(slots=(1 << 20) + 1)),
        ("slots_2_32", "slots that wrap at 32 bits", "integer overflow", volume(slots=(1 << 32) + 3)),
        ("size_zero", "a volume of no bytes", "", volume(size=0)),
        ("size_small", "a volume too small for its table", "integer underflow", volume(size=100)),
        ("size_2_40", "a volume larger than is read", "", volume(size=(1 << 40) + 1)),
        ("size_2_53", "a size that a double does not hold", "", volume(size=(1 << 53) + 1)),
        ("size_2_63", "a size that is negative in 64 bits", "integer overflow", volume(size=1 << 63)),
        ("size_2_64", "a size that is 0 in 64 bits", "integer overflow", volume(size=1 << 64)),
        ("table_short_digest", "a digest that is too short", "CVE-2024-3727", volume(table="sha256:00")),
        ("table_empty_digest", "an empty digest", "CVE-2024-3727", volume(table="sha256:")),
        ("table_upper_digest", "a digest in upper case", "CVE-2024-3727", volume(table="sha256:" + "A" * 64)),
        ("table_sha512", "a digest of another kind", "CVE-2024-3727", volume(table="sha512:" + "0" * 128)),
        (
            "table_digest_path",
            "a digest that is a path",
            "GHSA-f689-h8m7-3jp2",
            volume(table="sha256:../../../../etc/passwd"),
        ),
        ("table_digest_newline", "a digest with a newline behind it", "CVE-2024-3727", volume(table=zero + "\n")),
        (
            "file_digest_path",
            "a file's digest that is a path",
            "GHSA-f689-h8m7-3jp2",
            file(digest="sha256:" + "../" * 20 + "evil"),
        ),
        ("file_digest_bare", "a file's digest without its kind", "CVE-2024-3727", file(digest="0" * 64)),
        ("file_twice", "a file twice", "", edit(lambda manifest: manifest["files"].append(manifest["files"][0]))),
        ("file_negative", "a negative size", "integer underflow", file(size=-1)),
        ("file_fraction", "a size that is no whole number", "", file(size=1.5)),
        ("file_true", "true for a size", "", file(size=True)),
        ("file_text", "text for a size", "", file(size="12")),
        ("file_null", "null for a size", "", file(size=None)),
        ("file_2_44", "a file larger than is read", "", file(size=(1 << 44) + 1)),
        ("file_2_53", "a size that a double does not hold", "", file(size=(1 << 53) + 1)),
        ("file_2_63", "a size that is negative in 64 bits", "integer overflow", file(size=1 << 63)),
        ("file_2_64_1", "the largest number of 64 bits", "integer overflow", file(size=(1 << 64) - 1)),
        ("files_unlike_chunks", "more bytes of files than the chunks can hold", "zip bombs", file(size=1 << 43)),
        (
            "product_escape",
            "a product that leads out",
            "CVE-2007-4559",
            edit(lambda manifest: manifest.update(product="../other")),
        ),
        (
            "version_escape",
            "a version that leads out",
            "CVE-2007-4559",
            edit(lambda manifest: manifest.update(version="../1")),
        ),
        (
            "needs_words",
            "no version of airpack that it needs",
            "",
            edit(lambda manifest: manifest.update(needs_airpack="new")),
        ),
        (
            "needs_long",
            "a version of a thousand digits",
            "CVE-2020-10735",
            edit(lambda manifest: manifest.update(needs_airpack="1" * 1000 + ".0.0")),
        ),
    ]
    for name, text, source, make in table:
        attack(f"manifest_{name}", f"package manifest: {text}", PACKAGE, make, source=source)


def json_like(document: Any) -> bytes:
    """Return canonical JSON, or as near to it as numbers allow that have no canonical form."""
    try:
        return canonical.emit(document)
    except ValueError:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


heads_in_text()
heads_in_bytes()
channels()
policies()
packages()
manifests()
