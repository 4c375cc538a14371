"""Fallback: what takes over when the release that runs has failed. Chosen by rule, on record, without a probe.

Revoked releases are in state REVOKED since the import that brought the news, so they are no candidates.

The newest known-good release whose bytes still hash and which fits this host, else a safe stop: nothing runs.
"""

from airpack.catalog.catalog import ReleaseRow
from airpack.errors import AirpackError
from airpack.evidence.records import Event, Outcome, Subject
from airpack.ops.generations import load_release, materialise
from airpack.ops.host import check_host
from airpack.ops.site import Site
from airpack.policy import lifecycle
from airpack.types import Reporter


def fall_back(site: Site, failed: ReleaseRow, reporter: Reporter) -> None:
    """Make the newest other known-good release active whose bytes still hash and which fits this host, or nothing."""
    product = failed.product
    rows = {row.digest: row for row in site.catalog.releases(product)}
    corr = site.log.intent(Event.ROLLBACK, subject=[Subject(failed.name, failed.digest)], data={"automatic": True})
    for standing in lifecycle.fallbacks([row.standing for row in rows.values()], failed.digest):
        row = rows[standing.release]
        try:
            release = load_release(site, row.digest)
            check_host(release)
            generation = materialise(site, row, release)
        except AirpackError as error:
            reporter.note(f"{row.name} cannot be fallen back to: {error.message}")
            continue
        site.catalog.point(product, generation.number)
        site.point(product)
        site.log.result(corr, Outcome.DONE, subject=[Subject(row.name, row.digest)])
        reporter.note(f"fell back to {row.name}")
        return
    site.catalog.point(product, None)
    site.point(product)
    site.log.result(corr, Outcome.DONE, data={"safe_stop": True})
    reporter.note(f"no known-good {product} is left: nothing runs now")
