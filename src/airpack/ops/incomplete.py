"""What a site says when media did not hold all that an import needs: an error, and a report to take along.

The report (`SITE/repair/PRODUCT@VERSION.json`, docs/spec/package.md section 9) names the volumes and bytes to bring. It
goes once the release is whole.
"""

from pathlib import Path

from airpack import fsops
from airpack.errors import DamagedError, IntegrityError, NotFoundError, PartialError
from airpack.formats.package import PackageManifest
from airpack.formats.repair import Needed, RepairReport
from airpack.ops.site import Site
from airpack.transport.damage import Kind
from airpack.transport.outcome import Outcome, listed
from airpack.types import Digest, Limits

FOLDER = "repair"


def report_path(site: Site, manifest: PackageManifest) -> Path:
    """Return where the report of a package lies, or would lie."""
    return site.root / FOLDER / f"{manifest.product}@{manifest.version}.json"


def incomplete(site: Site, manifest: PackageManifest, package: Digest, outcome: Outcome) -> PartialError:
    """Write the report of what is needed, and return the error that says so.

    Args:
        site: The site.
        manifest: The signed package manifest.
        package: Digest of its signed bytes.
        outcome: What a reading came to; not all that is needed.

    Raises:
        StorageError: The report cannot be written.
    """
    report = RepairReport(package, manifest.release, manifest.product, manifest.version, _needed(manifest, outcome))
    path = report_path(site, manifest)
    fsops.make_dir(path.parent)
    fsops.write_durable(path, report.emit())
    name = f"{manifest.product}@{manifest.version}"
    missing = f"{len(outcome.missing)} of {len(manifest.volumes)} volumes are missing: {listed(outcome.missing)}"
    context = {
        **outcome.context(),
        "waits_for": [needed.name for needed in report.volumes],
        "report": str(path),
    }
    if not outcome.damaged:
        return PartialError(
            f"{name} is not whole yet: {missing}",
            hint="bring them, in any order, and import again with their folders; what was read is kept",
            **context,
        )
    first = outcome.damage.first[0]
    places = sum(len(ranges) for ranges in outcome.damaged.values())
    more = f", and {places - 1} more places" if places > 1 else ""
    error = PartialError if outcome.damage.kinds <= {Kind.MISSING} else DamagedError
    return error(
        f"{name} is not whole yet: {first.line}{more}" + (f"; {missing}" if outcome.missing else ""),
        hint=f"bring these volumes again, or take {path} to the build side, where `airpack build --repair` makes what "
        "is needed of them; what was read is kept",
        **first.error().context,
        **context,
    )


def is_report(path: Path) -> bool:
    """Return whether the file at `path` is the report that its name says."""
    try:
        report = RepairReport.parse(fsops.read_regular(path, Limits.DOCUMENT), what=path.name)
    except (IntegrityError, NotFoundError):
        return False
    return path.name == f"{report.product}@{report.version}.json"


def settle(site: Site, manifest: PackageManifest) -> None:
    """Drop the report of a package whose release is whole."""
    path = report_path(site, manifest)
    if path.parent.is_dir():
        fsops.remove_file(path)


def _needed(manifest: PackageManifest, outcome: Outcome) -> tuple[Needed, ...]:
    """Return what of each volume is needed, in the manifest's order: all of one that is missing."""
    missing = set(outcome.missing)
    return tuple(
        Needed(info.name, ((0, info.size),) if info.name in missing else tuple(outcome.damaged[info.name]))
        for info in manifest.volumes
        if info.name in missing or info.name in outcome.damaged
    )
