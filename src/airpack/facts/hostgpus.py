"""The accelerators of a host: NVIDIA's through NVML, AMD's through ROCm's topology, the rest by what PCI shows.

PCI classes: PCI Code and ID Assignment Specification. ROCm: the kernel's Documentation/ABI and
drivers/gpu/drm/amd/amdkfd/kfd_topology.c; a GPU's target is `gfx` and its version in hexadecimal.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from airpack.errors import IntegrityError
from airpack.facts.machine import Machine
from airpack.formats.canonical import parse
from airpack.formats.fields import Fields
from airpack.formats.hostfacts import Gpu, Unknown

_PROGRAM: Final = Path(__file__).with_name("nvml.py")
_TIME: Final = 5.0  # seconds that NVML may take
_ANSWER: Final = 1 << 20  # bytes
_DEVICES: Final = 1024
_VENDORS: Final = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_DISPLAY, _ACCELERATOR = "0x03", "0x12"  # PCI base classes
_DRIVER: Final = re.compile(r"Kernel Module(?: for \w+)?\s+([0-9]{1,4}(?:\.[0-9]{1,4}){1,3})")
_VERSION: Final = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4}){0,3}\Z")
_NAME: Final = 200  # characters
_SIGNS: Final = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/nvidia0", "dev/dxg")

Ask = Callable[[], bytes | str]
"""Asks NVML: its answer as JSON, or in words why there is none."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """What was found.

    Attributes:
        gpus: Accelerators; None when that is unknown.
        free: Free bytes of each.
        drivers: Versions by name.
        unknown: What could not be found out.
    """

    gpus: tuple[Gpu, ...] | None
    free: tuple[int | None, ...]
    drivers: Mapping[str, str]
    unknown: tuple[Unknown, ...]


@dataclass(frozen=True, slots=True)
class NvmlAnswer:
    """What NVML told: version of the driver, highest CUDA version that it takes, GPUs with their free bytes."""

    driver: str
    cuda: str
    gpus: tuple[tuple[Gpu, int | None], ...]


def read_gpus(machine: Machine, ask: "Ask | None" = None) -> Gpus:
    """Return the accelerators of a machine.

    Args:
        machine: Whose files are read.
        ask: Asks NVML, where something of NVIDIA's is there; by default in a process of its own.
    """
    cards = _cards(machine)
    drivers: dict[str, str] = {}
    unknown: list[Unknown] = []
    found: list[tuple[Gpu, int | None]] = []
    found += _nvidia(machine, cards or {}, ask or ask_nvml, drivers, unknown)
    amd = _amd(machine)
    if amd:
        found += amd
    version = (machine.text("sys/module/amdgpu/version") or "").strip()
    if _VERSION.match(version):
        drivers["amdgpu"] = version
    for vendor, count in (cards or {}).items():
        missing = count - sum(gpu.vendor == vendor for gpu, _ in found)
        found += [(Gpu(vendor, "", None, None, None), None)] * max(0, missing)
    if any(gpu.architecture is None for gpu, _ in found):
        unknown.append(Unknown("gpus", "PCI shows an accelerator that no driver here tells more of"))
    if cards is None and not found:
        unknown.append(Unknown("gpus", "/sys/bus cannot be read, and no driver tells of one"))
        return Gpus(None, (), drivers, tuple(unknown))
    return Gpus(tuple(gpu for gpu, _ in found), tuple(free for _, free in found), drivers, tuple(unknown))


def _cards(machine: Machine) -> Mapping[str, int] | None:
    """Return how many accelerators of each vendor PCI shows; None when it cannot be looked at."""
    devices = machine.names("sys/bus/pci/devices")
    if devices is None:
        return {} if machine.names("sys/bus") is not None and not machine.has("sys/bus/pci") else None
    counts: dict[str, int] = {}
    for device in devices[:_DEVICES]:
        folder = f"sys/bus/pci/devices/{device}"
        kind = machine.text(f"{folder}/class") or ""
        vendor = _VENDORS.get((machine.text(f"{folder}/vendor") or "").strip())
        if vendor and kind.startswith((_DISPLAY, _ACCELERATOR)):
            counts[vendor] = counts.get(vendor, 0) + 1
    return counts


# --- NVIDIA -----------------------------------------------------------------------------------------------------------


def _nvidia(
    machine: Machine, cards: Mapping[str, int], ask: Ask, drivers: dict[str, str], unknown: list[Unknown]
) -> tuple[tuple[Gpu, int | None], ...]:
    module = _DRIVER.search(machine.text("proc/driver/nvidia/version") or "")
    if module:
        drivers["nvidia"] = module[1]
    if not cards.get("nvidia") and not any(machine.has(sign) for sign in _SIGNS):
        return ()
    answer = ask()
    if isinstance(answer, str):
        unknown.append(Unknown("gpus", f"NVML: {answer}"))
        return ()
    try:
        told = parse_nvml(answer)
    except IntegrityError as error:
        unknown.append(Unknown("gpus", f"NVML: {error.message}"))
        return ()
    drivers.setdefault("nvidia", told.driver)
    drivers["cuda"] = told.cuda
    return told.gpus


def ask_nvml(program: Path = _PROGRAM, *, seconds: float = _TIME) -> bytes | str:
    """Return what the program that asks NVML prints; in words why it printed nothing.

    Args:
        program: Its file.
        seconds: How long it may take. One that does not end, even when it is killed, is left to itself.
    """
    if not sys.executable:
        return "this interpreter has no program of its own to start"
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return f"its process cannot be started: {error.strerror}"
    try:
        answer, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill(child)
        return f"it took more than {seconds:g} s"
    except BaseException:
        _kill(child)
        raise
    if child.returncode:
        return f"its process ended with {child.returncode}"
    return answer[: _ANSWER + 1]


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """Kill a process that may be stuck in a driver: then nobody can wait for its end."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=0.2)
    if child.stdout is not None:
        child.stdout.close()


def parse_nvml(data: bytes) -> NvmlAnswer:
    """Return what the program that asks NVML printed.

    Args:
        data: At most 1 MiB.

    Raises:
        IntegrityError: It is no such document, or says why NVML told nothing.
    """
    fields = Fields(parse(data, what="its answer", limit=_ANSWER), what="its answer")
    if "error" in fields:
        raise IntegrityError(fields.text("error")[:_NAME])
    number = fields.integer("cuda", high=1_000_000)
    answer = NvmlAnswer(
        driver=fields.text("driver")[:_NAME],
        cuda=f"{number // 1000}.{number % 1000 // 10}",
        gpus=tuple(_told(gpu) for gpu in fields.tables("gpus", most=_DEVICES)),
    )
    fields.done()
    if not _VERSION.match(answer.driver):
        raise fields.fail(f"the driver's version is {answer.driver[:60]!r}")
    return answer


def _told(fields: Fields) -> tuple[Gpu, int | None]:
    capability = _numbers(fields, "capability", 999)
    memory = _numbers(fields, "memory", 2**53 - 1)
    parts = None if fields.is_null("parts") else fields.flag("parts")
    name = "" if fields.is_null("name") else fields.text("name")[:_NAME]
    fields.done()
    gpu = Gpu(
        vendor="nvidia",
        name=name,
        architecture=f"{capability[0]}.{capability[1]}" if capability else None,
        memory=memory[0] if memory else None,
        parts=parts,
    )
    return gpu, memory[1] if memory and not parts else None


def _numbers(fields: Fields, key: str, high: int) -> list[int] | None:
    """Return two whole numbers; None where they are null."""
    if fields.is_null(key):
        return None
    value: list[Any] = fields.items(key, most=2)
    if len(value) != 2 or not all(type(each) is int and 0 <= each <= high for each in value):  # noqa: PLR2004 - a pair
        raise fields.fail(f"{key!r} is no pair of whole numbers")
    return value


# --- AMD --------------------------------------------------------------------------------------------------------------


def _amd(machine: Machine) -> list[tuple[Gpu, int | None]]:
    """Return the GPUs in ROCm's topology, processors left out."""
    nodes = "sys/class/kfd/kfd/topology/nodes"
    found = []
    for node in sorted(machine.names(nodes) or (), key=lambda name: (len(name), name))[:_DEVICES]:
        properties = _properties(machine.text(f"{nodes}/{node}/properties"))
        version = properties.get("gfx_target_version", 0)
        if not version or not properties.get("simd_count"):
            continue
        total, free = _vram(machine, properties.get("drm_render_minor", 0))
        name = (machine.text(f"{nodes}/{node}/name") or "").strip()[:_NAME]
        gpu = Gpu("amd", name, _target(version), total if total is not None else _banks(machine, nodes, node), None)
        found.append((gpu, free))
    return found


def _target(version: int) -> str:
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _properties(text: str | None) -> Mapping[str, int]:
    return {match[1]: int(match[2]) for match in re.finditer(r"^(\w+) ([0-9]{1,19})$", text or "", re.MULTILINE)}


def _banks(machine: Machine, nodes: str, node: str) -> int | None:
    """Return the bytes of a GPU's own memory by its banks; None without any."""
    banks = f"{nodes}/{node}/mem_banks"
    sizes = [
        properties.get("size_in_bytes", 0)
        for bank in (machine.names(banks) or ())[:_DEVICES]
        if (properties := _properties(machine.text(f"{banks}/{bank}/properties"))).get("heap_type") in {1, 2}
    ]
    return sum(sizes) if sizes else None


def _vram(machine: Machine, render: int) -> tuple[int | None, int | None]:
    """Return total and free bytes of the memory behind a render node."""
    folder = f"sys/class/drm/renderD{render}/device"
    total, used = machine.number(f"{folder}/mem_info_vram_total"), machine.number(f"{folder}/mem_info_vram_used")
    return total, max(0, total - used) if total is not None and used is not None else None
