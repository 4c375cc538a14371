"""Activation, rollback and fallback: what runs changes only here.

    1. the release may: not revoked, not below the floor (a rollback goes to a known-good one, whatever the floor)
    2. model, runtime and this host fit (policy.compat)
    3. intent on record
    4. a generation is materialised, every byte hashed
    5. one try fewer is stored, then the probes run, beside whatever is active
    6. all passed: active, known good and floor in one transaction, then the link, then the result on record
       one failed: FAILED, and what was active stays, unless it was this very release: then fall back

Fallback goes to the newest known-good release whose bytes still hash, else to a safe stop: nothing runs.
"""

from dataclasses import dataclass
from typing import Any

from airpack.catalog.catalog import Generation, ReleaseRow
from airpack.errors import AirpackError, IncompatibleError, NotFoundError, ProbeError, RevokedError
from airpack.evidence.records import Event, Outcome, Subject, clip
from airpack.facts.host import HostFacts
from airpack.formats.names import Ref, parse_ref
from airpack.formats.release import Release
from airpack.ops.fallback import fall_back
from airpack.ops.generations import keep_only, load_release, materialise
from airpack.ops.host import check_host
from airpack.ops.recover import exclusive
from airpack.ops.site import Site, SitePolicy, recorded
from airpack.ops.trials import Trial, run_trials
from airpack.ops.trust import stored_revocations
from airpack.policy import lifecycle
from airpack.policy.lifecycle import Event as Step
from airpack.types import Digest, Reporter, Silent, State


@dataclass(frozen=True, slots=True)
class Activation:
    """What an activation or a rollback came to.

    Attributes:
        row: The release, as it stands afterwards.
        generation: Its generation.
        trials: What each probe found.
        active: What runs afterwards, None after a safe stop.
    """

    row: ReleaseRow
    generation: Generation | None
    trials: tuple[Trial, ...]
    active: ReleaseRow | None

    @property
    def deciding(self) -> Trial | None:
        """The probe that decided: the one that failed, else the first; None where none was run."""
        return next((trial for trial in self.trials if not trial.result.ok), next(iter(self.trials), None))

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        return {
            "product": self.row.product,
            "version": self.row.version,
            "release": str(self.row.digest),
            "state": lifecycle.shown(self.row.state),
            "generation": self.generation.number if self.generation else None,
            "probe": self.deciding.document() if self.deciding else None,
            "probes": [trial.document() for trial in self.trials],
            "active": brief(self.active),
        }


def brief(row: ReleaseRow | None) -> dict[str, Any] | None:
    """Return version, digest and state of a release for JSON, None for None."""
    if row is None:
        return None
    return {"version": row.version, "release": str(row.digest), "state": lifecycle.shown(row.state)}


def find_release(site: Site, reference: str) -> ReleaseRow:
    """Return the release that `product@version`, a digest, or a product with one release names.

    Raises:
        InputError: The reference cannot be one, or names several releases.
        NotFoundError: No such release is held here.
    """
    wanted = parse_ref(reference)
    if isinstance(wanted, Digest):
        rows = [row for row in site.catalog.releases() if row.digest == wanted]
    else:
        rows = [row for row in site.catalog.releases(wanted.product) if _is_named(row, wanted)]
    rows = [row for row in rows if row.state is not State.SUPERSEDED]
    if not rows:
        raise NotFoundError(f"no release {reference} at this site", hint="airpack list shows what is held")
    return max(rows, key=lambda row: row.sequence)


def _is_named(row: ReleaseRow, wanted: Ref) -> bool:
    return wanted.version is None or row.version == wanted.version


def activate(site: Site, reference: str, *, reporter: Reporter | None = None) -> Activation:
    """Make a release the one that runs, after its probes passed.

    Args:
        site: The site.
        reference: `product@version`, `product` (the newest held), or a digest.
        reporter: Receives notes.

    Raises:
        NotFoundError: No such release.
        RollbackError: It is below the floor.
        PolicyError: Revoked, incompatible, no probe, or a probe failed; `document` says what runs now.
        IntegrityError: A stored byte has changed.
        StorageError: Disk, or the evidence log cannot append.
    """
    with exclusive(site):
        row = find_release(site, reference)
        return _run(site, row, Event.ACTIVATE, reporter or Silent())


def rollback(site: Site, product: str, version: str | None, *, reporter: Reporter | None = None) -> Activation:
    """Go back to a known-good release of `product`: the newest older one, or `version`.

    Raises:
        NotFoundError: No such product.
        PolicyError: No such known-good release, or it does not pass its probes now.
        IntegrityError: A stored byte has changed.
        StorageError: Disk, or the evidence log cannot append.
    """
    with exclusive(site):
        rows = {row.digest: row for row in site.catalog.releases(product)}
        if not rows:
            raise NotFoundError(f"no product {product} at this site", hint="airpack list shows what is held")
        active = site.catalog.active(product)
        below = rows[active.release].sequence if active else max(row.sequence for row in rows.values()) + 1
        try:
            target = lifecycle.rollback_target(product, [row.standing for row in rows.values()], below, version)
        except AirpackError as error:
            running = rows.get(active.release) if active else None
            _note_refusal(site, running, Event.ROLLBACK, error, {"product": product, "to": clip(version or "")})
            raise
        return _run(site, rows[target.release], Event.ROLLBACK, reporter or Silent())


def _run(site: Site, row: ReleaseRow, event: Event, reporter: Reporter) -> Activation:
    try:
        policy = site.policy()
        release, facts = _permitted(site, row, event)
    except AirpackError as error:
        _refuse(site, row, event, error)
        raise
    corr = site.log.intent(
        event,
        subject=[Subject(row.name, row.digest)],
        data={
            "site_policy": str(policy.digest),
            "host_facts": str(facts.digest()),
            "active_before": _active_name(site, row.product),
        },
    )
    try:
        generation = materialise(site, row, release)
        trials = _trials(site, row, release, generation, policy)
    except AirpackError as error:
        with recorded(error):
            site.log.result(
                corr,
                Outcome.FAILED,
                reason=error.code,
                subject=[Subject(row.name, row.digest)],
                data={"message": clip(error.message)},
            )
        error.document = _outcome(site, row, None, ()).document()
        raise
    return _settle(site, row, generation, trials, corr=corr, reporter=reporter)


def _permitted(site: Site, row: ReleaseRow, event: Event) -> tuple[Release, HostFacts]:
    """Steps 1 and 2: whether this release may run here at all."""
    if row.state is State.REVOKED:
        raise RevokedError(f"{row.name} was revoked by its channel", release=row.digest)
    if event is Event.ACTIVATE:
        # A rollback rests on the catalog alone: a damaged trust state must not bar the way to what is known good.
        reason = stored_revocations(site).releases.get(row.digest)
        if reason is not None:
            raise RevokedError(f"{row.name} was revoked by its channel: {reason}", release=row.digest)
        lifecycle.check_floor(row.product, row.version, row.sequence, site.catalog.floor(row.product), known=True)
    release = load_release(site, row.digest)
    facts, _ = check_host(release)
    return release, facts


def _refuse(site: Site, row: ReleaseRow, event: Event, error: AirpackError) -> None:
    _note_refusal(site, row, event, error, {})
    if isinstance(error, RevokedError):
        site.catalog.set_state(row.digest, lifecycle.step(row.state, Step.REVOKE), proven=False)
    if isinstance(error, IncompatibleError):
        site.catalog.set_state(row.digest, lifecycle.step(row.state, Step.REFUSE))
    error.document = _outcome(site, row, None, ()).document()


def _note_refusal(site: Site, row: ReleaseRow | None, event: Event, error: AirpackError, data: dict[str, str]) -> None:
    with recorded(error):
        site.log.note(
            event,
            Outcome.REFUSED,
            reason=error.code,
            subject=[Subject(row.name, row.digest)] if row else [],
            data={**data, "message": clip(error.message)},
        )


def _trials(
    site: Site, row: ReleaseRow, release: Release, generation: Generation, policy: SitePolicy
) -> tuple[Trial, ...]:
    """Step 5: store the try, run every probe. The release is on trial from here to `_settle`."""
    staged = lifecycle.step(row.state, Step.STAGE)
    tries = row.tries if row.tries > 0 else lifecycle.TRIES
    site.catalog.set_state(row.digest, staged, tries=tries)
    site.catalog.set_state(row.digest, lifecycle.step(staged, Step.TRY), tries=tries - 1)
    try:
        return run_trials(site, row, release, generation, policy)
    except AirpackError:
        # The probe could not be run at all: that says nothing about the release.
        site.catalog.set_state(row.digest, row.state, tries=row.tries)
        raise


def _settle(
    site: Site,
    row: ReleaseRow,
    generation: Generation,
    trials: tuple[Trial, ...],
    *,
    corr: str,
    reporter: Reporter,
) -> Activation:
    failed = next((trial for trial in trials if not trial.result.ok), None)
    state = State.TRIAL
    if failed is None:
        site.catalog.set_state(row.digest, lifecycle.step(state, Step.SUCCEED))
        site.catalog.confirm(generation, row.sequence)
        site.point(row.product)
        keep_only(site, generation)
        site.log.result(corr, Outcome.DONE, subject=[Subject(row.name, row.digest)], data=_facts(generation, trials))
        return _outcome(site, row, generation, trials)
    active = site.catalog.active(row.product)
    if active is not None and active.release == row.digest:
        # Before FAILED is stored: a kill in between leaves a trial to settle, never a failed release that runs.
        fall_back(site, row, reporter)
    site.catalog.set_state(row.digest, lifecycle.step(state, Step.FAIL), tries=0, proven=False)
    outcome = _outcome(site, row, generation, trials)
    running = f"{outcome.active.name} stays active" if outcome.active else f"nothing runs for {row.product} now"
    site.log.result(
        corr,
        Outcome.FAILED,
        reason=ProbeError.code,
        subject=[Subject(row.name, row.digest)],
        data={**_facts(generation, trials), "active_after": _active_name(site, row.product)},
    )
    error = ProbeError(
        f"{row.name} failed its {failed.origin} probe: {failed.result.detail}; {running}",
        hint=f"airpack show {row.name} has the details",
        reason=failed.result.reason,
    )
    error.document = outcome.document()
    raise error


def _outcome(site: Site, row: ReleaseRow, generation: Generation | None, trials: tuple[Trial, ...]) -> Activation:
    after = site.catalog.release(row.digest)
    return Activation(after or row, generation, trials, active_release(site, row.product))


def active_release(site: Site, product: str) -> ReleaseRow | None:
    """Return the release that runs for `product`, None for nothing."""
    active = site.catalog.active(product)
    return site.catalog.release(active.release) if active is not None else None


def _active_name(site: Site, product: str) -> str:
    row = active_release(site, product)
    return row.name if row is not None else ""


def _facts(generation: Generation, trials: tuple[Trial, ...]) -> dict[str, str | int | bool]:
    facts: dict[str, str | int | bool] = {"generation": generation.number, "probes": len(trials)}
    for trial in trials:
        facts[f"{trial.origin}_probe"] = "passed" if trial.result.ok else clip(trial.result.reason)
        facts[f"{trial.origin}_isolation"] = trial.result.isolation
    return facts
