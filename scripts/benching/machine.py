"""What the figures depend on, and what must be there to get them."""

import os
import platform
import shutil
import ssl
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import zstandard
from scripts.benching.measure import stop
from scripts.benching.report import mib

_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_ROOM: Final = 64 << 20  # bytes beside the files themselves


def check_tools(tools: Mapping[str, str]) -> None:
    """End unless the programs to compare with are there.

    Args:
        tools: Program to the Debian package that has it.
    """
    missing = {tool: package for tool, package in tools.items() if shutil.which(tool) is None}
    if missing:
        stop(
            f"not found: {', '.join(missing)}\n"
            f"hint: on Debian, apt-get install {' '.join(sorted(set(missing.values())))}; "
            "or leave the comparison out with --part"
        )


def check_room(folder: Path, wanted: int) -> None:
    """End unless so many bytes, and some beside them, fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if wanted + _ROOM > free:
        stop(
            f"not enough space: {mib(wanted + _ROOM)} are needed in {folder}, {mib(free)} are free\n"
            "hint: name another disk with --folder, or measure less with --size, --speed-size and --other-size"
        )


def runtime_tree(disk: Path) -> Path:
    """Return a real runtime's files: the wheels of the digits example, fetched when they are not here, and unpacked."""
    tree = disk / "runtime"
    if tree.exists():
        return tree
    done = subprocess.run([_REPOSITORY / "scripts/wheels"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        stop(f"the runtime's wheels cannot be fetched: {done.stderr.strip()}\nhint: name a folder with --runtime")
    tree.mkdir()
    for wheel in sorted((_REPOSITORY / "manifests/digits/wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():  # members are named one by one: extractall would follow what they say
                target = tree / info.filename
                if info.is_dir() or ".." in target.parts or not target.is_relative_to(tree):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(info))
    return tree


def describe_machine(folder: Path) -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = _fields("/proc/cpuinfo")
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "sha_instructions": bool({"sha_ni", "sha2"} & set((cpu.get("flags") or cpu.get("Features", "")).split())),
        "memory": int(_fields("/proc/meminfo")["MemTotal"].split()[0]) << 10,
        "file_system": file_system(folder),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "libzstd": ".".join(str(part) for part in zstandard.ZSTD_VERSION),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


def _fields(path: str) -> dict[str, str]:
    """Return `name: value` lines of a file in /proc, of each name the first."""
    found: dict[str, str] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def file_system(folder: Path) -> str:
    """Return the type of the file system that holds `folder`."""
    best, found = "", "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind = line.split()[:3]
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, found = point, kind
    return found
