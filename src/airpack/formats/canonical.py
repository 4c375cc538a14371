"""Strict JSON in, canonical JSON out.

Out: RFC 8785 (JCS), so equal values have equal bytes. In: RFC 8259 without what parsers disagree on:
duplicate keys, NaN and Infinity, floats that overflow, byte order marks, lone surrogates, deep nesting.
Documents that airpack itself signs must in addition be canonical (`parse_canonical`), so that two readers cannot
see two documents in the same signed bytes.
"""

import json
import re
from typing import Any, Never

import rfc8785

from airpack.errors import IntegrityError
from airpack.types import Limits

# A string that does not end matches too, as far as it goes: tried again from each of its quotes, it would take time
# that grows with the square of its length.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{\]},]', re.DOTALL)


def emit(value: Any) -> bytes:
    """Return the canonical JSON bytes (RFC 8785) of `value`.

    Law: `parse(emit(value)) == value`, and `parse_canonical` reads the bytes of any object.

    Args:
        value: dict, list, str, bool, None, or a number n with |n| < 2**53: the form of a larger float is that of a
            whole number which is then refused.

    Raises:
        ValueError: The value has no canonical form (a caller's bug).
    """
    return rfc8785.dumps(value)


def parse(data: bytes, *, what: str, limit: int = Limits.DOCUMENT) -> Any:
    """Return the value of strict JSON `data`.

    Args:
        data: UTF-8 bytes.
        what: What is read, for the message ("pack head", "policy.json").
        limit: Largest accepted length in bytes.

    Raises:
        IntegrityError: Too long, not UTF-8, not JSON, duplicate keys, NaN, overflow, or nested too deeply.
    """
    if len(data) > limit:
        raise IntegrityError(f"{what} has {len(data)} bytes; at most {limit} are read")
    _check_shape(data, what)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        _no_surrogates(value)
    except (UnicodeError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not strict JSON: {error}") from error
    return value


def parse_canonical(data: bytes, *, what: str, limit: int = Limits.DOCUMENT) -> dict[str, Any]:
    """Return the object whose canonical bytes are exactly `data`.

    Raises:
        IntegrityError: As `parse`; also when `data` is no object or not in canonical form.
    """
    value = parse(data, what=what, limit=limit)
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is not a JSON object")
    try:
        again = emit(value)
    except ValueError as error:
        raise IntegrityError(f"{what} has no canonical form: {error}") from error
    if again != data:
        raise IntegrityError(f"{what} is not canonical JSON (RFC 8785)")
    return value


def _check_shape(data: bytes, what: str) -> None:
    """Refuse deep nesting, and values without number, before the recursive parser sees them."""
    depth = containers = commas = 0
    for token in _TOKENS.finditer(data):
        first = token.group()[0]
        if first in b"[{":
            depth += 1
            containers += 1
            if depth > Limits.JSON_DEPTH:
                raise IntegrityError(f"{what} is nested deeper than {Limits.JSON_DEPTH} levels")
            if containers > Limits.JSON_CONTAINERS:
                raise IntegrityError(f"{what} holds more than {Limits.JSON_CONTAINERS} lists and objects")
        elif first in b"]}":
            depth -= 1
        elif first in b",":
            commas += 1
            if commas + containers > Limits.JSON_VALUES:
                raise IntegrityError(f"{what} holds more than {Limits.JSON_VALUES} values")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key[:80]!r}")
        result[key] = value
    return result


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} overflows")
    return number


def _no_surrogates(value: Any) -> None:
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, list):
        for item in value:
            _no_surrogates(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode("utf-8")
            _no_surrogates(item)
