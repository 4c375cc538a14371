from collections.abc import Callable
from typing import Any

import pytest

from airpack.crypto.keys import PrivateKey
from airpack.errors import IntegrityError, TrustError
from airpack.evidence.reading import read_records
from airpack.evidence.records import Event

Make = Callable[..., Any]


def read(site: Any) -> list[Any]:
    return read_records(site.folder, origin=f"airpack/{site.site_id}", key=site.key.public)


def test_what_was_appended_is_read(make_site: Make) -> None:
    site = make_site()
    log = site.create()
    site.do(log, Event.IMPORT)
    site.do(log, Event.ACTIVATE)

    assert read(site) == list(log.records())


def test_a_record_that_is_just_being_appended_is_not_read_and_not_repaired(make_site: Make) -> None:
    site = make_site()
    log = site.create()
    site.do(log, Event.IMPORT)
    before = site.checkpoint.read_bytes()
    site.do(log, Event.GC)
    site.checkpoint.write_bytes(before)
    whole = site.entries.read_bytes()

    assert [record.event for record in read(site)] == [Event.IMPORT, Event.IMPORT]
    assert (site.entries.read_bytes(), site.checkpoint.read_bytes()) == (whole, before)


def test_an_edited_record_is_refused(make_site: Make) -> None:
    site = make_site()
    log = site.create()
    site.do(log, Event.IMPORT)
    site.entries.write_bytes(site.entries.read_bytes().replace(b'"volumes":1', b'"volumes":2'))

    with pytest.raises(IntegrityError, match="not those of its checkpoint"):
        read(site)


def test_a_lost_record_is_refused(make_site: Make) -> None:
    site = make_site()
    log = site.create()
    site.do(log, Event.IMPORT)
    site.entries.write_bytes(site.entries.read_bytes().splitlines(keepends=True)[0])

    with pytest.raises(IntegrityError):
        read(site)


def test_a_checkpoint_by_another_key_is_refused(make_site: Make) -> None:
    site = make_site()
    site.do(site.create(), Event.IMPORT)
    site.key = PrivateKey.generate("ed25519")

    with pytest.raises(TrustError):
        read(site)


def test_a_missing_log_is_said(make_site: Make) -> None:
    with pytest.raises(IntegrityError, match="lost its checkpoint"):
        read(make_site("nothing"))
