"""Makes what a site needs to get airpack itself. Run by `./scripts/site-kit`.

    DIR/kit/          what is carried: wheels/, install.py, README.md, root.json, SHA256SUMS over all of them
    DIR/ENROL.html    what is printed, and goes to the site by another way than the kit: it says the kit's digest
    DIR/pack.toml     packs the kit as a release of the product `airpack`, for sites that have an older one

The wheels are those of requirements/runtime.lock, each held to the lock's hashes, and airpack's own. That one is built
here; its bytes depend on the sources alone: fixed times, names in order, nothing compressed, since compressors differ.
So the same commit, root and target give the same kit digest on any machine. docs/howto/reach-a-site.md.
"""

import argparse
import hashlib
import html
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Final

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename

import airpack
from airpack import fsops
from airpack.crypto.client import RootInfo, check_root
from airpack.errors import AirpackError, InputError, IntegrityError, StorageError
from airpack.types import Limits

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "requirements/runtime.lock"
TEMPLATES: Final = ROOT / "scripts/kit"
EPOCH: Final = "1577836800"  # 2020-01-01, for SOURCE_DATE_EPOCH; ZIP knows no time before 1980
LARGEST_WHEEL: Final = 256 << 20  # bytes
STAMP: Final = (2020, 1, 1, 0, 0, 0)
PYTHONS: Final = ("3.11", "3.12", "3.13")
PLATFORMS: Final = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
DEBIAN_12: Final = "2.36"  # its glibc
LEGACY: Final = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}  # PEP 600
OLDEST: Final = 5  # of glibc 2.x in wheel tags

# What the installer loads before it replaces anything: every compiled library that airpack uses comes along.
MODULES: Final = (
    "airpack.evidence.audit",
    "airpack.ops.activate",
    "airpack.ops.build",
    "airpack.ops.audit",
    "airpack.ops.evidence",
    "airpack.ops.import_",
    "airpack.ops.maintain",
    "airpack.ops.verify",
)


@dataclass(frozen=True, slots=True)
class Target:
    """The site's machine.

    Attributes:
        python: CPython's version, `3.11`.
        platform: `linux/amd64` or `linux/arm64`.
        glibc: The newest minor version of glibc 2 that it may need.
    """

    python: str
    platform: str
    glibc: int

    @property
    def machine(self) -> str:
        """As `uname -m` says it."""
        return PLATFORMS[self.platform]

    @property
    def tag(self) -> str:
        """`cp311`."""
        return "cp" + self.python.replace(".", "")

    def platforms(self) -> list[str]:
        """Return the platform tags of wheels that run there, newest first."""
        legacy = [f"{name}_{self.machine}" for name, minor in LEGACY.items() if minor <= self.glibc]
        newer = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, OLDEST - 1, -1)]
        return [*newer, *reversed(legacy), f"linux_{self.machine}"]

    def holds(self, marker: Marker | None) -> bool:
        """Say whether a requirement with `marker` is needed there; pip would ask the Python that runs it."""
        environment = {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }
        return marker is None or marker.evaluate(environment)


@dataclass(frozen=True, slots=True)
class Locked:
    """One entry of a lock: `name==version`, its marker, and the SHA-256 of its files in hex."""

    requirement: Requirement
    hashes: frozenset[str]

    def lines(self) -> str:
        """Return it as pip reads it, without the marker."""
        pin = f"{self.requirement.name}{self.requirement.specifier}"
        return " ".join([pin, *(f"--hash=sha256:{digest}" for digest in sorted(self.hashes))])


def read_lock(text: str) -> list[Locked]:
    """Return the entries of a lock that `./scripts/lock` made.

    Raises:
        InputError: A line is neither a pin with hashes nor a comment.
    """
    found = []
    for entry in text.replace("\\\n", " ").splitlines():
        words = entry.partition(" #")[0].strip()
        if not words or words.startswith("#"):
            continue
        pin, *hashes = words.split(" --hash=sha256:")
        try:
            found.append(Locked(Requirement(pin.strip()), frozenset(digest.strip() for digest in hashes)))
        except InvalidRequirement as error:
            raise InputError(f"the lock has a line that is no pin with hashes: {words[:80]!r}") from error
    return found


def fetch(target: Target, entries: list[Locked]) -> dict[str, bytes]:
    """Return file name -> bytes of a wheel for each entry of the lock, downloaded at the first call only.

    Raises:
        IntegrityError: A wheel does not have a hash of the lock, is missing, or is more than was asked for.
        StorageError: pip could not download them.
    """
    wanted = "\n".join(entry.lines() for entry in entries)
    key = hashlib.sha256("\n".join([wanted, *target.platforms()]).encode()).hexdigest()[:16]
    folder = ROOT / ".cache/site-kit" / f"{target.tag}-{target.machine}-{key}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            _download(target, wanted, Path(place))
            _checked_wheels(Path(place, "wheels"), entries)
            Path(place, "wheels").rename(folder)
    return _checked_wheels(folder, entries)


def _download(target: Target, wanted: str, place: Path) -> None:
    (place / "lock").write_text(wanted + "\n")
    print(f"fetching the wheels of {LOCK.relative_to(ROOT)} for {target.tag} on {target.platform}", file=sys.stderr)
    words = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "--no-deps"]
    words += ["--implementation", "cp", "--python-version", target.python]
    words += [word for abi in (target.tag, "abi3", "none") for word in ("--abi", abi)]
    words += [word for platform in target.platforms() for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", *words, "-r", str(place / "lock"), "-d", str(place / "wheels")]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
        raise StorageError(
            f"pip could not fetch the wheels for {target.tag} on {target.platform}; what it said stands above",
            hint="every package of requirements/runtime.lock needs a wheel for that Python and platform",
        )


def _checked_wheels(folder: Path, entries: list[Locked]) -> dict[str, bytes]:
    hashes = {canonicalize_name(entry.requirement.name): entry.hashes for entry in entries}
    wheels = {path.name: fsops.read_regular(path, LARGEST_WHEEL) for path in sorted(folder.iterdir())}
    names = [parse_wheel_filename(name)[0] for name in wheels]
    bad = [name for name, data in wheels.items() if not _is_locked(name, data, hashes)]
    if bad or sorted(names) != sorted(hashes):
        what = f"{bad[0]} does not have a hash of the lock" if bad else "it is not one wheel for each entry of the lock"
        raise IntegrityError(f"{folder}: {what}", hint=f"remove {folder}, then run ./scripts/site-kit again")
    return wheels


def _is_locked(name: str, data: bytes, hashes: Mapping[NormalizedName, frozenset[str]]) -> bool:
    return hashlib.sha256(data).hexdigest() in hashes.get(parse_wheel_filename(name)[0], frozenset())


def build_wheel() -> tuple[str, bytes]:
    """Build airpack's own wheel and return its name and bytes.

    Raises:
        StorageError: hatchling did not build it.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
            cwd=ROOT,
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StorageError(f"the wheel of airpack was not built: {done.stderr.strip()[-1000:]}")
        (path,) = Path(folder).glob("*.whl")
        return path.name, plain_zip(path.read_bytes())


def plain_zip(data: bytes) -> bytes:
    """Return a ZIP with the same files that depends on nothing but their names, modes and bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for member in sorted(old.infolist(), key=lambda info: info.filename):
            info = zipfile.ZipInfo(member.filename, STAMP)
            info.external_attr = (0o100755 if member.external_attr >> 16 & 0o111 else 0o100644) << 16
            info.create_system = 3  # Unix, wherever it is made
            new.writestr(info, old.read(member))
    return out.getvalue()


def oldest_glibc(wheels: Iterable[str]) -> int:
    """Return the minor version of glibc 2 that all of the wheels can do with."""
    return max((_glibc_of(name) for name in wheels), default=OLDEST)


def _glibc_of(name: str) -> int:
    minors = []
    for tag in parse_wheel_filename(name)[3]:
        legacy = next((minor for word, minor in LEGACY.items() if tag.platform.startswith(word + "_")), None)
        match = re.match(r"manylinux_2_(\d+)_", tag.platform)
        minors.append(legacy or (int(match[1]) if match else OLDEST))
    return min(minors)


def installer() -> Any:
    """Return scripts/kit/install.py as a module: how a kit's list is written and read stands there alone."""
    spec = importlib.util.spec_from_file_location("site_kit_installer", TEMPLATES / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kit_files(target: Target, wheels: Mapping[str, bytes], root: bytes | None, **needs: Any) -> dict[str, bytes]:
    """Return the files of a kit by name, SHA256SUMS among them.

    Args:
        target: The site's machine.
        wheels: File name -> bytes, airpack's own among them.
        root: The channel's root.json to carry along.
        **needs: Instead of what a real kit says of itself: `airpack`, `modules`.
    """
    glibc = oldest_glibc(wheels)
    kit: dict[str, Any] = {
        "airpack": airpack.__version__,
        "python": [int(part) for part in target.python.split(".")],
        "machine": target.machine,
        "glibc": [2, glibc],
        "modules": list(MODULES),
        **needs,
    }
    values = {"version": kit["airpack"], "python": target.python, "machine": target.machine, "glibc": f"2.{glibc}"}
    files = {f"wheels/{name}": data for name, data in wheels.items()}
    files["install.py"] = install_script(kit)
    files["README.md"] = Template((TEMPLATES / "README.md").read_text("utf-8")).substitute(values).encode()
    if root is not None:
        files["root.json"] = root
    sums: bytes = installer().sums_of(files)
    installer().parse_sums(sums)
    return {**files, installer().SUMS: sums}


def install_script(kit: Mapping[str, Any]) -> bytes:
    """Return the installer, told what its kit is; started by name it takes the right Python, isolated."""
    text = (TEMPLATES / "install.py").read_text("utf-8")
    version = ".".join(map(str, kit["python"]))
    for old, new in (
        ("#!/usr/bin/env python3\n", f"#!/usr/bin/env -S PATH=/usr/local/bin:/usr/bin:/bin python{version} -I -S -B\n"),
        ("\nKIT: dict[str, Any] = {}\n", f"\nKIT: dict[str, Any] = {json.dumps(kit)}\n"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text.encode()


def pack_spec(target: Target, digest: str, version: str) -> str:
    """Return the pack spec that makes the kit beside it a release. It asks for nothing that airpack 0.1.0 lacks."""
    values = {"version": version, "digest": digest, "platform": target.platform}
    values["release"] = f"{version}-{target.tag.replace('cp', 'py')}"
    return Template((TEMPLATES / "pack.toml").read_text("utf-8")).substitute(values)


def enrolment_page(target: Target, digest: str, files: Mapping[str, bytes], info: RootInfo | None, source: str) -> str:
    """Return the page to print."""
    groups = installer().grouped
    blank = '<span class="blank"></span>'
    version = airpack.__version__
    values = {
        "version": version,
        "source": source,
        "python": target.python,
        "platform": f"Linux {target.machine}, glibc 2.{oldest_glibc(wheel_names(files))} or newer",
        "files": str(len(files) - 1),
        "digest": _lines(groups(digest)),
        "typed": groups(digest),
        "channel": f"{info.channel}{', a STARTER channel' if info.starter else ''}" if info else "",
        "fingerprint": _lines(groups(info.fingerprint.hex)) if info else "",
        "root": f"sha256:{info.fingerprint.hex}" if info else "sha256:",
    }
    texts = {name: html.escape(value).replace("\n", "<br>") or blank for name, value in values.items()}
    return Template((TEMPLATES / "enrol.html").read_text("utf-8")).substitute(texts)


def wheel_names(files: Mapping[str, bytes]) -> list[str]:
    """Return the file names of a kit's wheels."""
    return [name.removeprefix("wheels/") for name in files if name.startswith("wheels/")]


def _lines(groups: str) -> str:
    """Return the sixteen groups in two lines."""
    words = groups.split()
    return " ".join(words[:8]) + "\n" + " ".join(words[8:])


def source_of(folder: Path) -> str:
    """Return which sources these are, for people."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                [shutil.which("git") or "git", "-C", str(folder), *words], capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit or git("rev-parse", "--show-toplevel") != str(folder):
        return "sources without history: no commit to compare with"
    return f"commit {commit}" + (" with local changes" if git("status", "--porcelain") else "")


def write(out: Path, files: Mapping[str, bytes], beside: Mapping[str, str]) -> None:
    """Write the kit and what stands beside it to `out`, whole or not at all.

    Raises:
        InputError: There is something at `out` already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already", hint="name a new or an empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=out.parent, prefix=".site-kit-"))
    try:
        (place / "kit/wheels").mkdir(parents=True)
        for name, data in files.items():
            (place / "kit" / name).write_bytes(data)
            (place / "kit" / name).chmod(0o755 if name == "install.py" else 0o644)
        for name, text in beside.items():
            (place / name).write_text(text, "utf-8")
            (place / name).chmod(0o644)
        for folder in (place, place / "kit", place / "kit/wheels"):
            folder.chmod(0o755)
        place.rename(out)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def make(out: Path, target: Target, root: Path | None) -> str:
    """Make a kit in `out` and return its digest in hex.

    Raises:
        AirpackError: A wheel, the root or the folder is not as it must be.
    """
    data = fsops.read_regular(root, Limits.ROOT) if root else None
    info = check_root(data) if data is not None else None
    entries = [entry for entry in read_lock(LOCK.read_text()) if target.holds(entry.requirement.marker)]
    name, own = build_wheel()
    files = kit_files(target, {**fetch(target, entries), name: own}, data)
    digest = hashlib.sha256(files[installer().SUMS]).hexdigest()
    source = source_of(ROOT)
    page = enrolment_page(target, digest, files, info, source)
    write(out, files, {"ENROL.html": page, "pack.toml": pack_spec(target, digest, airpack.__version__)})
    size = sum(map(len, files.values())) / 1e6
    print(
        f"{out / 'kit'}: airpack {airpack.__version__} for Python {target.python} on {target.platform}, {size:.1f} MB"
    )
    print(f"from {source}")
    print(f"kit digest {installer().grouped(digest)}")
    if info:
        print(f"root       {installer().grouped(info.fingerprint.hex)} (channel {info.channel})")
    print(f"print {out / 'ENROL.html'}; it goes to the site by another way than the kit")
    return digest


def arguments() -> argparse.Namespace:
    """Return what the caller asks for."""
    parser = argparse.ArgumentParser(prog="site-kit", description="Makes what a site needs to get airpack itself.")
    parser.add_argument("dir", type=Path, metavar="DIR", help="a new or an empty folder")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    parser.add_argument("--python", choices=PYTHONS, default=here, help=f"the site's CPython; {here}")
    parser.add_argument("--platform", choices=PLATFORMS, default="linux/amd64", help="the site's machine; linux/amd64")
    parser.add_argument("--glibc", default=DEBIAN_12, help=f"the site's glibc; {DEBIAN_12}, that of Debian 12")
    parser.add_argument("--root", type=Path, help="the channel's root.json, to carry along and to print")
    return parser.parse_args()


def main() -> int:
    """Make a kit; exit codes are airpack's."""
    asked = arguments()
    try:
        match = re.fullmatch(r"2\.(\d{1,3})", asked.glibc)
        if not match:
            raise InputError(f"--glibc {asked.glibc!r}: expected 2.N, as `ldd --version` says there")
        make(asked.dir.absolute(), Target(asked.python, asked.platform, int(match[1])), asked.root)
    except AirpackError as error:
        print(f"site-kit: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
