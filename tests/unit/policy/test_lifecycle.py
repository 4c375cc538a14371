from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airpack.errors import PolicyError, RollbackError
from airpack.policy import lifecycle
from airpack.policy.lifecycle import (
    KEEP_KNOWN_GOOD,
    TRIES,
    Event,
    after_interruption,
    check_floor,
    fallbacks,
    retired,
    rollback_target,
    shown,
    step,
)
from airpack.types import Digest, Standing, State

I, S, T, P, G, F, X, R, O = (  # noqa: E741, one letter a column
    State.IMPORTED,
    State.STAGED,
    State.TRIAL,
    State.PROBATION,
    State.KNOWN_GOOD,
    State.FAILED,
    State.INCOMPATIBLE,
    State.REVOKED,
    State.SUPERSEDED,
)
# What each state becomes, in the order of the line above; None where the step is refused.
TABLE: Final[dict[Event, tuple[State | None, ...]]] = {
    Event.STAGE: (S, S, None, None, G, S, S, None, None),
    Event.TRY: (None, T, None, None, T, None, None, None, None),
    Event.SUCCEED: (None, None, P, None, None, None, None, None, None),
    Event.CONFIRM: (None, None, None, G, None, None, None, None, None),
    Event.FAIL: (None, None, F, F, None, None, None, None, None),
    Event.REFUSE: (X, X, None, None, G, F, X, R, None),
    Event.REVOKE: (R, R, R, R, R, R, R, R, R),
    Event.RETIRE: (O, O, None, None, O, O, O, O, O),
}
EVERY: Final = [(state, event, after) for event, row in TABLE.items() for state, after in zip(State, row, strict=True)]


def standing(sequence: int, state: State = State.KNOWN_GOOD, *, was_good: bool = False) -> Standing:
    good = state is State.KNOWN_GOOD
    return Standing(Digest.of(b"%d" % sequence), f"1.{sequence}.0", sequence, state, good, good or was_good)


standings = st.lists(st.builds(standing, st.integers(1, 30), st.sampled_from(State)), unique_by=lambda s: s.sequence)


class TestStep:
    def test_the_table_of_this_test_is_complete(self) -> None:
        assert {(state, event) for state, event, _ in EVERY} == {(state, event) for state in State for event in Event}
        assert tuple(State) == (I, S, T, P, G, F, X, R, O)

    @pytest.mark.parametrize(("state", "event", "after"), [case for case in EVERY if case[2] is not None])
    def test_leads_on(self, state: State, event: Event, after: State) -> None:
        assert step(state, event) is after

    @pytest.mark.parametrize(("state", "event", "after"), [case for case in EVERY if case[2] is None])
    def test_is_refused(self, state: State, event: Event, after: None) -> None:
        with pytest.raises(PolicyError, match=rf"\({state}\) cannot take the step '{event}'"):
            step(state, event)
        assert after is None

    def test_nothing_becomes_known_good_but_by_a_trial_that_succeeded(self) -> None:
        ways = [(state, event) for state, event, after in EVERY if after is G and state is not G]
        assert ways == [(P, Event.CONFIRM)]

    def test_nothing_leaves_failed_but_by_an_operator(self) -> None:
        ways = {event for state, event, after in EVERY if state is F and after not in {F, None}}
        assert ways == {Event.STAGE, Event.REVOKE, Event.RETIRE}

    def test_what_was_revoked_never_runs_again(self) -> None:
        assert {after for state, _, after in EVERY if state is R} == {R, O, None}
        assert {after for state, _, after in EVERY if state is O} == {R, O, None}


def test_users_see_five_words() -> None:
    assert {state: shown(state) for state in State} == {
        I: "ready",
        S: "ready",
        T: "trial",
        P: "trial",
        G: "good",
        F: "failed",
        X: "blocked",
        R: "blocked",
        O: "blocked",
    }


class TestInterruption:
    @pytest.mark.parametrize("left", range(1, TRIES))
    def test_with_tries_left_it_stands_as_before(self, left: int) -> None:
        assert after_interruption(left, proven=False) is S
        assert after_interruption(left, proven=True) is G

    @pytest.mark.parametrize("left", [0, -1])
    @pytest.mark.parametrize("proven", [False, True])
    def test_without_it_has_failed(self, left: int, proven: bool) -> None:
        assert after_interruption(left, proven=proven) is F

    def test_the_try_that_hangs_last_is_the_last(self) -> None:
        """The count is stored one lower before each trial."""
        state, left, trials = S, TRIES, 0
        while state is S:
            left, trials = left - 1, trials + 1
            state = after_interruption(left, proven=False)
        assert (state, trials) == (F, TRIES)


class TestFloor:
    @pytest.mark.parametrize(
        ("sequence", "floor", "known"), [(1, 0, False), (1, 0, True), (6, 5, False), (6, 5, True), (5, 5, True)]
    )
    def test_what_is_newer_or_the_floor_itself_passes(self, sequence: int, floor: int, known: bool) -> None:
        check_floor("encoder", "1.0.0", sequence, floor, known=known)

    @pytest.mark.parametrize(("sequence", "floor", "known"), [(4, 5, False), (4, 5, True), (5, 5, False), (0, 1, True)])
    def test_what_is_older_or_another_with_the_floors_number_is_refused(
        self, sequence: int, floor: int, known: bool
    ) -> None:
        with pytest.raises(RollbackError, match=f"is number {sequence} .* proved good at number {floor}") as caught:
            check_floor("encoder", "1.0.0", sequence, floor, known=known)
        assert caught.value.hint.endswith("airpack rollback encoder")
        assert caught.value.context == {"sequence": sequence, "floor": floor}


class TestRollbackTarget:
    ALL = (standing(1), standing(2, F), standing(3), standing(4), standing(5, R))

    def test_by_default_it_is_the_newest_known_good_below_the_active_one(self) -> None:
        assert rollback_target("encoder", self.ALL, 4, None) == standing(3)
        assert rollback_target("encoder", self.ALL, 3, None) == standing(1)
        assert rollback_target("encoder", self.ALL, 6, None) == standing(4)

    def test_a_version_may_be_named_newer_ones_too(self) -> None:
        assert rollback_target("encoder", self.ALL, 3, "1.1.0") == standing(1)
        assert rollback_target("encoder", self.ALL, 1, "1.4.0") == standing(4)

    @pytest.mark.parametrize("state", [S, F])
    def test_what_was_good_once_and_failed_since_must_be_named(self, state: State) -> None:
        held = (standing(1), standing(2, state, was_good=True), standing(3))
        assert rollback_target("encoder", held, 3, None) == standing(1)
        assert rollback_target("encoder", held, 3, "1.2.0") == held[1]

    @pytest.mark.parametrize("state", [I, X, R, O, T, P])
    def test_nothing_else_that_was_good_once_is_taken_even_by_name(self, state: State) -> None:
        with pytest.raises(PolicyError, match="cannot roll back"):
            rollback_target("encoder", [standing(2, state, was_good=True)], 3, "1.2.0")

    @pytest.mark.parametrize(
        ("active", "wanted", "why"),
        [
            (1, None, "no older known-good encoder"),
            (9, "1.2.0", "encoder@1.2.0 was never known good here"),
            (9, "1.5.0", "encoder@1.5.0 was never"),
            (9, "7", "encoder@7 was never"),
        ],
    )
    def test_it_is_never_anything_else(self, active: int, wanted: str | None, why: str) -> None:
        with pytest.raises(PolicyError, match=f"cannot roll back: {why}") as caught:
            rollback_target("encoder", self.ALL, active, wanted)
        assert "airpack list" in caught.value.hint


class TestFallbacks:
    def test_are_the_known_good_ones_newest_first(self) -> None:
        held = [standing(1), standing(4, F), standing(3), standing(5, I), standing(2)]
        assert fallbacks(held, standing(9).release) == [standing(3), standing(2), standing(1)]

    def test_never_the_one_that_just_failed(self) -> None:
        assert fallbacks([standing(1), standing(2)], standing(2).release) == [standing(1)]

    def test_there_may_be_none(self) -> None:
        assert fallbacks([standing(1, state) for state in State if state is not G], standing(9).release) == []


class TestRetired:
    def test_active_and_the_newest_two_known_good_beside_it_stay(self) -> None:
        held = [standing(number) for number in range(1, 7)]
        assert KEEP_KNOWN_GOOD == 2
        assert retired(held, standing(6).release) == [standing(1), standing(2), standing(3)]
        assert retired(held, standing(1).release) == [standing(2), standing(3), standing(4)]
        assert retired(held, None) == [standing(1), standing(2), standing(3), standing(4)]

    def test_what_never_got_good_goes_once_something_newer_is(self) -> None:
        held = [standing(1, I), standing(2, F), standing(3, X), standing(4, R), standing(5), standing(6, I)]
        assert retired(held, standing(5).release) == held[:4]
        assert retired(held[:4], None) == []

    @given(standings, st.integers(0, 4), st.data())
    def test_keeps_what_it_must(self, held: list[Standing], keep: int, data: st.DataObject) -> None:
        active = data.draw(st.sampled_from([None, *held]))
        gone = retired(held, active.release if active else None, keep)
        good = sorted((item.sequence for item in held if item.state is G and item != active), reverse=True)
        newest = max((item.sequence for item in held if item.state is G), default=0)
        assert active not in gone
        for item in gone:
            assert item in held
            assert item.state not in {T, P}
            assert item.sequence not in good[:keep]
            assert item.sequence < newest
        left = [item for item in held if item not in gone]
        assert retired(left, active.release if active else None, keep) == []

    @given(standings)
    def test_a_fallback_is_always_left(self, held: list[Standing]) -> None:
        active = next((item for item in held if item.state is G), None)
        gone = retired(held, active.release if active else None)
        best = fallbacks(held, active.release if active else Digest.of(b""))
        assert not set(best[:KEEP_KNOWN_GOOD]) & set(gone)


class Site(RuleBasedStateMachine):
    """A site that takes decisions from `lifecycle`, with power cuts, against what a person would note down."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, State] = {}
        self.proven: set[int] = set()
        self.tries: dict[int, int] = {}
        self.floor = 0
        self.active: int | None = None
        self.on_trial: int | None = None
        self.failed_since: dict[int, str] = {}  # what was failed, and how it may have left that

    def held(self) -> list[Standing]:
        return [standing(number, state) for number, state in self.states.items()]

    def take(self, number: int, event: Event) -> None:
        before = self.states[number]
        self.states[number] = step(before, event)
        if before is F and self.states[number] is not F:
            self.failed_since[number] = event.value

    @rule(number=st.integers(1, 9))
    def bring(self, number: int) -> None:
        if number in self.states:
            return
        try:
            check_floor("encoder", "1", number, self.floor, known=False)
        except RollbackError:
            assert number <= self.floor
            return
        assert number > self.floor
        self.states[number] = I

    @precondition(lambda self: self.states and self.on_trial is None)
    @rule(data=st.data(), downwards=st.booleans())
    def begin(self, data: st.DataObject, downwards: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.states)))
        try:
            if downwards:
                below = self.active if self.active is not None else 10
                number = rollback_target("encoder", self.held(), below, None).sequence
                assert number < below
                assert self.states[number] is G
            else:
                check_floor("encoder", "1", number, self.floor, known=True)
            self.take(number, Event.STAGE)
        except (RollbackError, PolicyError):
            return
        self.tries[number] = (self.tries.get(number, 0) or TRIES) - 1
        self.take(number, Event.TRY)
        self.on_trial = number

    @precondition(lambda self: self.on_trial is not None)
    @rule(passes=st.booleans())
    def end(self, passes: bool) -> None:
        number, self.on_trial = self.on_trial, None
        assert number is not None
        if passes:
            self.take(number, Event.SUCCEED)
            self.take(number, Event.CONFIRM)
            self.active, self.floor = number, max(self.floor, number)
            self.proven.add(number)
            self.tries[number] = 0
            return
        self.take(number, Event.FAIL)
        self.fall(number)

    def fall(self, number: int) -> None:
        self.proven.discard(number)
        self.tries[number] = 0
        if self.active == number:
            best = fallbacks(self.held(), standing(number).release)
            self.active = best[0].sequence if best else None

    @precondition(lambda self: self.on_trial is not None)
    @rule()
    def cut_power(self) -> None:
        number, self.on_trial = self.on_trial, None
        assert number is not None
        self.states[number] = after_interruption(self.tries[number], proven=number in self.proven)
        if self.states[number] is F:
            assert self.tries[number] == 0
            self.fall(number)

    @precondition(lambda self: self.on_trial is None)
    @rule()
    def collect(self) -> None:
        active = standing(self.active).release if self.active is not None else None
        for item in retired(self.held(), active):
            self.take(item.sequence, Event.RETIRE)
            del self.states[item.sequence]
            self.proven.discard(item.sequence)

    @invariant()
    def what_runs_proved_good(self) -> None:
        if self.active is not None:
            assert self.active in self.proven
            assert self.active <= self.floor
            assert self.states[self.active] in {G, T}

    @invariant()
    def known_good_is_what_proved_good(self) -> None:
        good = {number for number, state in self.states.items() if state is G}
        assert good == self.proven - {self.on_trial}

    @invariant()
    def failed_is_left_only_by_an_operator(self) -> None:
        assert set(self.failed_since.values()) <= {"stage", "retire"}

    @invariant()
    def tries_are_never_below_none(self) -> None:
        assert all(0 <= left < TRIES for left in self.tries.values())


TestSite = Site.TestCase
TestSite.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_every_event_of_the_table_is_known() -> None:
    assert {event for _, event in lifecycle._STEPS} == set(Event)
