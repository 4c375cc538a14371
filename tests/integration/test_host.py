"""`airpack host` as people and scripts see it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airpack.cli.host import highest
from airpack.facts.host import read_host
from airpack.formats import canonical
from airpack.formats.hostfacts import HostFacts


def test_the_facts_of_this_machine_are_printed_and_saved(airpack: Callable[..., Any], tmp_path: Path) -> None:
    shown = airpack("host", "--save", tmp_path / "host.json", "--json").json
    saved = HostFacts.parse((tmp_path / "host.json").read_bytes())
    assert shown == {"digest": str(saved.digest()), "host": saved.to_dict(), "saved": str(tmp_path / "host.json")}
    assert airpack("host", "--json").json["saved"] is None


def test_an_existing_file_is_replaced_only_when_asked(airpack: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_text("mine")
    error = airpack("host", "--save", path, "--json", expect=2).json["error"]
    assert error["code"] == "input"
    assert path.read_text() == "mine"
    airpack("host", "--save", path, "--force")
    assert HostFacts.parse(path.read_bytes()).os == "linux"


def test_where_nothing_can_be_written_it_is_a_failure_of_storage(airpack: Callable[..., Any], tmp_path: Path) -> None:
    airpack("host", "--save", tmp_path / "absent/host.json", expect=20)


def test_people_read_one_fact_a_line(airpack: Callable[..., Any]) -> None:
    lines = airpack("host").out.splitlines()
    names = [line.split()[0] for line in lines]
    assert {"system", "processor", "usable", "python", "library", "gpu", "digest"} <= {*names, "gpu"}
    assert any(line.startswith("library  ") and "libc.so.6 to GLIBC_" in line for line in lines)


def test_what_is_unknown_is_said(monkeypatch: pytest.MonkeyPatch, airpack: Callable[..., Any], tmp_path: Path) -> None:
    gpu = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    gpu.mkdir(parents=True)
    (gpu / "class").write_text("0x030200\n")
    (gpu / "vendor").write_text("0x10de\n")
    facts = read_host(tmp_path, ask=lambda: "libnvidia-ml.so.1 cannot be opened")
    monkeypatch.setattr("airpack.ops.host.read_host", lambda: facts)
    text = " ".join(airpack("host").out.split())
    assert "unknown gpus: NVML: libnvidia-ml.so.1 cannot be opened" in text
    assert "unknown isa: /proc/cpuinfo cannot be read" in text
    assert "gpu nvidia nameless, architecture unknown, memory unknown" in text
    document = airpack("host", "--json").json
    assert document["host"]["isa"] is None
    assert canonical.emit(document["host"]) == facts.emit()


def test_the_highest_version_of_each_family_is_shown() -> None:
    versions = ("GLIBC_2.9", "GLIBC_2.36", "GLIBC_2.4", "GLIBC_PRIVATE", "GLIBC_ABI_DT_RELR")
    assert highest(versions) == ["GLIBC_2.36"]
    assert highest(("GLIBCXX_3.4.9", "GLIBCXX_3.4.30", "CXXABI_1.3.13")) == ["CXXABI_1.3.13", "GLIBCXX_3.4.30"]
    assert highest(()) == []
