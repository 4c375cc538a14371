#!/usr/bin/env python3
"""Installs airpack from the site kit that this file lies in: no network, no pip, only Python's standard library.

    python3 -I -S install.py --digest DIGEST     check the kit, install it to /opt/airpack
    python3 -I -S install.py --digest DIGEST --check     check it, start its airpack once, install nothing

What it holds to, in this order:

1. This machine is one that the kit is for: Python, processor, C library.
2. SHA256SUMS has the digest that was given. Whoever made the kit said it, by another way than the medium.
3. The kit is exactly what SHA256SUMS lists: nothing missing, nothing beside it, regular files with plain names only.
4. Each file is read once, into memory, and has its digest. Only those bytes are used; the kit is not looked at again.
5. The new airpack is unpacked beside the old one, synced, and started, before one rename of a link makes it current.

    PREFIX/versions/NAME/{lib,bin/airpack,SHA256SUMS}     one folder an install
    PREFIX/current, PREFIX/previous                       links to two of them
    PREFIX/bin/airpack                                    -> ../current/bin/airpack

A kill at any instant leaves what was current; the next run removes what that left behind. Run again, it installs
again. Exit codes are those of airpack: 2 usage, 3 nothing there, 10 the kit is damaged, 11 it is not the kit that was
meant, 12 not for this machine or it does not start, 20 disk, 21 another one is at work, 130 stopped.
"""

from __future__ import annotations

import sys

# `python3 install.py` would import hashlib from the folder of this file, where anything may lie; -I does not.
if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]
if sys.platform != "linux":
    print("install.py: this kit is for Linux; this is " + sys.platform, file=sys.stderr)
    sys.exit(12)

import argparse
import compileall
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import io
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# What the kit is and needs. scripts/site_kit.py writes this line: airpack, python, machine, glibc, modules.
KIT: dict[str, Any] = {}

SUMS = "SHA256SUMS"
USAGE, NOT_FOUND, INTEGRITY, TRUST, POLICY, STORAGE, BUSY, CANCELLED = 2, 3, 10, 11, 12, 20, 21, 130
OURS = frozenset({".lock", "bin", "current", "previous", "versions"})  # all that a prefix holds

MOST_FILES = 1000  # in a kit
LARGEST_SUMS = 1 << 20  # bytes of SHA256SUMS
LARGEST_KIT = 1 << 30  # bytes of all files of a kit together, and again unpacked
LONGEST_SHEBANG = 127  # bytes that every Linux reads of a first line
TRIAL = 300  # seconds for a start of the new airpack

LINE = re.compile(r"([0-9a-f]{64})  ((?:wheels/)?[A-Za-z0-9][A-Za-z0-9._+-]{0,199})")
DIGEST = re.compile(r"[0-9a-f]{64}")

LAUNCHER = """\
#!{python} -IS
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib"))
from airpack.cli.main import main

sys.exit(main())
"""


class Refusal(Exception):  # noqa: N818 - it refuses; what was installed goes on
    """The kit is not installed: why, what to do, and the exit code."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def check_machine() -> None:
    """Refuse a machine that the kit is not for.

    Raises:
        Refusal: Another Python, processor or C library; the message says which the kit is for.
    """
    if not KIT:
        raise Refusal(USAGE, "this is the installer's source, not a kit", "./scripts/site-kit makes one")
    library, _, release = (_confstr("CS_GNU_LIBC_VERSION") or "no glibc").partition(" ")
    found = (sys.implementation.name, sys.version_info[:2], platform.system(), platform.machine(), library)
    wanted = ("cpython", tuple(KIT["python"]), "Linux", KIT["machine"], "glibc")
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if found == wanted and numbers >= tuple(KIT["glibc"]) and sys.maxsize > 1 << 32 and "t" not in sys.abiflags:
        return
    version = ".".join(map(str, KIT["python"]))
    raise Refusal(
        POLICY,
        f"this kit is for CPython {version} on Linux {KIT['machine']} with glibc {'.'.join(map(str, KIT['glibc']))} or "
        f"newer; this is {platform.python_implementation()} {platform.python_version()} on {platform.system()} "
        f"{platform.machine()} with {library} {release}".rstrip(),
        f"run it with python{version} where there is one; otherwise ask for a kit for this machine",
    )


def _confstr(name: str) -> str | None:
    try:
        return os.confstr(name)
    except (ValueError, OSError):  # another C library
        return None


# The kit: checked while it is read, and read once.


def read_kit(folder: Path, expected: str | None) -> tuple[str, dict[str, bytes]]:
    """Return digest and files of the kit in `folder`: exactly those that its SHA256SUMS lists, each with its digest.

    Args:
        folder: The kit.
        expected: SHA-256 that SHA256SUMS must have, in hex; None when something else vouches for it.

    Raises:
        Refusal: It is another kit, or damaged; every wrong file is named.
        OSError: A file cannot be read.
    """
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sums = _read(top, SUMS, LARGEST_SUMS)
        digest = hashlib.sha256(sums).hexdigest()
        if expected is not None and digest != expected:
            raise Refusal(
                TRUST,
                f"the kit has the digest\n  {grouped(digest)}, not\n  {grouped(expected)}",
                "do not use it; ask those who made it for the digest again, and for another copy",
            )
        listed = parse_sums(sums)
        _check_same_names(listed, set(_names(top)))
        return digest, _read_listed(top, listed)
    finally:
        os.close(top)


def parse_sums(sums: bytes) -> dict[str, str]:
    """Return name -> SHA-256 in hex, as `sha256sum` writes it, sorted by name.

    Raises:
        Refusal: It is anything else.
    """
    text = sums.decode("ascii", "replace")
    lines = text.split("\n")
    matches = [LINE.fullmatch(line) for line in lines[:-1]]
    names = [match[2] for match in matches if match]
    plain = lines[-1] == "" and all(matches) and "install.py" in names and len(names) <= MOST_FILES
    if not plain or names != sorted(names) or len({name.lower() for name in names}) != len(names):
        raise Refusal(INTEGRITY, f"{SUMS} is not what a kit's is: a sorted list of digests and plain names", AGAIN)
    return {match[2]: match[1] for match in matches if match}


AGAIN = "copy the kit again, whole; if that does not help, do not use it and ask those who made it"


def _names(top: int) -> Iterator[str]:
    """Return the names of all files of the kit but SHA256SUMS, `wheels/` being its only folder."""
    for name in sorted(os.listdir(top)):
        if name == "wheels":
            folder = _open(top, name, os.O_DIRECTORY)
            try:
                below = sorted(os.listdir(folder))  # noqa: PTH208 - pathlib lists no descriptors
                yield from (f"wheels/{base}" for base in below)
            finally:
                os.close(folder)
        elif name != SUMS:
            yield name


def _check_same_names(listed: Mapping[str, str], found: set[str]) -> None:
    faults = [f"{name!r} is not listed in {SUMS}" for name in sorted(found - set(listed))]
    faults += [f"{name} is missing" for name in sorted(set(listed) - found)]
    if faults:
        raise Refusal(INTEGRITY, _all("the kit is not what it lists", faults), AGAIN)


def _read_listed(top: int, listed: Mapping[str, str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    faults = []
    left = LARGEST_KIT
    for name, digest in listed.items():
        try:
            data = _read(top, name, left)
        except Refusal as refusal:
            faults.append(refusal.message)
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            faults.append(f"{name} does not have its digest")
        files[name] = data
        left -= len(data)
    if faults:
        raise Refusal(INTEGRITY, _all("the kit is damaged, or somebody changed it", faults), AGAIN)
    return files


def _read(top: int, name: str, most: int) -> bytes:
    """Return a regular file of at most `most` bytes, read once; no link in its name is followed."""
    folder, _, base = name.rpartition("/")
    with contextlib.ExitStack() as stack:
        at = top
        if folder:
            at = _open(top, folder, os.O_DIRECTORY)
            stack.callback(os.close, at)
        descriptor = _open(at, base)
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refusal(INTEGRITY, f"{name} is no regular file", AGAIN)
        if status.st_size > most:
            raise Refusal(INTEGRITY, f"{name} has {status.st_size} bytes; a kit's can have {most}", AGAIN)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(status.st_size)


def _open(at: int, name: str, flags: int = 0) -> int:
    """Open an entry of a folder; a pipe must not hang the check. What cannot be read is the disk's, not the kit's."""
    try:
        return os.open(name, flags | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=at)
    except FileNotFoundError:
        raise Refusal(NOT_FOUND, f"there is no {name} here: this is no kit", AGAIN) from None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}:
            kind = "folder" if flags else "regular file"
            raise Refusal(INTEGRITY, f"{name} is no {kind}", AGAIN) from None
        raise


def _all(what: str, faults: Sequence[str]) -> str:
    return "\n".join([f"{what}:", *(f"  {fault}" for fault in faults)])


def parse_digest(words: Sequence[str]) -> str:
    """Return a digest as people type it, in groups or not, as 64 hex digits.

    Raises:
        Refusal: It is none.
    """
    text = re.sub(r"[- ]", "", "".join(words).lower().replace("sha256:", "", 1))
    if not DIGEST.fullmatch(text):
        raise Refusal(USAGE, f"--digest has {len(text)} characters that count; a kit digest has 64 of 0 to 9, a to f")
    return text


def grouped(digest: str) -> str:
    """Return a digest in groups of four, as it is read aloud."""
    return " ".join(digest[at : at + 4] for at in range(0, len(digest), 4))


# Installing.


def install(prefix: Path, digest: str, files: Mapping[str, bytes]) -> Path:
    """Install the checked kit below `prefix` and return the command's path.

    Raises:
        Refusal: The prefix is not for this, another one is at work, or the new airpack does not start.
        OSError: The disk.
    """
    with _locked(prefix):
        _prune(prefix)
        new = _free_name(prefix / "versions", f"{KIT['airpack']}-{digest[:12]}")
        try:
            unpack(new, files)
            sync(new)
            _must_start(trial(new), ", what was installed stays")
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        old = _target(prefix, "current")
        # What was current becomes the fallback, unless it is this very kit, or does not start itself.
        if old and _kit_of(old) != digest and not trial(old, modules=False):
            _link(prefix, "previous", f"versions/{old.name}")
        _link(prefix, "current", f"versions/{new.name}")
        _link(prefix, "bin/airpack", "../current/bin/airpack")
        return prefix / "bin/airpack"


@contextlib.contextmanager
def _locked(prefix: Path) -> Iterator[None]:
    """Make the prefix where there is none, and hold it alone."""
    prefix.mkdir(parents=True, exist_ok=True)
    strange = sorted({path.name for path in prefix.iterdir()} - OURS)
    if strange:
        raise Refusal(
            USAGE, f"{prefix} holds other things, {strange[0]!r} for one", "give --prefix a folder of its own"
        )
    descriptor = os.open(prefix / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(BUSY, f"another install.py works on {prefix}", "run it again once that is done") from None
        for name in ("bin", "versions"):
            (prefix / name).mkdir(exist_ok=True)
        yield
    finally:
        os.close(descriptor)


def _target(prefix: Path, name: str) -> Path | None:
    """Return the install that a link of the prefix leads to."""
    try:
        found = prefix / "versions" / (prefix / name).readlink().name
    except OSError:
        return None
    return found if found.is_dir() else None


def _kit_of(install_folder: Path) -> str:
    try:
        return hashlib.sha256((install_folder / SUMS).read_bytes()).hexdigest()
    except OSError:
        return ""


def _prune(prefix: Path) -> None:
    """Remove what no link leads to: halves of a killed run, and what was replaced before the last run."""
    kept = {_target(prefix, "current"), _target(prefix, "previous")}
    for path in (prefix / "versions").iterdir():
        if path.is_symlink():
            path.unlink()
        elif path not in kept:
            shutil.rmtree(path)


def _free_name(folder: Path, name: str) -> Path:
    """Return a name that nothing has: repeating the current install must not touch it before the new one works."""
    number = 1
    path = folder / name
    while os.path.lexists(path):
        number += 1
        path = folder / f"{name}.{number}"
    return path


def unpack(new: Path, files: Mapping[str, bytes]) -> None:
    """Write the checked wheels as a library, and the command that uses it."""
    (new / "bin").mkdir(parents=True)
    left = LARGEST_KIT
    for name, data in files.items():
        if name.startswith("wheels/"):
            left -= _unpack_wheel(name, data, new / "lib", left)
    _write(new / SUMS, sums_of(files))
    _write(new / "bin/airpack", _launcher().encode(), mode=0o755)
    compileall.compile_dir(new / "lib", quiet=2)  # what is not Python enough for it (test data) stays as it is


def sums_of(files: Mapping[str, bytes]) -> bytes:
    """Return the lines of SHA256SUMS for `files`."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()


def _unpack_wheel(name: str, data: bytes, lib: Path, most: int) -> int:
    """Write the files of one wheel, whose bytes were checked, and return how many bytes they have."""
    size = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            for member in wheel.infolist():
                if member.is_dir():
                    continue
                size += member.file_size
                if size > most or not _is_plain(member):
                    raise Refusal(INTEGRITY, f"{name} holds what no wheel of a kit may: {member.filename!r}")
                path = lib / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, wheel.read(member))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise Refusal(INTEGRITY, f"{name} cannot be unpacked: {error}") from error
    return size


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """Say whether a member is a file below the library; `.data` has files for other places, which no kit needs."""
    parts = member.filename.split("/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    names = all(part not in ("", ".", "..") and "\\" not in part and "\0" not in part for part in parts)
    return names and kind in (0, stat.S_IFREG) and not parts[0].endswith(".data")


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    with contextlib.closing(os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")) as stream:
        stream.write(data)


def _launcher() -> str:
    """Return the command: this very Python, isolated, with the new library before the standard one."""
    text = LAUNCHER.format(python=python())
    line = text.partition("\n")[0]
    if " " in python() or len(os.fsencode(line)) > LONGEST_SHEBANG:
        raise Refusal(POLICY, f"a command cannot start with {python()!r}: a space in it, or too long", "move Python")
    return text


def python() -> str:
    """Return this Python outside any virtual environment, with its version in the name where it has one."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def sync(folder: Path) -> None:
    """Have all of `folder` on the disk; syncfs(2) tells of an I/O error too.

    Raises:
        OSError: The disk.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


def _fsync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(prefix: Path, name: str, target: str) -> None:
    """Make `name` in the prefix a link to `target`, in one rename."""
    made = prefix / "versions/.link"
    with contextlib.suppress(FileNotFoundError):
        made.unlink()
    made.symlink_to(target)
    made.replace(prefix / name)
    _fsync((prefix / name).parent)


# Trying it.


def _must_start(problem: str, otherwise: str = "") -> None:
    if problem:
        raise Refusal(POLICY, f"airpack {KIT['airpack']} does not start here{otherwise}: {problem}")


def trial(folder: Path, *, modules: bool = True) -> str:
    """Start the airpack installed in `folder` and return why it does not work, empty when it does.

    Args:
        folder: One install.
        modules: Also load what the commands use, compiled libraries included.
    """
    problem = _run([str(folder / "bin/airpack"), "--version"])
    if problem or not modules:
        return problem
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import {', '.join(KIT['modules'])}"
    return _run([python(), "-I", "-S", "-B", "-c", code, str(folder / "lib")])


def try_wheels(files: Mapping[str, bytes]) -> str:
    """Start airpack right from a private copy of the checked wheels and return why it does not work.

    The compiled ones stay out: a probe's folder has 64 MiB, and `--version` needs none of them.
    """
    code = "import sys; sys.path[:0] = sys.argv[2:]; del sys.argv[2:]; from airpack.cli.main import main; main()"
    with tempfile.TemporaryDirectory(prefix="airpack-") as folder:
        paths = []
        for name, data in files.items():
            if name.endswith("-none-any.whl"):
                paths.append(Path(folder, Path(name).name))
                _write(paths[-1], data)
        return _run([python(), "-I", "-S", "-B", "-c", code, "--version", *map(str, paths)])


def _run(command: Sequence[str]) -> str:
    """Run a command in a clean environment and return why it failed, empty when it ended with status 0."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            timeout=TRIAL,
            check=False,
        )
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"it was not done after {TRIAL} seconds"
    last = done.stdout.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
    return "" if done.returncode == 0 else f"status {done.returncode}: {last[0][:300]}"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the caller asks for."""
    parser = argparse.ArgumentParser(prog="install.py", description="Installs airpack from this kit, without network.")
    known = parser.add_mutually_exclusive_group()
    known.add_argument(
        "--digest", nargs="+", metavar="GROUP", help="the kit digest from the enrolment page, in groups or not"
    )
    known.add_argument(
        "--no-digest",
        action="store_true",
        help="something else vouches for the kit: airpack itself imported it (SITE/products/airpack/current)",
    )
    parser.add_argument("--prefix", type=Path, default=Path("/opt/airpack"), help="where to; /opt/airpack")
    parser.add_argument("--check", action="store_true", help="check the kit and start its airpack, install nothing")
    return parser.parse_args(words)


def main() -> int:
    """Check, and install; return the exit code."""
    asked = arguments()
    os.umask(0o022)  # what is installed is for everybody, whoever installs it
    try:
        return work(asked)
    except Refusal as refusal:
        print(f"install.py: {refusal.message}", file=sys.stderr)
        if refusal.hint and not asked.check:  # of a probe, airpack shows the last line: what was wrong
            print(f"hint: {refusal.hint}", file=sys.stderr)
        return refusal.code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"install.py: {where}{error.strerror or error}", file=sys.stderr)
        return STORAGE
    except KeyboardInterrupt:
        print("install.py: stopped; what was installed stays", file=sys.stderr)
        return CANCELLED


def work(asked: argparse.Namespace) -> int:
    """Do what is asked, in the order of the module's rules."""
    check_machine()
    if not asked.digest and not asked.no_digest:
        raise Refusal(
            USAGE,
            "which kit is it meant to be? Nothing says so yet",
            "--digest with the groups from the enrolment page, which came by another way than the kit",
        )
    expected = parse_digest(asked.digest) if asked.digest else None
    digest, files = read_kit(Path(__file__).absolute().parent, expected)
    print(f"kit {grouped(digest)}\n{len(files)} files, each has its digest", flush=True)
    if asked.check:
        _must_start(try_wheels(files))
        print(f"airpack {KIT['airpack']} starts here")
        return 0
    command = install(asked.prefix.absolute(), digest, files)
    print(f"installed: {command} is airpack {KIT['airpack']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
