import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]  # no stubs
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2  # type: ignore[import-untyped]  # no stubs
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]  # no stubs
from in_toto_attestation.v1.statement import Statement as OtherStatement  # type: ignore[import-untyped]  # no stubs

from airpack.errors import IntegrityError
from airpack.formats.canonical import emit as emit_canonical
from airpack.formats.canonical import parse_canonical
from airpack.formats.statement import (
    PREDICATE_COSIGN,
    PREDICATE_PROVENANCE,
    PREDICATE_RELEASE,
    PREDICATE_VSA,
    ReleasePredicate,
    Resource,
    Statement,
    is_channel_name,
    provenance,
    vsa,
)
from airpack.types import Digest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/spec/trust.md").read_text()
SCHEMA = json.loads((ROOT / "manifests/schemas/release-predicate.schema.json").read_text())
ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RELEASE = ReleasePredicate("hello", "1.0", 1, "main", TWO)
STATEMENT = Statement("hello@1.0", ONE, PREDICATE_RELEASE, RELEASE.emit())
PROVENANCE = provenance(
    build_type="https://airpack.dev/build/v1",
    external_parameters={"spec": "hello.toml"},
    resolved_dependencies=[Resource(ONE, name="a.whl"), Resource(TWO, uri="https://models.example/m")],
    byproducts=[Resource(TWO, name="bom.cdx.json")],
    builder_id="https://build.example",
    builder_version="0.1.0",
    started=NOW,
    finished=NOW,
)
SUMMARY = vsa(
    verifier_id="https://airpack.dev/site/x",
    verifier_version="0.1.0",
    time_verified=NOW,
    resource_uri="hello@1.0",
    policy=Resource(ONE, uri="policy.json"),
    result="FAILED",
    input_attestations=[Resource(TWO, uri=PREDICATE_RELEASE)],
    verified_levels=[],
)


def example(heading: str) -> Any:
    """The first JSON example below a heading of the specification page."""
    below = PAGE.split(f"\n{heading}\n", 1)[1]
    found = re.search(r"```json\n(.*?)```", below, re.DOTALL)
    assert found
    return json.loads(found[1])


def document(**changes: Any) -> bytes:
    value = json.loads(STATEMENT.emit()) | changes
    return emit_canonical({key: item for key, item in value.items() if item is not None})


class TestStatement:
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.binary(min_size=32, max_size=32))
    def test_what_is_written_reads_back(self, name: str, raw: bytes) -> None:
        statement = Statement(name, Digest.from_raw(raw), PREDICATE_COSIGN, {"big": 2**53 - 1})
        assert Statement.parse(statement.emit()) == statement

    @pytest.mark.parametrize("predicate", [RELEASE.emit(), PROVENANCE, SUMMARY])
    def test_in_toto_attestation_reads_the_same(self, predicate: dict[str, Any]) -> None:
        data = Statement("hello@1.0", ONE, PREDICATE_RELEASE, predicate).emit()
        message = ParseDict(json.loads(data), statement_pb2.Statement())
        OtherStatement.copy_from_pb(message).validate()
        assert message.subject[0].name == "hello@1.0"
        assert message.subject[0].digest["sha256"] == ONE.hex
        assert message.predicate_type == PREDICATE_RELEASE

    @pytest.mark.parametrize("kind", ["link", "https://in-toto.io/Statement/v0.1", "", None, 1])
    def test_another_type_is_refused(self, kind: object) -> None:
        with pytest.raises(IntegrityError, match="_type"):
            Statement.parse(document(_type=kind))

    @pytest.mark.parametrize("count", [0, 2])
    def test_not_exactly_one_subject_is_refused(self, count: int) -> None:
        subject = {"name": "a", "digest": {"sha256": ONE.hex}}
        with pytest.raises(IntegrityError, match="subject"):
            Statement.parse(document(subject=[subject] * count))

    @pytest.mark.parametrize(
        "digest",
        [{}, {"sha512": ONE.hex * 2}, {"sha256": ONE.hex, "sha1": "0" * 40}, {"sha256": ONE.hex.upper()}, ONE.hex],
    )
    def test_a_subject_has_one_sha256(self, digest: object) -> None:
        with pytest.raises(IntegrityError):
            Statement.parse(document(subject=[{"name": "a", "digest": digest}]))

    @pytest.mark.parametrize(
        "changes",
        [
            {"predicateType": ""},
            {"predicateType": None},
            {"predicate": None},
            {"predicate": []},
            {"extra": 1},
            {"subject": [{"digest": {"sha256": ONE.hex}}]},
            {"subject": [{"name": "a", "digest": {"sha256": ONE.hex}, "uri": "x"}]},
        ],
    )
    def test_other_shapes_are_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(IntegrityError):
            Statement.parse(document(**changes))

    def test_only_canonical_bytes_are_read(self) -> None:
        with pytest.raises(IntegrityError, match="canonical"):
            Statement.parse(json.dumps(json.loads(STATEMENT.emit()), indent=1).encode())


class TestRelease:
    def test_what_is_written_reads_back(self) -> None:
        assert ReleasePredicate.parse(RELEASE.emit()) == RELEASE
        jsonschema.validate(RELEASE.emit(), SCHEMA)

    @pytest.mark.parametrize(
        "changes",
        [
            {"product": None},
            {"product": ""},
            {"product": "../x"},
            {"version": ""},
            {"version": "a b"},
            {"sequence": 0},
            {"sequence": 2**53},
            {"sequence": "1"},
            {"sequence": True},
            {"sequence": 1.0},
            {"channel": ""},
            {"channel": "Main"},
            {"compat": TWO.hex},
            {"compat": None},
            {"expires": "never"},
        ],
    )
    def test_other_shapes_are_refused_by_reader_and_schema(self, changes: dict[str, Any]) -> None:
        value = {key: item for key, item in (RELEASE.emit() | changes).items() if item is not None}
        with pytest.raises(IntegrityError):
            ReleasePredicate.parse(value)
        if changes != {"sequence": 1.0}:  # JSON Schema counts 1.0 as an integer
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(value, SCHEMA)

    @pytest.mark.parametrize("value", [None, [], "x"])
    def test_what_is_no_table_is_refused(self, value: object) -> None:
        with pytest.raises(IntegrityError):
            ReleasePredicate.parse(value)


class TestProvenance:
    def test_follows_slsa(self) -> None:
        message = ParseDict(PROVENANCE, provenance_pb2.Provenance())
        assert message.build_definition.build_type == "https://airpack.dev/build/v1"
        assert [item.name for item in message.build_definition.resolved_dependencies] == ["a.whl", ""]
        assert message.build_definition.resolved_dependencies[1].digest["sha256"] == TWO.hex
        assert message.run_details.builder.version["airpack"] == "0.1.0"
        assert [(item.name, item.digest["sha256"]) for item in message.run_details.byproducts] == [
            ("bom.cdx.json", TWO.hex)
        ]
        assert message.run_details.metadata.started_on.ToJsonString() == "2026-03-01T12:00:00Z"


class TestSummary:
    def test_follows_slsa(self) -> None:
        assert {
            "verifier": {"id": "https://airpack.dev/site/x", "version": {"airpack": "0.1.0"}},
            "timeVerified": "2026-03-01T12:00:00Z",
            "resourceUri": "hello@1.0",
            "policy": {"uri": "policy.json", "digest": {"sha256": ONE.hex}},
            "inputAttestations": [{"uri": PREDICATE_RELEASE, "digest": {"sha256": TWO.hex}}],
            "verificationResult": "FAILED",
            "verifiedLevels": [],
            "slsaVersion": "1.0",
        } == SUMMARY

    @pytest.mark.parametrize(
        ("policy", "inputs"),
        [(Resource(ONE), []), (Resource(ONE, uri="policy.json"), [Resource(TWO, name="no uri")])],
    )
    def test_policy_and_inputs_have_a_uri(self, policy: Resource, inputs: list[Resource]) -> None:
        with pytest.raises(ValueError, match="by URI"):
            vsa(
                verifier_id="x",
                verifier_version="1",
                time_verified=NOW,
                resource_uri="x",
                policy=policy,
                result="PASSED",
                input_attestations=inputs,
                verified_levels=[],
            )


class TestSpecificationPage:
    def test_its_release_is_signed_over_the_payload_it_shows(self) -> None:
        bundle, payload, *_ = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
        data = emit_canonical(json.loads(payload))
        assert json.loads(bundle)["dsseEnvelope"]["payload"] in PAGE
        statement = Statement.parse(data)
        assert ReleasePredicate.parse(statement.predicate).product == "hello"
        jsonschema.validate(statement.predicate, SCHEMA)

    @pytest.mark.parametrize(
        ("heading", "predicate_type"),
        [
            ("### Provenance", PREDICATE_PROVENANCE),
            ("### Cosign", PREDICATE_COSIGN),
            ("### Verification summary", PREDICATE_VSA),
        ],
    )
    def test_its_statements_are_read(self, heading: str, predicate_type: str) -> None:
        statement = Statement.parse(emit_canonical(example(heading)))
        assert (statement.name, statement.predicate_type) == ("hello@1.0", predicate_type)
        assert parse_canonical(statement.emit(), what="statement") == example(heading)


@pytest.mark.parametrize(
    ("name", "good"),
    [("main", True), ("a-b.c_1", True), ("a" * 63, True), ("a" * 64, False), ("", False), ("A", False), ("a\n", False)],
)
def test_channel_names(name: str, good: bool) -> None:
    assert is_channel_name(name) is good
