"""Evidence leaves the site as one file that an auditor checks without trusting the site."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airpack import fsops
from airpack.crypto.keys import PublicKey
from airpack.errors import AirpackError, InputError
from airpack.evidence import audit, export
from airpack.evidence.records import Event, Outcome, clip
from airpack.ops.recover import exporting
from airpack.ops.site import Site, recorded
from airpack.types import Limits


def export_evidence(site: Site, out: Path, *, since: int = 0, replace: bool = False) -> export.Exported:
    """Write records, proofs, checkpoint, receipts and manifest, signed by the site, as one ZIP file.

    The export itself is on record before it is made.

    Args:
        site: The site.
        out: The file to write.
        since: First record to carry; what lies before it is carried as a frontier. 0 for a full export.
        replace: Whether an existing file may be replaced.

    Raises:
        InputError: `out` exists, or `since` is beyond the log.
        IntegrityError: The log does not hold.
        StorageError: Disk, or the log cannot append.
    """
    if out.exists() and not replace:
        raise InputError(f"{out} exists", hint="choose another name, or give --force to replace it")
    with exporting(site):
        receipts = {
            path.stem: fsops.read_regular(path, Limits.DOCUMENT)
            for path in sorted((site.root / "evidence/receipts").glob("*.json"))
        }
        corr = site.log.intent(Event.EXPORT, data={"since": since})
        try:
            result = export.export(site.log, out.absolute(), since=since, receipts=receipts, replace=replace)
        except AirpackError as error:
            with recorded(error):
                site.log.result(corr, Outcome.FAILED, reason=error.code, data={"message": clip(error.message)})
            raise
        site.log.result(corr, Outcome.DONE, data={"digest": str(result.digest), "records": result.records})
        return result


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
