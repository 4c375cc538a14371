"""Host facts: read from this machine and from recorded ones; what cannot be read is unknown, never a guess."""

import dataclasses
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging import tags

from airpack.facts import host
from airpack.facts.hostgpus import Ask
from airpack.formats.hostfacts import Gpu, HostFacts


def machine(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def silent() -> bytes | str:
    raise AssertionError("NVML is not to be asked")


def read(root: Path, files: Mapping[str, str | bytes], ask: Ask = silent) -> HostFacts:
    return host.read_host(machine(root, files), ask=ask)


def test_this_machine_is_described() -> None:
    facts = host.read_host()
    assert facts.os == "linux"
    assert facts.kernel == os.uname().release
    assert facts.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert facts.python_tags == tuple(map(str, tags.sys_tags()))
    assert facts.memory > 1 << 20
    assert facts.now.available is not None
    assert 0 < facts.now.available <= facts.memory
    assert 1 <= facts.cpus <= len(os.sched_getaffinity(0))
    assert any(disk.path == "/" and 0 <= disk.free <= disk.total for disk in facts.now.disks)
    assert facts.isa is not None
    assert facts.libraries is not None
    assert HostFacts.parse(facts.emit()) == facts


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this Python runs on another C library")
def test_the_versions_of_the_real_libc_are_those_it_calls_its_own() -> None:
    facts = host.read_host()
    assert facts.libraries is not None
    version = os.confstr("CS_GNU_LIBC_VERSION")
    assert version is not None
    assert facts.libc == version
    assert f"GLIBC_{version.removeprefix('glibc ')}" in facts.libraries["libc.so.6"].versions
    assert facts.sonames is not None
    assert "libc.so.6" in facts.sonames


def test_nothing_that_cannot_be_read_is_guessed(tmp_path: Path) -> None:
    facts = read(tmp_path, {})
    assert (facts.isa, facts.libraries, facts.sonames, facts.gpus) == (None, None, None, None)
    assert (facts.now.available, facts.now.swap) == (None, None)
    assert (facts.distribution, facts.containers, dict(facts.drivers)) == ("", (), {})
    assert {each.fact for each in facts.unknown} == {"isa", "libraries", "gpus"}
    assert all(each.reason for each in facts.unknown)
    assert HostFacts.parse(facts.emit()) == facts


@pytest.mark.skipif(os.getuid() != 0, reason="this is nobody already")
def test_a_nobody_without_privileges_sees_the_same() -> None:
    program = (
        "import os, sys\n"
        "from airpack.facts.host import read_host\n"
        "read_host().digest()  # so that all modules are loaded, which lie where nobody may look\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.stdout.write(str(read_host(disks=[]).digest()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == str(host.read_host().digest()), done.stderr


def test_a_recorded_machine_is_described(tmp_path: Path) -> None:
    facts = read(
        tmp_path,
        {
            "etc/os-release": 'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\n',
            "proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\nSwapTotal: 1048576 kB\n",
            "proc/1/cgroup": "0::/kubepods.slice/cri-containerd-1\n",
            "proc/version": "Linux version 4.4.0 gVisor\n",
            "run/.containerenv": "",
            "sys/bus/pci/devices/0000:00:00.0/class": "0x060000\n",
        },
    )
    assert facts.distribution == "ubuntu 24.04"
    assert facts.containers == ("gvisor", "kubernetes", "podman")
    assert (facts.memory, facts.now.available, facts.now.swap) == (8 << 30, 4 << 30, 1 << 30)
    assert facts.gpus == ()


def test_gpus_and_their_free_memory_stand_in_one_order(tmp_path: Path) -> None:
    gpu = b'{"name":"H100","capability":[9,0],"memory":[80,79],"parts":false}'
    answer = b'{"driver":"580.159.04","cuda":13000,"gpus":[%b]}' % gpu
    facts = read(tmp_path, {"proc/driver/nvidia/version": "", "sys/bus/pci/devices/x/class": ""}, lambda: answer)
    assert facts.gpus == (Gpu("nvidia", "H100", "9.0", 80, parts=False),)
    assert facts.now.gpus == (79,)
    assert facts.drivers == {"cuda": "13.0", "nvidia": "580.159.04"}
    assert HostFacts.parse(facts.emit()) == facts


@pytest.mark.parametrize(
    ("name", "wide", "expected"),
    [("x86_64", True, "amd64"), ("aarch64", True, "arm64"), ("x86_64", False, "386"), ("mips64", True, "mips64")],
)
def test_architectures_have_their_oci_names(name: str, wide: bool, expected: str) -> None:
    assert host._architecture(name, wide=wide) == expected


def test_digest_ignores_what_moves_and_holds_the_rest() -> None:
    facts = host.read_host()
    moved = dataclasses.replace(
        facts, now=dataclasses.replace(facts.now, memory=1, cpus=1), sonames=("liba.so",), kernel="0", unknown=()
    )
    assert moved.digest() == facts.digest()
    for other in (
        dataclasses.replace(facts, libc="glibc 2.1"),
        dataclasses.replace(facts, python_tags=("py3-none-any",)),
        dataclasses.replace(facts, architecture="arm64"),
        dataclasses.replace(facts, drivers={"nvidia": "535.1"}),
        dataclasses.replace(facts, gpus=None),
        dataclasses.replace(facts, isa=None),
        dataclasses.replace(facts, libraries={}),
    ):
        assert other.digest() != facts.digest()


def test_what_may_be_used_is_told_without_the_rest(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n", "sys/fs/cgroup/cpu.max": "1 2"},
    )
    assert host.read_room(root) == (1 << 20, 1)
    facts = host.read_host()
    assert host.read_room() == (facts.memory, facts.cpus)


def test_it_takes_little_of_the_processor() -> None:
    """Half a second is promised; what is held here is its own work, whatever else the machine does."""
    host.read_host()
    began = time.process_time()
    host.read_host()
    assert time.process_time() - began < 0.5
