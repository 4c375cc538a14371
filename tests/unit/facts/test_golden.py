"""Golden arrays: what is refused, and that nothing is unpickled."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airpack.errors import InputError, IntegrityError, NotFoundError
from airpack.facts import golden
from airpack.facts.golden import Golden, check_golden


def _save(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _zip(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_names_and_cases_are_told(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "g.npz",
        **{"input/x:0": np.ones((5, 3), "f4"), "input/mask": np.ones((5,), bool), "expected//y": np.ones((5, 1))},
    )
    assert check_golden(path) == Golden(inputs=("mask", "x:0"), expected=("/y",), cases=5)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"input/x": np.ones((5, 3))}, "no member expected/"),
        ({"expected/y": np.ones((5, 3))}, "no member input/"),
        ({"x": np.ones(2), "y": np.ones(2)}, "expected input/NAME.npy"),
        ({"input/x": np.ones((5, 3)), "expected/y": np.ones((4, 3))}, "first axes differ"),
        ({"input/x": np.float32(1), "expected/y": np.ones(1)}, "has shape ()"),
        ({"input/x": np.ones((0, 2)), "expected/y": np.ones((0, 2))}, "has shape (0, 2)"),
        ({"input/x": np.array([{}], dtype=object), "expected/y": np.ones(1)}, "has type |O"),
        ({"input/x": np.zeros(1, dtype=[("a", "O")]), "expected/y": np.ones(1)}, "has type [('a', '|O')]"),
        ({"input/x": np.array(["a"]), "expected/y": np.ones(1)}, "has type <U1"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        check_golden(_save(tmp_path / "g.npz", **arrays))
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (_npy(np.ones(4)) + b"x", "bytes of numbers"),
        (_npy(np.ones(4))[:-1], "bytes of numbers"),
        (b"\x93NUMPY\x03\x00" + _npy(np.ones(4))[8:], "version (3, 0)"),
        (b"\x80\x04.", ""),
        (b"", ""),
    ],
)
def test_a_member_is_one_array_to_the_byte(tmp_path: Path, member: bytes, said: str) -> None:
    path = _zip(tmp_path / "g.npz", [("input/x.npy", member), ("expected/y.npy", _npy(np.ones(4)))])
    with pytest.raises(InputError) as caught:
        check_golden(path)
    assert said in caught.value.message


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4,), ",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4\0,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4L,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "(" * 5000 + "), }",
        "{'descr': '<f8', 'fortran_order': False}",
        "{'fortran_order': False, 'shape': (4,)}",
        "{'descr': '<f3', 'fortran_order': False, 'shape': (4,)}",
        "{'descr': 'f8,f8', 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4 4,)}",
        "[" * 9000,
        "{[]: 1}",
        "",
    ],
)
def test_a_header_that_is_no_plain_one_is_refused_and_never_evaluated(tmp_path: Path, header: str) -> None:
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(32)
    path = _zip(tmp_path / "g.npz", [("input/x.npy", member), ("expected/y.npy", _npy(np.ones(4)))])
    with pytest.raises(InputError, match="no golden arrays"):
        check_golden(path)


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    member = b"\x93NUMPY\x02\x00" + (1 << 30).to_bytes(4, "little") + b"{"
    path = _zip(tmp_path / "g.npz", [("input/x.npy", member), ("expected/y.npy", _npy(np.ones(4)))])
    with pytest.raises(InputError, match="at most 10000"):
        check_golden(path)


@pytest.mark.parametrize(
    "header",
    [
        "{'shape': (4,), 'descr': '<f8', 'fortran_order': True}",
        "{ 'descr' : '=f8' ,'fortran_order':False,'shape':(2, 2)}   \n",
    ],
)
def test_a_plain_header_may_have_other_spaces_and_another_order(tmp_path: Path, header: str) -> None:
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(32)
    path = _zip(tmp_path / "g.npz", [("input/x.npy", member), ("expected/y.npy", member)])
    assert check_golden(path).cases in {2, 4}


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    one = _npy(np.ones(1))
    with pytest.warns(UserWarning, match="Duplicate"):
        path = _zip(tmp_path / "g.npz", [("input/x.npy", one), ("input/x.npy", one), ("expected/y.npy", one)])
    with pytest.raises(InputError, match="twice"):
        check_golden(path)


def test_damage_is_found(tmp_path: Path) -> None:
    path = _zip(tmp_path / "g.npz", [("input/x.npy", _npy(np.ones(4))), ("expected/y.npy", _npy(np.ones(4)))])
    data = bytearray(path.read_bytes())
    data[data.index(np.float64(1).tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="CRC"):
        check_golden(path)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path / "g.npz", **{"input/x": np.zeros(5000), "expected/y": np.zeros(5000)})
    monkeypatch.setattr(golden, "LARGEST_GOLDEN", 50_000)
    with pytest.raises(InputError, match="together"):
        check_golden(path)
    monkeypatch.setattr(golden, "LARGEST_GOLDEN", 100)
    with pytest.raises(InputError, match="at most 100"):
        check_golden(path)


def test_no_zip_no_file_no_link(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "link").symlink_to("text")
    with pytest.raises(InputError, match="no golden arrays"):
        check_golden(tmp_path / "text")
    with pytest.raises(IntegrityError):
        check_golden(tmp_path / "link")
    with pytest.raises(NotFoundError):
        check_golden(tmp_path / "none")


def test_the_error_is_the_callers(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(IntegrityError):
        check_golden(tmp_path / "text", error=IntegrityError)
