"""Reads the fields of one parsed JSON or TOML table: each once, each typed and bounded, unknown ones refused.

    fields = Fields(document, what="policy.json")
    channel = fields.text("channel")
    fields.done()

Refusing what is not known is a safety rule: a constraint that goes unread is a constraint that is not held.
"""

import base64
import binascii
import difflib
import tomllib
from collections.abc import Collection
from typing import Any, Self, TypeVar

from airpack.errors import AirpackError, IntegrityError
from airpack.types import Digest

_T = TypeVar("_T")
_MISSING: Any = object()
_TEXT = 4096  # characters
_HINTED = 100  # words among which a near one is looked for
_SHOWN = 60  # characters of a value or key in a message


class Fields:
    """One table being read.

    Args:
        value: What the parser returned.
        what: The table's name for messages: `policy.json`, `[release]`.
        error: Raised on anything wrong: `IntegrityError` for signed documents, `InputError` for people's files.
    """

    def __init__(self, value: Any, *, what: str, error: type[AirpackError] = IntegrityError) -> None:
        self.what = what
        self._error = error
        if not isinstance(value, dict):
            raise error(f"{what} is not a table of fields")
        self._value: dict[str, Any] = value
        self._known: set[str] = set()

    @classmethod
    def from_toml(cls, data: bytes, *, what: str, error: type[AirpackError]) -> Self:
        """Return the top table of a TOML document.

        Args:
            data: TOML 1.0 in UTF-8; the caller bounds its length.
            what: The file's name, for messages.
            error: As for the class.

        Raises:
            AirpackError: Of the class `error`: it is not TOML, or not such that it can be read here.
        """
        try:
            table = tomllib.loads(data.decode())
        except (ValueError, RecursionError) as reason:  # numbers of thousands of digits, thousands of brackets
            raise error(f"{what} is not TOML: {reason}") from reason
        return cls(table, what=what, error=error)

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def fail(self, message: str, *, hint: str = "") -> AirpackError:
        """Return the error to raise for `message` about this table."""
        return self._error(f"{self.what}: {message}", hint=hint)

    def _get(self, key: str, kind: type[_T] | tuple[type[_T], ...], name: str, default: Any) -> _T:
        self._known.add(key)
        value = self._value.get(key, _MISSING)
        if value is _MISSING:
            if default is _MISSING:
                near = _near(key, self._value.keys() - self._known, cutoff=0.75)
                hint = f"did you mean '{key}' by {near!r}?" if near else ""
                raise self.fail(f"'{key}' is missing", hint=hint)
            found: _T = default
            return found
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.fail(f"'{key}' must be {name}, found {_shown(value)}")
        return value

    def is_null(self, key: str) -> bool:
        """Return whether a field stands there as null, which then counts as read."""
        if key in self._value and self._value[key] is None:
            self._known.add(key)
            return True
        return False

    def text(self, key: str, default: str = _MISSING, *, choices: Collection[str] = ()) -> str:
        """Return a string field; one of `choices` when given."""
        value = self._get(key, str, "a string", default)
        if len(value) > _TEXT:
            raise self.fail(f"'{key}' is longer than {_TEXT} characters")
        if choices and value not in choices:
            near = _near(value, choices)
            hint = f"did you mean {near!r}?" if near else ""
            raise self.fail(f"'{key}' must be one of {', '.join(sorted(choices))}; found {_shown(value)}", hint=hint)
        return value

    def integer(self, key: str, default: int = _MISSING, *, low: int = 0, high: int = 2**53 - 1) -> int:
        """Return an integer field within `low` and `high`, both included."""
        value = self._get(key, int, "a whole number", default)
        if not low <= value <= high:
            raise self.fail(f"'{key}' must be from {low} to {high}, found {_shown(value)}")
        return value

    def number(self, key: str, default: float = _MISSING, *, low: float = 0.0, high: float = 1e15) -> float:
        """Return a number field within `low` and `high`, both included."""
        value = self._get(key, (int, float), "a number", default)
        if not low <= value <= high:  # compared as it is: a whole number may be too large for a float
            raise self.fail(f"'{key}' must be from {low} to {high}, found {_shown(value)}")
        return float(value)

    def flag(self, key: str, default: bool = _MISSING) -> bool:
        """Return a true or false field."""
        return self._get(key, bool, "true or false", default)

    def digest(self, key: str) -> Digest:
        """Return a digest field."""
        text = self.text(key)
        try:
            return Digest(text)
        except IntegrityError as error:
            raise self.fail(f"'{key}': {error.message}") from error

    def base64(self, key: str) -> bytes:
        """Return the bytes of a base64 field (RFC 4648 section 4, padded, canonical)."""
        return self.decode64(self._get(key, str, "a string", _MISSING), key)

    def decode64(self, text: str, key: str) -> bytes:
        """Return the bytes of the base64 text found at `key`; only the one canonical spelling is accepted."""
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.fail(f"'{key}' is not base64: {error}") from error
        if base64.b64encode(data).decode() != text:
            raise self.fail(f"'{key}' is not base64 in its one canonical spelling")
        return data

    def table(self, key: str) -> "Fields":
        """Return a nested table."""
        return Fields(self._get(key, dict, "a table", _MISSING), what=f"{self.what} {key}", error=self._error)

    def mapping(self, key: str, default: dict[str, Any] = _MISSING) -> dict[str, Any]:
        """Return a nested table whose keys are data, unread."""
        return self._get(key, dict, "a table", default)

    def items(self, key: str, *, most: int, default: list[Any] = _MISSING) -> list[Any]:
        """Return a list of at most `most` items, unread."""
        value = self._get(key, list, "a list", default)
        if len(value) > most:
            raise self.fail(f"'{key}' has {len(value)} items; at most {most} are read")
        return value

    def texts(self, key: str, *, most: int, default: list[str] = _MISSING) -> list[str]:
        """Return a list of at most `most` strings."""
        value = self.items(key, most=most, default=default)
        if not all(isinstance(item, str) and len(item) <= _TEXT for item in value):
            raise self.fail(f"'{key}' must hold strings of at most {_TEXT} characters only")
        return value

    def tables(self, key: str, *, most: int, default: list[Any] = _MISSING) -> list["Fields"]:
        """Return a list of at most `most` tables."""
        value = self.items(key, most=most, default=default)
        return [
            Fields(item, what=f"{self.what} {key}[{number}]", error=self._error) for number, item in enumerate(value)
        ]

    def schema(self, expected: str) -> None:
        """Check the field `schema`, so that a newer or foreign document is refused as such.

        Raises:
            AirpackError: It is not `expected`.
        """
        found = self.text("schema")
        if found != expected:
            raise self.fail(
                f"schema is {_shown(found)}; this airpack reads {expected!r}",
                hint="a newer airpack may read it: see `airpack --version`",
            )

    def done(self) -> None:
        """Refuse fields that nobody asked for.

        Raises:
            AirpackError: There is one; the hint names the nearest known field.
        """
        for key in self._value:
            if key not in self._known:
                near = _near(key, self._known)
                hint = f"did you mean '{near}'?" if near else f"known here: {', '.join(sorted(self._known))}"
                raise self.fail(f"unknown key {_shown(key)}", hint=hint)


def _near(word: str, words: Collection[str], *, cutoff: float = 0.6) -> str:
    """Return the one of `words` that `word` may have been meant as; empty where none is, or what is given is hostile.

    difflib takes time for each word, and 36 bytes of memory for each character of `word`.
    """
    if len(word) > _SHOWN or len(words) > _HINTED:
        return ""
    near = difflib.get_close_matches(word, sorted(words), 1, cutoff=cutoff)
    return near[0][:_SHOWN] if near else ""


def _shown(value: Any) -> str:
    """Return `value` for a message, short; what is no text of the document itself is named by its kind."""
    if isinstance(value, str):
        return repr(value[:_SHOWN])
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    try:
        return str(value)[:_SHOWN]
    except ValueError:  # a whole number of thousands of digits
        return "a number too long to show"
