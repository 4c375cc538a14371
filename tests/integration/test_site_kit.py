"""A site kit: whole, it installs airpack with Python alone; changed in any way, it installs nothing.

Most tests use a kit of the same form whose airpack is three lines long, so that each of them is quick. The real kit is
made once, installed into a bare Debian without network, and brought to a site that has an older airpack.
"""

import ast
import dataclasses
import fcntl
import hashlib
import importlib.util
import io
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airpack.ops.probes import isolation_available

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
USAGE, NOT_FOUND, INTEGRITY, TRUST, POLICY, STORAGE, BUSY = 2, 3, 10, 11, 12, 20, 21


def load(tree: Path) -> Any:
    """Return scripts/site_kit.py of a source tree as a module."""
    name = f"site_kit_{hashlib.sha256(bytes(tree)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, tree / "scripts/site_kit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


site_kit = load(REPOSITORY)
installer = site_kit.installer()


@dataclass(frozen=True)
class Done:
    code: int
    text: str

    def expect(self, code: int, *words: str) -> "Done":
        assert self.code == code, self.text
        for word in words:
            assert word in self.text
        return self


def run(*command: object, **options: Any) -> Done:
    done = subprocess.run(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
        **options,
    )
    return Done(done.returncode, done.stdout)


def wheel(files: Mapping[str, str], *, mode: int = 0o100644) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, text)
    return out.getvalue()


def airpack_wheel(version: str, *, ends: int = 0) -> bytes:
    main = f"import sys\n\n\ndef main() -> None:\n    print('airpack, version {version}')\n    sys.exit({ends})\n"
    return wheel({"airpack/__init__.py": "", "airpack/cli/__init__.py": "", "airpack/cli/main.py": main})


@dataclass
class Kit:
    """A folder with a kit, to be damaged."""

    folder: Path

    @property
    def digest(self) -> str:
        return hashlib.sha256((self.folder / "SHA256SUMS").read_bytes()).hexdigest()

    def list_anew(self) -> None:
        """Write a list that is right about whatever lies there now."""
        files = {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }
        files.pop("SHA256SUMS", None)
        (self.folder / "SHA256SUMS").write_bytes(installer.sums_of(files))

    def install(self, prefix: Path, *words: str, digest: str | None = None, **options: Any) -> Done:
        known = ["--digest", digest or self.digest]
        command = [sys.executable, "-I", "-S", self.folder / "install.py", "--prefix", prefix, *known, *words]
        return run(*command, **options)


@pytest.fixture
def new_kit(tmp_path: Path) -> Callable[..., Kit]:
    """Make a small kit of some version."""

    def make_kit(version: str = "1.0.0", *, data: bytes | None = None, **changes: Any) -> Kit:
        target = site_kit.Target(HERE, "linux/arm64" if platform.machine() == "aarch64" else "linux/amd64", 36)
        wheels = {
            f"airpack-{version}-py3-none-any.whl": data or airpack_wheel(version),
            "other-1-py3-none-any.whl": wheel({"other.py": "x = 1\n"}),
        }
        target = dataclasses.replace(target, **changes)
        files = site_kit.kit_files(target, wheels, b"{}", airpack=version, modules=["airpack.cli.main", "other"])
        folder = tmp_path / f"carried-{version}"
        site_kit.write(folder, files, {})
        return Kit(folder / "kit")

    return make_kit


def version_of(prefix: Path) -> str:
    """Return what the installed command says."""
    return run(prefix / "bin/airpack", "--version").expect(0).text.split()[-1]


def links(prefix: Path) -> dict[str, str]:
    return {name: str((prefix / name).readlink()) for name in ("current", "previous") if (prefix / name).is_symlink()}


# A whole kit.


def test_a_whole_kit_installs_and_runs(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    kit = new_kit()
    done = kit.install(tmp_path / "prefix").expect(0, "installed", installer.grouped(kit.digest))
    assert f"{len(list(kit.folder.rglob('*'))) - 2} files" in done.text  # all but SHA256SUMS and the folder of wheels
    assert version_of(tmp_path / "prefix") == "1.0.0"
    assert run("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS", cwd=kit.folder).expect(0).text == ""


def test_it_works_under_an_odd_umask_and_for_everybody(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    kit = new_kit()
    kit.install(prefix, umask=0o777).expect(0)
    kit.install(prefix, "--check", umask=0o777).expect(0)
    modes = {path: path.lstat().st_mode & 0o777 for path in prefix.rglob("*") if not path.is_symlink()}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o755}
    assert modes.pop(prefix / ".lock") == 0o600
    assert modes[prefix / links(prefix)["current"] / "bin/airpack"] == 0o755
    assert {mode for path, mode in modes.items() if path.suffix in {".py", ".pyc"}} == {0o644}


def test_it_starts_by_its_own_name_isolated(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    kit = new_kit()
    (first, *_) = (kit.folder / "install.py").read_text().splitlines()
    assert first == f"#!/usr/bin/env -S PATH=/usr/local/bin:/usr/bin:/bin python{HERE} -I -S -B"
    if not any(Path(folder, f"python{HERE}").exists() for folder in ("/usr/local/bin", "/usr/bin", "/bin")):
        pytest.skip(f"python{HERE} lies in none of the folders where install.py looks for it")
    run(kit.folder / "install.py", "--check", "--digest", kit.digest, env={}).expect(0, "starts here")
    assert not (tmp_path / "prefix").exists()


def test_a_digest_is_read_however_it_was_written_down(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    kit = new_kit()
    groups = installer.grouped(kit.digest)
    assert [len(group) for group in groups.split()] == [4] * 16
    for typed in (
        groups.split(),
        [groups],
        [groups.upper()],
        [kit.digest],
        [f"sha256:{kit.digest}"],
        [groups.replace(" ", "-")],
    ):
        assert installer.parse_digest(typed) == kit.digest
    kit.install(tmp_path / "prefix", digest=groups).expect(0)


@pytest.mark.parametrize("typed", ["", "12", "g" * 64, "0" * 63, "0" * 65])
def test_what_is_no_digest_is_refused_as_a_slip(new_kit: Callable[..., Kit], tmp_path: Path, typed: str) -> None:
    kit = new_kit()
    command = [
        sys.executable,
        "-I",
        "-S",
        kit.folder / "install.py",
        "--prefix",
        tmp_path / "prefix",
        "--digest",
        typed,
    ]
    run(*command).expect(USAGE, "a kit digest has 64")
    assert not (tmp_path / "prefix").exists()


def test_without_a_digest_it_asks_for_one(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    kit = new_kit()
    command = [sys.executable, "-I", "-S", kit.folder / "install.py", "--prefix", tmp_path / "prefix"]
    run(*command).expect(USAGE, "enrolment page")
    assert not (tmp_path / "prefix").exists()
    run(*command, "--no-digest").expect(0)


# A kit that was changed.


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _comment(path: Path) -> None:
    path.write_text(path.read_text() + "# more\n")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(kit: Path, name: str) -> None:
    path = kit / name
    path.rename(kit.parent / "elsewhere")
    path.symlink_to(kit.parent / "elsewhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


OWN = "wheels/airpack-1.0.0-py3-none-any.whl"
CHANGES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "a wheel with a bit flipped": (lambda kit: _flip(kit / OWN), INTEGRITY, f"{OWN} does not have its digest"),
    "a wheel with a byte more": (lambda kit: _append(kit / OWN), INTEGRITY, f"{OWN} does not have its digest"),
    "a wheel cut off": (lambda kit: os.truncate(kit / OWN, 10), INTEGRITY, f"{OWN} does not have its digest"),
    "an empty wheel": (lambda kit: os.truncate(kit / OWN, 0), INTEGRITY, f"{OWN} does not have its digest"),
    "another installer": (lambda kit: _comment(kit / "install.py"), INTEGRITY, "install.py does not have its digest"),
    "another README": (lambda kit: _append(kit / "README.md"), INTEGRITY, "README.md does not have its digest"),
    "another root": (lambda kit: _append(kit / "root.json"), INTEGRITY, "root.json does not have its digest"),
    "a wheel missing": (lambda kit: (kit / OWN).unlink(), INTEGRITY, f"{OWN} is missing"),
    "all wheels missing": (lambda kit: shutil.rmtree(kit / "wheels"), INTEGRITY, f"{OWN} is missing"),
    "a wheel renamed": (
        lambda kit: (kit / OWN).rename(kit / "wheels/b.whl"),
        INTEGRITY,
        "'wheels/b.whl' is not listed",
    ),
    "a wheel moved": (lambda kit: (kit / OWN).rename(kit / "a.whl"), INTEGRITY, "'a.whl' is not listed"),
    "two wheels exchanged": (
        lambda kit: shutil.copy(kit / OWN, kit / "wheels/other-1-py3-none-any.whl"),
        INTEGRITY,
        "other-1-py3-none-any.whl does not have its digest",
    ),
    "a wheel more": (lambda kit: (kit / "wheels/x.whl").touch(), INTEGRITY, "'wheels/x.whl' is not listed"),
    "a file more": (lambda kit: (kit / "x").touch(), INTEGRITY, "'x' is not listed"),
    "a hidden file more": (lambda kit: (kit / ".x").touch(), INTEGRITY, "'.x' is not listed"),
    "a folder more": (lambda kit: (kit / "lib").mkdir(), INTEGRITY, "'lib' is not listed"),
    "a folder among the wheels": (lambda kit: (kit / "wheels/x").mkdir(), INTEGRITY, "'wheels/x' is not listed"),
    "a link more": (lambda kit: (kit / "x").symlink_to("install.py"), INTEGRITY, "'x' is not listed"),
    "a name that steers a terminal": (lambda kit: (kit / "\x1b[2J").touch(), INTEGRITY, "'\\x1b[2J' is not listed"),
    "a name that is no text": (
        lambda kit: os.close(os.open(bytes(kit) + b"/\xff", os.O_CREAT)),
        INTEGRITY,
        "'\\udcff' is not listed",
    ),
    "a link for a wheel": (lambda kit: _link(kit, OWN), INTEGRITY, f"{Path(OWN).name} is no regular file"),
    "a link for the wheels": (lambda kit: _link(kit, "wheels"), INTEGRITY, "wheels is no folder"),
    "a link for the list": (lambda kit: _link(kit, "SHA256SUMS"), INTEGRITY, "SHA256SUMS is no regular file"),
    "a pipe for a wheel": (lambda kit: _fifo(kit / OWN), INTEGRITY, f"{OWN} is no regular file"),
    "a folder for a wheel": (
        lambda kit: _folder(kit / OWN),
        INTEGRITY,
        f"{OWN} is no regular file",
    ),
    "no list": (lambda kit: (kit / "SHA256SUMS").unlink(), NOT_FOUND, "there is no SHA256SUMS here"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_kit_installs_nothing(new_kit: Callable[..., Kit], tmp_path: Path, name: str) -> None:
    kit, prefix = new_kit(), tmp_path / "prefix"
    digest = kit.digest
    change, code, message = CHANGES[name]
    change(kit.folder)
    kit.install(prefix, digest=digest).expect(code, message)
    kit.install(prefix, "--check", digest=digest).expect(code, message)
    assert not prefix.exists()


def test_all_that_is_wrong_is_named_at_once(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    kit = new_kit()
    for path in (kit.folder / OWN, kit.folder / "README.md"):
        _flip(path)
    kit.install(tmp_path / "prefix").expect(
        INTEGRITY, f"  {OWN} does not have", "  README.md does not have", "hint: copy"
    )


def _lines(change: Callable[[list[str]], object]) -> Callable[[bytes], bytes]:
    def edit(sums: bytes) -> bytes:
        lines = sums.decode().splitlines(keepends=True)
        change(lines)
        return "".join(lines).encode()

    return edit


LISTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "without its last newline": lambda sums: sums[:-1],
    "with a line more at the end": lambda sums: sums + b"\n",
    "with a carriage return": lambda sums: sums.replace(b"\n", b"\r\n"),
    "with a file twice": _lines(lambda lines: lines.append(lines[-1])),
    "not in order": _lines(lambda lines: lines.reverse()),
    "without the installer": _lines(lambda lines: lines.pop(1)),
    "with a name that leads out": _lines(lambda lines: lines.append(f"{'0' * 64}  wheels/../../x\n")),
    "with an absolute name": _lines(lambda lines: lines.insert(0, f"{'0' * 64}  /etc/passwd\n")),
    "with a name in another folder": _lines(lambda lines: lines.append(f"{'0' * 64}  x/y\n")),
    "with a hidden name": _lines(lambda lines: lines.insert(0, f"{'0' * 64}  .x\n")),
    "with two names that differ in case": _lines(lambda lines: lines.insert(1, f"{'0' * 64}  Readme.md\n")),
    "with binary marks": lambda sums: sums.replace(b"  ", b" *"),
    "with an escaped name": _lines(lambda lines: lines.append(f"\\{'0' * 64}  x\\ny\n")),
    "with digests in upper case": _lines(lambda lines: lines.insert(0, lines.pop(0).upper())),
    "with a zero byte": lambda sums: sums + b"\0",
    "with a thousand lines": _lines(lambda lines: lines.extend(f"{'0' * 64}  x{n:04}\n" for n in range(1000))),
    "not in ASCII": lambda sums: sums.replace(b"install", "inst\u00e4ll".encode()),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_another_form_is_refused_whatever_its_digest(
    new_kit: Callable[..., Kit], tmp_path: Path, name: str
) -> None:
    kit = new_kit()
    sums = kit.folder / "SHA256SUMS"
    changed = LISTS[name](sums.read_bytes())
    assert changed != sums.read_bytes()
    sums.write_bytes(changed)
    kit.install(tmp_path / "prefix").expect(INTEGRITY, "SHA256SUMS is not what a kit's is")
    assert not (tmp_path / "prefix").exists()


def test_another_kit_that_is_whole_in_itself_is_not_the_one_that_was_meant(
    new_kit: Callable[..., Kit], tmp_path: Path
) -> None:
    kit = new_kit()
    meant = kit.digest
    (kit.folder / OWN).write_bytes(airpack_wheel("6.6.6"))
    kit.list_anew()
    kit.install(tmp_path / "prefix", digest=meant).expect(
        TRUST, installer.grouped(meant), installer.grouped(kit.digest)
    )
    assert not (tmp_path / "prefix").exists()
    kit.install(tmp_path / "prefix").expect(0)  # so it was the digest alone that refused it


@pytest.mark.parametrize("isolated", [True, False])
def test_modules_that_lie_beside_the_installer_never_run(
    new_kit: Callable[..., Kit], tmp_path: Path, *, isolated: bool
) -> None:
    kit = new_kit()
    for name in ("argparse", "hashlib", "os", "pathlib", "zipfile", "subprocess", "sitecustomize", "encodings"):
        (kit.folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    words = ["-I", "-S"] if isolated else []
    command = [
        sys.executable,
        *words,
        kit.folder / "install.py",
        "--prefix",
        tmp_path / "prefix",
        "--digest",
        kit.digest,
    ]
    run(*command, cwd=kit.folder).expect(INTEGRITY, "'hashlib.py' is not listed")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "prefix").exists()


@pytest.mark.parametrize(
    ("files", "mode"),
    [
        ({"../out.py": "x"}, 0o100644),
        ({"/out.py": "x"}, 0o100644),
        ({"a//out.py": "x"}, 0o100644),
        ({"a/./out.py": "x"}, 0o100644),
        ({"a\\..\\out.py": "x"}, 0o100644),
        ({"airpack-1.data/scripts/out": "x"}, 0o100644),
        ({"out.py": "/etc/passwd"}, 0o120777),
        ({"out.py": ""}, 0o010644),
    ],
)
def test_a_wheel_with_files_for_other_places_is_refused_even_when_listed(
    new_kit: Callable[..., Kit], tmp_path: Path, files: dict[str, str], mode: int
) -> None:
    kit = new_kit(data=wheel({"airpack/__init__.py": "", **files}, mode=mode))
    kit.install(tmp_path / "prefix").expect(INTEGRITY, "holds what no wheel of a kit may")
    assert sorted(path.name for path in (tmp_path / "prefix").iterdir()) == [".lock", "bin", "versions"]
    assert list((tmp_path / "prefix/versions").iterdir()) == []
    assert not list(tmp_path.rglob("out*"))


def test_a_wheel_that_is_no_zip_is_refused_even_when_listed(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    new_kit(data=b"no zip").install(tmp_path / "prefix").expect(INTEGRITY, "cannot be unpacked")


# Another machine.


def test_another_machine_is_refused_before_anything_is_looked_at(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    other = "3.12" if HERE != "3.12" else "3.13"
    kit = new_kit(python=other)
    (kit.folder / "SHA256SUMS").unlink()
    done = kit.install(tmp_path / "prefix", digest="0" * 64).expect(
        POLICY, f"CPython {other} on Linux", f"python{other}"
    )
    assert platform.python_version() in done.text
    assert "Traceback" not in done.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": "riscv64"}, "on Linux riscv64 with glibc 2.5 or newer; this is CPython"),
        ({"glibc": [2, 99]}, "with glibc 2.99 or newer"),
        ({"python": [3, 99]}, "CPython 3.99"),
    ],
)
def test_a_machine_that_lacks_something_is_told_what(
    new_kit: Callable[..., Kit], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    kit = new_kit()
    script = kit.folder / "install.py"
    text = script.read_text()
    (line,) = re.findall(r"^KIT: .* = (.*)$", text, re.MULTILINE)
    script.write_text(text.replace(line, json.dumps(json.loads(line) | change)))
    kit.list_anew()
    kit.install(tmp_path / "prefix").expect(POLICY, message, "ask for a kit for this machine")


def test_an_older_python_can_read_the_installer_well_enough_to_be_refused_by_it() -> None:
    ast.parse((REPOSITORY / "scripts/kit/install.py").read_text(), feature_version=(3, 7))


def test_the_installers_source_alone_is_no_kit() -> None:
    run(sys.executable, "-I", REPOSITORY / "scripts/kit/install.py", "--no-digest").expect(USAGE, "site-kit makes one")


# Installing over what is there.


def test_the_old_one_stays_as_the_fallback(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        new_kit(version).install(prefix).expect(0)
        assert version_of(prefix) == version
    assert run(prefix / "previous/bin/airpack", "--version").text == "airpack, version 2.0.0\n"
    new_kit("4.0.0").install(prefix).expect(0)
    assert len(list((prefix / "versions").iterdir())) == 3  # what was replaced just now goes with the next run
    # By hand, as the how-to has it.
    back = 'ln -sfn "$(readlink $P/previous)" $P/current'
    assert back.replace("$P", "/opt/airpack") in (REPOSITORY / "docs/howto/reach-a-site.md").read_text()
    run("sh", "-c", back, env={**os.environ, "P": str(prefix)}).expect(0)
    assert version_of(prefix) == "3.0.0"


def test_the_same_kit_again_installs_again_and_keeps_the_fallback(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    prefix, kits = tmp_path / "prefix", [new_kit("1.0.0"), new_kit("2.0.0")]
    for kit in kits:
        kit.install(prefix).expect(0)
    before = links(prefix)
    (prefix / "current/lib/other.py").unlink()
    shutil.rmtree(prefix / "current/lib/__pycache__")
    kits[1].install(prefix).expect(0)
    after = links(prefix)
    assert after["previous"] == before["previous"]
    assert after["current"] == before["current"] + ".2"
    assert (prefix / "current/lib/other.py").is_file()
    kits[0].install(prefix).expect(0)
    assert (version_of(prefix), links(prefix)["previous"]) == ("1.0.0", after["current"])


def test_one_that_does_not_start_replaces_nothing(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    new_kit("1.0.0").install(prefix).expect(0)
    before = links(prefix), sorted(prefix.rglob("*"))
    bad = new_kit("2.0.0", data=airpack_wheel("2.0.0", ends=3))
    bad.install(prefix).expect(POLICY, "airpack 2.0.0 does not start here, what was installed stays: status 3")
    bad.install(prefix, "--check").expect(POLICY, "does not start here")
    lacking = new_kit("3.0.0", data=wheel({"airpack/cli/main.py": "import nowhere_to_be_found\n"}))
    lacking.install(prefix).expect(POLICY, "No module named 'nowhere_to_be_found'")
    assert (links(prefix), sorted(prefix.rglob("*"))) == before
    assert version_of(prefix) == "1.0.0"


def test_what_does_not_start_any_more_is_no_fallback(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    for version in ("1.0.0", "2.0.0"):
        new_kit(version).install(prefix).expect(0)
    (prefix / "current/bin/airpack").unlink()
    new_kit("3.0.0").install(prefix).expect(0)
    assert run(prefix / "previous/bin/airpack", "--version").text == "airpack, version 1.0.0\n"


def test_only_one_at_a_time(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    new_kit("1.0.0").install(prefix).expect(0)
    with (prefix / ".lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new_kit("2.0.0").install(prefix).expect(BUSY, "another install.py")
    assert version_of(prefix) == "1.0.0"


def test_a_folder_with_other_things_is_left_alone(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    (tmp_path / "prefix").mkdir()
    (tmp_path / "prefix/mine").touch()
    new_kit().install(tmp_path / "prefix").expect(USAGE, "holds other things")
    assert [path.name for path in (tmp_path / "prefix").iterdir()] == ["mine"]


def test_a_disk_that_takes_no_more_leaves_the_old_one(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    new_kit("1.0.0").install(prefix).expect(0)
    before = links(prefix), sorted(prefix.rglob("*"))
    large = new_kit("2.0.0", data=wheel({"airpack/__init__.py": "#" * 100_000}))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    large.install(prefix, preexec_fn=small_files).expect(STORAGE, "File too large")
    assert (links(prefix), sorted(prefix.rglob("*"))) == before


ONCE = """\
import os, runpy, shutil, sys

kit, script, sys.argv = sys.argv[1], sys.argv[2], sys.argv[2:]
opened = []


def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        opened.append(os.path.basename(arguments[0]))
    if event == "os.mkdir" and os.path.isdir(kit):
        shutil.rmtree(kit)


sys.addaudithook(hook)
try:
    runpy.run_path(script, run_name="__main__")
finally:
    print("opened", *opened)
"""


def test_the_medium_is_read_once_and_can_be_gone_once_it_is_checked(
    new_kit: Callable[..., Kit], tmp_path: Path
) -> None:
    """The first folder that the installer makes takes the kit away: what is installed comes from what was checked."""
    kit, prefix = new_kit(), tmp_path / "prefix"
    names = [path.name for path in kit.folder.rglob("*") if path.is_file()]
    words = ["--prefix", prefix, "--digest", kit.digest]
    done = run(sys.executable, "-I", "-S", "-c", ONCE, kit.folder, kit.folder / "install.py", *words).expect(0)
    assert not kit.folder.exists()
    assert version_of(prefix) == "1.0.0"
    opened = done.text.split("opened", 1)[1].split()
    names.remove("install.py")  # which Python opens by itself too, as the program
    # The list is opened once more to be written, into the install.
    assert {name: opened.count(name) for name in names} == dict.fromkeys(names, 1) | {"SHA256SUMS": 2}


KILLER = """\
import os, runpy, signal, sys

left, script, sys.argv = int(sys.argv[1]), sys.argv[2], sys.argv[2:]
seen = 0
CHANGING = {"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
            "shutil.rmtree", "subprocess.Popen"}


def hook(event, arguments):
    global seen
    if event in CHANGING or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        seen += 1
        if seen == left:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(hook)
try:
    runpy.run_path(script, run_name="__main__")
finally:
    print("steps", seen)
"""


def test_killed_before_any_step_the_old_one_or_the_new_one_runs(new_kit: Callable[..., Kit], tmp_path: Path) -> None:
    """Before each act that changes the disk or starts a process, an audit hook ends the installer with SIGKILL."""
    old, new = new_kit("1.0.0"), new_kit("2.0.0")

    def killed_at(step: int, prefix: Path) -> Done:
        words = ["--prefix", str(prefix), "--digest", new.digest]
        return run(sys.executable, "-I", "-S", "-c", KILLER, str(step), new.folder / "install.py", *words)

    def fresh(step: int) -> Path:
        prefix = tmp_path / f"prefix{step}"
        shutil.copytree(tmp_path / "prefix0", prefix, symlinks=True)
        return prefix

    old.install(tmp_path / "prefix0").expect(0)
    steps = int(killed_at(0, fresh(-1)).expect(0).text.split()[-1])
    assert steps > 20
    ran = []
    for step in range(1, steps + 1):
        prefix = fresh(step)
        killed_at(step, prefix).expect(-9)
        ran.append(version_of(prefix))
        if ran[-1] == "2.0.0":
            assert run(prefix / "previous/bin/airpack", "--version").text == "airpack, version 1.0.0\n"
        elif step % 5 == 0:  # and the next run puts everything right
            new.install(prefix).expect(0)
            assert version_of(prefix) == "2.0.0"
            assert sorted(path.name for path in prefix.iterdir()) == [".lock", "bin", "current", "previous", "versions"]
            assert len(list((prefix / "versions").iterdir())) == 2
        shutil.rmtree(prefix)
    assert ran == sorted(ran)
    assert set(ran) == {"1.0.0", "2.0.0"}


# Making a kit.


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str], Path]:
    """Copy what a kit is made of, as a clean clone would hold it."""

    def copy(name: str) -> Path:
        place = tmp_path / name
        for part in ("src", "scripts", "requirements"):
            shutil.copytree(REPOSITORY / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
            shutil.copy(REPOSITORY / part, place)
        (REPOSITORY / ".cache").mkdir(exist_ok=True)
        (place / ".cache").symlink_to(REPOSITORY / ".cache")
        return place

    return copy


def test_the_same_sources_give_the_same_wheel_byte_for_byte(tree: Callable[[str], Path]) -> None:
    first, second = tree("one"), tree("another-place")
    for path in second.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1, 10**9))
            path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
    (second / "src/airpack/__pycache__").mkdir()
    (second / "src/airpack/__pycache__/x.cpython-311.pyc").touch()
    name, data = load(first).build_wheel()
    assert load(second).build_wheel() == (name, data)
    assert re.fullmatch(r"airpack-[0-9.]+-py3-none-any\.whl", name)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        packed = {path: archive.read(path) for path in names}
    sources = {str(p.relative_to(first / "src")): p.read_bytes() for p in (first / "src").rglob("*") if p.is_file()}
    assert {path: body for path, body in packed.items() if ".dist-info/" not in path} == sources
    (first / "src/airpack/types.py").write_text("# another\n")
    assert load(first).build_wheel()[1] != data


def test_hatchlings_own_archive_and_ours_hold_the_same() -> None:
    theirs = io.BytesIO()
    with zipfile.ZipFile(theirs, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/x.py", "x" * 1000)
        archive.writestr("a.py", "a")
    ours = site_kit.plain_zip(theirs.getvalue())
    with zipfile.ZipFile(io.BytesIO(ours)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"a.py": b"a", "b/x.py": b"x" * 1000}
        assert archive.testzip() is None
    assert site_kit.plain_zip(ours) == ours


def test_the_lock_is_read_whole() -> None:
    entries = site_kit.read_lock((REPOSITORY / "requirements/runtime.lock").read_text())
    text = (REPOSITORY / "requirements/runtime.lock").read_text()
    assert [entry.requirement.name for entry in entries] == re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)
    assert sum(len(entry.hashes) for entry in entries) == text.count("--hash=sha256:")
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for entry in entries for digest in entry.hashes)
    with pytest.raises(site_kit.InputError):
        site_kit.read_lock("-r other.txt\n")


def test_a_marker_is_asked_for_the_site_and_not_for_this_machine() -> None:
    (older, never) = site_kit.read_lock(
        'a==1 ; python_version < "3.12" \\\n    --hash=sha256:00\n'
        'b==1 ; sys_platform == "win32" \\\n    --hash=sha256:00\n'
    )
    assert site_kit.Target("3.11", "linux/amd64", 36).holds(older.requirement.marker)
    assert not site_kit.Target("3.12", "linux/amd64", 36).holds(older.requirement.marker)
    assert not site_kit.Target("3.11", "linux/amd64", 36).holds(never.requirement.marker)


def test_the_oldest_c_library_that_will_do_is_read_from_the_tags() -> None:
    pure, old = "a-1-py3-none-any.whl", "b-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    assert site_kit.oldest_glibc([pure]) == 5
    assert site_kit.oldest_glibc([pure, old]) == 17
    assert site_kit.oldest_glibc(["c-1-cp311-abi3-manylinux_2_34_x86_64.whl", pure, old]) == 34


@pytest.mark.parametrize("fault", ["changed", "missing", "more"])
def test_a_fetched_wheel_is_held_to_the_lock_each_time(fault: str, tmp_path: Path) -> None:
    data = b"a wheel"
    entries = site_kit.read_lock(f"a==1 --hash=sha256:{hashlib.sha256(data).hexdigest()}\n")
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(data)
    assert site_kit._checked_wheels(tmp_path, entries) == {"a-1-py3-none-any.whl": data}
    if fault == "changed":
        (tmp_path / "a-1-py3-none-any.whl").write_bytes(b"another")
    elif fault == "missing":
        (tmp_path / "a-1-py3-none-any.whl").unlink()
    else:
        (tmp_path / "b-1-py3-none-any.whl").write_bytes(data)
    with pytest.raises(site_kit.IntegrityError):
        site_kit._checked_wheels(tmp_path, entries)


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(site_kit.InputError):
        site_kit.write(tmp_path / "out", {}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


# The real one.


def make_real(tree: Path, out: Path, root: Path, python: str = HERE) -> Kit:
    command = [sys.executable, tree / "scripts/site_kit.py", out, "--root", root, "--python", python]
    run(*command, env={**os.environ, "PYTHONPATH": str(tree / "src")}).expect(0, "kit digest")
    return Kit(out / "kit")


@pytest.fixture(scope="module")
def real(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """This airpack's kit, with the root of the bench's channel."""
    return make_real(REPOSITORY, tmp_path_factory.mktemp("real") / "out", bench.root)


def test_a_real_kit_is_the_lock_and_airpack_and_the_same_each_time(real: Kit, bench: Any, tmp_path: Path) -> None:
    assert make_real(REPOSITORY, tmp_path / "again", bench.root).digest == real.digest
    entries = site_kit.read_lock((REPOSITORY / "requirements/runtime.lock").read_text())
    hashes = {digest for entry in entries for digest in entry.hashes}
    wheels = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (real.folder / "wheels").iterdir()}
    assert {name for name, digest in wheels.items() if digest not in hashes} == {site_kit.build_wheel()[0]}
    assert len(wheels) == 1 + sum(site_kit.Target(HERE, "linux/amd64", 36).holds(e.requirement.marker) for e in entries)
    run("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS", cwd=real.folder).expect(0)
    executable = [path.name for path in real.folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o111]
    assert executable == ["install.py"]


def test_the_enrolment_page_says_what_is_compared_and_loads_nothing(real: Kit, bench: Any) -> None:
    page = (real.folder.parent / "ENROL.html").read_text()
    for value in (real.digest, hashlib.sha256(bench.root.read_bytes()).hexdigest()):
        assert installer.grouped(value) in re.sub(r"<br>", " ", page)
    assert installer.grouped(real.digest).split() == re.findall(r"--digest ([0-9a-f ]+)", page)[0].split()
    assert not re.search(r"src=|href=|url\(|@import|https?:|<script|\$", page)
    assert not (real.folder / "ENROL.html").exists(), "the page says the kit's digest and cannot be part of it"


@pytest.fixture
def prefix(real: Kit, tmp_path: Path) -> Path:
    """Where this airpack is installed from its kit."""
    real.install(tmp_path / "opt").expect(0)
    return tmp_path / "opt"


@pytest.fixture
def updated(tree: Callable[[str], Path], bench: Any, airpack: Any, tmp_path: Path) -> Path:
    """A medium with the release of an airpack that calls itself 99.0.0."""
    sources = tree("later")
    init = sources / "src/airpack/__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', '__version__ = "99.0.0"', init.read_text()))
    make_real(sources, tmp_path / "later-out", bench.root)
    medium = tmp_path / "later-medium"
    airpack("build", tmp_path / "later-out/pack.toml", "-o", medium, "--workspace", bench.workspace)
    return medium


def test_a_site_gets_its_next_airpack_through_its_own_channel(
    prefix: Path, updated: Path, bench: Any, forger: Any, offline: Sequence[str]
) -> None:
    site = prefix.parent / "site"

    def at_site(*words: str | Path, expect: int = 0) -> Any:
        done = run(*offline, prefix / "bin/airpack", *words, "--site", site, "--json", env={"LANG": "C.UTF-8"})
        return json.loads(done.expect(expect).text)

    run(prefix / "bin/airpack", "site", "init", site, "--root", bench.root).expect(0)
    if not isolation_available():
        policy = site / "policy.toml"
        policy.write_text(policy.read_text().replace("allow_unisolated = false", "allow_unisolated = true"))

    # A package that only the next airpack reads is refused, and the hint names the way on.
    demanding = bench.build("5.0.0")
    head = forger.read(demanding)
    manifest = dataclasses.replace(forger.manifest(head), needs_airpack="99.0.0")
    forger.write_all(demanding, forger.packed(head, manifest.emit()))
    error = at_site("import", demanding, expect=POLICY)["error"]
    assert error["context"] == {"needs": "99.0.0", "have": version_of(prefix)}
    assert "release of the product airpack" in error["hint"]

    # The release of airpack itself does not ask for what it brings.
    inspected = json.loads(run(prefix / "bin/airpack", "inspect", updated, "--json").expect(0).text)
    needs = inspected["needs_airpack"]
    assert tuple(map(int, needs.split("."))) <= (0, 1, 0)
    at_site("import", updated)
    release = f"airpack@99.0.0-py{HERE.replace('.', '')}"
    assert at_site("activate", release)["active"]["version"] == release.partition("@")[2]

    carried = site / "products/airpack/current/runtime/airpack"
    command = [*offline, sys.executable, "-I", "-S", carried / "install.py", "--no-digest", "--prefix", prefix]
    before = version_of(prefix)
    run(*command).expect(0)
    assert version_of(prefix) == "99.0.0"
    assert run(prefix / "previous/bin/airpack", "--version").text.split()[-1] == before
    assert at_site("import", demanding)["release"]
    assert at_site("fsck")["ok"] is True


def test_a_release_whose_kit_is_not_whole_fails_its_probe(
    real: Kit, bench: Any, airpack: Any, site: Any, tmp_path: Path
) -> None:
    shutil.copytree(real.folder.parent, tmp_path / "broken")
    _flip(next((tmp_path / "broken/kit/wheels").glob("airpack-*.whl")))
    airpack("build", tmp_path / "broken/pack.toml", "-o", tmp_path / "medium", "--workspace", bench.workspace)
    site.run("import", tmp_path / "medium")
    error = site.run("activate", "airpack", expect=POLICY).json["error"]
    assert error["code"] == "probe"
    assert "status 10:   wheels/airpack-" in error["message"]
    assert "does not have its digest" in error["message"]
    assert site.current("airpack") is None


# A bare root.


@pytest.fixture(scope="session")
def bare_root() -> Path:
    """Debian 12 with Python and nothing else, made once and kept in .cache."""
    if os.geteuid() != 0 or platform.machine() != "x86_64":
        pytest.skip("a bare root is made by root on x86-64")
    if shutil.which("debootstrap") is None or shutil.which("unshare") is None:
        pytest.skip("no debootstrap here: apt-get install debootstrap util-linux")
    root = REPOSITORY / ".cache/debian-12-python3"
    if not root.is_dir():
        part = root.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(exist_ok=True)
        words = ["--variant=minbase", "--include=python3", "bookworm", part, "http://deb.debian.org/debian"]
        done = run("debootstrap", *words)
        if done.code:
            pytest.skip(f"debootstrap made no bare root here: {done.text.strip().splitlines()[-1]}")
        shutil.rmtree(part / "var/cache/apt/archives")
        part.rename(root)
    return root


IN_ROOT = """\
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
root=$1
shift
exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp "$@"
"""


def test_a_bare_debian_without_network_gets_airpack_and_runs_it(
    bare_root: Path, real: Kit, bench: Any, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    run("cp", "-a", "--reflink=auto", bare_root, root).expect(0)
    kit = real if HERE == "3.11" else make_real(REPOSITORY, tmp_path / "bookworm", bench.root, "3.11")
    shutil.copytree(kit.folder, root / "media/kit")
    shutil.copytree(bench.build("1.0.0", "small"), root / "media/medium")

    def inside(*words: str, expect: int = 0) -> str:
        return (
            run(*("unshare", "--net", "--mount", "--pid", "--fork", "sh", "-c", IN_ROOT, "sh", root), *words)
            .expect(expect)
            .text
        )

    assert "pip" not in inside("python3", "-c", "help('modules')").split()
    inside("python3", "-c", "import ensurepip", expect=1)
    assert re.findall(r"^ *(\w+):", inside("cat", "/proc/net/dev"), re.MULTILINE) == ["lo"]

    # As the enrolment page tells it.
    assert inside("sha256sum", "/media/kit/SHA256SUMS").split()[0] == kit.digest
    inside("sh", "-c", "cd /media/kit && sha256sum --check --strict SHA256SUMS")
    groups = installer.grouped(kit.digest).split()
    assert "installed" in inside("python3", "-I", "-S", "/media/kit/install.py", "--digest", *groups)
    command = "/opt/airpack/bin/airpack"
    assert "version" in inside(command, "--version")
    fingerprint = "sha256:" + hashlib.sha256(bench.root.read_bytes()).hexdigest()
    words = ["--root", "/media/kit/root.json", "--fingerprint", fingerprint, "--minimum", "timestamp=1"]
    inside(command, "site", "init", "/var/lib/airpack", *words)
    if not isolation_available():
        policy = root / "var/lib/airpack/policy.toml"
        policy.write_text(policy.read_text().replace("allow_unisolated = false", "allow_unisolated = true"))
    inside(command, "import", "/media/medium")
    assert "active and known good" in inside(command, "activate", "small@1.0.0")
    assert json.loads(inside(command, "status", "--json"))["products"]["small"]["active"]["version"] == "1.0.0"
    assert json.loads(inside(command, "fsck", "--json"))["ok"] is True
