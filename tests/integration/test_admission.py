"""Admission, step by step in its numbered order: what each refuses, with which exit code, and what it leaves alone.

Every refusal is held to the same: `verify` says `ok: false` with the failing check last, `import` gives the error
document, nothing visible changed at the site, the medium is untouched, and the refusal is on record in a log that still
audits.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import airpack.fsops
from airpack.crypto.keys import PrivateKey
from airpack.errors import AirpackError
from airpack.formats import canonical, dsse
from airpack.formats.trust import Revocations, TrustPolicy
from airpack.ops.import_ import import_package
from airpack.types import Digest

Damage = Callable[[Path], None]
ERROR_KEYS = {"code", "exit_code", "message", "hint", "context"}


@pytest.fixture(scope="module")
def medium(bench: Any) -> Path:
    return Path(bench.build("1.0.0"))


@pytest.fixture(scope="module")
def newer(bench: Any, medium: Path) -> Path:  # noqa: ARG001, built after it
    return Path(bench.build("1.1.0"))


@pytest.fixture(scope="module")
def other(bench: Any, newer: Path) -> Path:  # noqa: ARG001, built after it, so that its metadata is the newest
    """A package of several volumes, of a product that no floor stands against: what most tests carry and damage."""
    return Path(bench.build("1.0.0", "other", count=1_200_000, volume_size="2MiB"))


@dataclass
class Gate:
    """A site and the root to verify by, and what must hold of every refusal."""

    site: Any
    root: Path
    tmp: Path
    airpack: Callable[..., Any]
    snapshot: Callable[[Path], Any]

    def refuses(
        self, medium: Path, exit_code: int, code: str, step: str, *, verify: bool = True, recorded: bool = True
    ) -> Any:
        """Hold verify and import to a refusal at `step`, and return the error of the import."""
        before, bytes_before = self.site.visible(), self.snapshot(medium)
        records = len(self.site.records())
        if verify:
            self.check_verify(medium, exit_code, code, step)
        document = self.site.run("import", medium, expect=exit_code).json
        error = document["error"]
        check_error(error, exit_code, code)
        assert self.site.visible() == before, "a refusal changes nothing visible"
        assert self.snapshot(medium) == bytes_before, "a medium is never written"
        if recorded:
            record = [item for item in self.site.records()[records:] if item["event"] == "import"][-1]
            assert record["outcome"] in {"refused", "failed"}
            assert record["reason"] == code
            assert record["phase"] == "result" or record["data"]["step"] == step
        self.site.audit(self.tmp / "evidence.zip")
        return error

    def check_verify(self, medium: Path, exit_code: int, code: str, step: str, *more: str) -> Any:
        """Hold `verify` to a refusal at `step`: the failing check is the last one and the only one."""
        document = self.airpack("verify", medium, "--root", self.root, *more, "--json", expect=exit_code).json
        check_error(document["error"], exit_code, code)
        assert document["ok"] is False
        assert [check["ok"] for check in document["checks"][:-1]] == [True] * (len(document["checks"]) - 1)
        last = document["checks"][-1]
        assert (last["name"], last["ok"]) == (step, False)
        assert last["detail"] == document["error"]["message"]
        return document


def check_error(error: Any, exit_code: int, code: str) -> None:
    assert set(error) == ERROR_KEYS
    assert (error["exit_code"], error["code"]) == (exit_code, code), error["message"]
    assert error["message"]
    assert isinstance(error["hint"], str)
    assert isinstance(error["context"], dict)


@pytest.fixture
def gate(  # noqa: PLR0917, fixtures come by name
    site: Any, bench: Any, tmp_path: Path, airpack: Callable[..., Any], snapshot: Callable[[Path], Any], newer: Path
) -> Gate:
    """A site that already holds and runs 1.1.0, so that there is something a refusal could break."""
    site.run("import", newer)
    site.run("activate", "tool@1.1.0")
    return Gate(site, bench.root, tmp_path, airpack, snapshot)


@pytest.fixture
def carried(carry: Callable[[Path], Path], other: Path) -> Path:
    """A copy of that package, to be damaged."""
    return carry(other)


@pytest.fixture
def later(carry: Callable[[Path], Path], newer: Path, other: Path, forger: Any) -> Callable[..., Path]:
    """Return what makes a medium of 1.1.0 whose metadata is newer than all others and lists what it is told to."""

    def make(change: dict[str, bytes | None]) -> Path:
        medium, latest = carry(newer), forger.listed(forger.read(other), change)
        forger.write(medium, replace(forger.read(newer), metadata=latest.metadata, targets=latest.targets))
        return medium

    return make


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def volumes(medium: Path) -> list[Path]:
    return sorted(medium.glob("*.airvol"))


# -- the control ------------------------------------------------------------------------------------------------------


def test_the_package_that_is_damaged_below_is_admitted_undamaged(gate: Gate, carried: Path, bench: Any) -> None:
    assert len(volumes(carried)) >= 3
    done = gate.airpack("verify", carried, "--root", bench.root, "--json").json
    assert (done["ok"], done["product"]) == (True, "other")
    assert gate.site.run("import", carried).json["state"] == "ready"


def test_a_forged_release_with_every_signature_right_is_admitted(gate: Gate, carried: Path, forger: Any) -> None:
    """The control of the forger: what it refuses below is refused for the one thing that was changed."""
    forger.write(carried, forger.released(forger.read(carried), lambda _kind, value: value))
    assert gate.site.run("import", carried).json["state"] == "ready"


# -- 1. head ----------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_head_is_not_found(gate: Gate, carried: Path, forger: Any) -> None:
    forger.file(carried).unlink()
    before = gate.site.visible()
    for words in (["verify", carried, "--root", gate.root], ["import", carried, "--site", gate.site.folder]):
        document = gate.airpack(*words, "--json", expect=3).json
        check_error(document["error"], 3, "not_found")
        assert ".airpack" in document["error"]["message"]
    assert gate.site.visible() == before


def test_two_heads_in_one_folder_must_be_named(gate: Gate, carried: Path, newer: Path, forger: Any) -> None:
    first, second = forger.file(carried), forger.file(newer)
    (carried / second.name).write_bytes(second.read_bytes())
    error = gate.site.run("import", carried, expect=2).json["error"]
    check_error(error, 2, "input")
    assert second.name in error["message"]
    assert gate.site.run("import", first).json["product"] == "other"


def damage_heads() -> dict[str, Damage]:
    """Return damage to a head's bytes by name."""

    def at(place: Callable[[int], int]) -> Damage:
        def damage(head: Path) -> None:
            flip(head, place(head.stat().st_size))

        return damage

    def cut(keep: Callable[[int], int]) -> Damage:
        def damage(head: Path) -> None:
            head.write_bytes(head.read_bytes()[: keep(head.stat().st_size)])

        return damage

    def append(data: bytes) -> Damage:
        def damage(head: Path) -> None:
            head.write_bytes(head.read_bytes() + data)

        return damage

    return {
        "first byte": at(lambda _: 0),
        "a byte in the text": at(lambda size: size // 3),
        "another byte in the text": at(lambda size: size - 100),
        "the newline before the checksum": at(lambda size: size - 73),
        "a digit of the checksum": at(lambda size: size - 10),
        "the last newline": at(lambda size: size - 1),
        "empty": cut(lambda _: 0),
        "cut in the text": cut(lambda size: size // 2),
        "cut before the checksum": cut(lambda size: size - 72),
        "one byte short": cut(lambda size: size - 1),
        "a newline more": append(b"\n"),
        "data behind the end": append(b"more"),
        "itself twice": lambda head: head.write_bytes(head.read_bytes() * 2) and None,
        "longer than a head may be": lambda head: os.truncate(head, (16 << 20) + 1),
    }


@pytest.mark.parametrize("name", damage_heads())
def test_a_damaged_head_is_refused(gate: Gate, carried: Path, forger: Any, name: str) -> None:
    damage_heads()[name](forger.file(carried))
    if name == "longer than a head may be":
        error = gate.refuses(carried, 10, "integrity", "head", verify=False)
        assert error["context"]["path"] == str(forger.file(carried))
        return
    error = gate.refuses(carried, 10, "integrity", "head")
    assert "head" in error["message"]


def resealed_heads() -> dict[str, Callable[[dict[str, Any], bytes], bytes]]:
    """Return what a hostile hand can do to a head's text, by name: (document, its text) -> new text."""

    def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any], bytes], bytes]:
        def apply(document: dict[str, Any], _text: bytes) -> bytes:
            change(document)
            return canonical.emit(document)

        return apply

    def text(old: bytes, new: bytes) -> Callable[[dict[str, Any], bytes], bytes]:
        return lambda _document, data: data.replace(old, new, 1)

    return {
        "a duplicate key": text(b'"schema":"airpack.head/1"', b'"schema":"airpack.head/1","schema":"airpack.head/1"'),
        "a duplicate key inside": text(b'"payloadType":', b'"payloadType":"x","payloadType":'),
        "NaN": text(b'"schema":"airpack.head/1"', b'"schema":NaN'),
        "Infinity": text(b'"schema":"airpack.head/1"', b'"schema":-Infinity'),
        "a float that overflows": text(b'"schema":"airpack.head/1"', b'"schema":1e999'),
        "deep nesting": text(b'"schema":"airpack.head/1"', b'"schema":' + b"[" * 5000 + b"]" * 5000),
        "33 levels": text(b'"schema":"airpack.head/1"', b'"schema":' + b"[" * 33 + b"]" * 33),
        "white space": text(b'{"blobs":', b'{ "blobs":'),
        "another order of keys": lambda document, _text: json.dumps(
            dict(reversed(document.items())), separators=(",", ":")
        ).encode(),
        "an unknown key": edit(lambda document: document.update(extra=1)),
        "a missing key": edit(lambda document: document.pop("trust")),
        "another schema": edit(lambda document: document.update(schema="airpack.head/2")),
        "a list": lambda _document, _text: b"[]",
        "not UTF-8": text(b'"schema":"airpack.head/1"', b'"schema":"\xff"'),
        "a lone surrogate": text(b'"schema":"airpack.head/1"', b'"schema":"\\ud800"'),
        "a byte order mark": lambda _document, data: b"\xef\xbb\xbf" + data,
        "blobs out of order": edit(lambda document: document["blobs"].reverse()),
        "a blob twice": edit(lambda document: document["blobs"].insert(0, document["blobs"][0])),
        "base64 in another spelling": edit(lambda document: document["blobs"].__setitem__(0, "e30")),
        "a number for a blob": edit(lambda document: document["blobs"].append(7)),
        "an odd metadata name": edit(lambda document: document["trust"]["metadata"].update({"../1.root.json": "e30="})),
        "an odd target name": edit(lambda document: document["trust"]["targets"].update({"/policy.json": "e30="})),
    }


@pytest.mark.parametrize("name", resealed_heads())
def test_a_head_that_is_not_strict_and_canonical_is_refused_under_a_right_checksum(
    gate: Gate, carried: Path, forger: Any, name: str
) -> None:
    body = forger.file(carried).read_bytes().rsplit(b"\n", 2)[0]
    forged = resealed_heads()[name](json.loads(body), body)
    assert forged != body
    forger.write_body(carried, forged)
    gate.refuses(carried, 10, "integrity", "head")


def irregular() -> dict[str, Damage]:
    """Return what may lie in the place of a regular file, by name."""

    def link(file: Path) -> None:
        real = file.parent.parent / f"real-{file.name}"
        file.rename(real)
        file.symlink_to(real)

    def fifo(file: Path) -> None:
        file.unlink()
        os.mkfifo(file)

    def folder(file: Path) -> None:
        file.unlink()
        file.mkdir()

    def device(file: Path) -> None:
        file.unlink()
        file.symlink_to("/dev/zero")

    def socket(file: Path) -> None:
        file.unlink()
        os.mknod(file, 0o140600)

    return {"a link": link, "a pipe": fifo, "a folder": folder, "a link to a device": device, "a socket": socket}


@pytest.mark.parametrize("name", irregular())
def test_what_is_no_regular_file_in_the_head_s_place_is_refused(
    gate: Gate, carried: Path, forger: Any, name: str
) -> None:
    irregular()[name](forger.file(carried))
    gate.refuses(carried, 10, "integrity", "head", verify=False)
    document = gate.airpack("verify", carried, "--root", gate.root, "--json", expect=10).json
    assert document["ok"] is False
    check_error(document["error"], 10, "integrity")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
@pytest.mark.parametrize("where", ["head", "volume"])
def test_a_device_node_is_refused(gate: Gate, carried: Path, forger: Any, where: str) -> None:
    file = forger.file(carried) if where == "head" else volumes(carried)[0]
    file.unlink()
    try:
        os.mknod(file, 0o20600, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("this container makes no device nodes")
    gate.refuses(carried, 10, "integrity", "head" if where == "head" else "volumes", verify=where == "volume")


# -- 2. channel -------------------------------------------------------------------------------------------------------


def test_another_root_is_refused(
    new_bench: Callable[[], Any],
    new_site: Callable[..., Any],
    carried: Path,
    gate: Gate,
    tmp_path: Path,
) -> None:
    foreign = new_bench()
    strange = Gate(new_site(foreign.root), foreign.root, tmp_path, gate.airpack, gate.snapshot)
    error = strange.refuses(carried, 11, "trust", "channel")
    assert "another channel" in error["message"]
    assert error["context"]["expected"] == str(Digest.of(foreign.root.read_bytes()))


def test_expired_metadata_is_refused_by_verify_at_a_later_time(
    gate: Gate, carried: Path, expiry: Callable[[Path], datetime]
) -> None:
    end = expiry(carried)
    before, after = (end - timedelta(seconds=1)).isoformat(), end.isoformat()
    assert gate.airpack("verify", carried, "--root", gate.root, "--at", before, "--json").json["ok"] is True
    document = gate.check_verify(carried, 11, "expired", "channel", "--at", after)
    assert "publish" in document["error"]["hint"]


def test_expired_metadata_refuses_an_import_and_never_what_runs(
    gate: Gate, carried: Path, expiry: Callable[[Path], datetime], tmp_path: Path, snapshot: Callable[[Path], Any]
) -> None:
    end = expiry(carried)
    site = gate.site.open()
    site.now = lambda: end
    before, bytes_before = gate.site.visible(), snapshot(carried)
    with pytest.raises(AirpackError) as caught:
        import_package(site, [carried])
    assert (caught.value.code, caught.value.exit_code) == ("expired", 11)
    assert gate.site.visible() == before
    assert snapshot(carried) == bytes_before
    record = gate.site.records()[-1]
    assert (record["event"], record["outcome"], record["reason"]) == ("import", "refused", "expired")
    gate.site.audit(tmp_path / "evidence.zip")
    assert gate.site.run("activate", "tool@1.1.0").json["state"] == "good"


def test_a_clock_before_a_time_that_the_channel_signed_is_not_believed_and_goes_on_record(
    gate: Gate, carried: Path
) -> None:
    site = gate.site.open()
    site.now = lambda: datetime(2001, 1, 1, tzinfo=UTC)
    import_package(site, [carried])
    (record,) = [record for record in gate.site.records() if "floor" in record["data"]]
    assert record["data"]["clock"] == "2001-01-01T00:00:00Z"
    assert record["data"]["floor"] > "2026"


def test_an_older_medium_is_accepted_while_its_release_is_listed_and_lowers_nothing(
    site: Any, medium: Path, newer: Path
) -> None:
    site.run("import", newer)
    versions = {path.name: path.read_bytes() for path in (site.folder / "trust/current/").glob("*.json")}
    assert site.run("import", medium).json["version"] == "1.0.0"
    assert {path.name: path.read_bytes() for path in (site.folder / "trust/current/").glob("*.json")} == versions
    assert site.states() == {"tool@1.0.0": "ready", "tool@1.1.0": "ready"}


def test_metadata_that_lowers_a_version_inside_a_newer_set_is_refused(
    gate: Gate, carried: Path, carry: Callable[[Path], Path], forger: Any
) -> None:
    gate.site.run("import", carry(carried))
    head = forger.listed(forger.listed(forger.read(carried), {}), {})
    forger.write(carried, head)
    gate.site.run("import", carried)
    lower = forger.listed(head, {}, lower=True)
    again = carry(carried)
    forger.write(again, lower)
    gate.refuses(again, 13, "rollback", "channel", verify=False)


def test_minimum_versions_of_enrolment_bind(
    bench: Any, new_site: Callable[..., Any], carried: Path, gate: Gate, tmp_path: Path
) -> None:
    strict = Gate(new_site(bench.root, "--minimum", "timestamp=999"), bench.root, tmp_path, gate.airpack, gate.snapshot)
    strict.refuses(carried, 13, "rollback", "channel", verify=False)


def test_metadata_by_another_key_is_refused(
    gate: Gate, carried: Path, forger: Any, new_forger: Callable[[Any], Any], bench: Any
) -> None:
    thief = new_forger(bench)
    thief.keys["timestamp"] = PrivateKey.generate()
    forger.write(carried, thief.listed(forger.read(carried), {}))
    gate.refuses(carried, 11, "threshold", "channel")


@pytest.mark.parametrize("name", ["timestamp.json", "1.root.json", "snapshot", "targets"])
def test_missing_metadata_is_refused(gate: Gate, carried: Path, forger: Any, name: str) -> None:
    head = forger.listed(forger.read(carried), {})  # newer than what the site holds, so that its own cannot help
    kept = {key: data for key, data in head.metadata.items() if name not in key}
    forger.write(carried, replace(head, metadata=kept))
    gate.refuses(carried, 11, "trust", "channel")


# -- 3. policy --------------------------------------------------------------------------------------------------------


def test_a_policy_that_is_not_the_listed_one_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.listed(forger.read(carried), {"policy.json": b"{}"})
    forger.write(carried, replace(head, targets={**head.targets, "policy.json": b"{ }"}))
    gate.refuses(carried, 11, "trust", "channel")


@pytest.mark.parametrize("name", ["no policy", "unknown key", "threshold 0", "threshold above its keys", "a key twice"])
def test_a_policy_that_breaks_its_rules_is_refused(gate: Gate, carried: Path, forger: Any, name: str) -> None:
    head = forger.read(carried)
    policy = json.loads(head.targets["policy.json"])
    role = policy["roles"]["release"]
    if name == "unknown key":
        policy["extra"] = True
    elif name == "threshold 0":
        role["threshold"] = 0
    elif name == "threshold above its keys":
        role["threshold"] = 2
    elif name == "a key twice":
        role["keys"] *= 2
    data = b"" if name == "no policy" else canonical.emit(policy)
    forger.write(carried, forger.listed(head, {"policy.json": data}))
    gate.refuses(carried, 10, "integrity", "policy")


def test_a_policy_of_another_channel_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    policy = replace(TrustPolicy.parse(head.targets["policy.json"]), channel="elsewhere")
    forger.write(carried, forger.listed(head, {"policy.json": policy.emit()}))
    gate.refuses(carried, 11, "trust", "policy")


# -- 4. package -------------------------------------------------------------------------------------------------------


def test_a_package_manifest_signed_by_nobody_we_know_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    forger.write(carried, forger.packed(head, forger.manifest(head).emit(), key=PrivateKey.generate()))
    gate.refuses(carried, 11, "threshold", "package")


def test_a_package_manifest_under_another_payload_type_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    forger.write(carried, forger.packed(head, forger.manifest(head).emit(), kind="application/vnd.in-toto+json"))
    gate.refuses(carried, 11, "trust", "package")


def test_a_signed_package_manifest_that_was_changed_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    envelope = dsse.parse(head.package)
    changed = replace(envelope, payload=envelope.payload.replace(b'"version":"1.0.0"', b'"version":"1.0.1"'))
    assert changed != envelope
    forger.write(carried, replace(head, package=dsse.emit(changed)))
    gate.refuses(carried, 11, "threshold", "package")


def test_a_package_for_a_newer_airpack_is_refused_politely(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    forger.write(carried, forger.packed(head, replace(forger.manifest(head), needs_airpack="99.0.0").emit()))
    error = gate.refuses(carried, 12, "policy", "package")
    assert "99.0.0" in error["message"]
    assert "newer airpack" in error["hint"]


def test_a_form_that_only_a_newer_airpack_reads_is_refused_as_that_and_not_as_damage(
    gate: Gate, carried: Path, forger: Any
) -> None:
    head = forger.read(carried)
    later = json.loads(forger.manifest(head).emit()) | {
        "schema": "airpack.package/2",
        "needs_airpack": "99.0.0",
        "x": 1,
    }
    forger.write(carried, forger.packed(head, canonical.emit(later)))
    error = gate.refuses(carried, 12, "policy", "package")
    assert error["context"] == {"have": airpack.__version__, "needs": "99.0.0"}
    assert "release of the product airpack" in error["hint"]


def signed_manifests() -> dict[str, Callable[[dict[str, Any]], object]]:
    """Return what a packer with a right key may write into a manifest, by name."""

    def volume(**change: Any) -> Callable[[dict[str, Any]], object]:
        return lambda manifest: manifest["volumes"][0].update(change)

    return {
        "a volume name that leads out": volume(name="../other-1.0.0.0001.airvol"),
        "an absolute volume name": volume(name="/tmp/other.airvol"),
        "an upper-case volume name": volume(name="OTHER.airvol"),
        "a volume name with a NUL": volume(name="a\x00.airvol"),
        "a volume twice": lambda manifest: manifest["volumes"].insert(0, manifest["volumes"][0]),
        "no chunks in a volume": volume(entries=0),
        "more chunks than slots": volume(entries=1 << 19),
        "an endless table": volume(slots=1 << 40),
        "a volume of no size": volume(size=0),
        "a digest that is none": volume(table="sha256:XYZ"),
        "a digest of another kind": volume(table="sha512:" + "0" * 128),
        "a file twice": lambda manifest: manifest["files"].append(manifest["files"][0]),
        "a negative size": lambda manifest: manifest["files"][0].update(size=-1),
        "a size that is no whole number": lambda manifest: manifest["files"][0].update(size=1.5),
        "a size that is true": lambda manifest: manifest["files"][0].update(size=True),
        "files of 2**53 bytes": lambda manifest: manifest["files"][0].update(size=2**53 - 1),
        "an unknown key": lambda manifest: manifest.update(extra=1),
        "a base": lambda manifest: manifest.update(bases=["sha256:" + "0" * 64]),
        "a product with a slash": lambda manifest: manifest.update(product="../other"),
        "a version that leads out": lambda manifest: manifest.update(version="../1"),
        "no version of airpack": lambda manifest: manifest.update(needs_airpack="new"),
    }


@pytest.mark.parametrize("name", signed_manifests())
def test_a_signed_manifest_that_breaks_a_rule_is_refused(gate: Gate, carried: Path, forger: Any, name: str) -> None:
    head = forger.read(carried)
    manifest = json.loads(forger.manifest(head).emit())
    signed_manifests()[name](manifest)
    forger.write(carried, forger.packed(head, canonical.emit(manifest)))
    gate.refuses(carried, 10, "integrity", "package")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"bases":[]', b'"bases":[],"bases":[]'),
        (b'"bases":[]', b'"bases":NaN'),
        (b'"bases":[]', b'"bases":' + b"[" * 1000 + b"]" * 1000),
        (b'"bases":[]', b'"bases": []'),
    ],
    ids=["duplicate key", "NaN", "deep nesting", "white space"],
)
def test_a_signed_manifest_that_is_not_strict_canonical_json_is_refused(
    gate: Gate, carried: Path, forger: Any, old: bytes, new: bytes
) -> None:
    head = forger.read(carried)
    payload = forger.manifest(head).emit()
    assert old in payload
    forger.write(carried, forger.packed(head, payload.replace(old, new)))
    gate.refuses(carried, 10, "integrity", "package")


# -- 5. release -------------------------------------------------------------------------------------------------------


def test_a_withdrawn_release_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    forger.write(carried, forger.listed(forger.read(carried), {"other@1.0.0.json": None}))
    error = gate.refuses(carried, 11, "trust", "release")
    assert "does not list other@1.0.0.json" in error["message"]


def test_a_release_that_was_withdrawn_later_is_refused_from_an_older_medium(
    gate: Gate, carried: Path, later: Callable[..., Path]
) -> None:
    gate.site.run("import", later({"other@1.0.0.json": None}))
    gate.refuses(carried, 11, "trust", "release", verify=False)


def test_a_revoked_release_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    reason = "its training data was wrong"
    revoked = Revocations({forger.manifest(head).release: reason})
    forger.write(carried, forger.listed(head, {"revocations.json": revoked.emit()}))
    error = gate.refuses(carried, 12, "revoked", "release")
    assert reason in error["message"]


def test_an_older_medium_cannot_bring_back_what_was_revoked_since(
    gate: Gate, carried: Path, later: Callable[..., Path], forger: Any
) -> None:
    revoked = Revocations({forger.manifest(forger.read(carried)).release: "bad"})
    gate.site.run("import", later({"revocations.json": revoked.emit()}))
    gate.refuses(carried, 12, "revoked", "release", verify=False)


def test_another_release_than_the_listed_one_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    other = replace(forger.manifest(head), release=Digest.of(b"another"))
    forger.write(carried, forger.packed(head, other.emit()))
    gate.refuses(carried, 10, "integrity", "release")


def test_a_head_without_one_of_the_release_s_documents_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    index = json.loads(head.blobs[forger.manifest(head).release])
    forger.write(carried, forger.with_blobs(head, remove=[Digest(index["manifests"][0]["digest"])]))
    gate.refuses(carried, 10, "integrity", "release")


def test_a_changed_document_is_a_missing_one(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    digest = Digest(json.loads(head.blobs[forger.manifest(head).release])["manifests"][0]["digest"])
    data = head.blobs[digest].replace(b"1", b"2", 1)
    forger.write(carried, forger.with_blobs(head, {Digest.of(data): data}, [digest]))
    gate.refuses(carried, 10, "integrity", "release")


@pytest.mark.parametrize("change", ["a file less", "a file more", "another size"])
def test_a_package_that_is_not_exactly_its_release_is_refused(
    gate: Gate, carried: Path, forger: Any, change: str
) -> None:
    head = forger.read(carried)
    manifest = forger.manifest(head)
    small = min(manifest.files, key=lambda file: file.size)
    files = {
        "a file less": tuple(file for file in manifest.files if file != small),
        "a file more": (*manifest.files, replace(small, digest=Digest.of(b"more"))),
        "another size": tuple(replace(file, size=file.size + (file == small)) for file in manifest.files),
    }[change]
    forger.write(carried, forger.packed(head, replace(manifest, files=files).emit()))
    gate.refuses(carried, 10, "integrity", "release")


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "a/../../evil",
        "a//evil",
        "./evil",
        "C:evil",
        "a\\evil",
        "nul.txt",
        "evil ",
        " evil",
        "evil.",
        "evil\n",
        "evil\x1b[2J",
        "\N{LATIN SMALL LETTER U WITH DIAERESIS}",
        "x" * 256,
        "a/" * 600 + "b",
        "",
    ],
    ids=ascii,
)
def test_a_signed_file_name_that_leads_out_or_is_odd_is_refused(
    gate: Gate, carried: Path, forger: Any, name: str
) -> None:
    forger.write(carried, forger.released(forger.read(carried), renamed("weights.safetensors", name)))
    gate.refuses(carried, 10, "integrity", "release")


def renamed(old: str, new: str) -> Callable[[str, Any], Any]:
    """Return an edit that puts `new` wherever `old` stands in a string, JSON in strings included."""

    def swap(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: swap(item) for key, item in value.items()}
        if isinstance(value, list):
            return [swap(item) for item in value]
        if isinstance(value, str) and value.startswith("{"):
            return canonical.emit(swap(json.loads(value))).decode()
        return re.sub(f"{re.escape(old)}$", lambda _: new, value) if isinstance(value, str) else value

    return lambda _kind, value: swap(value)


# -- 6. attestations --------------------------------------------------------------------------------------------------


def test_a_head_without_attestations_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    forger.write(carried, forger.without(forger.read(carried), "release", "builder", "bom", "cosign"))
    gate.refuses(carried, 11, "threshold", "attestations")


@pytest.mark.parametrize("role", ["release", "builder", "cosign"])
def test_a_stripped_attestation_is_refused(gate: Gate, carried: Path, forger: Any, role: str) -> None:
    forger.write(carried, forger.without(forger.read(carried), role, "bom"))
    gate.refuses(carried, 11, "threshold", "attestations")


def test_a_bill_of_materials_stands_in_for_no_provenance(gate: Gate, carried: Path, forger: Any) -> None:
    """The same key signed both."""
    forger.write(carried, forger.without(forger.read(carried), "builder"))
    error = gate.refuses(carried, 11, "trust", "attestations")
    assert "signed is: https://cyclonedx.org/bom" in error["message"]


@pytest.mark.parametrize("role", ["release", "builder", "cosign"])
def test_an_attestation_by_a_stranger_is_refused(gate: Gate, carried: Path, forger: Any, role: str) -> None:
    head = forger.read(carried)
    stranger = forger.attestation(head, role, key=PrivateKey.generate())
    forger.write(carried, forger.with_blobs(forger.without(head, role, "bom"), stranger))
    error = gate.refuses(carried, 11, "threshold", "attestations")
    assert error["context"]["threshold"] == 1


def test_the_attestation_of_another_release_is_refused(gate: Gate, carried: Path, newer: Path, forger: Any) -> None:
    head, other = forger.read(carried), forger.read(newer)
    subject = forger.manifest(head).release
    swapped = forger.attestation(other, "release", subject=subject, size=len(head.blobs[subject]))
    forger.write(carried, forger.with_blobs(forger.without(head, "release"), swapped))
    error = gate.refuses(carried, 11, "trust", "attestations")
    assert "about" in error["message"]


def test_a_referrer_of_another_release_is_refused(gate: Gate, carried: Path, newer: Path, forger: Any) -> None:
    head = forger.read(carried)
    foreign = forger.attestation(forger.read(newer), "release")
    forger.write(carried, forger.with_blobs(head, foreign))
    gate.refuses(carried, 10, "integrity", "attestations")


def test_an_attestation_of_another_role_s_kind_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    wrong = forger.attestation(head, "release", predicate_type="https://slsa.dev/provenance/v1")
    forger.write(carried, forger.with_blobs(forger.without(head, "release"), wrong))
    gate.refuses(carried, 11, "trust", "attestations")


@pytest.mark.parametrize(
    "change",
    [{"channel": "elsewhere"}, {"product": "tool"}, {"version": "9"}, {"compat": str(Digest.of(b"another"))}],
    ids=lambda change: next(iter(change)),
)
def test_a_release_attestation_that_says_something_else_is_refused(
    gate: Gate, carried: Path, forger: Any, change: dict[str, str]
) -> None:
    head = forger.read(carried)
    said = {**forger.statements(head)["release"].predicate, **change}
    wrong = forger.attestation(head, "release", predicate=said)
    forger.write(carried, forger.with_blobs(forger.without(head, "release"), wrong))
    gate.refuses(carried, 11, "trust", "attestations")


def test_two_statements_that_contradict_each_other_are_refused(gate: Gate, carried: Path, forger: Any) -> None:
    head = forger.read(carried)
    said = {**forger.statements(head)["release"].predicate, "sequence": 99}
    forger.write(carried, forger.with_blobs(head, forger.attestation(head, "release", predicate=said)))
    gate.refuses(carried, 11, "trust", "attestations")


def test_a_blob_that_belongs_to_nothing_is_refused(gate: Gate, carried: Path, forger: Any) -> None:
    stray = b"rides along"
    forger.write(carried, forger.with_blobs(forger.read(carried), {Digest.of(stray): stray}))
    gate.refuses(carried, 10, "integrity", "attestations")


def two_people(forger: Any, head: Any, second: PrivateKey) -> Any:
    """Return the head under a policy that asks for the release key and `second`, both."""
    policy = TrustPolicy.parse(head.targets["policy.json"])
    role = replace(policy.roles["release"], threshold=2, keys=(*policy.roles["release"].keys, second.public.der))
    strict = replace(policy, roles={**policy.roles, "release": role})
    return forger.listed(head, {"policy.json": strict.emit()})


def test_two_signatures_by_one_key_do_not_meet_a_threshold_of_two(gate: Gate, carried: Path, forger: Any) -> None:
    head = two_people(forger, forger.read(carried), PrivateKey.generate())
    again = forger.attestation(head, "release")
    assert set(again) - set(head.blobs), "ECDSA signs the same bytes differently each time"
    forger.write(carried, forger.with_blobs(head, again))
    error = gate.refuses(carried, 11, "threshold", "attestations")
    assert "2 of 2" in error["message"]
    assert error["context"]["threshold"] == 2
    assert len(error["context"]["signed_by"]) == 1


def test_two_people_meet_a_threshold_of_two(gate: Gate, carried: Path, forger: Any) -> None:
    second = PrivateKey.generate("ed25519")
    head = two_people(forger, forger.read(carried), second)
    forger.write(carried, forger.with_blobs(head, forger.attestation(head, "release", key=second)))
    assert gate.site.run("import", carried).json["state"] == "ready"


# -- 7. sequence ------------------------------------------------------------------------------------------------------


def test_an_older_release_than_what_proved_good_is_refused(
    gate: Gate, carry: Callable[[Path], Path], medium: Path
) -> None:
    """The floor of the gate's site is 1.1.0, number 2."""
    assert gate.airpack("verify", medium, "--root", gate.root, "--json").json["sequence"] == 1
    error = gate.refuses(carry(medium), 13, "rollback", "sequence", verify=False)
    assert (error["context"]["sequence"], error["context"]["floor"]) == (1, 2)
    assert "airpack rollback tool" in error["hint"]


@pytest.mark.parametrize("sequence", [2, 3])
def test_another_release_under_a_number_or_name_that_is_held_is_refused(
    gate: Gate, carry: Callable[[Path], Path], newer: Path, forger: Any, sequence: int
) -> None:
    """A thief of every key cannot replace what a site holds: neither its name nor its number is given twice."""
    forged = carry(newer)
    head = forger.released(forger.read(newer), slower)
    said = {**forger.statements(head)["release"].predicate, "sequence": sequence}
    head = forger.with_blobs(forger.without(head, "release"), forger.attestation(head, "release", predicate=said))
    manifest = forger.manifest(head)
    name = f"{manifest.product}@{manifest.version}.json"
    forger.write(forged, forger.listed(head, {name: head.blobs[manifest.release]}, sequence=sequence))
    gate.refuses(forged, 13, "rollback", "sequence", verify=False)


def slower(kind: str, value: Any) -> Any:
    """Give the probe another second: a change that breaks no rule, and makes another release of it."""
    if is_compat(kind, value):
        value["probe"]["timeout"] += 1
    return value


def is_compat(kind: str, value: Any) -> bool:
    return kind == "config" and value.get("schema") == "airpack.compat/1"


# -- 8. compatibility -------------------------------------------------------------------------------------------------


def test_a_release_for_another_platform_is_refused(gate: Gate, bench: Any) -> None:
    foreign = bench.build("1.0.0", "foreign", kind="binary", platform="linux/riscv64")
    error = gate.refuses(foreign, 12, "incompatible", "compatibility", verify=False)
    assert "riscv64" in error["message"]
    findings = {item["rule"]: item["verdict"] for item in error["context"]["findings"]}
    assert (findings["platform.os"], findings["platform.architecture"]) == ("pass", "fail")


def called(name: str) -> Callable[[str, Any], Any]:
    """Return an edit that calls the format of the first model file `name`."""

    def edit(kind: str, value: Any) -> Any:
        if is_compat(kind, value):
            value["files"][0]["format"] = name
        return value

    return edit


@pytest.mark.parametrize(("name", "verdict"), [("pickle", "fail"), ("zip", "unknown"), ("brand-new", "unknown")])
def test_a_format_that_runs_code_or_is_not_known_is_refused_however_well_it_is_signed(
    gate: Gate, carried: Path, forger: Any, name: str, verdict: str
) -> None:
    forger.write(carried, forger.released(forger.read(carried), called(name)))
    error = gate.refuses(carried, 12, "incompatible", "compatibility")
    assert {item["rule"]: item["verdict"] for item in error["context"]["findings"]}["format.safe"] == verdict


def test_a_file_that_is_not_what_the_signed_document_calls_it_is_refused(
    gate: Gate, carried: Path, forger: Any
) -> None:
    """Formats are read again from the bytes that arrived: a signature is no fact about bytes."""
    forger.write_all(carried, forger.released(forger.read(carried), called("gguf")))
    error = gate.refuses(carried, 12, "incompatible", "volumes", verify=False)
    assert "is safetensors by its bytes; the release calls it gguf" in error["message"]


# -- 9. space ---------------------------------------------------------------------------------------------------------


def test_too_little_space_is_refused_before_anything_is_written(
    gate: Gate, carried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airpack.fsops, "free_bytes", lambda _folder: 1 << 20)
    error = gate.refuses(carried, 20, "storage", "space", verify=False)
    assert error["context"]["free"] == 1 << 20
    assert error["context"]["needed"] > 4_800_000
    assert "airpack gc" in error["hint"]


# -- 10. volumes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [slice(1), slice(1, 2), slice(None)], ids=["first", "second", "all"])
def test_missing_volumes_are_named(gate: Gate, carried: Path, missing: slice) -> None:
    gone = volumes(carried)[missing]
    for volume in gone:
        volume.unlink()
    error = gate.refuses(carried, 30, "partial", "volumes")
    assert error["context"]["missing"] == [volume.name for volume in gone]
    assert error["hint"]


@pytest.mark.parametrize(
    ("number", "place", "what"),
    [
        (0, 0, "header"),
        (0, 20, "header"),
        (0, 127, "header"),
        (0, 128, "chunk table"),
        (0, 150, "chunk table"),
        (1, 40, "header"),
        (1, 128 + 64, "chunk table"),
        (0, 600_000, "chunk"),
        (1, 1_500_000, "chunk"),
        (2, -1, "chunk"),
    ],
)
def test_a_changed_byte_in_a_volume_is_refused_by_file_and_place(
    gate: Gate, carried: Path, number: int, place: int, what: str
) -> None:
    volume = volumes(carried)[number]
    offset = place % volume.stat().st_size
    flip(volume, offset)
    error = gate.refuses(carried, 10, "integrity", "volumes")
    assert volume.name in error["message"]
    assert what in error["message"]
    context = error["context"]
    assert context["volume"] == volume.name
    assert context["offset"] <= offset < context["offset"] + context["length"]


@pytest.mark.parametrize("change", ["one byte short", "half", "empty", "one byte more"])
def test_a_volume_of_another_size_is_refused(gate: Gate, carried: Path, change: str) -> None:
    volume = volumes(carried)[1]
    data = volume.read_bytes()
    cut = {"one byte short": data[:-1], "half": data[: len(data) // 2], "empty": b"", "one byte more": data + b"\0"}
    volume.write_bytes(cut[change])
    error = gate.refuses(carried, 10, "integrity", "volumes")
    assert (error["context"]["expected"], error["context"]["found"]) == (len(data), len(cut[change]))


def test_volumes_in_each_other_s_place_are_refused(gate: Gate, carried: Path) -> None:
    first, second, *rest = volumes(carried)
    one, two = first.read_bytes(), second.read_bytes()
    size = min(len(one), len(two))
    first.write_bytes(two[:size].ljust(len(one), b"\0"))
    second.write_bytes(one[:size].ljust(len(two), b"\0"))
    error = gate.refuses(carried, 10, "integrity", "volumes")
    assert f"volume 2 of {2 + len(rest)}" in error["message"]


@pytest.mark.parametrize("name", irregular())
def test_what_is_no_regular_file_in_a_volume_s_place_is_refused(gate: Gate, carried: Path, name: str) -> None:
    irregular()[name](volumes(carried)[1])
    gate.refuses(carried, 10, "integrity", "volumes")


def test_files_that_nobody_listed_are_counted_and_never_opened(gate: Gate, carried: Path) -> None:
    (carried / "autorun.inf").write_text("evil")
    os.mkfifo(carried / "pipe")
    done = gate.site.run("import", carried).json
    assert done["ignored"] == ["autorun.inf", "pipe"]
    result = [record for record in gate.site.records() if record["event"] == "import"][-2]
    assert (result["phase"], result["data"]["ignored_files"]) == ("intent", 2)


# -- and around them --------------------------------------------------------------------------------------------------


def test_a_locked_site_is_busy_and_changes_nothing(gate: Gate, carried: Path, program: Callable[..., Any]) -> None:
    before, records = gate.site.visible(), gate.site.records()
    words = ("--site", gate.site.folder, "--json")
    with airpack.fsops.Lock(gate.site.folder / ".lock"):
        for command in (["import", carried], ["activate", "tool@1.1.0"], ["rollback", "tool"], ["gc"], ["fsck"]):
            error = program(*command, *words, expect=21).json["error"]
            check_error(error, 21, "busy")
        assert program("status", *words).json["products"]["tool"]["active"]["version"] == "1.1.0", "looking is free"
    assert gate.site.visible() == before
    assert gate.site.records() == records


def test_a_dry_run_finds_what_an_import_would_refuse_and_records_nothing(
    gate: Gate, carried: Path, snapshot: Callable[[Path], Any]
) -> None:
    before = snapshot(gate.site.folder)
    plan = gate.site.run("import", carried, "--dry-run").json
    assert (plan["state"], plan["receipt"], plan["bytes_needed"] > 4_800_000) == (None, None, True)
    volumes(carried)[0].unlink()
    assert gate.site.run("import", carried, "--dry-run", expect=30).json["error"]["code"] == "partial"
    assert snapshot(gate.site.folder) == before


def test_a_site_whose_log_cannot_append_refuses_to_act(
    gate: Gate, carried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise airpack.errors.StorageError("no space left", path="entries.jsonl")

    before = gate.site.visible()
    monkeypatch.setattr("airpack.evidence.log.append_durable", full)
    for command in (["import", carried], ["activate", "tool@1.1.0"], ["gc"]):
        error = gate.site.run(*command, expect=20).json["error"]
        check_error(error, 20, "storage")
        assert "evidence log" in error["message"]
    monkeypatch.undo()
    assert gate.site.visible() == before
    assert gate.site.run("import", carried).json["state"] == "ready"


@pytest.mark.parametrize("damage", ["edited record", "lost record", "lost checkpoint"])
def test_a_site_whose_log_was_changed_refuses_to_act(gate: Gate, carried: Path, damage: str) -> None:
    before = gate.site.visible()
    log = gate.site.folder / "evidence/log"
    data = (log / "entries.jsonl").read_bytes()
    if damage == "edited record":
        (log / "entries.jsonl").write_bytes(data.replace(b'"done"', b'"failed"', 1))
    elif damage == "lost record":
        (log / "entries.jsonl").write_bytes(b"".join(data.splitlines(keepends=True)[:-1]))
    else:
        (log / "checkpoint").unlink()
    error = gate.site.run("import", carried, expect=10).json["error"]
    check_error(error, 10, "integrity")
    (log / "entries.jsonl").write_bytes(data)
    if damage != "lost checkpoint":
        assert gate.site.visible() == before
