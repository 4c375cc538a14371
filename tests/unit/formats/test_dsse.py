import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OtherEnvelope

from airpack.errors import IntegrityError
from airpack.formats import canonical, dsse
from airpack.formats.dsse import Envelope, emit, pae, parse

envelopes = st.builds(
    Envelope,
    payload=st.binary(max_size=200),
    payload_type=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
    signatures=st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=4).map(tuple),
)
GOOD: dict[str, Any] = {"payload": "aGk=", "payloadType": "text/x", "signatures": [{"sig": "AQI="}]}


def broken(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in (GOOD | changes).items() if value is not None}).encode()


class TestPae:
    def test_is_that_of_the_specification(self) -> None:
        """The test vector of DSSE's protocol.md."""
        assert pae("http://example.com/HelloWorld", b"hello world") == (
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        )

    def test_lengths_count_bytes_not_characters(self) -> None:
        assert pae("é", "né".encode()) == b"DSSEv1 2 \xc3\xa9 3 n\xc3\xa9"

    @given(envelopes)
    def test_agrees_with_securesystemslib(self, envelope: Envelope) -> None:
        other = OtherEnvelope(envelope.payload, envelope.payload_type, {})
        assert pae(envelope.payload_type, envelope.payload) == other.pae()

    @given(st.tuples(st.text(max_size=9), st.binary(max_size=9)), st.tuples(st.text(max_size=9), st.binary(max_size=9)))
    def test_two_documents_never_share_it(self, one: tuple[str, bytes], two: tuple[str, bytes]) -> None:
        assert (pae(*one) == pae(*two)) == (one == two)


class TestEnvelope:
    @given(envelopes)
    def test_what_is_written_reads_back(self, envelope: Envelope) -> None:
        data = emit(envelope)
        assert parse(data) == envelope
        assert emit(parse(data)) == data
        assert canonical.parse_canonical(data, what="envelope")["payloadType"] == envelope.payload_type

    def test_need_not_be_canonical(self) -> None:
        assert parse(json.dumps(GOOD, indent=4).encode()) == Envelope(b"hi", "text/x", (b"\x01\x02",))

    def test_an_empty_keyid_is_read_over(self) -> None:
        assert parse(broken(signatures=[{"sig": "AQI=", "keyid": ""}])).signatures == (b"\x01\x02",)

    @pytest.mark.parametrize("keyid", ["SHA256:abc", " ", None, 0])
    def test_another_keyid_is_refused(self, keyid: object) -> None:
        with pytest.raises(IntegrityError, match="keyid"):
            parse(broken(signatures=[{"sig": "AQI=", "keyid": keyid}]))

    @pytest.mark.parametrize(
        "changes",
        [
            {"payload": None},
            {"payloadType": None},
            {"payloadType": ""},
            {"signatures": None},
            {"signatures": []},
            {"signatures": {}},
            {"signatures": ["AQI="]},
            {"signatures": [{"sig": ""}]},
            {"signatures": [{}]},
            {"signatures": [{"sig": "AQI=", "cert": "x"}]},
            {"signatures": [{"sig": "AQI="}] * (dsse.MOST_SIGNATURES + 1)},
            {"extra": 1},
        ],
    )
    def test_other_shapes_are_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(IntegrityError):
            parse(broken(**changes))

    @pytest.mark.parametrize("text", ["aGk", "aGl=", "aG k=", "aGk=\n", "_-8=", "aGk==", 7])
    def test_base64_has_one_spelling(self, text: object) -> None:
        for document in (broken(payload=text), broken(signatures=[{"sig": text}])):
            with pytest.raises(IntegrityError):
                parse(document)

    @pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"payload":"","payload":""}', b"\xff"])
    def test_is_strict_json(self, data: bytes) -> None:
        with pytest.raises(IntegrityError):
            parse(data)

    def test_is_bounded(self) -> None:
        data = emit(Envelope(bytes(100), "t", (b"s",)))
        with pytest.raises(IntegrityError, match="at most 50"):
            parse(data, "grant", limit=50)

    def test_says_what_it_was_reading(self) -> None:
        with pytest.raises(IntegrityError, match="grant"):
            parse(b"{}", "grant")


def test_the_value_for_other_documents_is_the_same_envelope() -> None:
    envelope = Envelope(b"hi", "text/x", (b"\x01\x02",))
    assert dsse.to_value(envelope) == GOOD
    assert base64.b64decode(dsse.to_value(envelope)["payload"]) == b"hi"
