"""Evidence leaves the site as one file that an auditor checks without trusting the site."""

from pathlib import Path

from airpack import fsops
from airpack.errors import AirpackError, InputError
from airpack.evidence import export
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
