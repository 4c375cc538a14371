import base64
import hashlib
import io
import stat
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import AirpackError, InputError, IntegrityError
from airpack.facts.wheel import Wheel, read_wheel, read_wheels
from airpack.formats.bom import License
from airpack.types import Digest, Limits

NAME = "demo-1.0-py3-none-any.whl"
INFO = "demo-1.0.dist-info"
FILES = {
    "demo/__init__.py": b"x = 1\n",
    "demo/native.so": b"\x7fELF" * 9000,
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: Demo\nVersion: 1.0\n\nA text.\n",
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\nTag: py2-none-any\n",
}


def line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"


def record_of(files: Mapping[str, bytes]) -> str:
    return "".join(line(name, data) for name, data in files.items()) + f"{INFO}/RECORD,,\n"


def write(
    folder: Path,
    files: Mapping[str, bytes] = FILES,
    *,
    name: str = NAME,
    record: str | None = None,
    modes: Mapping[str, int] | None = None,
    method: int = zipfile.ZIP_DEFLATED,
    more: tuple[tuple[str, bytes], ...] = (),
) -> Path:
    path = folder / name
    text = record_of(files) if record is None else record
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, data in [*files.items(), (f"{INFO}/RECORD", text.encode()), *more]:
            info = zipfile.ZipInfo(member)
            info.external_attr = (modes or {}).get(member, stat.S_IFREG | 0o644) << 16
            info.compress_type = method
            archive.writestr(info, data)
    return path


def contents(wheel: Wheel) -> dict[str, bytes]:
    result = {}
    for source in wheel.sources:
        with source.open() as stream:
            result[source.path] = stream.read()
    return result


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wheel_says_what_it_is_and_gives_every_file(tmp_path: Path, method: int) -> None:
    path = write(tmp_path, method=method, modes={"demo/native.so": stat.S_IFREG | 0o775})
    with read_wheel(path) as wheel:
        assert (wheel.name, wheel.version, wheel.filename) == ("demo", "1.0", NAME)
        assert wheel.tags == ("py3-none-any",)
        assert wheel.declared == ("py2-none-any", "py3-none-any")
        assert (wheel.digest, wheel.size) == (Digest.of(path.read_bytes()), path.stat().st_size)
        assert contents(wheel) == {**FILES, f"{INFO}/RECORD": record_of(FILES).encode()}
        assert [source.path for source in wheel.sources] == sorted(contents(wheel))
        assert [source.path for source in wheel.sources if source.executable] == ["demo/native.so"]
        for source in wheel.sources:
            known = FILES.get(source.path)
            assert source.digest == (None if known is None else Digest.of(known))
            assert source.size == len(contents(wheel)[source.path])


def test_compressed_tag_sets_are_expanded(tmp_path: Path) -> None:
    with read_wheel(write(tmp_path, name="demo-1.0-py2.py3-none-any.whl")) as wheel:
        assert wheel.tags == ("py2-none-any", "py3-none-any")


def test_purelib_and_platlib_land_at_the_root_and_scripts_stay(tmp_path: Path) -> None:
    data = {
        "demo-1.0.data/purelib/demo/a.py": b"a",
        "demo-1.0.data/platlib/demo/b.so": b"b",
        "demo-1.0.data/scripts/run": b"#!python\n",
        "demo-1.0.data/data/share/x": b"x",
    }
    with read_wheel(write(tmp_path, {**FILES, **data})) as wheel:
        found = contents(wheel)
    assert (found["demo/a.py"], found["demo/b.so"]) == (b"a", b"b")
    assert (found["demo-1.0.data/scripts/run"], found["demo-1.0.data/data/share/x"]) == (b"#!python\n", b"x")


def test_folders_and_record_signatures_need_no_line_in_record(tmp_path: Path) -> None:
    path = write(tmp_path, more=((f"{INFO}/RECORD.jws", b"{}"), (f"{INFO}/RECORD.p7s", b"p"), ("demo/empty/", b"")))
    with read_wheel(path) as wheel:
        paths = {source.path: source.digest for source in wheel.sources}
    assert paths[f"{INFO}/RECORD.jws"] is None
    assert f"{INFO}/RECORD.p7s" in paths
    assert not any(name.startswith("demo/empty") for name in paths)


RECORD = record_of(FILES)
FIRST = line("demo/__init__.py", FILES["demo/__init__.py"])
BAD_RECORDS = {
    "a file that is not there": RECORD + line("demo/gone.py", b""),
    "a file that is not listed": RECORD.replace(FIRST, ""),
    "a file twice": RECORD + FIRST,
    "another size": RECORD.replace(FIRST, FIRST.replace(",6\n", ",7\n")),
    "no size": RECORD.replace(FIRST, FIRST.replace(",6\n", ",\n")),
    "a size in another notation": RECORD.replace(FIRST, FIRST.replace(",6\n", ",06\n")),
    "no digest": RECORD.replace(FIRST, "demo/__init__.py,,6\n"),
    "neither": RECORD.replace(FIRST, "demo/__init__.py,,\n"),
    "another algorithm": RECORD.replace(FIRST, FIRST.replace("sha256=", "sha512=")),
    "md5": RECORD.replace(FIRST, "demo/__init__.py,md5=rL0Y20zC-Fzt72VPzMSk2A,6\n"),
    "a digest too short": RECORD.replace(FIRST, "demo/__init__.py,sha256=AAAA,6\n"),
    "a digest with padding": RECORD.replace(FIRST, FIRST.replace(",6\n", "=,6\n")),
    "a digest in other letters": RECORD.replace(FIRST, "demo/__init__.py,sha256=!!!!,6\n"),
    "an absolute path": RECORD + line("/demo/x.py", b""),
    "two fields": RECORD + "demo/x.py,\n",
    "four fields": RECORD + "demo/x.py,,,\n",
    "open quotes": RECORD + '"demo/x.py',
    "a digest of itself": RECORD.replace(f"{INFO}/RECORD,,", f"{INFO}/RECORD,sha256=AAAA,5"),
    "nothing": "",
}


@pytest.mark.parametrize("record", BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_a_record_that_does_not_describe_the_files_is_refused(tmp_path: Path, record: str) -> None:
    with pytest.raises(IntegrityError):
        read_wheel(write(tmp_path, record=record))


def test_bytes_that_differ_from_record_are_left_to_the_known_digest(tmp_path: Path) -> None:
    path = write(tmp_path, {**FILES, "demo/__init__.py": b"x = 2\n"}, record=RECORD)
    with read_wheel(path) as wheel:
        source = next(source for source in wheel.sources if source.path == "demo/__init__.py")
        with source.open() as stream:
            assert Digest.of(stream.read()) != source.digest


CONTRADICTIONS: dict[str, dict[str, bytes | None]] = {
    "another name": {f"{INFO}/METADATA": b"Name: other\nVersion: 1.0\n"},
    "another version": {f"{INFO}/METADATA": b"Name: demo\nVersion: 1.1\n"},
    "two names": {f"{INFO}/METADATA": b"Name: demo\nName: demo\nVersion: 1.0\n"},
    "no version": {f"{INFO}/METADATA": b"Name: demo\n"},
    "an odd version": {f"{INFO}/METADATA": b"Name: demo\nVersion: latest\n"},
    "a version of 5000 digits": {f"{INFO}/METADATA": b"Name: demo\nVersion: " + b"1" * 5000 + b"\n"},
    "no METADATA": {f"{INFO}/METADATA": None},
    "no WHEEL": {f"{INFO}/WHEEL": None},
    "a second dist-info": {"other-1.0.dist-info/METADATA": b"Name: other\nVersion: 1.0\n"},
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_wheel_that_contradicts_its_name_is_refused(tmp_path: Path, change: dict[str, bytes | None]) -> None:
    files = {name: data for name, data in {**FILES, **change}.items() if data is not None}
    with pytest.raises(IntegrityError):
        read_wheel(write(tmp_path, files))


@pytest.mark.parametrize("name", ["demo-1.1-py3-none-any.whl", "other-1.0-py3-none-any.whl"])
def test_a_file_name_of_another_project_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match=r"dist-info"):
        read_wheel(write(tmp_path, name=name))


@pytest.mark.parametrize("name", ["demo.whl", "demo-1.0.whl", "demo-x-py3-none-any.whl"])
def test_a_file_name_that_is_no_wheels_is_bad_input(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        read_wheel(write(tmp_path, name=name))


def test_a_wheel_version_of_the_future_is_refused(tmp_path: Path) -> None:
    files = {**FILES, f"{INFO}/WHEEL": b"Wheel-Version: 2.0\n"}
    with pytest.raises(InputError, match=r"Wheel-Version"):
        read_wheel(write(tmp_path, files))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o644, stat.S_IFIFO | 0o644])
def test_links_and_devices_in_a_wheel_are_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InputError, match="regular"):
        read_wheel(write(tmp_path, modes={"demo/__init__.py": mode}))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(InputError, match="compressed by method"):
        read_wheel(write(tmp_path, method=method))


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="encrypted"):
        read_wheel(path)


@pytest.mark.parametrize(
    "name", ["../escape.py", "/abs.py", "demo/nul.py", "demo/a:b.py", "demo/a\\b.py", "Demo/native.so"]
)
def test_names_that_could_not_travel_are_bad_input(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        read_wheel(write(tmp_path, {**FILES, name: b"x"}))


def test_a_name_that_zip_readers_see_differently_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {**FILES, "demo/ab.py": b"x"})
    path.write_bytes(path.read_bytes().replace(b"demo/ab.py", b"demo/ab\0py"))
    with pytest.raises(InputError, match="differently"):
        read_wheel(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="twice"):
        read_wheel(write(tmp_path, more=(("demo/__init__.py", FILES["demo/__init__.py"]),)))


def test_two_members_that_land_at_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_wheel(write(tmp_path, {**FILES, "demo-1.0.data/purelib/demo/__init__.py": b"x"}))


def test_a_file_count_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "FILES", 4)
    with pytest.raises(InputError, match="5 files"):
        read_wheel(write(tmp_path))


def test_a_declared_size_beyond_all_bounds_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    names = len(FILES) + 1
    for _ in range(names):
        data[at + 24 : at + 28] = b"\xff\xff\xff\x7f"
        at = data.find(b"PK\x01\x02", at + 4)
    path.write_bytes(data)
    with pytest.raises(AirpackError):
        read_wheel(path)


def test_a_member_that_unpacks_to_more_than_declared_stops_there(tmp_path: Path) -> None:
    bomb = b"\0" * 1_000_000
    files = {**FILES, "demo/bomb": bomb}
    path = write(tmp_path, files, record=record_of(FILES) + line("demo/bomb", bomb[:10]))
    data = bytearray(path.read_bytes())
    for signature, name_at, size_at in ((b"PK\x03\x04", 30, 22), (b"PK\x01\x02", 46, 24)):
        at = data.find(b"demo/bomb", data.find(signature)) - name_at
        while data[at : at + 4] != signature:
            at = data.find(b"demo/bomb", at + name_at + 1) - name_at
        data[at + size_at : at + size_at + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with read_wheel(path) as wheel:
        source = next(source for source in wheel.sources if source.path == "demo/bomb")
        with source.open() as stream, pytest.raises(IntegrityError, match="damaged"):
            stream.read()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_inside_a_member_is_an_integrity_error(tmp_path: Path, method: int) -> None:
    path = write(tmp_path, method=method)
    data = bytearray(path.read_bytes())
    at = data.find(b"demo/native.so") + 40
    data[at] ^= 0xFF
    path.write_bytes(data)
    with read_wheel(path) as wheel, pytest.raises(IntegrityError):
        contents(wheel)


@pytest.mark.parametrize("offset", [-1, -(1 << 40), 1 << 40, (1 << 63) - 1])
def test_a_member_outside_the_file_is_refused(tmp_path: Path, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    read = zipfile.ZipFile.infolist

    def moved(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        members = read(archive)
        members[0].header_offset = offset
        return members

    monkeypatch.setattr(zipfile.ZipFile, "infolist", moved)
    with pytest.raises(InputError, match="outside the file"):
        read_wheel(path)


@pytest.mark.parametrize("line", [b",,\n", b"demo/__init__.py,,\n", b"\n", b"a\n"])
def test_a_record_that_unpacks_to_lines_without_number_costs_no_memory(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path, record=(line * (8_000_000 // len(line))).decode())
    assert memory_of(path) < 4_000_000


def test_headers_without_number_cost_no_memory(tmp_path: Path) -> None:
    files = {**FILES, f"{INFO}/METADATA": b"Name: demo\nVersion: 1.0\n" + b"A:\n" * 1_000_000}
    assert memory_of(write(tmp_path, files)) < 12_000_000


def memory_of(path: Path) -> int:
    """Return the bytes of memory that it takes to refuse a wheel."""
    tracemalloc.start()
    try:
        with pytest.raises(AirpackError, match=r"RECORD|METADATA"):
            read_wheel(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_description_is_no_header(tmp_path: Path) -> None:
    text = FILES[f"{INFO}/METADATA"] + b"A: line\n" * 300_000
    with read_wheel(write(tmp_path, {**FILES, f"{INFO}/METADATA": text})) as wheel:
        assert wheel.name == "demo"


def test_what_is_no_zip_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a zip")
    with pytest.raises(InputError, match="not a ZIP"):
        read_wheel(tmp_path / NAME)


def test_a_missing_wheel_and_a_link_to_one_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no wheel"):
        read_wheel(tmp_path / NAME)
    real = write(tmp_path)
    link = tmp_path / "link" / NAME
    link.parent.mkdir()
    link.symlink_to(real)
    with pytest.raises(InputError, match="regular"):
        read_wheel(link)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_sources_share_one_open_file_and_leave_none_open(tmp_path: Path) -> None:
    many = {f"demo/m{number}.py": b"x" for number in range(2000)}
    before = descriptors()
    with read_wheel(write(tmp_path, {**FILES, **many})) as wheel:
        assert descriptors() == before + 1
        streams = [source.open() for source in wheel.sources[:50]]
        assert descriptors() == before + 1
        assert [stream.read(1) for stream in streams[::-1]]
        for stream in streams:
            stream.close()
        assert len(contents(wheel)) == len(many) + len(FILES) + 1
    assert descriptors() == before


def test_a_refused_wheel_leaves_no_file_open(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(IntegrityError):
        read_wheel(write(tmp_path, record=""))
    assert descriptors() == before


def other_wheel(folder: Path, version: str = "2.0", name: str = "other") -> Path:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Name: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/RECORD", "".join(line(member, data) for member, data in files.items()))
    return path


def test_the_wheels_of_a_folder_come_sorted_by_name(tmp_path: Path) -> None:
    other_wheel(tmp_path)
    write(tmp_path)
    other_wheel(tmp_path, name="another")
    wheels = read_wheels(tmp_path)
    assert [wheel.name for wheel in wheels] == ["another", "demo", "other"]
    for wheel in wheels:
        wheel.close()


def test_one_wheel_may_be_named_itself(tmp_path: Path) -> None:
    (wheel,) = read_wheels(write(tmp_path))
    wheel.close()
    assert wheel.name == "demo"


def spoil_with_nothing(_folder: Path) -> None:
    pass


def spoil_with_twins(folder: Path) -> None:
    other_wheel(folder, "2.0")
    other_wheel(folder, "2.1")


def spoil_with_a_file(folder: Path) -> None:
    write(folder)
    (folder / "zz-notes.txt").write_text("x")


def spoil_with_a_folder(folder: Path) -> None:
    write(folder)
    (folder / "zz").mkdir()


def spoil_with_a_folder_called_wheel(folder: Path) -> None:
    write(folder)
    (folder / "zz-1.0-py3-none-any.whl").mkdir()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_with_nothing, "no wheel"),
        (spoil_with_twins, "other-2.1-py3-none-any.whl"),
        (spoil_with_a_file, "zz-notes.txt"),
        (spoil_with_a_folder, "zz"),
        (spoil_with_a_folder_called_wheel, "zz-1.0-py3-none-any.whl"),
    ],
)
def test_a_folder_that_is_not_one_set_of_wheels_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Path], None], named: str
) -> None:
    spoil(tmp_path)
    before = descriptors()
    with pytest.raises(InputError, match=named):
        read_wheels(tmp_path)
    assert descriptors() == before


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("wheel")).read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@given(data=st.data())
def test_a_wheel_with_any_byte_changed_reads_the_same_or_is_refused(
    intact: bytes, folder: Path, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(intact) - 1))
    value = data.draw(st.integers(0, 255))
    path = folder / NAME
    path.write_bytes(intact[:at] + bytes([value]) + intact[at + 1 :])
    try:
        with read_wheel(path) as wheel:
            found = contents(wheel)
    except AirpackError:
        return
    assert {name: found[name] for name in FILES} == FILES


def test_streams_give_exactly_the_declared_bytes_in_small_reads(tmp_path: Path) -> None:
    with read_wheel(write(tmp_path)) as wheel:
        source = next(source for source in wheel.sources if source.path == "demo/native.so")
        out = io.BytesIO()
        with source.open() as stream:
            while part := stream.read(1000):
                out.write(part)
    assert out.getvalue() == FILES["demo/native.so"]


def test_a_member_that_begins_before_the_file_is_refused(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path).read_bytes())
    at = data.rindex(b"PK\x05\x06") + 16  # where the central directory begins
    data[at + 2] += 1
    path = tmp_path / "other" / NAME
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(InputError, match="lies outside the file"):
        read_wheel(path)


def test_a_wheel_says_its_licence(tmp_path: Path) -> None:
    metadata = FILES[f"{INFO}/METADATA"].replace(b"\n\n", b"\nLicense-Expression: MIT\n\n")
    with read_wheel(write(tmp_path, FILES | {f"{INFO}/METADATA": metadata})) as wheel:
        assert wheel.licenses == (License("id", "MIT"),)


def test_the_real_wheels_say_theirs(digits_wheels: Path) -> None:
    found = {}
    for wheel in read_wheels(digits_wheels):
        found[wheel.name] = wheel.licenses
        wheel.close()
    assert found["onnxruntime"] == (License("name", "MIT License"),)
    assert found["packaging"] == (License("expression", "Apache-2.0 OR BSD-2-Clause"),)
    assert all(found.values()), "each of them declares something"
