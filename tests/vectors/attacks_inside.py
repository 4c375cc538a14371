"""The attacks behind a package manifest that holds: on the release, its attestations, its fit and its volumes."""

import io
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import zstandard
from tests.integration.conftest import safetensors
from tests.vectors.attacks import PASSES, Kit, Make, Refusal, attack, flipped, given, zipped
from tests.vectors.forge import Frame, Package, in_volumes, key

from airpack.crypto import signing
from airpack.formats import bundle, canonical, dsse, oci
from airpack.formats.head import Head
from airpack.formats.package import FileInfo, PackageManifest
from airpack.formats.release import ModelPart, PackedFile, RuntimePart, assemble
from airpack.formats.statement import PREDICATE_PROVENANCE, PREDICATE_RELEASE, ReleasePredicate, Statement
from airpack.formats.trust import Revocations, TrustPolicy
from airpack.formats.volume import Codec, Header
from airpack.types import Descriptor, Digest

RELEASE: Final = Refusal("release")
ATTESTATIONS: Final = "attestations"
Edit = Callable[[str, Any], Any]


def released(kit: Kit, edit: Edit) -> Package:
    """Return the package with other documents of the release, every one of them signed and listed."""
    head = kit.forger.released(kit.head, edit)
    bodies = [data[128:] for data in kit.package().volumes.values()]
    return kit.package().with_head(head).resigned(kit.forger.manifest(head), bodies)


def assembled(
    kit: Kit,
    files: Mapping[str, bytes],
    *,
    formats: Mapping[str, str] | None = None,
    name: tuple[str, str] = ("evil", "1.0.0"),
    sequence: int = 1,
    **needs: Any,
) -> Package:
    """Return the package of a release that no build would make, signed and listed in every way.

    Args:
        kit: The keys, and the channel's newest metadata.
        files: Path below the model's folder -> bytes; any path.
        formats: Path -> what the compat document calls it, `data` by default.
        name: Product and version.
        sequence: The release's number.
        needs: More for `assemble`.
    """
    part = ModelPart(
        "m",
        tuple(
            PackedFile(path, Digest.of(data), len(data), format=(formats or {}).get(path, "data"))
            for path, data in files.items()
        ),
        "MIT",
    )
    with patch("airpack.formats.release.check_paths"), patch("airpack.formats.release.check_path"):
        docs = assemble(*name, models=[part], **needs)
    listed = {Digest.of(data): data for data in files.values()}
    infos = tuple(FileInfo(digest, len(data)) for digest, data in listed.items())
    forger, blobs = kit.forger, {**docs.blobs, Digest.of(bundle.EMPTY): bundle.EMPTY}
    volumes, bodies = in_volumes("-".join(name), [[Frame.raw(data) for data in listed.values()]])
    manifest = PackageManifest(docs.digest, *name, "0.1.0", infos, volumes)
    head = forger.packed(replace(kit.head, blobs=blobs), manifest.emit())
    said = ReleasePredicate(*name, sequence, "main", docs.compat_digest).emit()
    for role, predicate in (("release", said), ("builder", {}), ("cosign", {})):
        head = forger.with_blobs(head, forger.attestation(head, role, predicate=predicate))
    head = forger.listed(head, {f"{name[0]}@{name[1]}.json": docs.index}, sequence=sequence)
    return Package(forger, "-".join(name), head, {}).resigned(manifest, bodies)


# -- 5. release -------------------------------------------------------------------------------------------------------


def names() -> None:
    """File names of a release, signed by everybody."""
    table: list[tuple[str, str, str, str]] = [
        ("parent", "../evil", "leads out", "CVE-2007-4559"),
        ("parent_inside", "a/../../evil", "leads out on a detour", "CVE-2007-4559"),
        ("parent_alone", "..", "is the folder above", "CVE-2007-4559"),
        ("absolute", "/etc/evil", "is absolute", "CVE-2014-9356"),
        ("empty_part", "a//evil", "has an empty part", ""),
        ("dot_part", "./evil", "has a dot for a part", ""),
        ("trailing_slash", "evil/", "ends in a slash", ""),
        ("empty", "", "is empty", ""),
        ("backslash", "..\\evil", "leads out on Windows", "ZIP traversal on Windows"),
        ("drive", "C:evil", "has a drive of Windows", "ZIP traversal on Windows"),
        ("unc", "\\\\host\\share\\evil", "is on another machine on Windows", "ZIP traversal on Windows"),
        ("stream", "evil.txt:hidden", "is a stream of NTFS", "alternate data streams"),
        ("device", "nul", "is a device of Windows", "device names"),
        ("device_extension", "sub/CON.txt", "is a device of Windows, with an extension", "device names"),
        ("device_space", "NUL .txt", "is a device of Windows, with a space", "device names"),
        ("device_port", "com1.safetensors", "is a port of Windows", "device names"),
        ("trailing_dot", "evil.", "ends in a dot", ""),
        ("trailing_space", "evil ", "ends in a space", ""),
        ("leading_space", " evil", "begins with a space", ""),
        ("newline", "evil\n", "ends in a newline", ""),
        ("nul", "evil\x00.txt", "holds a NUL", "GHSA-pqhf-p39g-3x64"),
        ("escape", "evil\x1b[2J", "drives a terminal", ""),
        ("wildcard", "*.txt", "is a wildcard", ""),
        ("umlaut", "\N{LATIN SMALL LETTER U WITH DIAERESIS}", "is not ASCII, in one character", "NFC"),
        ("combining", "u\N{COMBINING DIAERESIS}", "is not ASCII, in two characters", "NFD"),
        ("sharp_s", "ma\N{LATIN SMALL LETTER SHARP S}e", "folds to another one", "CVE-2026-23950"),
        ("dotless_i", "\N{LATIN SMALL LETTER DOTLESS I}ndex", "folds to another one", "CVE-2026-23950"),
        ("right_to_left", "evil\N{RIGHT-TO-LEFT OVERRIDE}txt.exe", "is shown backwards", "Trojan Source"),
        ("fullwidth", "\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}/evil", "leads out once it is normalised", "NFKC"),
        ("long_part", "x" * 256, "has a part of 256 characters", "CVE-2025-4517"),
        ("long_path", "a/" * 600 + "b", "has 1201 characters", "CVE-2025-4517"),
    ]
    for name, path, text, source in table:
        attack(
            f"name_{name}",
            f"file name: {text}",
            RELEASE,
            given(lambda kit, path: assembled(kit, {path: b"evil"}), path),
            source=source,
            says="file name",
        )
    pairs: list[tuple[str, tuple[str, str], str, str, str]] = [
        ("casefold", ("Evil", "evil"), "differ in case alone", "CVE-2021-21300", "are one on a disk that ignores case"),
        (
            "casefold_folder",
            ("A/x", "a/X"),
            "differ in case, in folder and name",
            "CVE-2021-21300",
            "are one on a disk that ignores case",
        ),
        ("file_and_folder", ("a", "a/b"), "are a file and its folder", "GHSA-qq89-hq3f-393p", "is also a folder of"),
        (
            "file_and_folder_case",
            ("A", "a/b"),
            "are a file and its folder, but for case",
            "GHSA-qq89-hq3f-393p",
            "is also a folder of",
        ),
    ]
    for name, paths, text, source, says in pairs:
        attack(
            f"names_{name}",
            f"file names: two {text}",
            RELEASE,
            given(lambda kit, paths: assembled(kit, {path: path.encode() for path in paths}), paths),
            source=source,
            says=says,
        )


def confusions() -> None:  # noqa: C901, a table of attacks
    """Documents of the release that two readers of OCI may take for two things."""

    def edit(kind: str, change: Callable[[dict[str, Any]], object]) -> Make:
        def apply(found: str, value: Any) -> Any:
            if found == kind:
                change(value)
            return value

        return lambda kit: released(kit, apply)

    def model(change: Callable[[dict[str, Any]], object]) -> Make:
        return edit("manifest", lambda value: change(value) if value["artifactType"] == oci.MODEL else None)

    def runtime(change: Callable[[dict[str, Any]], object]) -> Make:
        return edit("manifest", lambda value: change(value) if value["artifactType"] == oci.RUNTIME else None)

    def compat(change: Callable[[dict[str, Any]], object]) -> Make:
        return edit("config", lambda value: change(value) if value.get("schema") == "airpack.compat/1" else None)

    def layer(**change: Any) -> Make:
        return model(lambda value: value["layers"][0].update(change))

    def raw(kind: str, change: Callable[[bytes], bytes]) -> Make:
        return lambda kit: released(kit, lambda found, value: change(canonical.emit(value)) if found == kind else value)

    def index(change: Callable[[dict[str, Any]], object]) -> Make:
        return edit("index", change)

    mode = oci.MODE_ANNOTATION
    table: list[tuple[str, str, str, Make, str]] = [
        (
            "index_layers",
            "`layers` beside `manifests` in the index",
            "CVE-2021-41190",
            index(lambda value: value.update(layers=[])),
            "does not belong",
        ),
        (
            "index_config",
            "`config` beside `manifests` in the index",
            "CVE-2021-41190",
            index(lambda value: value.update(config={})),
            "does not belong",
        ),
        (
            "index_no_media_type",
            "an index without mediaType",
            "CVE-2021-41190",
            index(lambda value: value.pop("mediaType")),
            "mediaType",
        ),
        (
            "index_as_manifest",
            "an index that calls itself a manifest",
            "CVE-2021-41190",
            index(lambda value: value.update(mediaType=oci.MANIFEST)),
            "mediaType",
        ),
        (
            "index_docker",
            "an index that calls itself Docker's",
            "CVE-2021-41190",
            index(lambda value: value.update(mediaType="application/vnd.docker.distribution.manifest.list.v2+json")),
            "mediaType",
        ),
        (
            "index_artifact_type",
            "artifactType in the index",
            "",
            index(lambda value: value.update(artifactType="x/y")),
            "does not belong",
        ),
        (
            "index_subject",
            "a subject in the index",
            "",
            index(lambda value: value.update(subject={})),
            "does not belong",
        ),
        ("index_schema_1", "schemaVersion 1", "", index(lambda value: value.update(schemaVersion=1)), "schemaVersion"),
        (
            "index_unknown",
            "an unknown field in the index",
            "",
            index(lambda value: value.update(extra=1)),
            "unknown key",
        ),
        ("index_empty", "an index without manifests", "", index(lambda value: value.update(manifests=[])), "no compat"),
        (
            "index_annotation",
            "an annotation more in the index",
            "",
            index(lambda value: value["annotations"].update(extra="x")),
            "alone",
        ),
        (
            "index_other_name",
            "an index that names another release",
            "",
            index(lambda value: value["annotations"].update({oci.RELEASE_ANNOTATION: "tool@1.1.0"})),
            "another release",
        ),
        (
            "index_name_escape",
            "an index whose name leads out",
            "CVE-2007-4559",
            index(lambda value: value["annotations"].update({oci.RELEASE_ANNOTATION: "../tool@1.1.0"})),
            "is not a name",
        ),
        (
            "index_nested",
            "an index in the index",
            "CVE-2021-41190",
            index(lambda value: value["manifests"][0].update(mediaType=oci.INDEX)),
            "not an OCI manifest",
        ),
        (
            "index_child_twice",
            "a model twice",
            "",
            index(lambda value: value["manifests"].insert(0, value["manifests"][0])),
            "one manifest twice",
        ),
        (
            "index_child_artifact_type",
            "artifactType on a child",
            "",
            index(lambda value: value["manifests"][0].update(artifactType="x/y")),
            "artifactType",
        ),
        (
            "index_child_urls",
            "a child that is to be fetched",
            "CVE-2020-15157",
            index(lambda value: value["manifests"][0].update(urls=["http://evil.example"])),
            "urls",
        ),
        (
            "index_child_data",
            "a child that brings its bytes inside",
            "",
            index(lambda value: value["manifests"][0].update(data="e30=")),
            "data",
        ),
        (
            "index_child_size",
            "a child of another size than its bytes",
            "",
            index(lambda value: value["manifests"][0].update(size=1)),
            "bytes are not those",
        ),
        (
            "index_child_size_2_53",
            "a child of 2^53 bytes",
            "integer overflow",
            index(lambda value: value["manifests"][0].update(size=2**53 - 1)),
            "size",
        ),
        (
            "index_child_sha512",
            "a child named by SHA-512",
            "CVE-2024-3727",
            index(lambda value: value["manifests"][0].update(digest="sha512:" + "0" * 128)),
            "not a digest",
        ),
        (
            "index_child_digest_path",
            "a child whose digest is a path",
            "GHSA-f689-h8m7-3jp2",
            index(lambda value: value["manifests"][0].update(digest="sha256:../../evil")),
            "not a digest",
        ),
        (
            "index_child_missing",
            "a child that the head does not bring",
            "Uptane: partial bundle",
            index(lambda value: value["manifests"][0].update(digest="sha256:" + "0" * 64)),
            "lacks blob",
        ),
        (
            "index_component_escape",
            "a component whose name leads out",
            "CVE-2007-4559",
            index(lambda value: value["manifests"][0]["annotations"].update({oci.COMPONENT_ANNOTATION: "model/.."})),
            "is not a name",
        ),
        (
            "index_component_unknown",
            "a component of unknown kind",
            "",
            index(lambda value: value["manifests"][0]["annotations"].update({oci.COMPONENT_ANNOTATION: "hook/m"})),
            "unknown kind",
        ),
        (
            "index_platform",
            "a platform on a model",
            "",
            index(
                lambda value: next(
                    child for child in value["manifests"] if child["annotations"][oci.COMPONENT_ANNOTATION] == "model/m"
                ).update(platform={"os": "linux", "architecture": "amd64"})
            ),
            "platform",
        ),
        (
            "index_duplicate_key",
            "a field of the index twice",
            "CVE-2021-41190",
            raw("index", lambda data: data.replace(b'"schemaVersion":2', b'"schemaVersion":1,"schemaVersion":2')),
            "duplicate key",
        ),
        (
            "index_white_space",
            "an index that is not canonical",
            "",
            raw("index", lambda data: data + b"\n"),
            "canonical",
        ),
        (
            "manifest_manifests",
            "`manifests` beside `layers`",
            "CVE-2021-41190",
            model(lambda value: value.update(manifests=[])),
            "does not belong",
        ),
        (
            "manifest_no_media_type",
            "a manifest without mediaType",
            "CVE-2021-41190",
            model(lambda value: value.pop("mediaType")),
            "mediaType",
        ),
        (
            "manifest_as_index",
            "a manifest that calls itself an index",
            "CVE-2021-41190",
            model(lambda value: value.update(mediaType=oci.INDEX)),
            "mediaType",
        ),
        (
            "manifest_no_layers",
            "a model without files",
            "",
            model(lambda value: value.update(layers=[])),
            "one or more files",
        ),
        (
            "manifest_layer_twice",
            "a file twice",
            "",
            model(lambda value: value["layers"].insert(0, value["layers"][0])),
            "in order",
        ),
        (
            "manifest_artifact_type",
            "a model that is an image",
            "",
            model(lambda value: value.update(artifactType="application/vnd.oci.image.config.v1+json")),
            "artifactType",
        ),
        (
            "layer_tar",
            "a layer that is to be extracted",
            "CVE-2025-4517",
            layer(mediaType="application/vnd.oci.image.layer.v1.tar+gzip"),
            "raw layer",
        ),
        (
            "layer_foreign",
            "a layer that is to be fetched",
            "CVE-2020-15157",
            layer(urls=["http://evil.example/x"]),
            "urls",
        ),
        ("layer_data", "a layer that brings its bytes inside", "", layer(data="ZXZpbA=="), "data"),
        ("layer_negative", "a layer of negative size", "integer underflow", layer(size=-1), "size"),
        ("layer_2_53", "a layer of 2^53 bytes", "integer overflow", layer(size=2**53 - 1), "size"),
        (
            "layer_digest_upper",
            "a layer's digest in upper case",
            "CVE-2024-3727",
            layer(digest="sha256:" + "A" * 64),
            "not a digest",
        ),
        (
            "layer_symlink",
            "a layer that says it is a symbolic link",
            "GHSA-r3h2-rgqf-9hv9",
            metadata(lambda value: value.update(typeflag=50)),
            "other annotations",
        ),
        (
            "layer_hardlink",
            "a layer that says it is a hard link",
            "CVE-2014-9356",
            metadata(lambda value: value.update(typeflag=49)),
            "other annotations",
        ),
        (
            "layer_device",
            "a layer that says it is a device",
            "",
            metadata(lambda value: value.update(typeflag=51)),
            "other annotations",
        ),
        (
            "layer_setuid",
            "a layer that says it is set-uid",
            "",
            metadata(lambda value: value.update(mode=0o104755)),
            "other annotations",
        ),
        (
            "layer_owner",
            "a layer that names an owner",
            "",
            metadata(lambda value: value.update(uid=1000)),
            "other annotations",
        ),
        (
            "layer_name_unlike",
            "a layer whose two names differ",
            "",
            metadata(lambda value: value.update(name="other")),
            "other annotations",
        ),
        (
            "runtime_setuid",
            "a runtime's file with mode 4755",
            "",
            runtime(
                lambda value: next(item for item in value["layers"] if mode in item["annotations"])[
                    "annotations"
                ].update({mode: "4755"})
            ),
            "one form",
        ),
        (
            "runtime_mode_0644",
            "a mode that is said though it need not be",
            "",
            runtime(lambda value: value["layers"][-1]["annotations"].update({mode: "0644"})),
            "one form",
        ),
        (
            "runtime_other_config",
            "a runtime with the config of another kind",
            "",
            runtime(lambda value: value["config"].update(mediaType=oci.MODEL_CONFIG)),
            "not a runtime",
        ),
        (
            "compat_other_files",
            "a compat document about another file",
            "",
            compat(lambda value: value["files"].pop()),
            "other model files",
        ),
        (
            "compat_other_size",
            "a compat document about another size",
            "",
            compat(lambda value: value["files"][-1].update(size=1)),
            "other model files",
        ),
        (
            "compat_other_totals",
            "a compat document with other totals",
            "",
            compat(lambda value: value["totals"].update(bytes=1)),
            "totals",
        ),
        (
            "compat_other_release",
            "a compat document of another release",
            "",
            compat(lambda value: value.update(version="2")),
            "another release",
        ),
        (
            "compat_unknown",
            "a compat document with an unknown need",
            "",
            compat(lambda value: value.update(needs_kernel="6")),
            "unknown key",
        ),
        (
            "compat_grade",
            "a fact of an unknown grade",
            "",
            compat(lambda value: value["files"][0].update(grade="certain")),
            "grade",
        ),
        (
            "probe_escape",
            "a probe that starts a program outside of the release",
            "CVE-2007-4559",
            compat(lambda value: value["probe"].update(command=["../../../bin/sh"])),
            "",
        ),
        (
            "probe_absolute",
            "a probe that starts a program of the site",
            "",
            compat(lambda value: value["probe"].update(command=["/bin/sh"])),
            "",
        ),
    ]
    for name, text, source, make, says in table:
        attack(f"oci_{name}", f"release: {text}", RELEASE, make, source=source, says=says)


def metadata(change: Callable[[dict[str, Any]], object]) -> Make:
    """Return an attack on what a model's layer says of its file, as a tar header would."""

    def apply(kind: str, value: Any) -> Any:
        if kind == "manifest" and value["artifactType"] == oci.MODEL:
            annotations = value["layers"][-1]["annotations"]
            (name,) = [name for name in annotations if annotations[name].startswith("{")]
            found = json.loads(annotations[name])
            change(found)
            annotations[name] = json.dumps(found, sort_keys=True, separators=(",", ":"))
        return value

    return lambda kit: released(kit, apply)


def releases() -> None:
    """Releases that are not the listed one, or not whole."""

    def packed(change: Callable[[PackageManifest], PackageManifest]) -> Make:
        return lambda kit: kit.forger.packed(kit.head, change(kit.manifest).emit())

    def small(manifest: PackageManifest) -> FileInfo:
        return next(file for file in manifest.files if file.size)

    attack(
        "release_not_listed",
        "arbitrary software: a release that the channel does not list",
        Refusal("release", "trust"),
        lambda kit: kit.forger.listed(kit.head, {"many@1.0.0.json": None}),
        source="TUF: arbitrary software",
    )
    attack(
        "release_other_than_listed",
        "arbitrary software: another release under a listed name",
        RELEASE,
        packed(lambda manifest: replace(manifest, release=Digest.of(b"evil"))),
        source="TUF: arbitrary software",
        says="the channel lists",
    )
    attack(
        "release_revoked",
        "a release that the channel has revoked",
        Refusal("release", "revoked"),
        lambda kit: kit.forger.listed(
            kit.head, {"revocations.json": Revocations({kit.manifest.release: "it was stolen"}).emit()}
        ),
        source="key compromise",
    )
    attack(
        "release_blob_changed",
        "one byte of a document of the release changed",
        RELEASE,
        changed_blob,
        says="lacks blob",
    )
    attack(
        "release_file_missing",
        "partial bundle: a file less than the release has",
        RELEASE,
        packed(lambda manifest: replace(manifest, files=tuple(file for file in manifest.files if file.size))),
        source="Uptane: partial bundle",
        says="not exactly its release",
    )
    attack(
        "release_file_extra",
        "a file more than the release has",
        RELEASE,
        packed(lambda manifest: replace(manifest, files=(*manifest.files, FileInfo(Digest.of(b"evil"), 0)))),
        source="extraneous files",
        says="not exactly its release",
    )
    attack(
        "release_file_other_size",
        "a file of another size than the release says",
        RELEASE,
        packed(
            lambda manifest: replace(
                manifest,
                files=tuple(
                    replace(file, size=file.size + 1) if file == small(manifest) else file for file in manifest.files
                ),
            )
        ),
        says="not exactly its release",
    )


def changed_blob(kit: Kit) -> Head:
    """Return a head in which one manifest has another byte."""
    digest = Digest(json.loads(kit.head.blobs[kit.manifest.release])["manifests"][0]["digest"])
    data = kit.head.blobs[digest].replace(b"1", b"2", 1)
    return kit.forger.with_blobs(kit.head, {Digest.of(data): data}, [digest])


# -- 6. attestations --------------------------------------------------------------------------------------------------


def attestations() -> None:  # noqa: C901, a table of attacks
    """Attacks on who built, released and checked."""
    integrity = Refusal(ATTESTATIONS)
    trust, threshold = Refusal(ATTESTATIONS, "trust"), Refusal(ATTESTATIONS, "threshold")

    def instead(role: str, **change: Any) -> Make:
        """Replace one attestation by another, made with `change`."""

        def make(kit: Kit) -> Head:
            other = kit.forger.attestation(kit.head, role, **change)
            return kit.forger.with_blobs(kit.forger.without(kit.head, role), other)

        return make

    def bundled(change: Callable[[dict[str, Any]], object]) -> Make:
        """Replace the release's bundle by one that says something else, with a referrer of its own."""

        def make(kit: Kit) -> Head:
            said = kit.forger.statements(kit.head)["release"]
            value = json.loads(signing.sign_statement(key("release"), said))
            change(value)
            return carried(kit, canonical.emit(value))

        return make

    def signed(payload: Callable[[bytes], bytes]) -> Make:
        """Replace the release's statement by other bytes, rightly signed."""

        def make(kit: Kit) -> Head:
            data = payload(kit.forger.statements(kit.head)["release"].emit())
            envelope = signing.sign(key("release"), dsse.PAYLOAD_TYPE_STATEMENT, data)
            return carried(kit, bundle.emit(envelope, key("release").public.hint))

        return make

    def said(**change: Any) -> Make:
        return lambda kit: instead(
            "release", predicate={**kit.forger.statements(kit.head)["release"].predicate, **change}
        )(kit)

    def swapped(kit: Kit) -> Head:
        """Attach the attestation of another release, rightly signed, to this one."""
        other = kit.forger.statements(kit.package("second_ok").head)["release"]
        return carried(kit, signing.sign_statement(key("release"), other))

    def foreign(kit: Kit) -> Head:
        """Let an attestation of another release ride along, with its own referrer."""
        other = kit.package("second_ok").head
        (pair,) = [
            (referrer, body)
            for referrer, body in kit.forger.referrers(other).items()
            if Statement.parse(bundle.parse(other.blobs[body])[0].payload).predicate_type == PREDICATE_RELEASE
        ]
        return kit.forger.with_blobs(kit.head, {digest: other.blobs[digest] for digest in pair})

    def two_of_two(kit: Kit) -> Head:
        """Ask for two people, and give two signatures by one."""
        policy = TrustPolicy.parse(kit.head.targets["policy.json"])
        role = policy.roles["release"]
        role = replace(role, threshold=2, keys=(*role.keys, key("second").public.der))
        strict = replace(policy, roles={**policy.roles, "release": role})
        head = kit.forger.listed(kit.head, {"policy.json": strict.emit()})
        return kit.forger.with_blobs(head, kit.forger.attestation(head, "release"))

    def contradiction(kit: Kit) -> Head:
        predicate = {**kit.forger.statements(kit.head)["release"].predicate, "sequence": 99}
        return kit.forger.with_blobs(kit.head, kit.forger.attestation(kit.head, "release", predicate=predicate))

    def bodiless(kit: Kit) -> Head:
        body = next(iter(kit.forger.referrers(kit.head).values()))
        return kit.forger.with_blobs(kit.head, remove=[body])

    zero = Digest("sha256:" + "0" * 64)
    table: list[tuple[str, str, Refusal, str, Make]] = [
        (
            "none",
            "no attestation at all",
            threshold,
            "",
            lambda kit: kit.forger.without(kit.head, "release", "builder", "cosign"),
        ),
        ("release_stripped", "nobody released it", threshold, "", lambda kit: kit.forger.without(kit.head, "release")),
        (
            "builder_stripped",
            "nobody says how it was built",
            threshold,
            "",
            lambda kit: kit.forger.without(kit.head, "builder"),
        ),
        ("by_stranger", "an unknown key released it", threshold, "", instead("release", key=key("stranger"))),
        ("by_builder_key", "the builder's key released it", threshold, "", instead("release", key=key("builder"))),
        (
            "by_packer_key",
            "the packer's key says how it was built",
            threshold,
            "",
            instead("builder", key=key("packer")),
        ),
        (
            "bundle_swapped",
            "the release statement of another release, attached to this one",
            trust,
            "CVE-2022-36056, CVE-2026-22703",
            swapped,
        ),
        ("referrer_foreign", "an attestation of another release rides along", integrity, "CVE-2022-36056", foreign),
        (
            "other_predicate",
            "the release key signed a provenance",
            trust,
            "CVE-2022-35929",
            instead("release", predicate_type=PREDICATE_PROVENANCE),
        ),
        (
            "unknown_predicate",
            "the release key signed something unknown",
            trust,
            "CVE-2022-35929",
            instead("release", predicate_type="https://example.org/x"),
        ),
        (
            "other_subject",
            "a statement about another digest",
            trust,
            "CVE-2022-36056",
            lambda kit: carried(
                kit,
                signing.sign_statement(
                    key("release"), replace(kit.forger.statements(kit.head)["release"], digest=zero)
                ),
            ),
        ),
        ("other_name", "a statement that names another release", trust, "", instead("release", name="tool@1.1.0")),
        ("other_channel", "a release for another channel", trust, "", said(channel="other")),
        ("other_product", "a release of another product", trust, "", said(product="tool")),
        ("other_version", "a release of another version", trust, "", said(version="9")),
        ("other_compat", "a release with another compat document", trust, "", said(compat=str(zero))),
        ("renumbered", "a higher number than the channel lists", trust, "Uptane: release counter", said(sequence=1000)),
        ("sequence_zero", "number 0", integrity, "", said(sequence=0)),
        (
            "sequence_2_53",
            "a number that a double does not hold",
            integrity,
            "integer overflow",
            signed(lambda data: data.replace(b'"sequence":1', b'"sequence":9007199254740993')),
        ),
        ("sequence_text", "text for a number", integrity, "", said(sequence="1")),
        ("predicate_unknown_key", "an unknown field", integrity, "", said(extra=1)),
        ("contradiction", "two statements that contradict each other", trust, "", contradiction),
        (
            "threshold_one_key_twice",
            "two signatures by one key for a threshold of two",
            threshold,
            "CVE-2020-6174",
            two_of_two,
        ),
        (
            "stray_blob",
            "a blob that belongs to nothing",
            integrity,
            "extraneous files",
            lambda kit: kit.forger.with_blobs(kit.head, {Digest.of(b"stray"): b"stray"}),
        ),
        ("body_missing", "a referrer without its bundle", integrity, "Uptane: partial bundle", bodiless),
        (
            "statement_duplicate_key",
            "a field of the statement twice",
            integrity,
            "measured: Python's json reads it",
            signed(lambda data: data.replace(b'{"_type":', b'{"_type":"x","_type":', 1)),
        ),
        (
            "statement_white_space",
            "a statement that is not canonical",
            integrity,
            "",
            signed(lambda data: data + b"\n"),
        ),
        (
            "statement_two_subjects",
            "a statement about two things",
            integrity,
            "",
            signed(two_subjects),
        ),
        (
            "statement_sha512",
            "a subject that has a second digest",
            integrity,
            "CVE-2024-3727",
            signed(lambda data: data.replace(b'"digest":{', b'"digest":{"sha1":"0",', 1)),
        ),
        (
            "statement_link",
            "an in-toto link, which has the same payload type",
            integrity,
            "CVE-2022-35929",
            signed(lambda data: data.replace(b"https://in-toto.io/Statement/v1", b"link")),
        ),
        ("statement_garbage", "signed bytes that are no statement", integrity, "", signed(lambda _data: b"\x00\x01")),
        (
            "bundle_other_payload_type",
            "a bundle of another payload type",
            threshold,
            "CVE-2022-35929",
            bundled(lambda value: value["dsseEnvelope"].update(payloadType="text/plain")),
        ),
        (
            "bundle_two_signatures",
            "a bundle of two signatures",
            integrity,
            "",
            bundled(lambda value: value["dsseEnvelope"]["signatures"].append(value["dsseEnvelope"]["signatures"][0])),
        ),
        (
            "bundle_signature_garbage",
            "a bundle whose signature is none",
            threshold,
            "CVE-2026-39395",
            bundled(lambda value: value["dsseEnvelope"]["signatures"][0].update(sig="AAAA")),
        ),
        (
            "bundle_certificate",
            "a bundle that brings a certificate",
            integrity,
            "CVE-2026-109399",
            bundled(lambda value: value["verificationMaterial"].update(certificate={"rawBytes": "MII="})),
        ),
        (
            "bundle_public_key",
            "a bundle that brings its own key",
            integrity,
            "CVE-2026-109399",
            bundled(lambda value: value["verificationMaterial"]["publicKey"].update(rawBytes="MII=")),
        ),
        (
            "bundle_log_entry",
            "a bundle with an entry of a log",
            integrity,
            "CVE-2026-22703",
            bundled(lambda value: value["verificationMaterial"].update(tlogEntries=[{"logIndex": "1"}])),
        ),
        (
            "bundle_message_signature",
            "a bundle that signs a message too",
            integrity,
            "",
            bundled(lambda value: value.update(messageSignature={})),
        ),
        (
            "bundle_old_version",
            "a bundle of version 0.1",
            integrity,
            "",
            bundled(lambda value: value.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1")),
        ),
        (
            "hint_lies",
            "a stranger's bundle whose hint names the right key",
            threshold,
            "",
            lambda kit: carried(
                kit,
                bundle.emit(
                    signing.sign(
                        key("stranger"), dsse.PAYLOAD_TYPE_STATEMENT, kit.forger.statements(kit.head)["release"].emit()
                    ),
                    key("release").public.hint,
                ),
            ),
        ),
    ]
    for name, text, refusal, source, make in table:
        attack(f"attestation_{name}", f"attestations: {text}", refusal, make, source=source)


def carried(kit: Kit, data: bytes) -> Head:
    """Return the head with the bundle `data` in the place of the release's."""
    about = Descriptor(oci.INDEX, kit.manifest.release, len(kit.head.blobs[kit.manifest.release]))
    refers = bundle.referrer(data, about, PREDICATE_RELEASE, "2026-01-01T00:00:00Z")
    bare = kit.forger.without(kit.head, "release")
    return kit.forger.with_blobs(bare, {Digest.of(data): data, Digest.of(refers): refers})


def two_subjects(data: bytes) -> bytes:
    """Return a statement with its subject twice."""
    value = json.loads(data)
    value["subject"] *= 2
    return canonical.emit(value)


# -- 7. to 9. sequence, compatibility, space --------------------------------------------------------------------------


def decisions() -> None:
    """What a site refuses of releases that are whole and signed."""
    incompatible = Refusal("compatibility", "incompatible")
    sequence = Refusal("sequence", "rollback")
    plain = {"weights.safetensors": safetensors("evil")}
    attack(
        "sequence_below_floor",
        "rollback: an older release than the one that proved good",
        sequence,
        lambda kit: kit.package("first_ok"),
        base="first_ok",
        source="Uptane: release counter",
        verify=PASSES,
    )
    attack(
        "sequence_name_reused",
        "another release under a name that the site holds",
        sequence,
        lambda kit: assembled(kit, plain, name=("tool", "1.1.0"), sequence=3),
        verify=PASSES,
        says="contradicts",
    )
    attack(
        "sequence_number_reused",
        "another release under a number that the site holds",
        sequence,
        lambda kit: assembled(kit, plain, name=("tool", "1.2.0"), sequence=2),
        verify=PASSES,
        says="already proved good at number 2",
    )
    code = pickle.dumps(["not", "harmful"], protocol=2)
    unsafe: list[tuple[str, str, str, bytes, str]] = [
        ("pickle", "a pickle that says so", "pickle", code, "CVE-2025-32434"),
        ("torch_zip", "a Torch archive that says so", "torch-zip", torch(code), "CVE-2025-32434"),
        ("elf", "native code as a model", "elf", b"\x7fELF" + bytes(60), ""),
        ("zip", "an archive", "zip", zipped({"x": b"x"}), "CVE-2025-54368"),
        ("gzip", "compressed content", "gzip", b"\x1f\x8b" + bytes(30), ""),
        (
            "safetensors_odd",
            "a safetensors header that two readers read differently",
            "safetensors-odd",
            odd(),
            "measured: 118 bytes",
        ),
        ("unknown", "a format that nobody knows", "brand-new", b"new", ""),
    ]
    for name, text, form, data, source in unsafe:
        attack(
            f"format_{name}",
            f"unsafe format: {text}",
            incompatible,
            given(lambda kit, form, data: assembled(kit, {"model.bin": data}, formats={"model.bin": form}), form, data),
            source=source,
        )
    renamed: list[tuple[str, str, bytes, str]] = [
        ("pickle", "a pickle", code, "CVE-2025-32434"),
        ("torch_zip", "a Torch archive", torch(code), "CVE-2025-1945"),
        ("zip", "an archive", zipped({"x": b"x"}), "CVE-2025-54368"),
        (
            "keras",
            "a Keras archive",
            zipped({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b""}),
            "",
        ),
        ("hdf5", "an HDF5 file", b"\x89HDF\r\n\x1a\n" + bytes(56), ""),
        ("numpy_object", "an array of pickled objects", numpy_object(), ""),
        ("safetensors_odd", "a safetensors file with a key twice", odd(), "measured: 118 bytes"),
        ("elf", "native code", b"\x7fELF" + bytes(60), ""),
    ]
    for name, text, data, source in renamed:
        attack(
            f"renamed_{name}",
            f"facts that differ from the bytes: {text}, signed as safetensors",
            Refusal("volumes", "incompatible"),
            given(
                lambda kit, data: assembled(
                    kit, {"model.safetensors": data}, formats={"model.safetensors": "safetensors"}
                ),
                data,
            ),
            source=source,
            verify=PASSES,
            says="by its bytes",
        )
    attack(
        "host_platform",
        "a runtime for another platform",
        incompatible,
        lambda kit: assembled(
            kit,
            plain,
            formats=dict.fromkeys(plain, "safetensors"),
            runtimes=[RuntimePart("r", "binary", "linux/riscv64", (PackedFile("run", *about(plain)),))],
        ),
        verify=PASSES,
    )
    attack(
        "host_memory",
        "more memory than any machine has",
        incompatible,
        lambda kit: assembled(kit, plain, formats=dict.fromkeys(plain, "safetensors"), memory=1 << 50),
        verify=PASSES,
    )

    def endless(kit: Kit) -> Package:
        """Return a package whose one file is said to have 2^44 bytes."""
        size = 1 << 44
        package = assembled(kit, plain, formats=dict.fromkeys(plain, "safetensors"))

        def grown(_kind: str, value: Any) -> Any:
            text = canonical.emit(value).decode()
            return json.loads(
                text.replace(f'"size":{len(plain["weights.safetensors"])}', f'"size":{size}')
                .replace(f'\\"size\\":{len(plain["weights.safetensors"])}', f'\\"size\\":{size}')
                .replace(f'"bytes":{len(plain["weights.safetensors"])}', f'"bytes":{size}')
            )

        head = kit.forger.released(package.head, grown)
        manifest = kit.forger.manifest(head)
        volume = replace(manifest.volumes[0], entries=1 << 18, slots=1 << 18, size=128 + (65 << 18))
        manifest = replace(manifest, files=(replace(manifest.files[0], size=size),), volumes=(volume,))
        head = kit.forger.packed(head, manifest.emit())
        return replace(package, head=head)

    attack(
        "space_16TiB",
        "a file of 16 TiB, which no medium brings",
        Refusal("space", "storage"),
        endless,
        source="zip bombs",
        verify=Refusal("volumes"),
        says="not enough space",
    )


def about(files: Mapping[str, bytes]) -> tuple[Digest, int]:
    """Return digest and size of the one file."""
    (data,) = files.values()
    return Digest.of(data), len(data)


def torch(code: bytes) -> bytes:
    """Return a Torch archive."""
    return zipped({"archive/data.pkl": code, "archive/version": b"3\n"})


def numpy_object() -> bytes:
    """Return an array whose items are pickled."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickle.dumps([1], protocol=2)


def odd() -> bytes:
    """Return a safetensors file that names a tensor twice."""
    tensor = b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b"{" + tensor + b"," + tensor + b"}"
    return len(header).to_bytes(8, "little") + header + bytes(4)


# -- 10. volumes ------------------------------------------------------------------------------------------------------

VOLUMES: Final = Refusal("volumes")
DAMAGED: Final = Refusal("volumes", "damaged")
"""What is not as signed may be brought again: a site keeps what was, and says what it still waits for."""


def volumes() -> None:
    """Attacks on the files of the volumes: nothing is signed anew."""

    def first(change: Callable[[bytes], bytes], number: int = 0) -> Make:
        def make(kit: Kit) -> dict[str, bytes]:
            files = kit.package().files()
            name = kit.manifest.volumes[number].name
            return {**files, name: change(files[name])}

        return make

    def missing(*numbers: int) -> Make:
        def make(kit: Kit) -> dict[str, bytes]:
            gone = {kit.manifest.volumes[number].name for number in numbers}
            return {name: data for name, data in kit.package().files().items() if name not in gone}

        return make

    def swapped(kit: Kit) -> dict[str, bytes]:
        """Give two volumes each other's content, filled up or cut to the size that each must have."""
        files = kit.package().files()
        one, two = (info.name for info in kit.manifest.volumes[1:3])
        size, other = len(files[one]), len(files[two])
        return {**files, one: files[two][:size].ljust(size, b"\0"), two: files[one][:other].ljust(other, b"\0")}

    def foreign(kit: Kit) -> Package:
        """Bring the head of one package with the volume of another of the same sizes."""
        package = kit.package("first_ok")
        (mine,), (other,) = package.volumes, kit.package("second_ok").volumes.values()
        return replace(package, volumes={mine: other})

    partial = Refusal("volumes", "partial")
    table: list[tuple[str, str, Refusal, str, Make, str]] = [
        ("first_missing", "the first one is not there", partial, "Uptane: partial bundle", missing(0), ""),
        ("last_missing", "the last one is not there", partial, "Uptane: partial bundle", missing(3), ""),
        ("two_missing", "two are not there", partial, "Uptane: partial bundle", missing(1, 2), ""),
        ("empty", "one is empty", DAMAGED, "", first(lambda _data: b""), "cut short"),
        ("cut", "one is cut in half", DAMAGED, "", first(lambda data: data[: len(data) // 2]), "cut short"),
        ("one_byte_short", "one is a byte short", DAMAGED, "", first(lambda data: data[:-1], 3), "cut short"),
        ("one_byte_more", "one has a byte more", DAMAGED, "", first(lambda data: data + b"\0"), "trailing data"),
        ("twice_as_long", "one has its content twice", DAMAGED, "", first(lambda data: data * 2), "trailing data"),
        ("magic", "another magic", DAMAGED, "", first(lambda data: flipped(data, 0)), "header"),
        (
            "header_package",
            "the header names another package",
            DAMAGED,
            "",
            first(lambda data: flipped(data, 20)),
            "belongs to another package",
        ),
        (
            "header_padding",
            "a byte in the header's padding",
            DAMAGED,
            "covert data",
            first(lambda data: flipped(data, 127)),
            "header",
        ),
        ("table_byte", "a byte of the table", DAMAGED, "", first(lambda data: flipped(data, 130)), "chunk table"),
        (
            "table_unused",
            "a byte of a slot that is not used",
            DAMAGED,
            "covert data",
            first(lambda data: flipped(data, 128 + 3 * 64 - 1)),
            "chunk table",
        ),
        (
            "chunk_byte",
            "a byte of a chunk",
            DAMAGED,
            "",
            first(lambda data: flipped(data, len(data) - 1)),
            "chunk 2 of 2",
        ),
        ("swapped", "two have each other's content", DAMAGED, "", swapped, "cut short"),
        ("foreign", "the volume of another package", DAMAGED, "mix and match", foreign, "belongs to another package"),
    ]
    for name, text, refusal, source, make, says in table:
        more: dict[str, Any] = {"base": "first_ok", "after": ()} if name == "foreign" else {}
        if refusal is DAMAGED:
            more["verify"] = VOLUMES
        attack(f"volume_{name}", f"volumes: {text}", refusal, make, source=source, says=says, **more)
    attack(
        "volume_sparse_1TiB",
        "volumes: endless: a terabyte of nothing behind one",
        DAMAGED,
        lambda kit: kit.package(),
        source="resource exhaustion",
        sparse={"many-1.0.0.0001.airvol": 1 << 40},
        says="trailing data",
        verify=VOLUMES,
    )


def tables() -> None:
    """Tables that are signed and wrong."""

    def whole(kit: Kit) -> bytes:
        return kit.package().stream()

    def entry(offset: int, value: bytes, number: int = 0) -> Make:
        """Overwrite bytes of one entry and sign the table."""

        def change(table: bytes) -> bytes:
            at = number * 64 + offset
            return table[:at] + value + table[at + len(value) :]

        def make(kit: Kit) -> Package:
            stream = whole(kit)
            frames = [Frame.raw(stream[:1000]), Frame.raw(stream[1000:2000]), Frame.raw(stream[2000:])]
            return kit.package().repacked([frames], slots=4, table=change)

        return make

    def layout(frames: Callable[[bytes], list[list[Frame]]], **more: Any) -> Make:
        return lambda kit: kit.package().repacked(frames(whole(kit)), **more)

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, "little")

    table: list[tuple[str, str, str, Make, str]] = [
        ("gap", "a gap in the stream", "", entry(32, number(1001, 8), 1), "must stand"),
        ("overlap", "two frames over the same bytes", "CVE-2019-13232", entry(32, number(0, 8), 1), "must stand"),
        (
            "offset_2_64",
            "a frame that begins at the end of 64 bits",
            "integer overflow",
            entry(32, b"\xff" * 8),
            "must stand",
        ),
        (
            "offset_2_63",
            "a frame that begins before the stream in signed numbers",
            "integer overflow",
            entry(32, number(1 << 63, 8)),
            "must stand",
        ),
        ("base_offset", "an offset into a base", "", entry(40, number(1, 8)), "must be zero"),
        ("stored_zero", "a chunk of no bytes", "endless loop", entry(48, number(0, 4)), "stored size"),
        ("stored_2_32", "a chunk of 2^32-1 bytes", "integer overflow", entry(48, b"\xff" * 4), "stored size"),
        (
            "stored_above",
            "a chunk one byte larger than is read",
            "",
            entry(48, number((1 << 20) + 1, 4)),
            "stored size",
        ),
        ("stored_other", "chunks that do not fill the volume", "", entry(48, number(999, 4)), "is stored in"),
        ("frame_zero", "a frame of no bytes", "endless loop", entry(52, number(0, 4)), "frame size"),
        ("frame_2_32", "a frame of 2^32-1 bytes", "zip bombs", entry(52, b"\xff" * 4), "frame size"),
        (
            "frame_above",
            "a frame one byte larger than is read",
            "zip bombs",
            entry(52, number((64 << 20) + 1, 4)),
            "frame size",
        ),
        (
            "raw_other_size",
            "a raw frame of another size than its bytes",
            "",
            entry(52, number(1001, 4)),
            "is stored in",
        ),
        ("base", "a base that nobody has", "", entry(56, number(1, 4)), "must be zero"),
        ("codec_zero", "codec 0", "", entry(60, b"\x00"), "codec"),
        ("codec_unknown", "codec 255", "", entry(60, b"\xff"), "codec"),
        ("part", "the second part of a frame first", "", entry(61, b"\x01\x02"), "must stand"),
        ("part_above", "a part beyond the parts", "", entry(61, b"\x05\x01"), "part must be"),
        ("parts_zero", "a frame of no parts", "endless loop", entry(62, b"\x00"), "parts must be"),
        ("parts_open", "a frame that does not end", "", entry(62, b"\x02", 2), "ends inside a frame"),
        ("parts_unlike", "parts that disagree about their number", "", entry(61, b"\x00\x02", 1), "must stand"),
        ("reserved", "a reserved byte that is used", "covert data", entry(63, b"\x01"), "must be zero"),
        ("slot_used", "bytes in a slot beyond the entries", "covert data", entry(0, b"covert", 3), "not zero"),
        ("digest_wrong", "a chunk's digest that is not its own", "", entry(0, b"\x00" * 32), "signed digest"),
        (
            "stream_short",
            "frames that end before the files do",
            "",
            layout(lambda stream: [[Frame.raw(stream[:-1])]]),
            "frames reach byte",
        ),
        (
            "stream_long",
            "frames that go on behind the files",
            "",
            layout(lambda stream: [[Frame.raw(stream + b"x")]]),
            "frames reach byte",
        ),
        (
            "volumes_order",
            "volumes in the wrong order, each right in itself",
            "",
            reordered,
            "must stand",
        ),
        (
            "stream_other",
            "chunks that are right, of files that are others",
            "",
            layout(lambda stream: [[Frame.raw(flipped(stream, 5))]]),
            "the package itself is wrong",
        ),
        (
            "header_other",
            "a header that is not the derived one",
            "",
            layout(lambda stream: [[Frame.raw(stream)]], header=lambda header: replace(header, count=2).emit()),
            "volume 1 of 2",
        ),
        (
            "header_covert",
            "bytes in the header's padding",
            "covert data",
            layout(lambda stream: [[Frame.raw(stream)]], header=lambda header: Header.emit(header)[:-6] + b"covert"),
            "padding",
        ),
    ]
    for name, text, source, make, says in table:
        # What has another digest than the one that is signed looks like any other damage, whoever signed it.
        refusal = DAMAGED if name in {"digest_wrong", "header_other", "header_covert"} else VOLUMES
        attack(f"table_{name}", f"signed table: {text}", refusal, make, source=source, says=says, verify=VOLUMES)


def reordered(kit: Kit) -> Package:
    """Return a package whose manifest lists two volumes in each other's place; headers say the same."""
    package, manifest = kit.package(), kit.manifest
    order = [0, 2, 1, 3]
    infos = tuple(manifest.volumes[number] for number in order)
    return package.resigned(replace(manifest, volumes=infos), [package.volumes[info.name][128:] for info in infos])


def frames() -> None:
    """zstd frames whose digests are signed, and which are not what the table says."""

    def stored(make: Callable[[bytes], bytes], size: int | None = None) -> Make:
        """Store the whole stream as one frame of the bytes that `make` gives."""

        def build(kit: Kit) -> Package:
            stream = kit.package().stream()
            data = make(stream)
            step = 1 << 20
            chunks = tuple(data[at : at + step] for at in range(0, len(data), step))
            return kit.package().repacked([[Frame(Codec.ZSTD, chunks, len(stream) if size is None else size)]])

        return build

    def packed(data: bytes, **options: Any) -> bytes:
        parameters = zstandard.ZstdCompressionParameters(**{"compression_level": 3, "write_content_size": 1, **options})
        return zstandard.ZstdCompressor(compression_params=parameters).compress(data)

    def unsized(data: bytes) -> bytes:
        out = io.BytesIO()
        with zstandard.ZstdCompressor(write_content_size=False).stream_writer(out, closefd=False) as writer:
            writer.write(data)
        return out.getvalue()

    def trained(data: bytes) -> bytes:
        dictionary = zstandard.ZstdCompressionDict(data[:800] * 2, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return zstandard.ZstdCompressor(dict_data=dictionary, write_content_size=True).compress(data)

    def dictionary_id(data: bytes) -> bytes:
        """Return a frame whose header asks for dictionary 7."""
        frame = packed(data)
        descriptor = frame[4]
        window = 0 if descriptor & 0x20 else 1
        return frame[:4] + bytes([descriptor | 1]) + frame[5 : 5 + window] + b"\x07" + frame[5 + window :]

    def declared(data: bytes, size: int) -> bytes:
        """Return a frame whose header declares another content size: single segment, 8 bytes of size."""
        frame = packed(data)
        header = zstandard.frame_header_size(frame)
        return frame[:4] + b"\xe0" + size.to_bytes(8, "little") + frame[header:]

    def windowed(data: bytes, exponent: int) -> bytes:
        """Return a frame with a window of 2^(10+exponent) bytes: no single segment, 8 bytes of size."""
        frame = packed(data)
        header = zstandard.frame_header_size(frame)
        return frame[:4] + b"\xc0" + bytes([exponent << 3]) + len(data).to_bytes(8, "little") + frame[header:]

    skip = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"evil"
    bomb = 64 << 20
    table: list[tuple[str, str, str, Make, str]] = [
        (
            "bomb",
            "64 MiB in a few KiB, for a table that says less",
            "zip bombs",
            stored(lambda _stream: packed(bytes(bomb))),
            "declares",
        ),
        (
            "more_than_declared",
            "more content than its header declares",
            "zip bombs",
            stored(lambda stream: declared(stream + stream, len(stream))),
            "does not decode",
        ),
        (
            "less_than_declared",
            "less content than its header declares",
            "",
            stored(lambda stream: declared(stream[:-9], len(stream))),
            "does not decode",
        ),
        (
            "declares_2_64",
            "a header that declares 2^64-2 bytes",
            "integer overflow",
            stored(lambda stream: declared(stream, (1 << 64) - 2)),
            "declares",
        ),
        ("declares_nothing", "a header that declares no size", "endless data", stored(unsized), "declares no bytes"),
        (
            "declares_zero",
            "a header that declares 0 bytes",
            "",
            stored(lambda stream: declared(stream, 0)),
            "declares 0",
        ),
        (
            "window_128MiB",
            "a window of 128 MiB",
            "memory exhaustion",
            stored(lambda stream: windowed(stream, 17)),
            "window",
        ),
        (
            "window_2_41",
            "the largest window that can be written",
            "memory exhaustion",
            stored(lambda stream: windowed(stream, 31)),
            "frame header is damaged",
        ),
        (
            "skippable_first",
            "a skippable frame before the frame",
            "covert data",
            stored(lambda stream: skip + packed(stream)),
            "does not hold a zstd frame",
        ),
        (
            "skippable_last",
            "a skippable frame behind the frame",
            "covert data",
            stored(lambda stream: packed(stream) + skip),
            "does not decode",
        ),
        (
            "two_frames",
            "a second frame behind the first",
            "parser differentials",
            stored(lambda stream: packed(stream) + packed(b"evil")),
            "does not decode",
        ),
        (
            "two_halves",
            "the content in two frames",
            "parser differentials",
            stored(lambda stream: packed(stream[:2000]) + packed(stream[2000:])),
            "declares",
        ),
        (
            "empty_frame_last",
            "an empty frame behind the frame",
            "parser differentials",
            stored(lambda stream: packed(stream) + packed(b"")),
            "does not decode",
        ),
        (
            "trailing_bytes",
            "bytes behind the frame",
            "covert data",
            stored(lambda stream: packed(stream) + b"evil"),
            "does not decode",
        ),
        ("truncated", "a frame that is cut", "", stored(lambda stream: packed(stream)[:-5]), "does not decode"),
        (
            "dictionary_id",
            "a frame that asks for a dictionary",
            "parser differentials",
            stored(dictionary_id),
            "dictionary",
        ),
        (
            "dictionary_raw",
            "a frame that needs a dictionary and does not say so",
            "parser differentials",
            stored(trained),
            "does not decode",
        ),
        (
            "checksum_wrong",
            "a frame whose own checksum is wrong",
            "",
            stored(
                lambda stream: flipped(packed(stream, write_checksum=1), -1 % len(packed(stream, write_checksum=1)))
            ),
            "does not decode",
        ),
        (
            "reserved_bit",
            "a reserved bit in the header",
            "",
            stored(lambda stream: reserved(packed(stream))),
            "header is damaged",
        ),
        (
            "block_reserved",
            "a block of the reserved type",
            "",
            stored(lambda stream: block(packed(stream))),
            "does not decode",
        ),
        (
            "legacy",
            "a frame of zstd 0.7",
            "parser differentials",
            stored(lambda stream: b"\x27\xb5\x2f\xfd" + packed(stream)[4:]),
            "does not hold a zstd frame",
        ),
        (
            "magicless",
            "a frame without its magic",
            "parser differentials",
            stored(lambda stream: packed(stream)[4:]),
            "does not hold a zstd frame",
        ),
        (
            "gzip",
            "gzip in the place of zstd",
            "parser differentials",
            stored(lambda stream: b"\x1f\x8b" + stream),
            "does not hold a zstd frame",
        ),
        ("raw", "raw bytes in the place of zstd", "", stored(bytes), "does not hold a zstd frame"),
        ("short", "three bytes", "", stored(lambda _stream: b"\x28\xb5\x2f"), "does not hold a zstd frame"),
        (
            "magic_alone",
            "the magic and nothing more",
            "",
            stored(lambda _stream: b"\x28\xb5\x2f\xfd"),
            "header is damaged",
        ),
        (
            "other_content",
            "a right frame of other bytes",
            "",
            stored(lambda stream: packed(flipped(stream, 9))),
            "the package itself is wrong",
        ),
    ]
    for name, text, source, make, says in table:
        attack(f"zstd_{name}", f"zstd frame: {text}", VOLUMES, make, source=source, says=says)


def reserved(frame: bytes) -> bytes:
    """Set the reserved bit of a frame's descriptor (RFC 8878 section 3.1.1.1.1.4)."""
    return frame[:4] + bytes([frame[4] | 0x08]) + frame[5:]


def block(frame: bytes) -> bytes:
    """Give the first block the reserved type (RFC 8878 section 3.1.1.2.2)."""
    at = zstandard.frame_header_size(frame)
    return frame[:at] + bytes([frame[at] | 0x06]) + frame[at + 1 :]


names()
confusions()
releases()
attestations()
decisions()
volumes()
tables()
frames()
