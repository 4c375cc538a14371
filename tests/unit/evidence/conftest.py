from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airpack.crypto.keys import PrivateKey
from airpack.evidence.export import build
from airpack.evidence.log import EvidenceLog
from airpack.evidence.records import Event, Outcome, Subject
from airpack.types import Digest

SITE_ID = "5f3c0e7a9b1d4c2f8e6a7b0c1d2e3f40"


@dataclass
class Site:
    """A site's log with a clock that tests can set, and the few acts they need."""

    folder: Path
    site_id: str = SITE_ID
    key: PrivateKey = field(default_factory=lambda: PrivateKey.generate("ed25519"))
    now: datetime = datetime(2026, 11, 23, 9, 0, 0, tzinfo=UTC)

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def create(self) -> EvidenceLog:
        return EvidenceLog.create(self.folder, site_id=self.site_id, key=self.key, clock=self.clock)

    def open(self) -> EvidenceLog:
        return EvidenceLog.open(self.folder, site_id=self.site_id, key=self.key, clock=self.clock)

    @property
    def entries(self) -> Path:
        return self.folder / "entries.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def do(self, log: EvidenceLog, event: Event, outcome: Outcome = Outcome.DONE) -> None:
        corr = log.intent(event, subject=[Subject("digits@1.0.0", Digest.of(b"digits"))])
        reason = "" if outcome is Outcome.DONE else "integrity"
        log.result(corr, outcome, reason=reason, data={"volumes": 1})

    def export(self, log: EvidenceLog, *, since: int = 0, receipts: dict[str, bytes] | None = None) -> bytes:
        corr = log.intent(Event.EXPORT)
        _, data = build(log, since=since, receipts=receipts or {})
        log.result(corr, Outcome.DONE)
        return data


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Site]:
    def make(name: str = "site", **fields: object) -> Site:
        return Site(tmp_path / name / "log", **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
