"""Points in time as text: RFC 3339, UTC, whole seconds, so that equal times have equal bytes."""

import re
from datetime import UTC, datetime

from airpack.errors import IntegrityError

_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z", re.ASCII)


def emit_time(moment: datetime) -> str:
    """Return `moment` as RFC 3339 text in UTC; fractions of a second are dropped.

    Raises:
        ValueError: `moment` has no time zone (a caller's bug).
    """
    if moment.tzinfo is None:
        raise ValueError("a point in time needs a time zone")
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def parse_time(text: str, *, what: str) -> datetime:
    """Return the point in time that `text` (the form of `emit_time`, no other) names.

    Args:
        text: For example `2026-03-01T12:00:00Z`.
        what: Where it stands, for the message.

    Raises:
        IntegrityError: Another form, or no such day or hour.
    """
    try:
        if _FORM.match(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise IntegrityError(f"{what} is {text[:40]!r}; expected a time such as '2026-03-01T12:00:00Z'")
