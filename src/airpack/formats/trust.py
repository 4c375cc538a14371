"""The channel's two own trust documents: `policy.json` and `revocations.json`. Both are TUF targets.

    {"schema": "airpack.policy/1", "channel": NAME,
     "roles": {"release": {"predicateType": URI, "threshold": 1, "keys": [base64 SPKI DER, ...]}, ...},
     "sites": {"*": {}}}

    {"schema": "airpack.revocations/1", "releases": [{"digest": DIGEST, "reason": TEXT}, ...]}

A role's name fixes what its keys may sign: a builder's key says nothing about a release, whatever a policy claims.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from airpack.errors import TrustError
from airpack.formats import package
from airpack.formats.canonical import emit as emit_canonical
from airpack.formats.canonical import parse_canonical
from airpack.formats.fields import Fields
from airpack.formats.statement import PREDICATE_COSIGN, PREDICATE_PROVENANCE, PREDICATE_RELEASE, is_channel_name
from airpack.types import Digest

POLICY_TARGET: Final = "policy.json"
REVOCATIONS_TARGET: Final = "revocations.json"

PAYLOAD_TYPE_GRANT: Final = "application/vnd.airpack.grant.v1+json"

STATEMENT_ROLES: Final[Mapping[str, str]] = MappingProxyType(
    {"release": PREDICATE_RELEASE, "builder": PREDICATE_PROVENANCE, "cosign": PREDICATE_COSIGN}
)
"""Role -> predicateType, of roles that sign statements."""

DOCUMENT_ROLES: Final[Mapping[str, str]] = MappingProxyType(
    {"packer": package.PAYLOAD_TYPE, "grant": PAYLOAD_TYPE_GRANT}
)
"""Role -> payloadType, of roles that sign airpack's own documents."""

_SCHEMA_POLICY = "airpack.policy/1"
_SCHEMA_REVOCATIONS = "airpack.revocations/1"
_REQUIRED = ("release", "packer")  # without them nothing can ever be imported
_KEYS = 64
_SITES = 10_000
_RELEASES = 100_000


@dataclass(frozen=True, slots=True)
class Role:
    """Who may sign one kind of document, and how many of them must.

    Exactly one of `predicate_type` and `payload_type` is set.

    Attributes:
        threshold: Distinct keys that must sign the same payload, from 1 to the number of keys.
        keys: SubjectPublicKeyInfo DER of each key, no two alike.
        predicate_type: Of the statements that they sign.
        payload_type: Of the documents that they sign.
    """

    threshold: int
    keys: tuple[bytes, ...]
    predicate_type: str = ""
    payload_type: str = ""


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """`policy.json`: which keys speak for the channel, in which role (docs/spec/trust.md).

    Attributes:
        channel: The channel's name.
        roles: Role name -> role.
        sites: SITE_ID or `*` -> what the channel's owners allow there; this version knows nothing to allow.
    """

    channel: str
    roles: Mapping[str, Role]
    sites: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"*": {}})

    def role(self, name: str) -> Role:
        """Return the role `name`.

        Raises:
            TrustError: The policy gives that role to nobody.
        """
        if name not in self.roles:
            raise TrustError(f"the policy of channel {self.channel} gives the role '{name}' to no key", role=name)
        return self.roles[name]

    def emit(self) -> bytes:
        """Return the canonical JSON.

        Raises:
            IntegrityError: The policy breaks a rule of `parse`, so that no such document is ever published.
        """
        data = emit_canonical(
            {
                "schema": _SCHEMA_POLICY,
                "channel": self.channel,
                "roles": {name: _emit_role(role) for name, role in self.roles.items()},
                "sites": {name: dict(rules) for name, rules in self.sites.items()},
            }
        )
        self.parse(data)
        return data

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read bytes that the channel's targets role has vouched for.

        Raises:
            IntegrityError: Not canonical JSON; another schema; a field or role that is missing or unknown; a role
                bound to another type than its own; a key twice; a threshold below 1 or above the number of keys.
        """
        fields = Fields(parse_canonical(data, what=POLICY_TARGET), what=POLICY_TARGET)
        fields.schema(_SCHEMA_POLICY)
        channel = fields.text("channel")
        table = fields.table("roles")
        known = (*STATEMENT_ROLES, *DOCUMENT_ROLES)
        roles = {name: _parse_role(table.table(name), name) for name in known if name in table or name in _REQUIRED}
        table.done()
        sites = fields.mapping("sites")
        fields.done()
        if not is_channel_name(channel):
            raise fields.fail(f"'channel' is {channel[:80]!r}; a name such as 'main' is expected")
        if len(sites) > _SITES:
            raise fields.fail(f"'sites' has {len(sites)} entries; at most {_SITES} are read")
        for name, rules in sites.items():
            Fields(rules, what=f"{POLICY_TARGET} sites {name[:40]!r}").done()
        return cls(channel, roles, sites)


@dataclass(frozen=True, slots=True)
class Revocations:
    """`revocations.json`: releases that no site may import, activate or fall back to any more.

    Attributes:
        releases: Release digest -> reason, for people.
    """

    releases: Mapping[Digest, str]

    def emit(self) -> bytes:
        """Return the canonical JSON, sorted by digest."""
        return emit_canonical(
            {
                "schema": _SCHEMA_REVOCATIONS,
                "releases": [
                    {"digest": digest.value, "reason": self.releases[digest]} for digest in sorted(self.releases)
                ],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read bytes that the channel's targets role has vouched for.

        Raises:
            IntegrityError: Not canonical JSON, another schema, a missing or unknown field, or digests that are not
                sorted with each there once.
        """
        fields = Fields(parse_canonical(data, what=REVOCATIONS_TARGET), what=REVOCATIONS_TARGET)
        fields.schema(_SCHEMA_REVOCATIONS)
        entries = [_parse_revocation(item) for item in fields.tables("releases", most=_RELEASES)]
        fields.done()
        digests = [digest for digest, _ in entries]
        if digests != sorted(set(digests)):
            raise fields.fail("'releases' must be sorted by digest, each there once")
        return cls(dict(entries))


def _emit_role(role: Role) -> dict[str, Any]:
    value: dict[str, Any] = {
        "threshold": role.threshold,
        "keys": [base64.b64encode(key).decode() for key in role.keys],
    }
    if role.predicate_type:
        value["predicateType"] = role.predicate_type
    if role.payload_type:
        value["payloadType"] = role.payload_type
    return value


def _parse_role(fields: Fields, name: str) -> Role:
    texts = fields.texts("keys", most=_KEYS)
    keys = tuple(fields.decode64(text, "keys") for text in texts)
    predicate_type = payload_type = ""
    if name in STATEMENT_ROLES:
        predicate_type = fields.text("predicateType", choices=(STATEMENT_ROLES[name],))
    else:
        payload_type = fields.text("payloadType", choices=(DOCUMENT_ROLES[name],))
    if not keys or len(set(keys)) != len(keys):
        raise fields.fail("'keys' must list at least one key, and none twice")
    threshold = fields.integer("threshold", low=1, high=len(keys))
    fields.done()
    return Role(threshold, keys, predicate_type, payload_type)


def _parse_revocation(fields: Fields) -> tuple[Digest, str]:
    entry = fields.digest("digest"), fields.text("reason")
    fields.done()
    return entry
