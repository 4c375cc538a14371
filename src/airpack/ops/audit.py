"""Evidence that left a site is checked, by auditors and by build desks: nothing here knows a site."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airpack import fsops
from airpack.crypto.keys import PublicKey
from airpack.evidence import audit
from airpack.types import Limits


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found, as scripts see it."""

    result: audit.AuditResult
    state: Path | None

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        summary = self.result.summary
        return {
            "ok": self.result.ok,
            "findings": [{"name": item.name, "ok": item.ok, "detail": item.detail} for item in self.result.findings],
            "checkpoint": self.result.checkpoint,
            "state": str(self.state) if self.state else None,
            "summary": summary_document(summary) if summary else None,
        }


def summary_document(summary: audit.Summary) -> dict[str, Any]:
    """Return the JSON view of an audit's counts."""
    return {
        "records": summary.records,
        "first": summary.first,
        "size": summary.size,
        "export": summary.export,
        "imports": summary.imports,
        "activations": summary.activations,
        "rollbacks": summary.rollbacks,
        "refusals": summary.refusals,
        "outcomes": dict(summary.outcomes),
    }


def audit_evidence(bundle: Path, *, key: Path, state: Path | None) -> Audited:
    """Check an evidence export against the site's pinned key and what the auditor has seen before.

    Args:
        bundle: The export.
        key: The site's public key, PEM, from enrolment; never one that came with the export.
        state: The auditor's own file: read when it exists, written when the audit is well. None for none.

    Raises:
        AirpackError: What does not hold; `document` has every finding.
    """
    pinned = PublicKey.from_pem(fsops.read_regular(key, Limits.DOCUMENT))
    before = audit.load_state(state) if state is not None else None
    result = audit.audit(bundle, key=pinned, state=before)
    audited = Audited(result, state.absolute() if state is not None else None)
    if result.error is not None:
        result.error.document = audited.document()
        raise result.error
    if state is not None and result.state is not None:
        audit.store_state(state, result.state)
    return audited
