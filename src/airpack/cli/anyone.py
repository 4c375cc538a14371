"""Commands that need no workspace and no site: inspect, verify, unpack, facts, audit, host."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from airpack.cli import output
from airpack.cli.facts import facts
from airpack.cli.host import host
from airpack.cli.options import json_option, now, parse_time, progress_option
from airpack.errors import InputError

_STARTER = "warning: this is a STARTER channel: one machine holds every key, every threshold is 1"

if TYPE_CHECKING:
    from airpack.formats.package import ParityInfo, VolumeInfo
    from airpack.ops.inspect_ import Inspection


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--files", is_flag=True, help="List every file of the release.")
@click.option("--csv", "as_csv", is_flag=True, help="Print every file and volume as CSV (RFC 4180) instead.")
@click.option("--html", type=click.Path(path_type=Path), help="Write everything as one HTML page to this file too.")
@click.option("--force", is_flag=True, help="Replace an existing file of --html.")
@json_option
def inspect(package: Path, files: bool, as_csv: bool, html: Path | None, force: bool, as_json: bool) -> None:
    """Show what PACKAGE says it carries, without keys and without reading its volumes. Verifies nothing."""
    from airpack.ops.contents import csv_lines, write_html
    from airpack.ops.inspect_ import inspect_package

    if as_csv and (as_json or files):
        raise InputError("--csv is a form of its own", hint="leave --json and --files out")
    found = inspect_package(package)
    if html is not None:
        write_html(found, html, replace=force)
    if as_csv:
        output.show_csv(csv_lines(found))
        return
    lines: Iterable[str] = _inspected_lines(found, files=files)
    if html is not None:
        lines = chain(lines, [f"wrote        {html}"])
    output.show({**found.document(), "html": str(html.absolute()) if html else None}, lines, as_json=as_json)


def _inspected_lines(found: "Inspection", *, files: bool) -> Iterator[str]:
    yield from [
        "NOT VERIFIED: this is what the head says; airpack verify checks it",
        f"release      {found.manifest.product}@{found.manifest.version}",
        f"digest       {found.release.digest}",
        f"head         {found.head.name}  {found.digest}",
        f"words        {found.words}",
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
        *(f"base         {base.name} must be at the site: {base.release}" for base in found.manifest.bases),
        f"materials    {'CycloneDX; airpack verify --bom FILE checks and writes it' if found.has_bom else 'none'}",
        f"signed as    package manifest {found.payload} ({found.signatures}x)",
        *(f"signed as    {claim.predicate_type} (key {claim.key_hint})" for claim in found.claims),
    ]
    kinds: list[tuple[str, VolumeInfo | ParityInfo]] = [("volume", volume) for volume in found.manifest.volumes]
    kinds += [("parity", volume) for group in found.manifest.parity for volume in group.volumes]
    yield from output.table(
        (
            kind,
            volume.name,
            output.size(volume.size),
            "here" if volume.name in found.present else "MISSING",
            f"table {volume.table}",
        )
        for kind, volume in kinds
    )
    yield from (f"not listed   {name}" for name in found.ignored)
    if files:
        yield from output.columns(
            lambda: (
                (
                    file.digest,
                    file.size,
                    file.path,
                    file.component,
                    "executable" if file.executable else "-",
                    file.media_type,
                    file.license or "-",
                    f"from {found.bases[file.digest]}" if file.digest in found.bases else "",
                )
                for file in found.release.files
            )
        )


@click.command()
@click.argument("package", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--root", type=click.Path(path_type=Path), required=True, help="The channel's root to trust.")
@click.option("--bom", type=click.Path(path_type=Path), help="Write the bill of materials (CycloneDX JSON) here.")
@click.option("--force", is_flag=True, help="Replace an existing file of --bom.")
@click.option("--at", "moment", help="Judge freshness at this time (RFC 3339) instead of now.")
@progress_option
@json_option
def verify(
    package: tuple[Path, ...],
    root: Path,
    bom: Path | None,
    force: bool,
    moment: str | None,
    progress: bool,
    as_json: bool,
) -> None:
    """Check every signature and every byte of PACKAGE against ROOT, without a site.

    PACKAGE is its folder or its head file; give several where its volumes lie on several media.
    """
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
        lines.append(_STARTER)
    if result.bom is not None:
        lines.append(f"wrote    {result.bom}")
    lines.append(f"verified {result.admitted.name} {result.admitted.release.digest}")
    output.show(result.document(), lines, as_json=as_json)


@click.command()
@click.argument("package", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="An empty or new folder.")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="The channel's root to trust.")
@click.option("--at", "moment", help="Judge freshness at this time (RFC 3339) instead of now.")
@click.option(
    "--base",
    "bases",
    multiple=True,
    type=click.Path(path_type=Path),
    help="For a delta: a folder with the plain files of a release that it builds on.",
)
@progress_option
@json_option
def unpack(
    package: tuple[Path, ...],
    out: Path,
    root: Path,
    moment: str | None,
    bases: tuple[Path, ...],
    progress: bool,
    as_json: bool,
) -> None:
    """Verify PACKAGE against ROOT and write its files as they will lie at the site, for scanning stations.

    Needs no site. PACKAGE is its folder or its head file; give several where its volumes lie on several media.
    """
    from airpack import fsops
    from airpack.ops.unpack import unpack_package
    from airpack.types import Limits

    result = unpack_package(
        package,
        out,
        root=fsops.read_regular(root, Limits.ROOT),
        now=parse_time(moment) if moment else now(),
        bases=bases,
        reporter=output.reporter(as_json=as_json, progress=progress),
    )
    lines = output.table(("ok", check.name, check.detail) for check in result.checks)
    if result.admitted.channel.starter:
        lines.append(_STARTER)
    lines.append(f"unpacked {result.admitted.name} to {result.folder}")
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
    from airpack.ops.audit import audit_evidence

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


COMMANDS = (inspect, verify, unpack, facts, audit, host)
