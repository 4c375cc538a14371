import base64
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError, TrustError
from airpack.formats import package
from airpack.formats.canonical import emit as emit_canonical
from airpack.formats.statement import PREDICATE_COSIGN, PREDICATE_PROVENANCE, PREDICATE_RELEASE
from airpack.formats.trust import PAYLOAD_TYPE_GRANT, Revocations, Role, TrustPolicy
from airpack.types import Digest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/spec/trust.md").read_text()
SCHEMAS = {
    name: json.loads((ROOT / f"manifests/schemas/{name}.schema.json").read_text()) for name in ("policy", "revocations")
}
A, B = b"key a", b"key b"
POLICY = TrustPolicy(
    "main",
    {
        "release": Role(2, (A, B), predicate_type=PREDICATE_RELEASE),
        "builder": Role(1, (A,), predicate_type=PREDICATE_PROVENANCE),
        "packer": Role(1, (A,), payload_type=package.PAYLOAD_TYPE),
        "cosign": Role(1, (B,), predicate_type=PREDICATE_COSIGN),
        "grant": Role(1, (A,), payload_type=PAYLOAD_TYPE_GRANT),
    },
)
ONE, TWO = sorted((Digest.of(b"one"), Digest.of(b"two")))


def example(heading: str) -> Any:
    below = PAGE.split(f"\n{heading}\n", 1)[1]
    found = re.search(r"```json\n(.*?)```", below, re.DOTALL)
    assert found
    return json.loads(found[1])


def policy(**changes: Any) -> dict[str, Any]:
    value = json.loads(POLICY.emit()) | changes
    return {key: item for key, item in value.items() if item is not None}


def with_role(name: str, **changes: Any) -> dict[str, Any]:
    value = policy()
    role = value["roles"].get(name, {}) | changes
    value["roles"][name] = {key: item for key, item in role.items() if item is not None}
    return value


def without(name: str) -> dict[str, Any]:
    value = policy()
    del value["roles"][name]
    return value


class TestPolicy:
    def test_what_is_written_reads_back(self) -> None:
        assert TrustPolicy.parse(POLICY.emit()) == POLICY
        jsonschema.validate(json.loads(POLICY.emit()), SCHEMAS["policy"])

    def test_says_who_holds_a_role(self) -> None:
        assert POLICY.role("release").threshold == 2
        assert POLICY.role("packer").payload_type == package.PAYLOAD_TYPE

    @pytest.mark.parametrize("name", ["builder", "cosign", "grant"])
    def test_a_role_that_nobody_holds_lets_nobody_in(self, name: str) -> None:
        found = TrustPolicy.parse(emit_canonical(without(name)))
        with pytest.raises(TrustError, match=f"role '{name}' to no key"):
            found.role(name)

    @pytest.mark.parametrize(
        "value",
        [
            without("release"),
            without("packer"),
            with_role("root", threshold=1, keys=[], predicateType=PREDICATE_RELEASE),
            with_role("release", threshold=0),
            with_role("release", threshold=-1),
            with_role("release", threshold=None),
            with_role("release", threshold="2"),
            with_role("release", threshold=True),
            with_role("release", keys=[]),
            with_role("release", keys=["a2V5"] * 2),
            with_role("release", keys=["a2V5IGE"]),
            with_role("release", keys="a2V5"),
            with_role("release", keys=["a2V5"] + [base64.b64encode(bytes([n])).decode() for n in range(64)]),
            with_role("release", predicateType=PREDICATE_PROVENANCE),
            with_role("release", predicateType=None),
            with_role("release", payloadType=package.PAYLOAD_TYPE),
            with_role("builder", predicateType=PREDICATE_RELEASE),
            with_role("packer", payloadType=PAYLOAD_TYPE_GRANT),
            with_role("packer", predicateType=PREDICATE_RELEASE),
            with_role("release", notAfter="2030-01-01"),
            policy(schema="airpack.policy/2"),
            policy(schema=None),
            policy(channel=""),
            policy(channel="A b"),
            policy(channel=None),
            policy(roles=[]),
            policy(sites=None),
            policy(sites=[]),
            policy(sites={"*": {"allow_formats": ["pickle"]}}),
            policy(sites={"*": 1}),
            policy(extra=1),
        ],
    )
    def test_other_shapes_are_refused_by_reader_and_schema(self, value: dict[str, Any]) -> None:
        with pytest.raises(IntegrityError):
            TrustPolicy.parse(emit_canonical(value))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, SCHEMAS["policy"])

    def test_a_threshold_that_no_signing_can_reach_is_refused(self) -> None:
        with pytest.raises(IntegrityError, match="from 1 to 2"):
            TrustPolicy.parse(emit_canonical(with_role("release", threshold=3)))

    def test_too_many_sites_are_refused(self) -> None:
        with pytest.raises(IntegrityError, match="at most 10000"):
            TrustPolicy.parse(emit_canonical(policy(sites={str(number): {} for number in range(10_001)})))

    @pytest.mark.parametrize(
        "role", [Role(2, (A,), predicate_type=PREDICATE_RELEASE), Role(0, (A,), predicate_type=PREDICATE_RELEASE)]
    )
    def test_what_no_reader_takes_is_never_written(self, role: Role) -> None:
        with pytest.raises(IntegrityError):
            TrustPolicy("main", dict(POLICY.roles) | {"release": role}).emit()

    def test_only_canonical_bytes_are_read(self) -> None:
        with pytest.raises(IntegrityError, match="canonical"):
            TrustPolicy.parse(json.dumps(policy(), indent=1).encode())


class TestRevocations:
    @given(st.dictionaries(st.binary(min_size=32, max_size=32).map(Digest.from_raw), st.text("ab é", max_size=9)))
    def test_what_is_written_reads_back(self, releases: dict[Digest, str]) -> None:
        data = Revocations(releases).emit()
        assert Revocations.parse(data).releases == releases
        jsonschema.validate(json.loads(data), SCHEMAS["revocations"])

    @pytest.mark.parametrize(
        "releases",
        [
            None,
            {},
            [ONE.value],
            [{"digest": ONE.hex, "reason": ""}],
            [{"digest": ONE.value}],
            [{"digest": ONE.value, "reason": 1}],
            [{"digest": ONE.value, "reason": "", "until": "2030"}],
            [{"digest": ONE.value, "reason": ""}] * 2,
        ],
    )
    def test_other_shapes_are_refused_by_reader_and_schema(self, releases: object) -> None:
        value = {"schema": "airpack.revocations/1", "releases": releases}
        with pytest.raises(IntegrityError):
            Revocations.parse(emit_canonical(value))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, SCHEMAS["revocations"])

    @pytest.mark.parametrize("digests", [(TWO, ONE), (ONE, ONE)])
    def test_are_sorted_and_each_there_once(self, digests: tuple[Digest, Digest]) -> None:
        entries = [{"digest": digest.value, "reason": str(number)} for number, digest in enumerate(digests)]
        with pytest.raises(IntegrityError, match="sorted"):
            Revocations.parse(emit_canonical({"schema": "airpack.revocations/1", "releases": entries}))

    def test_another_schema_is_refused(self) -> None:
        with pytest.raises(IntegrityError, match="schema"):
            Revocations.parse(emit_canonical({"schema": "airpack.policy/1", "releases": []}))


class TestSpecificationPage:
    def test_its_policy_is_read(self) -> None:
        value = example("## 5. `policy.json`")
        jsonschema.validate(value, SCHEMAS["policy"])
        assert set(TrustPolicy.parse(emit_canonical(value)).roles) == set(POLICY.roles)

    def test_its_revocations_are_read(self) -> None:
        value = example("## 6. `revocations.json`")
        jsonschema.validate(value, SCHEMAS["revocations"])
        assert len(Revocations.parse(emit_canonical(value)).releases) == 1


@pytest.mark.parametrize("name", ["policy", "revocations", "release-predicate"])
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(
        json.loads((ROOT / f"manifests/schemas/{name}.schema.json").read_text())
    )
