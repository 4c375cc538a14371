from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import InputError, IntegrityError
from airpack.formats import oci
from airpack.formats.canonical import emit, parse
from airpack.types import Descriptor, Digest, Limits

CONFIG = Descriptor("application/x.config+json", Digest.of(b"{}"), 2)
LAYER = Descriptor("application/x.layer", Digest.of(b"layer"), 5, {"org.opencontainers.image.title": "a"})
MANIFEST = oci.Manifest("application/x.artifact", CONFIG, (LAYER,), annotations={"a": "b"})
CHILD = Descriptor(oci.MANIFEST, Digest.of(b"child"), 5, platform={"os": "linux", "architecture": "amd64"})
INDEX = oci.Index((CHILD,), {"dev.airpack.release": "a@1"})

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
annotations = st.dictionaries(texts, texts, max_size=3)
media_types = st.from_regex(r"[a-z]{1,9}/[a-z][a-z0-9.+-]{0,20}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(Digest.from_raw)
platforms = st.sampled_from([{}, {"os": "linux", "architecture": "arm64"}])


def descriptors(largest: int, artifact_types: st.SearchStrategy[str]) -> st.SearchStrategy[Descriptor]:
    return st.builds(Descriptor, media_types, digests, st.integers(0, largest), annotations, artifact_types, platforms)


small = descriptors(Limits.DOCUMENT, st.just("") | media_types)
manifests = st.builds(
    oci.Manifest,
    media_types,
    small,
    st.lists(descriptors(Limits.FILE, st.just("")), max_size=4).map(tuple),
    st.none() | small,
    annotations,
)
indexes = st.builds(oci.Index, st.lists(descriptors(Limits.MANIFEST, st.just("")), max_size=4).map(tuple), annotations)


@given(manifests)
def test_a_manifest_comes_back_as_it_was(manifest: oci.Manifest) -> None:
    data = oci.emit_manifest(manifest)
    assert oci.parse_manifest(data) == manifest
    assert oci.emit_manifest(oci.parse_manifest(data)) == data


@given(indexes)
def test_an_index_comes_back_as_it_was(index: oci.Index) -> None:
    assert oci.parse_index(oci.emit_index(index)) == index


def changed(data: bytes, path: list[str | int], value: Any) -> bytes:
    """Return the canonical document with one value set, or removed when it is `...`."""
    document = parse(data, what="test")
    target = document
    for step in path[:-1]:
        target = target[step]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return emit(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["mediaType"], ...),
        (["mediaType"], oci.INDEX),
        (["schemaVersion"], ...),
        (["schemaVersion"], 1),
        (["manifests"], []),
        (["artifactType"], ...),
        (["artifactType"], "no media type"),
        (["config"], ...),
        (["layers"], ...),
        (["layers"], {}),
        (["more"], 1),
        (["annotations"], {}),
        (["annotations"], {"a": 1}),
        (["annotations"], {"": "a"}),
        (["annotations"], {"a": "x" * 4097}),
        (["annotations"], {str(number): "x" for number in range(65)}),
        (["layers", 0, "urls"], ["http://example.org"]),
        (["layers", 0, "data"], "e30="),
        (["layers", 0, "more"], 1),
        (["layers", 0, "digest"], ...),
        (["layers", 0, "digest"], "sha512:" + "0" * 128),
        (["layers", 0, "digest"], "sha256:" + "A" * 64),
        (["layers", 0, "size"], -1),
        (["layers", 0, "size"], 1.5),
        (["layers", 0, "size"], True),
        (["layers", 0, "size"], Limits.FILE + 1),
        (["layers", 0, "mediaType"], ...),
        (["layers", 0, "platform"], {"os": "linux"}),
        (["layers", 0, "platform"], {"os": "linux", "architecture": "arm", "variant": "v7"}),
        (["config", "size"], Limits.DOCUMENT + 1),
    ],
)
def test_a_manifest_of_another_form_is_refused(path: list[str | int], value: Any) -> None:
    data = oci.emit_manifest(MANIFEST)
    assert oci.parse_manifest(data) == MANIFEST
    with pytest.raises(IntegrityError):
        oci.parse_manifest(changed(data, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["mediaType"], oci.MANIFEST),
        (["mediaType"], ...),
        (["layers"], []),
        (["config"], {}),
        (["artifactType"], "application/x.y"),
        (["subject"], {}),
        (["manifests"], ...),
        (["manifests", 0, "artifactType"], "application/x.y"),
        (["manifests", 0, "urls"], []),
        (["manifests", 0, "size"], Limits.MANIFEST + 1),
    ],
)
def test_an_index_of_another_form_is_refused(path: list[str | int], value: Any) -> None:
    data = oci.emit_index(INDEX)
    assert oci.parse_index(data) == INDEX
    with pytest.raises(IntegrityError):
        oci.parse_index(changed(data, path, value))


def test_a_document_that_is_not_canonical_is_refused() -> None:
    data = oci.emit_index(INDEX)
    for other in (data + b"\n", b" " + data, data.replace(b'"a@1"', b'"a@\\u0031"')):
        with pytest.raises(IntegrityError):
            oci.parse_index(other)


def test_an_index_and_a_manifest_carry_no_artifact_type_where_tools_break() -> None:
    assert "artifactType" not in parse(oci.emit_index(INDEX), what="index")


def test_a_manifest_over_the_limit_of_registries_is_refused_at_build() -> None:
    layers = tuple(
        Descriptor("application/x", Digest.of(str(number).encode()), 1, {"x": "y" * 1000}) for number in range(4000)
    )
    with pytest.raises(InputError, match="4000 files"):
        oci.emit_manifest(oci.Manifest("application/x", CONFIG, layers))


@given(st.binary(max_size=100))
def test_other_bytes_are_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        oci.parse_manifest(data)
    with pytest.raises(IntegrityError):
        oci.parse_index(data)
