from dataclasses import replace
from pathlib import Path

import pytest
from tests.fuzz import seeds

from airpack.formats import bundle, dsse, head, oci
from airpack.ops.inspect_ import claimed_manifest, inspect_package
from airpack.types import Descriptor, Digest


def test_an_attestation_is_read_once_however_many_referrers_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine thousand referrers of one bundle of 4 MiB would take hours, and nobody has signed anything yet."""
    parsed = head.parse((seeds.CORPUS / "head/seed-package").read_bytes())
    release = claimed_manifest(parsed).release
    content = next(data for data in parsed.blobs.values() if data.startswith(b'{"dsseEnvelope"'))
    subject = Descriptor(oci.INDEX, release, len(parsed.blobs[release]))
    more = [bundle.referrer(content, subject, "https://x", f"2031-01-01T00:{number:02}:00Z") for number in range(60)]
    path = tmp_path / "tool.airpack"
    path.write_bytes(head.emit(replace(parsed, blobs={**parsed.blobs, **{Digest.of(data): data for data in more}})))
    read: list[bytes] = []
    parse = bundle.parse

    def counted(data: bytes) -> tuple[dsse.Envelope, str]:
        read.append(data)
        return parse(data)

    monkeypatch.setattr(bundle, "parse", counted)
    assert len(inspect_package(path).claims) == 3
    assert len(read) == len(set(read)) == 3
