"""Commands of the disconnected side: site, import, list, show, status, activate, rollback, fsck, gc, evidence."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from airpack.cli import output
from airpack.cli.options import json_option, progress_option, site_option
from airpack.errors import InputError

if TYPE_CHECKING:
    from airpack.ops.activate import Activation
    from airpack.ops.status import ShownBom

_ROLES = ("root", "timestamp", "snapshot", "targets")


@click.group()
def site() -> None:
    """Make and keep a site."""


@site.command("init")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="The channel's root to trust from now on.")
@click.option("--fingerprint", help="What the root's fingerprint must be, as told by its owners on another way.")
@click.option(
    "--minimum", multiple=True, metavar="ROLE=VERSION", help="Lowest metadata version to accept, as told at enrolment."
)
@json_option
def site_init(folder: Path, root: Path, fingerprint: str | None, minimum: tuple[str, ...], as_json: bool) -> None:
    """Make a site in DIR that trusts the channel of ROOT."""
    from airpack import fsops
    from airpack.crypto.client import root_fingerprint
    from airpack.errors import TrustError
    from airpack.ops.site import Site
    from airpack.types import Limits

    data = fsops.read_regular(root, Limits.ROOT)
    found = str(root_fingerprint(data))
    if fingerprint is not None and fingerprint.removeprefix("sha256:") != found.removeprefix("sha256:"):
        raise TrustError(
            f"the root {root} has fingerprint {found}, not {fingerprint}", hint="do not use this root; ask its owners"
        )
    made = Site.create(folder, root=data, minimum=_minimum(minimum))
    document = {
        "site": str(made.root),
        "site_id": made.site_id,
        "root_fingerprint": found,
        "evidence_key": str(made.root / "evidence/site.pub"),
    }
    lines = [
        f"site         {made.root}",
        f"id           {made.site_id}",
        f"trusts root  {found}",
        f"evidence key {made.root / 'evidence/site.pub'} (give it to the auditor by hand)",
    ]
    output.show(document, lines, as_json=as_json)


def _minimum(words: tuple[str, ...]) -> dict[str, int]:
    minimum = {}
    for word in words:
        role, _, number = word.partition("=")
        if role not in _ROLES or not (number.isascii() and number.isdecimal()):
            raise InputError(f"--minimum {word!r}: expected ROLE=VERSION, with ROLE one of {', '.join(_ROLES)}")
        minimum[role] = int(number)
    return minimum


@click.command("import")
@click.argument("package", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Check everything but the volumes' bytes, say what would be written.")
@site_option
@progress_option
@json_option
def import_(package: tuple[Path, ...], dry_run: bool, site: Path, progress: bool, as_json: bool) -> None:
    """Verify PACKAGE (its folder or its head file) and take its release into the site.

    Give several where its volumes lie on several media, or one after the other: what was read is kept, and the last
    one ends the import.
    """
    from airpack.ops.import_ import import_package
    from airpack.ops.site import Site

    reporter = output.reporter(as_json=as_json, progress=progress)
    result = import_package(Site.open(site), package, dry_run=dry_run, reporter=reporter)
    if dry_run:
        lines = [
            f"would import {result.name}: {output.size(result.bytes_needed)} to write ({result.bytes_needed} bytes)"
        ]
    elif result.repeated:
        lines = [f"{result.name} is here already; nothing was written"]
    else:
        lines = [
            f"imported {result.name}",
            f"release  {result.release}",
            f"written  {output.size(result.bytes_needed)}",
            f"receipt  {result.receipt}",
            f"next     airpack activate {result.name} --site {site}",
        ]
    output.show(result.document(), lines, as_json=as_json)


@click.command("list")
@site_option
@json_option
def list_(site: Path, as_json: bool) -> None:
    """List the releases that the site holds."""
    from airpack.ops.site import Site
    from airpack.ops.status import releases, row_document

    rows = [row_document(row) for row in releases(Site.open(site))]
    table = [("RELEASE", "SEQUENCE", "STATE", "IMPORTED", "DIGEST")]
    table += [
        (f"{row['product']}@{row['version']}", row["sequence"], row["state"], row["imported"], row["release"])
        for row in rows
    ]
    output.show({"releases": rows}, output.table(table) if rows else ["no releases yet"], as_json=as_json)


@click.command()
@click.argument("release")
@click.option("--bom", is_flag=True, help="Show its bill of materials instead, verified anew.")
@site_option
@json_option
def show(release: str, bom: bool, site: Path, as_json: bool) -> None:
    """Show all that the site knows of RELEASE (product@version, or a digest)."""
    from airpack.ops.site import Site
    from airpack.ops.status import show as run
    from airpack.ops.status import show_bom

    if bom:
        _show_bom(show_bom(Site.open(site), release), as_json=as_json)
        return
    document = run(Site.open(site), release)
    lines = output.table((key, _shown(value)) for key, value in document.items() if key != "history")
    lines += ["", "decisions on record"]
    lines += output.table(
        (f"  {item['seq']}", item["time"], item["event"], item["phase"], item["outcome"], _shown(item["data"]))
        for item in document["history"]
    )
    output.show(document, lines, as_json=as_json)


def _show_bom(found: "ShownBom", *, as_json: bool) -> None:
    components = found.bom.components
    parts = [item for item in components if item.kind != "file"]
    table = [("TYPE", "NAME", "VERSION", "LICENCE", "SHA-256")]
    table += [
        (
            item.kind,
            item.name,
            item.version or "-",
            ", ".join(item.licenses) or "-",
            item.digest.hex if item.digest else "-",
        )
        for item in parts
    ]
    lines = [
        f"bill of materials of {found.row.name}, signed by the channel's builder",
        f"release  {found.row.digest}",
        f"digest   {found.bom.digest}",
        "",
        *output.table(table),
        "",
        f"{len(components) - len(parts)} files of these are listed with --json",
    ]
    output.show(found.document(), lines, as_json=as_json)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(_shown(item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


@click.command()
@site_option
@json_option
def status(site: Path, as_json: bool) -> None:
    """Show what runs, what stands behind it, and how fresh the channel's metadata is."""
    from airpack.ops.site import Site
    from airpack.ops.status import status as run
    from airpack.types import State

    found = run(Site.open(site))
    document = found.document()
    lines = [f"site     {found.site.root}"]
    if found.channel is not None:
        until = min(document["expires"].values())
        freshness = f"expired: {', '.join(found.expired)}" if found.expired else f"fresh until {until}"
        lines.append(f"channel  {found.channel.channel}, {freshness}")
    if found.starter:
        lines.append("warning  this is a STARTER channel: one machine holds every key, every threshold is 1")
    lines += [f"warning  {warning}" for warning in found.warnings]
    for product in found.products:
        active = f"{product.active.version} runs" if product.active else "nothing runs"
        if product.active is not None and product.active.state is State.REVOKED:
            active += " although its channel has WITHDRAWN it"
        behind = ", ".join(row.version for row in product.known_good) or "none"
        lines.append(f"{product.name}: {active}; known good: {behind}")
    lines.append(f"evidence {found.records} records")
    output.show(document, lines, as_json=as_json)


@click.command()
@click.argument("release")
@site_option
@json_option
def activate(release: str, site: Path, as_json: bool) -> None:
    """Probe RELEASE and make it the one that runs; what runs now stays when the probe fails."""
    from airpack.ops.activate import activate as run
    from airpack.ops.site import Site

    result = run(Site.open(site), release, reporter=output.reporter(as_json=as_json, progress=False))
    _show_activation(result, as_json=as_json)


@click.command()
@click.argument("product")
@click.option("--to", "version", help="The version to go back to; by default the newest older known-good one.")
@site_option
@json_option
def rollback(product: str, version: str | None, site: Path, as_json: bool) -> None:
    """Go back to a known-good release of PRODUCT that the site still holds."""
    from airpack.ops.activate import rollback as run
    from airpack.ops.site import Site

    result = run(Site.open(site), product, version, reporter=output.reporter(as_json=as_json, progress=False))
    _show_activation(result, as_json=as_json)


def _show_activation(result: "Activation", *, as_json: bool) -> None:
    lines = [f"{result.row.name} is active and known good"]
    lines += [
        f"{trial.origin} probe passed: {trial.result.detail} (isolation: {trial.result.isolation})"
        for trial in result.trials
    ]
    output.show(result.document(), lines, as_json=as_json)


@click.command()
@click.argument("packages", nargs=-1, type=click.Path(path_type=Path), metavar="[PACKAGE]...")
@click.option("--repair", is_flag=True, help="Put right what can be, with bytes from PACKAGE where they are needed.")
@click.option("--dry-run", is_flag=True, help="With --repair: only say what would be done.")
@site_option
@progress_option
@json_option
def fsck(packages: tuple[Path, ...], repair: bool, dry_run: bool, site: Path, progress: bool, as_json: bool) -> None:
    """Hash everything the site holds again and name what is not as it was verified."""
    from airpack.errors import AirpackError
    from airpack.ops.examine import open_damaged
    from airpack.ops.maintain import fsck as run

    if not repair and (packages or dry_run):
        raise InputError("packages and --dry-run go with --repair", hint="airpack fsck --repair [PACKAGE]...")
    reporter = output.reporter(as_json=as_json, progress=progress)
    try:
        result = run(open_damaged(site), repair=repair, packages=packages, dry_run=dry_run, reporter=reporter)
    except AirpackError as error:
        if not as_json:
            output.show_found(_fsck_lines(error.document))
        raise
    checks = output.table((check.name, "ok", check.detail) for check in result.checks)
    output.show(result.document(), [*_fsck_lines(result.document()), *checks], as_json=as_json)


def _fsck_lines(document: dict[str, Any]) -> list[str]:
    """Return what fsck found, and what a repair did, for people."""
    repair, lines = document.get("repair"), []
    if repair is not None:
        verb = "would " if repair["dry_run"] else ""
        lines += [repair["refused"]] if repair["refused"] else []
        lines += [f"{verb}restore {digest}" for digest in repair["restored"]]
        lines += [f"{verb}make again: {name}" for name in repair["rewritten"]]
        lines += [f"{item['head']}: {item['error']['message']}" for item in repair["packages"] if item["error"]]
        lines += [f"not done: {line}" for line in repair["failed"]]
        lines += [f"fixed: {line}" for line in repair["fixed"]]
    for item in document.get("findings", []):
        lines += [item["line"], f"    {item['help']}"]
    return lines


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@site_option
@json_option
def gc(dry_run: bool, site: Path, as_json: bool) -> None:
    """Remove releases beyond retention, blobs that nothing claims, and imports that were given up."""
    from airpack.ops.maintain import gc as run
    from airpack.ops.site import Site

    result = run(Site.open(site), dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    lines = [
        f"{verb} {len(result.releases)} releases, {len(result.generations)} generations,",
        f"  {result.blobs} blobs ({output.size(result.bytes)}), {result.quarantines} quarantines",
        *result.releases,
    ]
    output.show(result.document(), lines, as_json=as_json)


@click.group()
def evidence() -> None:
    """The site's signed account of every decision."""


@evidence.command("export")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="The file to write (ZIP).")
@click.option("--since", type=click.IntRange(min=0), default=0, help="First record to carry; 0 for all.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@site_option
@json_option
def evidence_export(out: Path, since: int, force: bool, site: Path, as_json: bool) -> None:
    """Write records, proofs, checkpoint and receipts as one signed ZIP for the auditor."""
    from airpack.ops.evidence import export_evidence
    from airpack.ops.site import Site

    result = export_evidence(Site.open(site), out, since=since, replace=force)
    document = {
        "file": str(result.path),
        "export": result.number,
        "records": result.records,
        "first": result.first,
        "size": result.size,
        "checkpoint": result.checkpoint,
        "digest": str(result.digest),
    }
    lines = [
        f"exported   {result.records} records to {result.path}",
        f"digest     {result.digest}",
        "checkpoint",
        *(f"  {line}" for line in result.checkpoint.splitlines()),
    ]
    output.show(document, lines, as_json=as_json)


COMMANDS = (site, import_, list_, show, status, activate, rollback, fsck, gc, evidence)
