"""Commands of the connected side: init, build, publish, releases, receipt."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from airpack.cli import output
from airpack.cli.options import json_option, now, progress_option, workspace_option
from airpack.errors import InputError, StorageError

if TYPE_CHECKING:
    from airpack.ops.build import Way
    from airpack.ops.workspace import Passphrase

_SECRET_FILE = "AIRPACK_KEY_PASSPHRASE_FILE"  # noqa: S105, names the file, holds no secret


def _passphrase(*, new: bool) -> "Passphrase":
    """Return how to get the passphrase: the file that the environment names, else a prompt on a terminal."""

    def ask() -> bytes:
        file = os.environ.get(_SECRET_FILE)
        if file:
            try:
                secret = Path(file).read_bytes().rstrip(b"\r\n")
            except OSError as error:
                raise StorageError(f"cannot read the passphrase in {file}: {error.strerror}") from error
        elif sys.stdin.isatty():
            secret = click.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True).encode()
        else:
            secret = b""
        if not secret:
            hint = f"name a file with it in {_SECRET_FILE}"
            raise InputError(
                "the private keys need a passphrase, and there is none",
                hint=hint + (", or give --no-passphrase to leave the keys in the clear" if new else ""),
            )
        return secret

    return ask


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path(), metavar="[DIR]")
@click.option("--channel", help="Name of the channel; by default the folder's name.")
@click.option("--no-passphrase", is_flag=True, help="Leave the private keys unencrypted.")
@json_option
def init(folder: Path, channel: str | None, no_passphrase: bool, as_json: bool) -> None:
    """Make a workspace in DIR with a starter channel: every key is here, every threshold is 1."""
    from airpack.crypto.client import root_fingerprint
    from airpack.ops.workspace import Workspace

    name = channel or "".join(char if char.isalnum() else "-" for char in folder.resolve().name.lower()).strip("-")
    secret = None if no_passphrase else _passphrase(new=True)()
    workspace = Workspace.create(folder, channel=name, passphrase=secret, now=now())
    fingerprint = str(root_fingerprint(workspace.pinned_root.read_bytes()))
    document = {
        "workspace": str(workspace.root),
        "channel": workspace.channel_name,
        "root": str(workspace.pinned_root),
        "fingerprint": fingerprint,
        "starter": True,
    }
    lines = [
        f"workspace    {workspace.root}",
        f"channel      {workspace.channel_name} (starter: one machine holds every key)",
        f"root to pin  {workspace.pinned_root}",
        f"fingerprint  {fingerprint}",
        f"private keys {'in the clear' if no_passphrase else 'encrypted'} in {workspace.root / '.airpack/private'}",
    ]
    output.show(document, lines, as_json=as_json)


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="Folder for the package.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["package", "oci"]),
    default="package",
    show_default=True,
    help="A package for the gap, or a plain OCI layout.",
)
@click.option("--volume-size", default="2GiB", show_default=True, help="Largest volume, in bytes or as 700MiB, 4GiB.")
@click.option(
    "--base",
    "bases",
    multiple=True,
    metavar="REF|site:NAME",
    help="A release that the sites hold: only what they lack is packed. May be given several times.",
)
@click.option("--keep", is_flag=True, help="Copy the large files into the workspace, for later releases to build on.")
@click.option("--dry-run", is_flag=True, help="Say what packages would come to, write nothing.")
@workspace_option
@progress_option
@json_option
def build(
    spec: Path,
    out: Path,
    form: str,
    volume_size: str,
    bases: tuple[str, ...],
    keep: bool,
    dry_run: bool,
    workspace: Path | None,
    progress: bool,
    as_json: bool,
) -> None:
    """Build the release that SPEC describes, sign it, and write its package."""
    from airpack.formats.packspec import parse_size
    from airpack.ops.build import build as run
    from airpack.ops.workspace import Workspace

    result = run(
        Workspace.find(workspace, Path.cwd()),
        spec,
        out,
        form="oci" if form == "oci" else "package",
        passphrase=_passphrase(new=False),
        now=now(),
        volume_size=parse_size(volume_size),
        bases=bases,
        keep=keep,
        dry_run=dry_run,
        reporter=output.reporter(as_json=as_json, progress=progress),
    )
    lines = [f"would pack   {result.product}@{result.version}: {result.files} files, {output.size(result.bytes_raw)}"]
    lines += [line for way in result.ways for line in _way(way)]
    if result.built is not None:
        share = result.bytes_packed / result.bytes_raw if result.bytes_raw else 1.0
        again = " (built before: same release, same signatures)" if result.repeated else ""
        lines = [
            f"built        {result.built.name}{again}",
            f"release      {result.built.release}",
            f"sequence     {result.built.sequence}",
            f"files        {result.files}, {output.size(result.bytes_raw)}",
            f"written      {output.size(result.bytes_packed)} ({share:.0%}) in {result.out}",
            *(f"builds on    {base.name}, which a site must hold" for base in result.bases),
            *(f"head         {path.name}" for path in [result.head] if path),
            *(f"volume       {path.name}" for path in result.volumes),
        ]
    output.show(result.document(), lines, as_json=as_json)


def _way(way: "Way") -> list[str]:
    """Return what a dry run says of one package."""
    found = way.forecast
    how = "every frame coded" if found.is_exact else f"an estimate, {found.coded} of {found.frames} frames coded"
    name = f"on {' + '.join(way.bases)}" if way.bases else "alone"
    lines = [f"{name}: {output.size(found.bytes)} ({how})"]
    if way.tally is not None:
        tally = way.tally
        lines += [
            f"  left out   {tally.reused_files} files, {output.size(tally.reused)}",
            f"  the same   {tally.same_tensors} tensors, {output.size(tally.same)}",
            f"  like it    {tally.like_tensors} tensors, {output.size(tally.like)}",
            f"  patches    {tally.patched_files} files, {output.size(tally.patched)}",
            f"  the rest   {output.size(tally.rest)}",
        ]
    return lines


@click.command()
@click.argument("package", type=click.Path(path_type=Path), required=False)
@workspace_option
@json_option
def publish(package: Path | None, workspace: Path | None, as_json: bool) -> None:
    """Issue fresh channel metadata; with PACKAGE, renew that package's head with it."""
    from airpack.formats.times import emit_time
    from airpack.ops.publish import publish as run
    from airpack.ops.workspace import Workspace

    result = run(Workspace.find(workspace, Path.cwd()), package, passphrase=_passphrase(new=False), now=now())
    rows = [(role, f"version {result.versions[role]}", f"until {emit_time(at)}") for role, at in result.expires.items()]
    lines = [f"channel {result.channel}", *output.table(rows)]
    if result.head is not None:
        lines.append(f"renewed {result.head}")
    output.show(result.document(), lines, as_json=as_json)


@click.command()
@workspace_option
@json_option
def releases(workspace: Path | None, as_json: bool) -> None:
    """List the releases built in this workspace."""
    from airpack.ops.workspace import Workspace

    found = Workspace.find(workspace, Path.cwd())
    built = found.releases()
    document = {
        "channel": found.channel_name,
        "releases": [
            {
                "product": item.product,
                "version": item.version,
                "release": str(item.release),
                "sequence": item.sequence,
                "built": item.built,
            }
            for item in built
        ],
    }
    rows = [("RELEASE", "SEQUENCE", "BUILT", "DIGEST")]
    rows += [(item.name, str(item.sequence), item.built, str(item.release)) for item in built]
    output.show(document, output.table(rows) if built else ["no releases yet"], as_json=as_json)


@click.group()
def receipt() -> None:
    """What sites have acknowledged, as base of the next delta."""


@receipt.command("trust")
@click.argument("name")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    help="The site's public key, SITE/evidence/site.pub, brought by a way that you trust.",
)
@workspace_option
@json_option
def receipt_trust(name: str, key: Path, workspace: Path | None, as_json: bool) -> None:
    """Pin the key of a site under NAME."""
    from airpack.ops.acknowledge import trust_site
    from airpack.ops.workspace import Workspace

    site = trust_site(Workspace.find(workspace, Path.cwd()), name, key)
    output.show(site.document(), [f"pinned {site.name}", f"key    {site.key.fingerprint}"], as_json=as_json)


@receipt.command("add")
@click.argument("bundle", type=click.Path(path_type=Path))
@workspace_option
@json_option
def receipt_add(bundle: Path, workspace: Path | None, as_json: bool) -> None:
    """Audit the evidence export BUNDLE, and take from it which releases its site holds."""
    from airpack.ops.acknowledge import add_receipts
    from airpack.ops.workspace import Workspace

    site = add_receipts(Workspace.find(workspace, Path.cwd()), bundle)
    assert site.held is not None
    rows = [(each.name, str(each.release)) for each in site.held.holdings]
    lines = [f"added export {site.held.state.export} of {site.name}: {site.held.state.size} records"]
    lines += output.table([("HOLDS", "DIGEST"), *rows]) if rows else ["it holds no release"]
    output.show(site.document(), lines, as_json=as_json)


COMMANDS = (init, build, publish, releases, receipt)
