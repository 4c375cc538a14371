"""Torch's ZIP files: kinds, versions, what their pickles import, native code; and ZIP files that lie."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from airpack.facts import zipfiles
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.facts.torch import read
from airpack.formats.facts import Count, TorchFacts

MODELS = Path(__file__).resolve().parents[2] / "models"


class Danger:
    """Calls something when it is unpickled; nothing here unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("never",)


DANGER = pickle.dumps(Danger(), 2)
NAME = ("__builtin__.print",)


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, root: str = "m/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(root + name, content)
    return buffer.getvalue()


def facts(data: bytes) -> tuple[TorchFacts | None, Notes]:
    notes = Notes()
    return read(Reader(io.BytesIO(data), len(data)), notes), notes


def reader(data: bytes) -> Reader:
    return Reader(io.BytesIO(data), len(data))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_saved_object_says_its_version_and_what_it_imports(method: int) -> None:
    members = {"data.pkl": DANGER, "version": b"3\n", "byteorder": b"little", "data/0": bytes(100), "data/1": bytes(28)}
    found, notes = facts(zipped(members, method))
    assert found == TorchFacts("pickled", 3, "little", 5, Count(2, 128), NAME)
    assert [(code.kind, code.where, code.names) for code in notes.code] == [("pickle", "data.pkl", NAME)]
    assert (notes.code[0].place is None) == (method == zipfile.ZIP_DEFLATED)


def test_every_pickle_in_it_counts() -> None:
    members = {"data.pkl": pickle.dumps({}, 2), "more/EXTRA.PKL": DANGER, "other.pickle": DANGER}
    found, notes = facts(zipped(members))
    assert found is not None
    assert found.globals == NAME
    assert [code.where for code in notes.code] == ["data.pkl", "more/EXTRA.PKL", "other.pickle"]


def test_a_file_of_torch_inside_it_is_looked_into() -> None:
    inner = zipped({"data.pkl": DANGER})
    members = {"archive_format": b"pt2", "data/sample_inputs/model.pt": inner, "old.ckpt": DANGER}
    found, notes = facts(zipped(members))
    assert found is not None
    assert (found.kind, found.globals) == ("export", NAME)
    assert [code.where for code in notes.code] == ["data/sample_inputs/model.pt/data.pkl", "old.ckpt"]


def test_files_of_torch_inside_each_other_have_a_bound() -> None:
    data = zipped({"data.pkl": DANGER})
    for _ in range(3):
        data = zipped({"data.pkl": pickle.dumps(1, 2), "x.pt": data})
    with pytest.raises(MalformedError, match="too deep"):
        facts(data)


PROGRAM = {
    "graph_module": {"graph": {"nodes": [{"target": "torch.ops.aten.add.Tensor"}, {"target": "torch.ops.my.op"}]}},
    "opset_version": {"aten": 10},
    "schema_version": {"major": 8, "minor": 20},
    "torch_version": "2.9.0",
}


def test_an_exported_program_says_schema_and_targets() -> None:
    members = {"archive_format": b"pt2", "version": b"0", "models/model.json": json.dumps(PROGRAM).encode()}
    found, _ = facts(zipped(members))
    assert found == TorchFacts(
        "export",
        0,
        entries=3,
        schema="8.20",
        torch="2.9.0",
        opsets={"aten": 10},
        operators=("torch.ops.aten.add.Tensor", "torch.ops.my.op"),
    )


def test_native_code_in_it_is_named() -> None:
    settings = {"AOTI_MACHINE": "x86_64", "AOTI_CPU_ISA": "AVX2", "number": 7}
    members = {
        "archive_format": b"pt2",
        "data/aotinductor/model/lib.so": b"\x7fELF",
        "data/aotinductor/model/lib_metadata.json": json.dumps(settings).encode(),
    }
    found, notes = facts(zipped(members))
    assert found is not None
    assert (found.kind, found.native) == ("aotinductor", ("data/aotinductor/model/lib.so",))
    assert found.settings == {"AOTI_MACHINE": "x86_64", "AOTI_CPU_ISA": "AVX2"}
    assert [(code.kind, code.names) for code in notes.code] == [("native", found.native)]


def test_torchscript_lists_its_code() -> None:
    members = {
        "data.pkl": pickle.dumps(1, 2),
        "constants.pkl": pickle.dumps((), 2),
        "code/__torch__/x.py": b"def f(): pass",
    }
    found, notes = facts(zipped(members))
    assert found is not None
    assert found.kind == "torchscript"
    assert (notes.code[-1].kind, notes.code[-1].names) == ("torchscript", ("code/__torch__/x.py",))


def test_two_versions_are_malformed() -> None:
    with pytest.raises(MalformedError, match="two versions: 10, 3"):
        facts(zipped({"data.pkl": DANGER, "version": b"3\n", ".data/version": b"10\n"}))
    found, _ = facts(zipped({"data.pkl": DANGER, "version": b"3\n", ".data/version": b"3"}))
    assert found is not None
    assert found.version == 3


@pytest.mark.parametrize("version", [b"", b"three", b"-3", b"9" * 30])
def test_a_version_that_is_no_number_is_malformed(version: bytes) -> None:
    with pytest.raises(MalformedError, match="version is no number"):
        facts(zipped({"data.pkl": DANGER, "version": version}))


def test_pickles_in_two_folders_are_all_read_and_a_problem() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("b/data.pkl", DANGER)
    found, notes = facts(buffer.getvalue())
    assert found is not None
    assert found.globals == NAME
    assert "two folders" in notes.problems[0].reason


def test_a_pickle_that_is_none_is_a_problem_that_names_it() -> None:
    _, notes = facts(zipped({"data.pkl": b"\x80\x02\xff"}))
    assert notes.problems[0].reason == "data.pkl: byte 0xff is no opcode of a pickle"


# --- ZIP --------------------------------------------------------------------------------------------------------------


def test_entries_are_those_of_the_standard_library() -> None:
    for path in (MODELS / "tiny_state_dict.pt", MODELS / "tiny.ts.pt"):
        data = path.read_bytes()
        found = zipfiles.entries(reader(data))
        with zipfile.ZipFile(path) as archive:
            assert [(entry.name, entry.size, entry.packed, entry.local) for entry in found] == [
                (info.filename, info.file_size, info.compress_size, info.header_offset) for info in archive.infolist()
            ]
            for entry in found:
                assert zipfiles.content(reader(data), entry, 1 << 20) == archive.read(entry.name)


def test_a_large_file_s_sizes_are_read_from_its_extra_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    data = zipped({"data.pkl": DANGER, "data/0": bytes(1000)})
    assert b"PK\x06\x06" in data
    found, _ = facts(data)
    assert found is not None
    assert (found.storages, found.globals) == (Count(1, 1000), NAME)


ONE = zipped({"data.pkl": DANGER})
END = len(ONE) - 22


def changed(at: int, form: str, *values: int, data: bytes = ONE) -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, at % len(data), *values)
    return bytes(out)


CENTRAL = ONE.rindex(b"PK\x01\x02")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04" + bytes(100), "no directory"),
        (ONE[:-1], "no directory|it ends at"),
        (ONE + b"x", "bytes follow the end"),
        (changed(END + 4, "<H", 1), "several parts"),
        (changed(END + 10, "<H", 2), "it ends at byte"),
        (changed(CENTRAL, "<L", 0), "no file of a directory"),
        (changed(END + 10, "<H", 0), "does not end where it says"),
        (changed(END + 16, "<L", 10_000), "a directory of"),
        (changed(END + 12, "<L", 1 << 31), "a directory of"),
        (changed(END + 10, "<H", 0xFFFF), "ZIP64"),
        (changed(CENTRAL + 42, "<L", 5), "does not begin where the directory says"),
        (changed(CENTRAL + 20, "<L", 0xFFFFFFFF), "says no size"),
        (changed(CENTRAL + 20, "<L", 100_000), "more than|ends at byte"),
        (changed(30, "<B", ord("x")), "another name where it lies"),
        (changed(8, "<H", 99, data=changed(CENTRAL + 10, "<H", 99)), "packed by method 99"),
        (changed(CENTRAL + 8, "<H", 1, data=changed(CENTRAL + 10, "<H", 8)), "encrypted"),
        (changed(CENTRAL + 10, "<H", 8), "damaged"),
    ],
)
def test_a_zip_file_that_lies_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        facts(data)


def test_a_name_that_is_there_twice_is_malformed() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(1, 2))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("m/data.pkl", DANGER)
    with pytest.raises(MalformedError, match="in it twice"):
        facts(buffer.getvalue())


def test_what_unpacks_to_more_than_it_says_is_malformed() -> None:
    data = zipped({"data.pkl": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    at = data.rindex(b"PK\x01\x02")
    with pytest.raises(MalformedError, match="has not the 10 bytes"):
        facts(changed(at + 24, "<L", 10, data=data))


def test_a_pickle_that_unpacks_to_very_much_is_not_unpacked() -> None:
    with pytest.raises(MalformedError, match="more than 16777216 bytes"):
        facts(zipped({"data.pkl": bytes(17 << 20)}, zipfile.ZIP_DEFLATED))
