import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.crypto.keys import PrivateKey, PublicKey
from airpack.errors import IntegrityError
from airpack.formats.note import (
    MAX_NOTE,
    MAX_SIGNATURES,
    Checkpoint,
    Note,
    NoteSignature,
    key_id,
    site_origin,
)

SITE = "5f3c0e7a9b1d4c2f8e6a7b0c1d2e3f40"
# Go's golang.org/x/mod/sumdb/note, package example: a public known answer.
PETER_KEY = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
PETER_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
# The example of tlog-checkpoint v1.0.0.
SPEC_CHECKPOINT = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
).encode()
# The example of signed-note v1.0.0: a text with an empty line of its own.
POEM = (
    "Ognuno sta solo sul cuor della terra\n"
    "trafitto da un raggio di sole:\n"
    "\n"
    "ed è subito sera.\n"
    "\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
).encode()
ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")  # RFC 8410 section 4, before the 32 bytes


def line(name: str = "example.com/log", raw: bytes = b"idid" + b"s" * 64) -> str:
    return f"— {name} {base64.b64encode(raw).decode()}\n"


@pytest.mark.parametrize(
    ("name", "encoded", "expected"),
    [
        ("PeterNeumann", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "c74f20a3"),
        ("sum.golang.org", "Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8", "033de0ae"),
    ],
)
def test_key_id_is_that_of_known_verifier_keys(name: str, encoded: str, expected: str) -> None:
    kind, public = base64.b64decode(encoded)[:1], base64.b64decode(encoded)[1:]
    assert kind == b"\x01"
    assert key_id(name, public).hex() == expected


def test_key_id_is_of_an_ed25519_key_only() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        key_id("name", b"\x01" * 33)


def test_a_known_note_by_another_implementation_verifies() -> None:
    note = Note.parse(PETER_NOTE, what="note")
    key = PublicKey.from_der(ED25519_SPKI + PETER_KEY[1:])
    (signature,) = note.by("PeterNeumann", key_id("PeterNeumann", key.raw))
    assert key.verify(signature.signature, note.text)
    assert not key.verify(signature.signature, note.text + b"\n")
    assert note.emit() == PETER_NOTE


def test_a_text_may_hold_empty_lines_and_the_last_one_divides() -> None:
    note = Note.parse(POEM, what="note")
    assert note.text.decode().endswith("sole:\n\ned è subito sera.\n")
    assert [each.name for each in note.signatures] == ["quasimodo.example/salvatore"]


def test_the_checkpoint_of_the_specification_is_read() -> None:
    note = Note.parse(SPEC_CHECKPOINT, what="checkpoint")
    checkpoint = Checkpoint.parse(note.text, what="checkpoint")
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text() == note.text


def test_by_wants_name_and_key_id_together() -> None:
    note = Note.parse(PETER_NOTE, what="note")
    assert not note.by("PeterNeumann", b"\x00" * 4)
    assert not note.by("SomebodyElse", bytes.fromhex("c74f20a3"))


def test_sixteen_signatures_are_read_and_seventeen_are_not() -> None:
    text = "text\n\n"
    note = Note.parse((text + line() * MAX_SIGNATURES).encode(), what="note")
    assert len(note.signatures) == MAX_SIGNATURES
    with pytest.raises(IntegrityError, match="17 signature lines"):
        Note.parse((text + line() * (MAX_SIGNATURES + 1)).encode(), what="note")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "text\n",
        "text\n\n",
        "\n\n" + line(),
        "text\n" + line(),
        "text\n\n" + line()[:-1],
        "text\n\n" + line() + "\n",
        "text\n\n" + line() + "more\n",
        "te\txt\n\n" + line(),
        "te\rxt\n\n" + line(),
        "te\x00xt\n\n" + line(),
        "text\n\n" + line().replace("—", "-"),
        "text\n\n" + line().replace("— ", "—"),
        "text\n\n" + line(name=""),
        "text\n\n" + line(name="a+b"),
        "text\n\n" + line(name="a b"),
        "text\n\n" + line(name="a\u00a0b"),
        "text\n\n" + line(name="a\u2003b"),
        "text\n\n" + line().replace("aWRpZ", "aWRp*"),
        "text\n\n" + line().replace("=\n", "\n"),
        "text\n\n" + line(raw=b"idid"),
        "text\n\n" + line(raw=b"id"),
        "text\n\n" + line(raw=b"idids").replace("HM=", "HN="),
    ],
)
def test_what_is_no_signed_note_is_refused(content: str) -> None:
    with pytest.raises(IntegrityError):
        Note.parse(content.encode(), what="note")


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(IntegrityError, match="UTF-8"):
        Note.parse(b"t\xffxt\n\n" + line().encode(), what="note")


def test_a_note_beyond_the_bound_is_refused() -> None:
    data = ("x" * MAX_NOTE + "\n\n" + line()).encode()
    with pytest.raises(IntegrityError, match="at most"):
        Note.parse(data, what="note")


@pytest.mark.parametrize("text", [b"", b"no newline", b"nul\x00\n", b"\xff\n"])
def test_a_text_that_could_not_be_read_back_is_never_written(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Note(text, (NoteSignature("name", b"idid", b"s"),)).emit()


def test_a_signature_that_could_not_be_read_back_is_never_written() -> None:
    with pytest.raises(ValueError, match=r".+"):
        Note(b"text\n", (NoteSignature("na me", b"idid", b"s"),)).emit()
    with pytest.raises(ValueError, match="read back differently"):
        Note(b"text\n", (NoteSignature("name", b"ididid", b"s"),)).emit()


@given(
    lines=st.lists(st.text(st.characters(min_codepoint=0x20, codec="utf-8"), max_size=20), min_size=1),
    signatures=st.lists(
        st.builds(
            NoteSignature,
            st.text("abc./é-", min_size=1, max_size=9),
            st.binary(min_size=4, max_size=4),
            st.binary(min_size=1, max_size=70),
        ),
        min_size=1,
        max_size=MAX_SIGNATURES,
    ),
)
def test_notes_round_trip(lines: list[str], signatures: list[NoteSignature]) -> None:
    text = "x" + "\n".join(lines) + "\n"
    note = Note(text.encode(), tuple(signatures))
    assert Note.parse(note.emit(), what="note") == note


@given(position=st.integers(0, len(PETER_NOTE) - 1), change=st.integers(1, 255))
def test_a_changed_byte_never_verifies(position: int, change: int) -> None:
    data = bytearray(PETER_NOTE)
    data[position] ^= change
    key = PublicKey.from_der(ED25519_SPKI + PETER_KEY[1:])
    try:
        note = Note.parse(bytes(data), what="note")
    except IntegrityError:
        return
    signatures = note.by("PeterNeumann", key_id("PeterNeumann", key.raw))
    assert not any(key.verify(each.signature, note.text) for each in signatures)


@given(size=st.integers(0, 2**53 - 1), root=st.binary(min_size=32, max_size=32))
def test_checkpoints_round_trip(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(site_origin(SITE), size, root)
    assert Checkpoint.parse(checkpoint.text(), what="checkpoint") == checkpoint


ROOT = base64.b64encode(b"r" * 32).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"origin\n1\n{ROOT}",
        f"origin\n1\n{ROOT}\nextension\n",
        f"origin\n1\n{ROOT}\n\n",
        f"\n1\n{ROOT}\n",
        f"ori gin\n1\n{ROOT}\n",
        f"ori+gin\n1\n{ROOT}\n",
        f"origin\n01\n{ROOT}\n",
        f"origin\n00\n{ROOT}\n",
        f"origin\n-1\n{ROOT}\n",
        f"origin\n+1\n{ROOT}\n",
        f"origin\n 1\n{ROOT}\n",
        f"origin\n1_0\n{ROOT}\n",
        f"origin\n\u0661\n{ROOT}\n",
        f"origin\n\n{ROOT}\n",
        f"origin\n{2**53}\n{ROOT}\n",
        f"origin\n1\n{ROOT[:-1]}\n",
        f"origin\n1\n{ROOT.replace('I=', 'J=')}\n",
        f"origin\n1\n{base64.b64encode(b'r' * 31).decode()}\n",
        f"origin\n1\n{base64.b64encode(b'r' * 33).decode()}\n",
        "origin\n1\n\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError):
        Checkpoint.parse(text.encode(), what="checkpoint")


def test_the_empty_tree_has_size_zero() -> None:
    assert Checkpoint.parse(f"origin\n0\n{ROOT}\n".encode(), what="checkpoint").size == 0


def test_the_origin_names_the_site() -> None:
    assert site_origin(SITE) == f"airpack/{SITE}"


@pytest.mark.parametrize("site", ["", SITE[:-1], SITE.upper(), SITE + "0", SITE + "\n", "../" + SITE[3:]])
def test_what_is_no_site_id_has_no_origin(site: str) -> None:
    with pytest.raises(ValueError, match="32 lower-case hex"):
        site_origin(site)


def test_a_signature_line_is_what_the_specification_writes() -> None:
    key = PrivateKey.generate("ed25519")
    identity = key_id("a", key.public.raw)
    written = NoteSignature("a", identity, key.sign(b"text\n")).line()
    assert written.startswith("\u2014 a ")
    assert base64.b64decode(written[4:])[:4] == identity


def test_a_checkpoint_that_is_no_utf_8_is_refused_whatever_it_would_be_read_as() -> None:
    with pytest.raises(IntegrityError, match="not UTF-8"):
        Checkpoint.parse(f"origin\n0\n{ROOT}\n".encode().replace(b"origin", b"or\xf0gin"), what="checkpoint")
