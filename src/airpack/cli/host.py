"""The command `host`, and how facts of hosts are shown to people."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from airpack.cli import output
from airpack.cli.options import json_option

if TYPE_CHECKING:
    from airpack.formats.hostfacts import HostFacts


@click.command()
@click.option("--save", type=click.Path(path_type=Path), help="Write the facts here, as one canonical JSON document.")
@click.option("--force", is_flag=True, help="Replace an existing file of --save.")
@json_option
def host(save: Path | None, force: bool, as_json: bool) -> None:
    """Show what this machine offers to a runtime, as far as this user may see it. Needs no root."""
    from airpack.ops.host import describe_host

    report = describe_host(save=save, replace=force)
    lines = output.table(_host_rows(report.facts))
    if report.saved is not None:
        lines.append(f"wrote      {report.saved}")
    output.show(report.document(), lines, as_json=as_json)


def _host_rows(facts: "HostFacts") -> Iterator[tuple[str, str]]:
    now = facts.now
    yield "system", " ".join(filter(None, (f"{facts.os}/{facts.architecture}", facts.distribution, facts.kernel)))
    if facts.containers:
        yield "inside", ", ".join(facts.containers)
    if facts.isa is not None:
        yield "processor", ", ".join(filter(None, (facts.isa.processor, facts.isa.level))) or "nameless"
    yield "usable", f"{now.cpus} processors, {output.size(now.memory)} of memory"
    if now.available is not None:
        yield "free", f"{output.size(now.available)} of memory"
    for disk in now.disks:
        yield "free", f"{output.size(disk.free)} of {output.size(disk.total)} on the disk of {disk.path}"
    yield "python", f"{facts.implementation} {facts.python}, {len(facts.python_tags)} wheel tags"
    for name, library in (facts.libraries or {}).items():
        yield "library", f"{name} to {', '.join(highest(library.versions)) or 'no version'}"
    for name, version in facts.drivers.items():
        yield "driver", f"{name} {version}"
    for gpu, free in zip(facts.gpus or (), now.gpus, strict=True):
        memory = "memory unknown" if gpu.memory is None else output.size(gpu.memory)
        left = "" if free is None else f", {output.size(free)} free"
        yield (
            "gpu",
            f"{gpu.vendor} {gpu.name or 'nameless'}, {gpu.architecture or 'architecture unknown'}, {memory}{left}",
        )
    if facts.gpus == ():
        yield "gpu", "none"
    for unknown in facts.unknown:
        yield "unknown", f"{unknown.fact}: {unknown.reason}"
    yield "digest", str(facts.digest())


def highest(versions: Iterable[str]) -> list[str]:
    """Return the highest numbered version of each family: `GLIBC_2.36` of all that begin with `GLIBC_`."""
    highest: dict[str, tuple[tuple[int, ...], str]] = {}
    for version in versions:
        family, _, number = version.rpartition("_")
        if number.replace(".", "").isdecimal():
            key = tuple(map(int, filter(None, number.split("."))))
            highest[family] = max(highest.get(family, ((), "")), (key, version))
    return [highest[family][1] for family in sorted(highest)]
