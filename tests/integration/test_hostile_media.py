"""Media that no folder can hold: what is no file, what never ends, what answers differently or not at all.

Each is offered to a site that runs another release. Whatever a medium does, the site shows what it showed before, or
exactly the signed release; and whoever waits for it can stop.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fuse import Answers, Medium, why_not
from tests.integration.conftest import AIRPACK
from tests.vectors.vectors import HERE, ROOT, Vector

needs_fuse = pytest.mark.skipif(bool(why_not()), reason=f"no FUSE here: {why_not()}")


@dataclass
class Scene:
    """A site that runs 1.1.0, and a medium of several volumes that it would import."""

    site: Any
    medium: Path
    airpack: Callable[..., Any]
    before: Any

    @property
    def head(self) -> Path:
        return next(self.medium.glob("*.airpack"))

    @property
    def volumes(self) -> list[Path]:
        return sorted(self.medium.glob("*.airvol"))

    def refuses(self, code: str, exit_code: int, path: Path | None = None) -> Any:
        """Hold import to a refusal that changes nothing visible and is on record; return the error."""
        error = self.site.run("import", path or self.medium, expect=exit_code).json["error"]
        self.unchanged()
        assert error["code"] == code, error["message"]
        record = [record for record in self.site.records() if record["event"] == "import"][-1]
        assert (record["outcome"], record["reason"]) == ("failed" if code == "storage" else "refused", code)
        return error

    def unchanged(self) -> None:
        assert self.site.visible() == self.before

    def imports(self, path: Path | None = None) -> Any:
        """Import, and hold the site to be whole and to have exactly the signed bytes."""
        done = self.site.run("import", path or self.medium).json
        assert self.site.run("fsck").json["ok"] is True
        return done


@pytest.fixture(scope="module")
def held(bench: Any) -> Path:
    return Path(bench.build("1.1.0"))


@pytest.fixture(scope="module")
def other(bench: Any, held: Path) -> Path:  # noqa: ARG001, built after it
    return Path(bench.build("1.0.0", "other", count=2_000_000, volume_size="4MiB"))


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory, place: Callable[[Path], Any], bench: Any, held: Path, airpack: Any
) -> Path:
    """A site that runs 1.1.0, copied by each test."""
    site = place(tmp_path_factory.mktemp("template") / "site")
    airpack("site", "init", site.folder, "--root", bench.root, "--json")
    site.run("import", held)
    return Path(site.folder)


@pytest.fixture
def scene(  # noqa: PLR0917, fixtures come by name
    tmp_path: Path,
    template: Path,
    place: Callable[[Path], Any],
    other: Path,
    carry: Callable[[Path], Path],
    airpack: Any,
) -> Scene:
    shutil.copytree(template, tmp_path / "site", symlinks=True)
    site = place(tmp_path / "site")
    return Scene(site, carry(other), airpack, site.visible())


# -- what is no file --------------------------------------------------------------------------------------------------


def no_files() -> dict[str, Callable[[Path], None]]:
    """Return what may stand in a file's place, by name."""

    def link(file: Path) -> None:
        real = file.parent.parent / f"real-{file.name}"
        file.rename(real)
        file.symlink_to(real)

    def loop(file: Path) -> None:
        file.unlink()
        file.symlink_to(file.name)

    def dangling(file: Path) -> None:
        file.unlink()
        file.symlink_to("/nonexistent")

    def process(file: Path) -> None:
        file.unlink()
        file.symlink_to("/proc/self/mem")

    def fifo(file: Path) -> None:
        file.unlink()
        os.mkfifo(file)

    def folder(file: Path) -> None:
        file.unlink()
        file.mkdir()

    def bound(file: Path) -> None:
        file.unlink()
        here = Path.cwd()
        os.chdir(file.parent)  # the path of a socket has at most 108 characters
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(file.name)
        finally:
            os.chdir(here)

    def device(file: Path) -> None:
        file.unlink()
        try:
            os.mknod(file, 0o20600, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("making /dev/zero again needs root, outside of a container that forbids it")

    return {
        "link": link,
        "loop": loop,
        "dangling": dangling,
        "process": process,
        "pipe": fifo,
        "folder": folder,
        "socket": bound,
        "device": device,
    }


@pytest.mark.parametrize("where", ["head", "volume"])
@pytest.mark.parametrize("kind", no_files())
def test_what_is_no_regular_file_is_refused(scene: Scene, kind: str, where: str) -> None:
    file = scene.head if where == "head" else scene.volumes[1]
    no_files()[kind](file)
    error = scene.refuses(*(("integrity", 10) if where == "head" else ("damaged", 30)))
    assert "not a regular file" in error["message"]
    for words in (["inspect", scene.medium], ["verify", scene.medium, "--root", scene.site.folder / "root.json"]):
        assert scene.airpack(*words, "--json", expect=None).code in {0, 10}


def test_a_hard_link_is_a_file_like_any_other(scene: Scene, tmp_path: Path) -> None:
    """It names no path, and the medium is never written: what else it is called outside does not matter."""
    volume = scene.volumes[0]
    (tmp_path / "outside").hardlink_to(volume)
    before = volume.read_bytes()
    assert scene.imports()["state"] == "ready"
    assert volume.read_bytes() == before
    assert volume.stat().st_nlink == 2, "a medium is copied from, never moved or linked"


@pytest.mark.parametrize("where", ["head", "volume"])
def test_a_terabyte_of_nothing_is_refused_at_once(scene: Scene, where: str) -> None:
    file = scene.head if where == "head" else scene.volumes[0]
    os.truncate(file, 1 << 40)
    scene.refuses(*(("integrity", 10) if where == "head" else ("damaged", 30)))


# -- what changes while it is read ------------------------------------------------------------------------------------


class Shim:
    """Stands between airpack and the medium: sees each read of a volume, and may answer it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, int, int], bytes | None]) -> None:
        self.reads: list[tuple[str, int, int]] = []
        self._answer, self._preadv = answer, os.preadv
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name  # noqa: PTH115, what the descriptor is now
        self.reads.append((name, offset, len(buffers[0])))
        data = self._answer(name, offset, len(self.reads))
        if data is None:
            return self._preadv(descriptor, buffers, offset)
        buffers[0][: len(data)] = data
        return len(data)


def test_each_byte_of_a_volume_is_read_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = Shim(monkeypatch, lambda *_: None)
    scene.imports()
    sizes = {volume.name: volume.stat().st_size for volume in scene.volumes}
    seen: dict[str, list[tuple[int, int]]] = {}
    for name, offset, length in shim.reads:
        seen.setdefault(name, []).append((offset, offset + length))
    assert seen.keys() == sizes.keys()
    for name, spans in seen.items():
        ends = [0, *(stop for _, stop in spans)]
        assert [start for start, _ in spans] == ends[:-1], "in order, none twice"
        assert ends[-1] == sizes[name]


@pytest.mark.parametrize("change", ["grows", "shrinks", "is rewritten"])
def test_a_volume_that_changes_while_it_is_read(scene: Scene, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Bytes that were read already count as they were; those that come later are refused where they are others."""
    volume = scene.volumes[1]
    size = volume.stat().st_size

    def answer(name: str, offset: int, _number: int) -> None:
        if name == volume.name and offset > 1_000_000 and volume.stat().st_size == size:
            if change == "grows":
                with volume.open("ab") as stream:
                    stream.write(b"more" * 1000)
            elif change == "shrinks":
                os.truncate(volume, offset)
            else:
                volume.write_bytes(bytes(size))

    Shim(monkeypatch, answer)
    if change == "grows":
        assert scene.imports()["state"] == "ready"  # what is beyond the signed size is never read
        return
    error = scene.refuses("damaged", 30)
    assert error["context"]["volume"] == volume.name
    assert error["context"]["offset"] > 1_000_000
    assert ("became shorter" in error["message"]) == (change == "shrinks")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_read_that_fails_is_damage_that_names_its_place(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    volume, broken = scene.volumes[number], 1_200_000 if number < 2 else 128

    def answer(name: str, offset: int, _number: int) -> None:
        if name == volume.name and offset >= broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    Shim(monkeypatch, answer)
    error = scene.refuses("damaged", 30)
    assert volume.name in error["message"]
    assert "Input/output error" in error["message"]
    context = error["context"]
    assert context["volume"] == volume.name
    assert context["offset"] + context["length"] > broken
    assert context["waits_for"] == [volume.name], "the other volumes were read all the same"
    monkeypatch.undo()
    assert scene.imports()["state"] == "ready", "a good medium then succeeds"


def test_reads_that_bring_one_byte_at_a_time_only_take_longer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read, most = os.preadv, {"left": 5000}

    def short(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        most["left"] -= 1
        return read(descriptor, [buffers[0][:1]] if most["left"] > 0 else buffers, offset)

    monkeypatch.setattr(os, "preadv", short)
    assert scene.imports()["state"] == "ready"


# -- unlisted files ---------------------------------------------------------------------------------------------------


def terrible() -> Iterator[bytes]:
    """Return 10 000 names that a medium may hold beside a package."""
    yield from (
        b"-rf",
        b"--root=evil",
        b" ",
        b"\n",
        b"\t\x1b[2J\x07",
        b"\xff\xfe\x9b",
        b"a" * 255,
        b"\xcc\x88" * 120,
        "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe".encode(),
        b"$(touch pwned)",
        b"`id`",
        b"'; drop table releases; --",
        b"%s%n%x",
        b"con",
        b"autorun.inf",
        b"other-1.0.0.0001.airvol ",
        b"OTHER-1.0.0.0001.AIRVOL",
        b".other-1.0.0.0001.airvol.1.part",
        b"other-1.0.0.airpack.bak",
        b"other-1.0.0.p01.airvol",
    )
    for number in range(9980):
        yield b"unlisted \xf0\x9f\x92\xa3 %d" % number


def test_ten_thousand_files_that_nobody_listed_are_counted_and_never_opened(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {scene.head.name, *(volume.name for volume in scene.volumes)}
    for name in terrible():
        Path(os.fsdecode(os.fsencode(scene.medium) + b"/" + name)).write_bytes(b"")
    opened: list[str] = []
    real = os.open

    def watched(path: Any, *rest: Any, **more: Any) -> int:
        opened.append(os.fsdecode(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", watched)
    done = scene.site.run("import", scene.medium).json
    monkeypatch.undo()
    assert (done["state"], len(done["ignored"])) == ("ready", 10_000)
    assert {Path(path).name for path in opened if Path(path).parent == scene.medium} == listed
    (intent,) = [record for record in scene.site.records() if record["event"] == "import"][-2:-1]
    assert (intent["phase"], intent["data"]["ignored_files"]) == ("intent", 10_000)
    people = scene.airpack("verify", scene.medium, "--root", scene.site.folder / "root.json")
    assert all(char.isprintable() or char == "\n" for char in people.out + people.err)


# -- FUSE: media that answer as they like -----------------------------------------------------------------------------


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., tuple[Path, Medium]]]:
    """Return what serves files as a medium; all are unmounted when the test ends."""
    with ExitStack() as stack:

        def make(files: dict[str, Answers]) -> tuple[Path, Medium]:
            folder = tmp_path / f"mounted-{time.monotonic_ns()}"
            folder.mkdir()
            return folder, stack.enter_context(Medium(folder, files))

        yield make


def served(medium: Path, **options: Any) -> dict[str, Answers]:
    """Return the files of a real medium, to be served."""
    return {path.name: Answers.of(path.read_bytes(), **options) for path in medium.iterdir()}


def lying(data: bytes, other: bytes, *, truths: int) -> Answers:
    """Return a file whose bytes are `data` the first `truths` times that they are asked for, and then `other`."""
    asked = bytearray(len(data))

    def read(offset: int, size: int, _count: int) -> bytes:
        end = min(offset + size, len(data))
        answer = data if asked.find(truths, offset, end) < 0 else other
        for at in range(offset, end):
            asked[at] += asked[at] < truths
        return answer[offset:end]

    return Answers(len(data), read)


@needs_fuse
def test_a_medium_that_is_a_file_system_of_somebody_else_is_imported(scene: Scene, mount: Callable[..., Any]) -> None:
    """The control of the tests below."""
    folder, _ = mount(served(scene.medium))
    assert scene.imports(folder)["state"] == "ready"


@needs_fuse
@pytest.mark.parametrize("what", ["volumes", "head", "all"])
def test_a_medium_that_answers_differently_the_second_time_gets_nothing_in(
    scene: Scene, mount: Callable[..., Any], what: str
) -> None:
    """Verified bytes are used bytes: each is asked for once, so there is no second time (CVE-2020-25860)."""
    files = served(scene.medium)
    for name, answers in files.items():
        if what == "all" or (name.endswith(".airpack") == (what == "head")):
            data = (scene.medium / name).read_bytes()
            files[name] = lying(data, hashlib.sha256(data).digest() * (len(data) // 32 + 1), truths=1)
            assert files[name].size == answers.size
    folder, _ = mount(files)
    assert scene.imports(folder)["state"] == "ready"
    for blob in (scene.site.folder / "store").rglob("*"):
        assert not blob.is_file() or hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    code = {"head": 10, "all": 10, "volumes": 30}[what]
    scene.site.run("import", folder, expect=code)  # the second time, it lies


@needs_fuse
@pytest.mark.parametrize(("what", "truths"), [("volumes", 1), ("volumes", 2), ("head", 1)])
def test_a_medium_that_lies_at_first_gets_nothing_in_but_what_is_signed(
    scene: Scene, mount: Callable[..., Any], what: str, truths: int
) -> None:
    """A volume that is asked again gives the signed bytes the second and the third time; a head is asked once."""
    files = served(scene.medium)
    for name in files:
        if name.endswith(".airpack") == (what == "head"):
            data = (scene.medium / name).read_bytes()
            files[name] = lying(bytes(len(data)), data, truths=truths)
    folder, _ = mount(files)
    if what == "head":
        scene.refuses("integrity", 10, folder)
    assert scene.imports(folder)["state"] == "ready"


@needs_fuse
def test_a_medium_that_lies_each_time_is_refused_and_a_good_one_then_imported(
    scene: Scene, mount: Callable[..., Any]
) -> None:
    files = served(scene.medium)
    for volume in scene.volumes:
        data = volume.read_bytes()
        files[volume.name] = lying(data[:4096] + bytes(len(data) - 4096), data, truths=20)
    folder, _ = mount(files)
    error = scene.refuses("damaged", 30, folder)
    assert error["context"]["waits_for"] == [volume.name for volume in scene.volumes]
    assert scene.imports()["state"] == "ready"


@needs_fuse
def test_a_medium_that_says_another_size_than_it_has(scene: Scene, mount: Callable[..., Any]) -> None:
    """Endless data: the size that is signed is read, whatever comes behind it."""
    files = served(scene.medium)
    (head,) = [name for name in files if name.endswith(".airpack")]
    files[head] = Answers(0, lambda _offset, size, _count: b"[" * size)
    folder, _ = mount(files)
    started = time.monotonic()
    scene.refuses("integrity", 10, folder)
    asked = sum(length for _, length in files[head].reads)
    assert asked <= (16 << 20) + (1 << 20), f"read {asked} bytes of an endless head"
    assert time.monotonic() - started < 120


@needs_fuse
@pytest.mark.parametrize("code", [errno.EIO, errno.ENODEV, errno.ESTALE, errno.EACCES, errno.EAGAIN])
@pytest.mark.parametrize("where", [0, 128, 900_000, "head"])
def test_a_volume_whose_reads_fail_is_damaged_or_missing_and_a_head_an_error_of_storage(
    scene: Scene, mount: Callable[..., Any], code: int, where: int | str
) -> None:
    files = served(scene.medium)
    name = scene.head.name if where == "head" else scene.volumes[1].name
    data = (scene.medium / name).read_bytes()

    def read(offset: int, size: int, _count: int) -> bytes:
        if where == "head" or offset + size > int(where):
            raise OSError(code, os.strerror(code))
        return data[offset : offset + size]

    files[name] = Answers(len(data), read)
    folder, _ = mount(files)
    if where == "head":
        assert name in scene.refuses("storage", 20, folder)["message"]
    else:
        gone = code in {errno.ENODEV, errno.ESTALE}
        error = scene.refuses("partial" if gone else "damaged", 30, folder)
        assert name in error["message"]
        assert error["context"]["waits_for"] == [name]
        assert error["context"]["missing"] == ([name] if gone else [])
    assert scene.imports()["state"] == "ready"


@needs_fuse
def test_a_medium_that_is_pulled_out_while_it_is_read(scene: Scene, mount: Callable[..., Any]) -> None:
    files, pulled = served(scene.medium), threading.Event()
    name = scene.volumes[1].name
    data = (scene.medium / name).read_bytes()
    medium: list[Medium] = []

    def read(offset: int, size: int, _count: int) -> bytes:
        if offset > 600_000:
            threading.Thread(target=medium[0].unplug).start()
            pulled.set()
            time.sleep(0.2)
        return data[offset : offset + size]

    files[name] = Answers(len(data), read)
    folder, mounted = mount(files)
    medium.append(mounted)
    error = scene.refuses("partial", 30, folder)
    assert pulled.is_set()
    assert error["context"]["waits_for"] == [volume.name for volume in scene.volumes[1:]]
    assert scene.imports()["state"] == "ready", "putting it back in goes on where it stopped"


def leave(*words: str | Path, medium: Medium) -> None:
    """Run a command until its medium gives no answer, press Ctrl-C, and hold it to end then, and not before."""
    program = [AIRPACK, *words, "--json"]
    # Whoever runs the tests in the background ignores SIGINT, and what they start would too.
    interruptible = ["env", "--default-signal=INT", *program]
    with subprocess.Popen(interruptible, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert medium.stalled.wait(60)
            time.sleep(0.5)
            assert process.poll() is None, "it waits as long as the medium does"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            medium.unplug()
            process.kill()
    assert process.returncode == 130, err
    assert json.loads(out)["error"]["code"] == "cancelled"


@needs_fuse
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_looking_at_a_medium_that_never_answers_can_be_left_with_ctrl_c(
    scene: Scene, mount: Callable[..., Any], command: str
) -> None:
    files = served(scene.medium, direct=False)
    files[scene.head.name] = Answers(files[scene.head.name].size, lambda *_: None, direct=False)
    folder, medium = mount(files)
    more = ["--root", scene.site.folder / "root.json"] if command == "verify" else []
    leave(command, folder, *more, medium=medium)


@needs_fuse
@pytest.mark.parametrize("where", [0, 128, 900_000, "head", "second volume"])
def test_a_medium_that_never_answers_can_be_left_with_ctrl_c(
    scene: Scene, mount: Callable[..., Any], where: int | str
) -> None:
    """airpack sets no deadline of its own: a robot may need minutes for a tape. Ctrl-C ends it at once."""
    files = served(scene.medium, direct=False)
    name = scene.head.name if where == "head" else scene.volumes[int(where == "second volume")].name
    first = 0 if isinstance(where, str) else where
    data = (scene.medium / name).read_bytes()

    def read(offset: int, size: int, _count: int) -> bytes | None:
        return None if offset + size > first else data[offset : offset + size]

    files[name] = Answers(len(data), read, direct=False)
    folder, medium = mount(files)
    leave("import", folder, "--site", scene.site.folder, medium=medium)
    scene.unchanged()
    assert scene.imports()["state"] == "ready"
    interrupted = [record for record in scene.site.records() if record["outcome"] == "interrupted"]
    assert len(interrupted) == (where == 900_000), "what was begun is on record as cut short"


@needs_fuse
def test_unlisted_names_that_no_real_folder_can_hold(scene: Scene, mount: Callable[..., Any]) -> None:
    """A file system of somebody else may give names that are odd even for a kernel."""
    files = served(scene.medium)
    extra = [os.fsdecode(b"\xff" * 200), "C:\\evil", "a" * 255, "\x01\x02", "..evil", "~"]
    files |= {name: Answers(0, lambda *_: pytest.fail("opened")) for name in extra}
    folder, _ = mount(files)
    assert sorted(scene.imports(folder)["ignored"]) == sorted(extra)


# -- two volumes under each other's names -----------------------------------------------------------------------------


def test_two_volumes_under_each_other_s_names_are_imported(
    tmp_path: Path, place: Callable[[Path], Any], airpack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file is, its signed header says; whoever renamed it changed nothing that counts."""
    vector = Vector.load(HERE / "many_ok")
    monkeypatch.setattr("airpack.ops.site.utc_now", lambda: vector.now)
    good = tmp_path / "good"
    vector.lay_out(good)
    names = sorted(path.name for path in good.glob("*.airvol"))
    for number, (first, second) in enumerate([(0, 1), (0, 3), (1, 2), (2, 3)]):
        site = place(tmp_path / f"site{number}")
        airpack("site", "init", site.folder, "--root", ROOT, "--json")
        medium = tmp_path / f"medium{number}"
        shutil.copytree(good, medium)
        (medium / names[first]).rename(medium / "third")
        (medium / names[second]).rename(medium / names[first])
        (medium / "third").rename(medium / names[second])
        assert site.run("import", medium).json["state"] == "ready"
        assert site.run("fsck").json["ok"] is True
