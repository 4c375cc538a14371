from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.formats.times import emit_time, parse_time

moments = st.integers(0, 253_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(moments)
def test_what_is_written_reads_back(moment: datetime) -> None:
    assert parse_time(emit_time(moment), what="t") == moment


def test_is_utc_and_whole_seconds() -> None:
    moment = datetime(2026, 3, 1, 14, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert emit_time(moment) == "2026-03-01T12:00:00Z"


def test_without_a_zone_it_is_a_bug() -> None:
    with pytest.raises(ValueError, match="time zone"):
        emit_time(datetime(2026, 3, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-03-01",
        "2026-03-01T12:00:00",
        "2026-03-01T12:00:00+00:00",
        "2026-03-01T12:00:00.5Z",
        "2026-02-30T12:00:00Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T12:00:60Z",
        "2026-03-01t12:00:00z",
        "2026-03-01T12:00:00Z\n",
        "٢٠٢٦-03-01T12:00:00Z",
    ],
)
def test_only_one_form_is_read(text: str) -> None:
    with pytest.raises(IntegrityError, match="expected a time such as"):
        parse_time(text, what="t")
