"""The state machine of a release at a site, the sequence floor, the fallback and what is kept. Pure.

    IMPORTED ─stage→ STAGED ─try→ TRIAL ─succeed→ PROBATION ─confirm→ KNOWN_GOOD ─retire→ SUPERSEDED
                        ↑           │ interrupted, tries left   │ fail      │ try
                        └───────────┤                           │           └→ TRIAL
                                    └─ fail, or no tries ──→ FAILED ←───────┘

INCOMPATIBLE and REVOKED end it from anywhere. The intent is on record and `tries` is one lower *before* a trial
starts, so that a hang or a power cut counts as a failed try. KNOWN_GOOD is a standing: it outlives deactivation.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from airpack.errors import PolicyError, RollbackError
from airpack.types import Digest, Standing, State

TRIES: Final = 3  # trials of one activation that may be interrupted before the release counts as failed
KEEP_KNOWN_GOOD: Final = 2  # known-good releases kept behind the active one


class Event(StrEnum):
    """What can happen to a release."""

    STAGE = "stage"
    TRY = "try"
    SUCCEED = "succeed"
    CONFIRM = "confirm"
    FAIL = "fail"
    REFUSE = "refuse"
    REVOKE = "revoke"
    RETIRE = "retire"


_SHOWN: Final = {
    State.IMPORTED: "ready",
    State.STAGED: "ready",
    State.TRIAL: "trial",
    State.PROBATION: "trial",
    State.KNOWN_GOOD: "good",
    State.FAILED: "failed",
    State.INCOMPATIBLE: "blocked",
    State.REVOKED: "blocked",
    State.SUPERSEDED: "blocked",
}

_STEPS: Final[dict[tuple[State, Event], State]] = {
    (State.IMPORTED, Event.STAGE): State.STAGED,
    (State.STAGED, Event.STAGE): State.STAGED,
    (State.KNOWN_GOOD, Event.STAGE): State.KNOWN_GOOD,
    # An operator may try a failed release again: a new decision, on record. Nothing does so by itself.
    (State.FAILED, Event.STAGE): State.STAGED,
    (State.INCOMPATIBLE, Event.STAGE): State.STAGED,
    (State.STAGED, Event.TRY): State.TRIAL,
    (State.KNOWN_GOOD, Event.TRY): State.TRIAL,
    (State.TRIAL, Event.SUCCEED): State.PROBATION,
    (State.PROBATION, Event.CONFIRM): State.KNOWN_GOOD,
    (State.TRIAL, Event.FAIL): State.FAILED,
    (State.PROBATION, Event.FAIL): State.FAILED,
    (State.IMPORTED, Event.REFUSE): State.INCOMPATIBLE,
    (State.STAGED, Event.REFUSE): State.INCOMPATIBLE,
    (State.KNOWN_GOOD, Event.REFUSE): State.KNOWN_GOOD,  # the host changed, not the release
    (State.FAILED, Event.REFUSE): State.FAILED,
    (State.INCOMPATIBLE, Event.REFUSE): State.INCOMPATIBLE,
    (State.REVOKED, Event.REFUSE): State.REVOKED,
    **{(state, Event.REVOKE): State.REVOKED for state in State},
    **{(state, Event.RETIRE): State.SUPERSEDED for state in State if state not in {State.TRIAL, State.PROBATION}},
}


def shown(state: State) -> str:
    """Return the word that users see: ready, trial, good, failed or blocked."""
    return _SHOWN[state]


def step(state: State, event: Event) -> State:
    """Return the state after `event`.

    Raises:
        PolicyError: A release in `state` does not take `event`.
    """
    after = _STEPS.get((state, event))
    if after is None:
        raise PolicyError(f"a release that is {shown(state)} ({state}) cannot take the step '{event}'")
    return after


def after_interruption(tries_left: int, *, proven: bool) -> State:
    """Return where a release stands after its trial was cut short: as before, or failed once no try is left."""
    if tries_left <= 0:
        return State.FAILED
    return State.KNOWN_GOOD if proven else State.STAGED


def check_floor(product: str, version: str, sequence: int, floor: int, *, known: bool) -> None:
    """Refuse a release below the floor, which rises with every release that proved good here.

    Args:
        product: For the message.
        version: For the message.
        sequence: The release's number.
        floor: Highest number that proved good, 0 for none.
        known: Whether this very release is already held, so that an equal number is no contradiction.

    Raises:
        RollbackError: `sequence` is below the floor, or is the floor's but of another release.
    """
    if sequence > floor or (sequence == floor and known):
        return
    raise RollbackError(
        f"{product}@{version} is number {sequence} in its channel; {product} already proved good at number {floor}, "
        "and only newer releases are taken",
        hint=f"to go back to a release that is still held here: airpack rollback {product}",
        sequence=sequence,
        floor=floor,
    )


def rollback_target(product: str, standings: Iterable[Standing], active: int, wanted: str | None) -> Standing:
    """Return the release that a rollback goes to.

    A release that was known good once and failed since is taken only when it is named: that is somebody's decision, and
    its probes run again before anything is switched.

    Args:
        product: For the message.
        standings: All releases of the product.
        active: Sequence of what is active, or one above all for nothing.
        wanted: A version, or None for the newest known-good one below `active`.

    Raises:
        PolicyError: No such release is held.
    """
    if wanted is None:
        fitting = [item for item in standings if item.state == State.KNOWN_GOOD and item.sequence < active]
    else:
        again = {State.STAGED, State.FAILED}
        fitting = [
            item
            for item in standings
            if item.version == wanted and (item.state == State.KNOWN_GOOD or (item.was_good and item.state in again))
        ]
    if not fitting:
        which = f"{product}@{wanted} was never known good here" if wanted else f"no older known-good {product} is held"
        raise PolicyError(f"cannot roll back: {which}", hint="airpack list shows what is held, and how it stands")
    return max(fitting, key=lambda item: item.sequence)


def fallbacks(standings: Iterable[Standing], failed: Digest) -> list[Standing]:
    """Return the releases to fall back to, best first: known good, never the one that just failed."""
    good = [item for item in standings if item.state == State.KNOWN_GOOD and item.release != failed]
    return sorted(good, key=lambda item: item.sequence, reverse=True)


def retired(standings: Sequence[Standing], active: Digest | None, keep: int = KEEP_KNOWN_GOOD) -> list[Standing]:
    """Return the releases of one product that retention no longer keeps.

    Kept are the active one, the newest `keep` known-good ones beside it, and everything newer than the newest
    known-good one (it may still be activated). Anything on trial is never touched.

    Args:
        standings: All releases of the product that are not superseded.
        active: What runs now.
        keep: Number of known-good releases kept beside the active one.
    """
    good = sorted(
        (item for item in standings if item.state == State.KNOWN_GOOD and item.release != active),
        key=lambda item: item.sequence,
        reverse=True,
    )
    newest = max((item.sequence for item in standings if item.state == State.KNOWN_GOOD), default=0)
    kept = {item.release for item in good[:keep]} | ({active} if active else set())
    busy = {State.TRIAL, State.PROBATION}
    return [
        item for item in standings if item.release not in kept and item.sequence < newest and item.state not in busy
    ]
