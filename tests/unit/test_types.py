import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.types import Descriptor, Digest, Limits, Silent

HEX = "0123456789abcdef" * 4


class TestDigest:
    @given(st.binary())
    def test_of_is_sha256(self, data: bytes) -> None:
        assert Digest.of(data).raw == hashlib.sha256(data).digest()

    @given(st.binary(min_size=32, max_size=32))
    def test_raw_bytes_and_text_name_the_same(self, raw: bytes) -> None:
        digest = Digest.from_raw(raw)
        assert digest.raw == raw
        assert Digest(str(digest)) == digest == Digest(f"sha256:{digest.hex}")
        assert digest.hex.startswith(digest.short)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            HEX,
            f"sha256:{HEX[:-1]}",
            f"sha256:{HEX}0",
            f"sha256:{HEX}\n",
            f" sha256:{HEX}",
            f"sha256:{HEX.upper()}",
            f"SHA256:{HEX}",
            f"sha512:{HEX}",
            f"sha256:{HEX[:-1]}g",
            f"sha256:{HEX[:-1]}\N{ARABIC-INDIC DIGIT ONE}",
            f"sha256:../../{HEX[6:]}",
        ],
    )
    def test_has_one_spelling(self, text: str) -> None:
        with pytest.raises(IntegrityError, match="not a digest"):
            Digest(text)

    @given(st.text(max_size=100))
    def test_accepts_no_other_text(self, text: str) -> None:
        with pytest.raises(IntegrityError):
            Digest(text)

    @pytest.mark.parametrize("size", [0, 31, 33, 64])
    def test_has_exactly_32_bytes(self, size: int) -> None:
        with pytest.raises(IntegrityError):
            Digest.from_raw(bytes(size))

    def test_message_shows_a_part_of_a_long_text_only(self) -> None:
        with pytest.raises(IntegrityError) as caught:
            Digest("x" * 100_000)
        assert len(caught.value.message) < 250

    @given(st.lists(st.binary(min_size=32, max_size=32)))
    def test_order_is_that_of_the_bytes(self, raws: list[bytes]) -> None:
        assert [digest.raw for digest in sorted(map(Digest.from_raw, raws))] == sorted(raws)

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Digest.of(b"").value = "sha256:" + HEX  # type: ignore[misc]


def test_a_descriptor_is_plain_unless_told_otherwise() -> None:
    descriptor = Descriptor("text/plain", Digest.of(b"a"), 1)
    assert (dict(descriptor.annotations), descriptor.artifact_type, dict(descriptor.platform)) == ({}, "", {})
    with pytest.raises(TypeError):
        descriptor.annotations["a"] = "b"  # type: ignore[index]


def test_limits_fit_into_each_other() -> None:
    assert Limits.CHUNK <= Limits.FRAME <= Limits.VOLUME <= Limits.FILE
    assert Limits.WINDOW <= Limits.FRAME
    assert Limits.MANIFEST < Limits.HEAD
    assert Limits.NAME < Limits.PATH


def test_silence_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Silent()
    reporter.start("task", 1)
    reporter.advance(1, "item")
    reporter.note("note")
    reporter.finish()
    assert capfd.readouterr() == ("", "")
