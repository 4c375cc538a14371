"""Commands that need no workspace and no site: inspect, verify, audit, host."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from airpack.cli import output
from airpack.cli.options import json_option, now, parse_time, progress_option

if TYPE_CHECKING:
    from airpack.formats.hostfacts import HostFacts


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--files", is_flag=True, help="List every file of the release.")
@json_option
def inspect(package: Path, files: bool, as_json: bool) -> None:
    """Show what PACKAGE says it carries, without keys and without reading its volumes. Verifies nothing."""
    from airpack.ops.inspect_ import inspect_package

    found = inspect_package(package)
    lines = [
        "NOT VERIFIED: this is what the head says; airpack verify checks it",
        f"release      {found.manifest.product}@{found.manifest.version}",
        f"digest       {found.release.digest}",
        f"head         {found.head.name}  {found.digest}",
        f"needs        airpack {found.manifest.needs_airpack} or newer",
        f"files        {len(found.release.files)}, {output.size(found.release.compat.total_bytes)}",
        *(
            f"model        {item.name}: {item.format or 'mixed'}, licence {item.license or 'not stated'}"
            for item in found.release.models
        ),
        *(
            f"runtime      {item.name}: {item.kind} for {item.platform or 'any platform'}"
            for item in found.release.compat.runtimes
        ),
        f"materials    {'CycloneDX; airpack verify --bom FILE checks and writes it' if found.has_bom else 'none'}",
        *(f"signed as    {claim.predicate_type} (key {claim.key_hint})" for claim in found.claims),
    ]
    rows = [
        ("volume", volume.name, output.size(volume.size), "here" if volume.name in found.present else "MISSING")
        for volume in found.manifest.volumes
    ]
    lines += output.table(rows)
    lines += [f"not listed   {name}" for name in found.ignored]
    if files:
        lines += output.table((file.digest, file.size, file.path, file.license or "-") for file in found.release.files)
    output.show(found.document(), lines, as_json=as_json)


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--root", type=click.Path(path_type=Path), required=True, help="The channel's root to trust.")
@click.option("--bom", type=click.Path(path_type=Path), help="Write the bill of materials (CycloneDX JSON) here.")
@click.option("--force", is_flag=True, help="Replace an existing file of --bom.")
@click.option("--at", "moment", help="Judge freshness at this time (RFC 3339) instead of now.")
@progress_option
@json_option
def verify(
    package: Path, root: Path, bom: Path | None, force: bool, moment: str | None, progress: bool, as_json: bool
) -> None:
    """Check every signature and every byte of PACKAGE against ROOT, without a site."""
    from airpack import fsops
    from airpack.ops.verify import verify_package
    from airpack.types import Limits

    result = verify_package(
        package,
        root=fsops.read_regular(root, Limits.ROOT),
        now=parse_time(moment) if moment else now(),
        bom=bom,
        replace=force,
        reporter=output.reporter(as_json=as_json, progress=progress),
    )
    lines = output.table(("ok", check.name, check.detail) for check in result.checks)
    if result.admitted.channel.starter:
        lines.append("warning: this is a STARTER channel: one machine holds every key, every threshold is 1")
    if result.bom is not None:
        lines.append(f"wrote    {result.bom}")
    lines.append(f"verified {result.admitted.name} {result.admitted.release.digest}")
    output.show(result.document(), lines, as_json=as_json)


@click.group()
def audit() -> None:
    """Check evidence without trusting the site that it came from."""


@audit.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, help="The site's public key, from enrolment.")
@click.option("--state", type=click.Path(path_type=Path), help="The auditor's own file: what was seen last time.")
@json_option
def audit_verify(bundle: Path, key: Path, state: Path | None, as_json: bool) -> None:
    """Check that nothing in BUNDLE was removed, reordered or edited, and that it goes on where the last one ended."""
    from airpack.ops.evidence import audit_evidence

    audited = audit_evidence(bundle, key=key, state=state)
    result = audited.result
    lines = output.table(("ok", item.name, item.detail) for item in result.findings)
    if result.summary is not None:
        total = result.summary
        lines.append(
            f"{total.records} records: {total.imports} imports, {total.activations} activations, "
            f"{total.rollbacks} rollbacks, {total.refusals} refusals"
        )
    output.show(audited.document(), lines, as_json=as_json)


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
        yield "library", f"{name} to {', '.join(_highest(library.versions)) or 'no version'}"
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


def _highest(versions: tuple[str, ...]) -> list[str]:
    """Return the highest numbered version of each family."""
    highest: dict[str, tuple[tuple[int, ...], str]] = {}
    for version in versions:
        family, _, number = version.rpartition("_")
        if number.replace(".", "").isdecimal():
            key = tuple(map(int, filter(None, number.split("."))))
            highest[family] = max(highest.get(family, ((), "")), (key, version))
    return [highest[family][1] for family in sorted(highest)]


COMMANDS = (inspect, verify, audit, host)
