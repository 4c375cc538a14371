"""The example in docs/spec/evidence.md is what the code writes and reads."""

import base64
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airpack.crypto.keys import PrivateKey, PublicKey
from airpack.evidence import log as log_module
from airpack.evidence.archive import read_archive, write_archive
from airpack.evidence.audit import audit
from airpack.evidence.export import build
from airpack.evidence.merkle import leaf_hash
from airpack.evidence.records import Actor, Event, Outcome, Stamp, Subject
from airpack.types import Digest

SPEC = (Path(__file__).parents[3] / "docs/spec/evidence.md").read_text()
NAMES = (
    "log/checkpoint",
    "log/consistency.json",
    "log/entries.jsonl",
    "log/frontier.prev",
    "manifest.dsse.json",
    "manifest.json",
)
RFC8032_SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PKCS8 = bytes.fromhex("302e020100300506032b657004220420")  # RFC 8410 section 7, before the 32 bytes
BOOT = "0f3b0f4e-90a1-4c5f-9d5c-3f2a1b0c9d8e"


def block(title: str) -> str:
    """Return the text of the fenced block under the line that begins with `title`."""
    match = re.search(rf"^{re.escape(title)}[^\n]*:\n\n```[a-z]*\n(.*?)```", SPEC, re.DOTALL | re.MULTILINE)
    assert match is not None, title
    return match.group(1)


def example() -> dict[str, bytes]:
    """Return the files of the example; the JSON documents have no newline at their end."""
    blocks = {name: block(f"`{name}`") for name in NAMES}
    return {
        name: (text.rstrip("\n") if text.startswith("{") and name != "log/entries.jsonl" else text).encode()
        for name, text in blocks.items()
    }


@pytest.fixture
def key() -> PrivateKey:
    body = base64.encodebytes(PKCS8 + RFC8032_SECRET)
    return PrivateKey.from_pem(b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n", None)


def test_the_example_passes_an_audit_and_leaves_the_state_it_shows() -> None:
    data = write_archive(example())
    assert f"{len(data)} bytes with the digest `{Digest.of(data)}`" in SPEC
    result = audit(data, key=PublicKey.from_pem(block("`site.pub`").encode()))
    assert result.ok
    assert result.state is not None
    assert result.state.emit().decode() == block("`auditor state`").strip()


def test_the_leaf_hashes_are_those_of_the_lines() -> None:
    lines = block("`log/entries.jsonl`").encode().splitlines()
    assert [leaf_hash(line).hex() for line in lines] == block("Their leaf hashes").split()


def test_the_example_is_what_is_written(
    make_site: Callable[..., Any], key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    boottime = iter(range(86_401_000, 86_500_000, 1000))
    monkeypatch.setattr(log_module, "_actor", lambda: Actor(990, "airpack"))
    monkeypatch.setattr(log_module, "_stamp", lambda now: Stamp(now, BOOT, next(boottime)))
    site = make_site(key=key, now=datetime(2026, 11, 23, 9, 14, 6, tzinfo=UTC))
    log = site.create()
    release = Digest("sha256:bafebd36189ad3688b7b3915ea55d461e0bfcfbdde11e54b0a123999fb6be50f")
    log.intent(Event.IMPORT, corr="4f0c1a77", subject=[Subject("hello@1.0", release)], data={"volumes": 1})
    log.result("4f0c1a77", Outcome.DONE)
    log.intent(Event.EXPORT, corr="9be20d13")
    _, data = build(log)
    assert read_archive(data) == example()
    assert f"the root `{log.root.hex()}`" in SPEC
