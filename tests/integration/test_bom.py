"""A bill of materials goes from build to site, is shown only when it is verified, and is in nobody's way."""

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from airpack.crypto.keys import PrivateKey
from airpack.formats import canonical
from airpack.formats.statement import PREDICATE_PROVENANCE
from airpack.formats.trust import TrustPolicy
from airpack.ops.workspace import Workspace
from airpack.types import Digest

Carry = Callable[[Path], Path]
ROOT = Path(__file__).resolve().parents[2]
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


@pytest.fixture(scope="module")
def medium(bench: Any) -> Path:
    """One medium; tests that change it carry a copy."""
    path: Path = bench.build("1.0.0")
    return path


@pytest.fixture
def carried(medium: Path, carry: Carry) -> Path:
    return carry(medium)


def parts(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return every component by its `bom-ref`."""
    return {item["bom-ref"]: item for outer in document["components"] for item in (outer, *outer.get("components", []))}


# -- from build to site -----------------------------------------------------------------------------------------------


def test_a_package_brings_its_bill_of_materials_to_the_site(
    airpack: Callable[..., Any], bench: Any, site: Any, medium: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bom.json"
    assert airpack("inspect", medium, "--json").json["bom"] is True
    checked = airpack("verify", medium, "--root", bench.root, "--bom", out, "--json").json
    assert checked["bom"] == str(out)
    assert [item["name"] for item in checked["checks"]][-3:] == ["compatibility", "bom", "volumes"]
    document = json.loads(out.read_bytes())
    assert canonical.emit(document) == out.read_bytes()
    assert VALIDATOR.validate_str(out.read_text("utf-8")) is None
    weights = bench.folder / "specs/tool-1.0.0/model/weights.safetensors"
    found = parts(document)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found["model/m/weights.safetensors"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert found["model/m"]["licenses"] == [{"license": {"id": "MIT", "acknowledgement": "declared"}}]
    assert found["model/m"]["modelCard"]["properties"] == [{"name": "airpack:format", "value": "safetensors"}]
    assert found["runtime/tool"]["licenses"] == [{"license": {"name": "unknown"}}]

    site.run("import", medium)
    shown = site.run("show", "tool@1.0.0", "--bom").json
    assert shown["bom"] == document
    assert shown["verified"] is True
    assert shown["digest"] == str(Digest.of(out.read_bytes()))
    assert shown["release"] == checked["release"]
    assert shown == site.run("show", shown["release"], "--bom").json
    text = airpack("show", "tool@1.0.0", "--bom", "--site", site.folder).out
    assert "machine-learning-model" in text
    assert "unknown" in text
    assert site.run("fsck").json["ok"] is True
    site.run("activate", "tool@1.0.0")
    assert site.run("show", "tool@1.0.0", "--bom").json == shown


def test_an_existing_file_is_replaced_only_when_told(
    airpack: Callable[..., Any], bench: Any, medium: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bom.json"
    out.write_text("mine")
    words = ("verify", medium, "--root", bench.root, "--bom", out, "--json")
    assert airpack(*words, expect=2).json["error"]["code"] == "input"
    assert out.read_text() == "mine"
    airpack(*words, "--force")
    assert json.loads(out.read_bytes())["bomFormat"] == "CycloneDX"
    assert [path.name for path in tmp_path.iterdir()] == ["bom.json"]


def test_without_being_asked_verify_writes_nothing(airpack: Callable[..., Any], bench: Any, medium: Path) -> None:
    assert airpack("verify", medium, "--root", bench.root, "--json").json["bom"] is None


def test_the_same_release_built_elsewhere_has_the_same_bill(
    airpack: Callable[..., Any], bench: Any, new_bench: Callable[[], Any], medium: Path, tmp_path: Path
) -> None:
    other = new_bench()
    again = other.build("1.0.0")
    for name, root, path in (("one", bench.root, medium), ("two", other.root, again)):
        airpack("verify", path, "--root", root, "--bom", tmp_path / name, "--json")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.usefixtures("digits_wheels")
def test_the_real_example_has_a_valid_bill_with_the_licence_and_hash_of_each_wheel(
    airpack: Callable[..., Any], bench: Any, tmp_path: Path, digits_wheels: Path
) -> None:
    spec = ROOT / "manifests/digits-1.0.0.toml"
    airpack("build", spec, "-o", tmp_path / "stick", "--workspace", bench.workspace, "--json")
    out = tmp_path / "bom.json"
    airpack("verify", tmp_path / "stick", "--root", bench.root, "--bom", out, "--json")
    assert VALIDATOR.validate_str(out.read_text("utf-8")) is None
    found = parts(json.loads(out.read_bytes()))
    wheels = {item["name"]: item for item in found.values() if item["type"] == "library"}
    files = {path.name.partition("-")[0]: path for path in digits_wheels.glob("*.whl")}
    assert wheels.keys() == files.keys() == {"flatbuffers", "numpy", "onnxruntime", "packaging", "protobuf"}
    for name, item in wheels.items():
        assert item["hashes"][0]["content"] == hashlib.sha256(files[name].read_bytes()).hexdigest()
        assert item["purl"] == f"pkg:pypi/{name}@{item['version']}"
        assert item["licenses"] != [{"license": {"name": "unknown"}}]
    assert wheels["onnxruntime"]["licenses"] == [{"license": {"name": "MIT License", "acknowledgement": "declared"}}]
    assert wheels["packaging"]["licenses"][0]["expression"] == "Apache-2.0 OR BSD-2-Clause"
    model = found["model/digits"]
    assert model["licenses"][0]["license"]["id"] == "Apache-2.0"
    assert {"name": "airpack:format", "value": "onnx"} in model["modelCard"]["properties"]


# -- packages without one ---------------------------------------------------------------------------------------------


def without_one(forger: Any, head: Any) -> Any:
    """Return the head as an airpack made it that knew no bill of materials."""
    bare = forger.without(head, "bom", "builder")
    said = json.loads(json.dumps(dict(forger.statements(head)["builder"].predicate)))
    del said["runDetails"]["byproducts"]
    return forger.with_blobs(bare, forger.attestation(head, "builder", predicate=said))


def test_a_package_of_before_is_imported_and_said_to_carry_none(
    airpack: Callable[..., Any], bench: Any, forger: Any, site: Any, *, carried: Path, tmp_path: Path
) -> None:
    forger.write(carried, without_one(forger, forger.read(carried)))
    assert airpack("inspect", carried, "--json").json["bom"] is False
    airpack("verify", carried, "--root", bench.root, "--json")
    words = ("verify", carried, "--root", bench.root, "--bom", tmp_path / "bom.json", "--json")
    error = airpack(*words, expect=3).json["error"]
    assert "carries no bill of materials" in error["message"]
    assert not (tmp_path / "bom.json").exists()
    assert site.run("import", carried).json["state"] == "ready"
    assert site.run("show", "tool@1.0.0", "--bom", expect=3).json["error"]["code"] == "not_found"
    assert site.run("show", "tool@1.0.0").json["state"] == "ready"


def test_a_rebuild_keeps_the_attestations_of_before_and_so_makes_no_bill(
    airpack: Callable[..., Any], new_bench: Callable[[], Any]
) -> None:
    bench = new_bench()
    bench.build("1.0.0")
    workspace = Workspace.find(bench.workspace, bench.workspace)
    (built,) = workspace.releases()
    kept = [digest for digest in built.attestations if b"cyclonedx" not in workspace.blob(digest)]
    assert len(kept) == 3
    workspace.remember(replace(built, attestations=tuple(kept)), {})
    medium = bench.build("1.0.0")
    assert len(airpack("inspect", medium, "--json").json["claims"]) == 3


def test_a_bundle_that_no_role_asks_for_stays_unread_at_import(forger: Any, site: Any, carried: Path) -> None:
    """What a site did before there were bills of materials: signed by nobody it knows, it means nothing to it."""
    head = forger.read(carried)
    nonsense = forger.attestation(head, "bom", key=PrivateKey.generate(), predicate={"anything": "at all"})
    forger.write(carried, forger.with_blobs(head, nonsense))
    assert site.run("import", carried).json["state"] == "ready"
    assert site.run("show", "tool@1.0.0", "--bom").json["verified"] is True, "that of the builder is still the one"


# -- attacks ----------------------------------------------------------------------------------------------------------


def changed(forger: Any, head: Any) -> dict[str, Any]:
    """Return the bill of materials with another licence: what somebody would like to have it say."""
    document: dict[str, Any] = json.loads(canonical.emit(dict(forger.statements(head)["bom"].predicate)))
    document["components"][0]["licenses"] = [{"license": {"id": "0BSD"}}]
    return document


def stripped(forger: Any, head: Any, _other: Any) -> Any:
    return forger.without(head, "bom")


def by_a_stranger(forger: Any, head: Any, _other: Any) -> Any:
    own = forger.attestation(head, "bom", key=PrivateKey.generate(), predicate=changed(forger, head))
    return forger.with_blobs(forger.without(head, "bom"), own)


def by_another_role(forger: Any, head: Any, _other: Any) -> Any:
    """A key of the channel, in a role that says nothing about materials."""
    own = forger.attestation(head, "bom", key=forger.keys["cosign"], predicate=changed(forger, head))
    return forger.with_blobs(forger.without(head, "bom"), own)


def of_another_release(forger: Any, head: Any, other: Any) -> Any:
    """A real one, in a referrer that says it is about this release."""
    subject = forger.manifest(head).release
    swapped = forger.attestation(other, "bom", subject=subject, size=len(head.blobs[subject]))
    return forger.with_blobs(forger.without(head, "bom"), swapped)


def named_otherwise(forger: Any, head: Any, _other: Any) -> Any:
    return forger.with_blobs(forger.without(head, "bom"), forger.attestation(head, "bom", name="tool@9.9.9"))


def replaced_by_the_builder(forger: Any, head: Any, _other: Any) -> Any:
    """Even the builder cannot have another one stand for the one that its provenance names."""
    own = forger.attestation(head, "bom", predicate=changed(forger, head))
    return forger.with_blobs(forger.without(head, "bom"), own)


def two_of_them(forger: Any, head: Any, _other: Any) -> Any:
    return forger.with_blobs(head, forger.attestation(head, "bom", predicate=changed(forger, head)))


def of_another_kind(forger: Any, head: Any, _other: Any) -> Any:
    """The same document, signed as something else."""
    own = forger.attestation(head, "bom", predicate_type="https://spdx.dev/Document")
    return forger.with_blobs(forger.without(head, "bom"), own)


def no_cyclonedx(forger: Any, head: Any, _other: Any) -> Any:
    """Signed and named by the builder, but nothing that can be read."""
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": []}
    said = json.loads(json.dumps(dict(forger.statements(head)["builder"].predicate)))
    said["runDetails"]["byproducts"][0]["digest"]["sha256"] = Digest.of(canonical.emit(document)).hex
    bare = forger.without(head, "bom", "builder")
    signed = forger.attestation(head, "bom", predicate=document) | forger.attestation(head, "builder", predicate=said)
    return forger.with_blobs(bare, signed)


ATTACKS: dict[Callable[[Any, Any, Any], Any], tuple[int, str]] = {
    stripped: (10, "names the bill of materials"),
    by_a_stranger: (10, "names the bill of materials"),
    by_another_role: (10, "names the bill of materials"),
    of_another_release: (10, "names the bill of materials"),
    named_otherwise: (11, "names tool@9.9.9"),
    replaced_by_the_builder: (10, "names the bill of materials"),
    two_of_them: (11, "2 different bills of materials"),
    of_another_kind: (10, "names the bill of materials"),
    no_cyclonedx: (10, "bill of materials: 'metadata' is missing"),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_is_not_the_builder_s_own_is_never_shown_as_verified(
    airpack: Callable[..., Any],
    bench: Any,
    forger: Any,
    site: Any,
    *,
    carried: Path,
    tmp_path: Path,
    attack: Callable[[Any, Any, Any], Any],
) -> None:
    code, message = ATTACKS[attack]
    other = forger.read(bench.build("1.1.0"))
    forger.write(carried, attack(forger, forger.read(carried), other))
    out = tmp_path / "bom.json"
    refused = airpack("verify", carried, "--root", bench.root, "--bom", out, "--json", expect=code).json
    assert message in refused["error"]["message"]
    assert refused["ok"] is False
    assert refused["checks"][-1]["name"] == "bom"
    assert not out.exists()
    # The release itself is as good as it was: what no role asks for stops no import.
    assert site.run("import", carried).json["state"] == "ready"
    shown = site.run("show", "tool@1.0.0", "--bom", expect=code).json
    assert message in shown["error"]["message"]
    assert "bom" not in shown


def test_a_referrer_of_another_release_is_refused_whatever_it_attaches(
    bench: Any, forger: Any, site: Any, carried: Path
) -> None:
    other = forger.read(bench.build("1.1.0"))
    forger.write(carried, forger.with_blobs(forger.read(carried), forger.attestation(other, "bom")))
    site.run("import", carried, expect=10)
    assert site.states() == {}


def test_a_bill_that_changed_in_the_store_is_not_shown(site: Any, forger: Any, carried: Path) -> None:
    head = forger.read(carried)
    (kept,) = bodies(forger, head)
    site.run("import", carried)
    blob = site.folder / "store/blobs/sha256" / kept.hex[:2] / kept.hex
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    site.run("show", "tool@1.0.0", "--bom", expect=10)
    blob.unlink()
    site.run("show", "tool@1.0.0", "--bom", expect=10)


def bodies(forger: Any, head: Any) -> set[Digest]:
    """Return the digests of the bundles of bills of materials."""
    return set(forger.referrers(head).values()) - set(forger.referrers(forger.without(head, "bom")).values())


def test_it_is_verified_by_the_keys_in_force_and_no_others(forger: Any, site: Any, carry: Carry, medium: Path) -> None:
    """The channel replaces the builder's key: what the old one signed is said not to be verifiable any more."""
    first, later = carry(medium), carry(medium)
    site.run("import", first)
    assert site.run("show", "tool@1.0.0", "--bom").json["verified"] is True
    head, fresh = forger.read(later), PrivateKey.generate()
    policy = TrustPolicy.parse(head.targets["policy.json"])
    role = replace(policy.roles["builder"], keys=(fresh.public.der,))
    changed_policy = replace(policy, roles={**policy.roles, "builder": role}).emit()
    rotated = forger.listed(head, {"policy.json": changed_policy})
    forger.write(later, rotated)
    site.run("import", later, expect=11)  # refused, but what its metadata proves about the channel is kept
    error = site.run("show", "tool@1.0.0", "--bom", expect=11).json["error"]
    assert error["code"] == "threshold"
    again = forger.attestation(rotated, "bom", key=fresh) | forger.attestation(rotated, "builder", key=fresh)
    forger.write(later, forger.with_blobs(forger.without(rotated, "bom", "builder"), again))
    site.run("import", later)
    assert site.run("show", "tool@1.0.0", "--bom").json["verified"] is True


def test_two_builders_must_both_have_signed_it_where_the_policy_wants_two(
    forger: Any, site: Any, carried: Path
) -> None:
    head, second = forger.read(carried), PrivateKey.generate("ed25519")
    policy = TrustPolicy.parse(head.targets["policy.json"])
    role = replace(policy.roles["builder"], threshold=2, keys=(*policy.roles["builder"].keys, second.public.der))
    strict = forger.listed(head, {"policy.json": replace(policy, roles={**policy.roles, "builder": role}).emit()})
    strict = forger.with_blobs(strict, forger.attestation(head, "builder", key=second))
    forger.write(carried, strict)
    site.run("import", carried)
    assert "names the bill" in site.run("show", "tool@1.0.0", "--bom", expect=10).json["error"]["message"]
    forger.write(carried, forger.with_blobs(strict, forger.attestation(head, "bom", key=second)))
    site.run("import", carried)
    assert site.run("show", "tool@1.0.0", "--bom").json["verified"] is True


def test_a_second_package_of_the_same_release_with_a_provenance_of_its_own_changes_nothing(
    forger: Any, site: Any, carry: Carry, medium: Path
) -> None:
    """The site then keeps two provenances, which name the same bill."""
    site.run("import", medium)
    before = site.run("show", "tool@1.0.0", "--bom").json
    second = carry(medium)
    head = forger.read(second)
    said = json.loads(json.dumps(dict(forger.statements(head)["builder"].predicate)))
    said["runDetails"]["metadata"]["finishedOn"] = "2030-01-01T00:00:00Z"
    again = forger.attestation(head, "builder", predicate=said) | forger.attestation(head, "bom")
    forger.write(second, forger.with_blobs(forger.without(head, "builder", "bom"), again))
    assert forger.statements(forger.read(second))["builder"].predicate_type == PREDICATE_PROVENANCE
    site.run("import", second)
    assert site.run("show", "tool@1.0.0", "--bom").json == before


def test_show_of_what_the_site_does_not_hold_is_not_found(site: Any) -> None:
    assert site.run("show", "tool@1.0.0", "--bom", expect=3).json["error"]["code"] == "not_found"


# -- others' tools ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("cosign") is None, reason="no cosign on PATH; 3.1 or newer is needed (Debian: cosign)")
def test_cosign_verifies_it_as_cyclonedx(
    airpack: Callable[..., Any], bench: Any, offline: list[str], tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    airpack("build", bench.spec(), "-o", layout, "--workspace", bench.workspace, "--format", "oci", "--json")

    def verified(role: str, kind: str) -> subprocess.CompletedProcess[str]:
        words = ["cosign", "verify-attestation", "--local-image", "--insecure-ignore-tlog"]
        words += ["--key", str(bench.workspace / f"keys/{role}.pub"), "--type", kind, str(layout)]
        return subprocess.run([*offline, *words], capture_output=True, text=True, check=False)

    good = verified("builder", "cyclonedx")
    assert good.returncode == 0, good.stderr
    statement = json.loads(base64.b64decode(json.loads(good.stdout)["payload"]))
    assert VALIDATOR.validate_str(json.dumps(statement["predicate"])) is None
    assert verified("cosign", "cyclonedx").returncode != 0
    assert verified("builder", "spdxjson").returncode != 0
