import re
from typing import Any

import pytest

from airpack import errors
from airpack.errors import AirpackError

TREE = re.compile(
    r"^ {4}(?P<branch>[│├└─ ]*)(?P<name>[A-Za-z]+Error)(?:\s+(?P<exit>\d+))?\s+(?P<code>[a-z_]+)", re.MULTILINE
)

# docs/exit-codes.md
EXIT_CODES = {
    "InputError": 2,
    "NotFoundError": 3,
    "IntegrityError": 10,
    "TrustError": 11,
    "PolicyError": 12,
    "RollbackError": 13,
    "StorageError": 20,
    "BusyError": 21,
    "PartialError": 30,
    "CancelledError": 130,
}


def classes(top: type[AirpackError] = AirpackError) -> list[type[AirpackError]]:
    """All of airpack's own; tests may have some of theirs."""
    below = (kind for kind in top.__subclasses__() if kind.__module__.startswith("airpack."))
    return [top, *(item for kind in below for item in classes(kind))]


def drawn() -> list[dict[str, Any]]:
    return [match.groupdict() for match in TREE.finditer(errors.__doc__ or "")]


def test_the_tree_in_the_docstring_names_every_class_once() -> None:
    assert sorted(row["name"] for row in drawn()) == sorted(kind.__name__ for kind in classes())


def test_the_tree_in_the_docstring_says_each_code() -> None:
    assert {row["name"]: row["code"] for row in drawn()} == {kind.__name__: kind.code for kind in classes()}


def test_the_tree_in_the_docstring_says_each_exit_code_where_it_changes() -> None:
    said = {row["name"]: int(row["exit"]) for row in drawn() if row["exit"]}
    assert said == {kind.__name__: kind.exit_code for kind in classes() if "exit_code" in vars(kind)}


def test_the_tree_in_the_docstring_has_its_branches_right() -> None:
    parents = []
    path: list[str] = []
    for row in drawn():
        depth = len(row["branch"]) // 3
        path = [*path[:depth], row["name"]]
        parents.append((row["name"], path[-2] if depth else "Exception"))
    assert dict(parents) == {kind.__name__: kind.__bases__[0].__name__ for kind in classes()}


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in classes()]
    assert len(set(codes)) == len(codes)


def test_exit_codes_are_those_of_the_design_each_for_one_branch() -> None:
    own = {kind.__name__: kind.exit_code for kind in classes() if "exit_code" in vars(kind)}
    assert own == {"AirpackError": 1, **EXIT_CODES}
    assert len(set(own.values())) == len(own)


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: str(kind.__name__))
def test_every_error_keeps_message_hint_and_context(kind: type[AirpackError]) -> None:
    error = kind("it broke", hint="mend it", path="a/b", offset=3)
    assert (str(error), error.message, error.hint) == ("it broke", "it broke", "mend it")
    assert error.context == {"path": "a/b", "offset": 3}
    assert error.document == {}


def test_could_not_check_is_no_kind_of_checked_and_bad() -> None:
    verdicts = (errors.IntegrityError, errors.TrustError, errors.PolicyError, errors.RollbackError)
    for kind in (errors.StorageError, errors.BusyError, errors.PartialError):
        assert not issubclass(kind, verdicts)
