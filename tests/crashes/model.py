"""What a site should show after each act, said once more in the plainest way: the oracle of the random schedules.

An act that is cut short may have happened or not, nothing between. A trial that is cut short counts as a try, and the
third leaves the release failed; then the newest other good one takes over, if it was this one that ran.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.crashes.world import FAILING, SEQUENCE, Act, Seen

TRIES = 3
KEPT = 2  # good releases behind the one that runs


@dataclass(frozen=True, slots=True)
class Model:
    """A site in plain words.

    Attributes:
        seen: What it shows.
        tries: Version -> trials that were cut short since the last that ended by itself.
    """

    seen: Seen
    tries: dict[str, int] = field(default_factory=dict)

    def after(self, act: Act) -> "Model":
        """Return the site after `act` came to its end."""
        if act.name == "import":
            return self._imported(act.version)
        if act.name == "activate":
            return self._activated(act.version)
        if act.name == "rollback":
            return self._rolled_back()
        return self._collected() if act.name == "gc" else self

    def cut_short(self, act: Act) -> Iterator["Model"]:
        """Yield what the site may be after `act` was struck and recovery has run."""
        yield self
        yield self.after(act)
        version = act.version if act.name == "activate" else self._target() if act.name == "rollback" else ""
        if version in self.seen.states:
            tried = self._tried(version, self.tries.get(version, 0) + 1)
            yield tried
            if self.seen.states[version] == "failed":  # somebody decided to try it again, and nobody knows yet
                yield replace(tried, seen=tried._with(version, "ready"))
            if tried.tries[version] >= TRIES:
                yield tried._failed(version)

    def _tried(self, version: str, count: int) -> "Model":
        return replace(self, tries={**self.tries, version: count})

    def _with(self, version: str, state: str) -> Seen:
        return replace(self.seen, states={**self.seen.states, version: state})

    def _good(self) -> list[str]:
        """Return the good versions, newest first."""
        good = [version for version, state in self.seen.states.items() if state == "good"]
        return sorted(good, key=SEQUENCE.__getitem__, reverse=True)

    def _imported(self, version: str) -> "Model":
        if version in self.seen.states or SEQUENCE[version] <= self.seen.floor:
            return self
        return replace(self, seen=self._with(version, "ready"))

    def _activated(self, version: str) -> "Model":
        if version not in self.seen.states or SEQUENCE[version] < self.seen.floor:
            return self
        if version == FAILING:
            return self._failed(version)
        floor = max(self.seen.floor, SEQUENCE[version])
        return Model(replace(self._with(version, "good"), active=version, floor=floor), {**self.tries, version: 0})

    def _failed(self, version: str) -> "Model":
        after = replace(self, seen=self._with(version, "failed"), tries={**self.tries, version: 0})
        if self.seen.active == version:
            others = [other for other in self._good() if other != version]
            after = replace(after, seen=replace(after.seen, active=others[0] if others else ""))
        return after

    def _target(self) -> str:
        below = SEQUENCE.get(self.seen.active, 1 + max(SEQUENCE.values()))
        return next((version for version in self._good() if SEQUENCE[version] < below), "")

    def _rolled_back(self) -> "Model":
        target = self._target()
        return Model(replace(self.seen, active=target), {**self.tries, target: 0}) if target else self

    def _collected(self) -> "Model":
        good = self._good()
        behind = [version for version in good if version != self.seen.active][:KEPT]
        newest = SEQUENCE[good[0]] if good else 0
        kept = {
            version: state
            for version, state in self.seen.states.items()
            if version in {self.seen.active, *behind} or SEQUENCE[version] >= newest
        }
        return replace(self, seen=replace(self.seen, states=kept))
