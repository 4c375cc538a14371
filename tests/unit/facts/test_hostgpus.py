"""Accelerators: NVIDIA's through a library that may hang, crash or lie; AMD's from ROCm's topology; others by PCI."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from airpack.errors import IntegrityError
from airpack.facts import hostgpus, nvml
from airpack.facts.hostgpus import Gpus, ask_nvml, parse_nvml, read_gpus
from airpack.facts.machine import Machine
from airpack.formats.hostfacts import Gpu

PCI = "sys/bus/pci/devices"
H100 = {
    "name": "NVIDIA H100 80GB HBM3",
    "capability": [9, 0],
    "memory": [85_520_809_984, 84_000_000_000],
    "parts": False,
}
ANSWER = {"driver": "580.159.04", "cuda": 13000, "gpus": [H100]}


def card(number: int, vendor: str, kind: str = "0x030200") -> dict[str, str]:
    folder = f"{PCI}/0000:0{number}:00.0"
    return {f"{folder}/class": f"{kind}\n", f"{folder}/vendor": f"{vendor}\n"}


def made(root: Path, files: Mapping[str, str]) -> Machine:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Machine(root)


def told(document: Any) -> hostgpus.Ask:
    return lambda: json.dumps(document).encode()


def never() -> bytes | str:
    raise AssertionError("NVML is not to be asked")


def test_a_machine_without_accelerators_has_none(tmp_path: Path) -> None:
    machine = made(tmp_path, {**card(0, "0x1a03", "0x030000"), **card(1, "0x8086", "0x020000")})
    assert read_gpus(machine, never) == Gpus((), (), {}, ())


def test_a_kernel_without_pci_has_none_and_one_without_sys_is_unknown(tmp_path: Path) -> None:
    unknown = read_gpus(Machine(tmp_path), never)
    assert unknown.gpus is None
    assert [each.fact for each in unknown.unknown] == ["gpus"]
    (tmp_path / "sys/bus/virtio").mkdir(parents=True)
    assert read_gpus(Machine(tmp_path), never).gpus == ()


def test_nvml_tells_of_gpus(tmp_path: Path) -> None:
    found = read_gpus(made(tmp_path, card(0, "0x10de")), told(ANSWER))
    assert found.gpus == (Gpu("nvidia", "NVIDIA H100 80GB HBM3", "9.0", 85_520_809_984, parts=False),)
    assert found.free == (84_000_000_000,)
    assert found.drivers == {"nvidia": "580.159.04", "cuda": "13.0"}
    assert found.unknown == ()


@pytest.mark.parametrize("sign", ["proc/driver/nvidia/version", "dev/nvidiactl", "dev/nvidia0", "dev/dxg"])
def test_nvml_is_asked_where_any_sign_of_nvidia_is(tmp_path: Path, sign: str) -> None:
    found = read_gpus(made(tmp_path, {sign: ""}), told(ANSWER))
    assert found.gpus is not None
    assert [gpu.architecture for gpu in found.gpus] == ["9.0"]


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Sep 2 2025\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder)\n",
    ],
)
def test_the_kernels_own_file_names_the_driver(tmp_path: Path, text: str) -> None:
    machine = made(tmp_path, {"proc/driver/nvidia/version": text, **card(0, "0x10de")})
    found = read_gpus(machine, lambda: "cannot be opened")
    assert found.drivers == {"nvidia": "580.159.04"}
    assert found.gpus == (Gpu("nvidia", "", None, None, None),)
    assert [each.reason for each in found.unknown] == [
        "NVML: cannot be opened",
        "PCI shows an accelerator that no driver here tells more of",
    ]


def test_a_card_that_nvml_leaves_out_is_unknown(tmp_path: Path) -> None:
    found = read_gpus(made(tmp_path, {**card(0, "0x10de"), **card(1, "0x10de")}), told(ANSWER))
    assert found.gpus is not None
    assert [gpu.architecture for gpu in found.gpus] == ["9.0", None]
    assert found.free == (84_000_000_000, None)


def test_what_nvml_cannot_tell_of_one_gpu_is_unknown(tmp_path: Path) -> None:
    nothing = {"name": None, "capability": None, "memory": None, "parts": None}
    found = read_gpus(made(tmp_path, card(0, "0x10de")), told({**ANSWER, "gpus": [nothing]}))
    assert found.gpus == (Gpu("nvidia", "", None, None, None),)
    assert found.free == (None,)


def test_memory_of_a_gpu_in_parts_is_not_what_a_program_gets(tmp_path: Path) -> None:
    found = read_gpus(made(tmp_path, card(0, "0x10de")), told({**ANSWER, "gpus": [{**H100, "parts": True}]}))
    assert found.gpus is not None
    assert found.gpus[0].parts
    assert found.free == (None,)


@pytest.mark.parametrize(
    "document",
    [
        {"error": "nvmlInit_v2 answers 9"},
        {},
        [],
        {**ANSWER, "more": 1},
        {**ANSWER, "driver": "newest"},
        {**ANSWER, "cuda": -1},
        {**ANSWER, "gpus": [{**H100, "memory": [1]}]},
        {**ANSWER, "gpus": [{**H100, "memory": [1, -1]}]},
        {**ANSWER, "gpus": [{**H100, "capability": [9.0, 0]}]},
        {**ANSWER, "gpus": [{**H100, "capability": [True, 0]}]},
        {**ANSWER, "gpus": [H100] * 2000},
    ],
)
def test_any_other_answer_is_no_fact(tmp_path: Path, document: Any) -> None:
    found = read_gpus(made(tmp_path, card(0, "0x10de")), told(document))
    assert found.gpus == (Gpu("nvidia", "", None, None, None),)
    assert found.unknown[0].reason.startswith("NVML: ")


def test_an_answer_is_read_strictly() -> None:
    with pytest.raises(IntegrityError):
        parse_nvml(b'{"error":"x"}{"error":"y"}')
    with pytest.raises(IntegrityError):
        parse_nvml(b" " * (2 << 20))


# --- AMD --------------------------------------------------------------------------------------------------------------

NODES = "sys/class/kfd/kfd/topology/nodes"


def test_rocm_tells_of_gpus(tmp_path: Path) -> None:
    machine = made(
        tmp_path,
        {
            **card(0, "0x1002", "0x120000"),
            f"{NODES}/0/properties": "cpu_cores_count 64\nsimd_count 0\ngfx_target_version 0\n",
            f"{NODES}/1/properties": "simd_count 1216\ngfx_target_version 90402\ndrm_render_minor 128\n",
            f"{NODES}/1/name": "ip discovery\n",
            "sys/class/drm/renderD128/device/mem_info_vram_total": "206158430208\n",
            "sys/class/drm/renderD128/device/mem_info_vram_used": "158430208\n",
            "sys/module/amdgpu/version": "6.12.12\n",
        },
    )
    found = read_gpus(machine, never)
    assert found.gpus == (Gpu("amd", "ip discovery", "gfx942", 206_158_430_208, None),)
    assert found.free == (206_000_000_000,)
    assert found.drivers == {"amdgpu": "6.12.12"}


@pytest.mark.parametrize(
    ("version", "target"), [(90010, "gfx90a"), (100100, "gfx1010"), (110000, "gfx1100"), (90402, "gfx942")]
)
def test_a_target_is_its_version_in_hexadecimal(tmp_path: Path, version: int, target: str) -> None:
    files = {
        f"{NODES}/1/properties": f"simd_count 4\ngfx_target_version {version}\n",
        f"{NODES}/1/mem_banks/0/properties": "heap_type 1\nsize_in_bytes 1000\n",
        f"{NODES}/1/mem_banks/1/properties": "heap_type 0\nsize_in_bytes 5\n",
    }
    found = read_gpus(made(tmp_path, {**files, **card(0, "0x8086", "0x020000")}), never)
    assert found.gpus == (Gpu("amd", "", target, 1000, None),)
    assert found.free == (None,)


def test_an_intel_card_is_there_and_no_more_is_known(tmp_path: Path) -> None:
    found = read_gpus(made(tmp_path, card(0, "0x8086", "0x038000")), never)
    assert found.gpus == (Gpu("intel", "", None, None, None),)
    assert len(found.unknown) == 1


# --- the program that asks NVML ---------------------------------------------------------------------------------------


def program(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program.py"
    path.write_text(text)
    return path


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    assert ask_nvml(program(tmp_path, "import time; time.sleep(100)"), seconds=0.3) == "it took more than 0.3 s"
    assert time.monotonic() - began < 30


def test_a_program_that_hangs_with_children_is_ended(tmp_path: Path) -> None:
    text = "import os, time\nprint(os.getpid(), flush=True)\nos.fork()\ntime.sleep(100)"
    assert ask_nvml(program(tmp_path, text), seconds=0.3) == "it took more than 0.3 s"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("import sys; sys.exit(3)", "ended with 3"), ("import os; os.kill(os.getpid(), 11)", "ended with -11")],
)
def test_a_program_that_fails_or_crashes_says_nothing(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in str(ask_nvml(program(tmp_path, text)))


def test_a_program_that_floods_is_no_answer(tmp_path: Path) -> None:
    answer = ask_nvml(program(tmp_path, "print('x' * (3 << 20))"))
    assert isinstance(answer, bytes)
    with pytest.raises(IntegrityError):
        parse_nvml(answer)


def test_without_the_library_the_program_says_so() -> None:
    document = nvml.ask(["libnothing-of-the-kind.so.1"])
    assert list(document) == ["error"]
    answer = ask_nvml()
    assert isinstance(answer, bytes)
    json.loads(answer)


LIBRARY = r"""
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "580.159.04", size); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) { strncpy(text, "A \"GPU\" \xff", size); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { *major = 8; *minor = 9; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory *found) {
    if (device == (void *)2) return 3;  /* not supported */
    found->total = 1ULL << 40; found->free = 1ULL << 39; found->used = 1; return 0;
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_library_in_the_form_of_nvml_is_asked(tmp_path: Path) -> None:
    (tmp_path / "nvml.c").write_text(LIBRARY)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-I", "-S", hostgpus._PROGRAM],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    told = parse_nvml(done.stdout)
    assert (told.driver, told.cuda) == ("580.159.04", "12.8")
    assert told.gpus == (
        (Gpu("nvidia", 'A "GPU" \ufffd', "8.9", 1 << 40, None), 1 << 39),
        (Gpu("nvidia", 'A "GPU" \ufffd', "8.9", None, None), None),
    )
