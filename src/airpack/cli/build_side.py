"""Commands of the connected side: init, build, write, publish, releases."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from airpack.cli import output
from airpack.cli.options import json_option, now, progress_option, workspace_option
from airpack.errors import InputError, StorageError

if TYPE_CHECKING:
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
@click.argument("spec", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="Folder for the package.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["package", "oci"]),
    default="package",
    show_default=True,
    help="A package for the gap, or a plain OCI layout.",
)
@click.option(
    "--volume-size",
    default="2GiB",
    show_default=True,
    help="Largest volume: bytes, 700MiB, 25GB, or fat32, dvd, dvd-dl, bd25, bd50, bd100.",
)
@click.option(
    "--parity",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Parity volumes for each group of up to 256: any N volumes of it may be lost.",
)
@click.option(
    "--repair",
    type=click.Path(path_type=Path),
    metavar="REPORT",
    help="Without SPEC: copy what an import's report asks for from the package in --from.",
)
@click.option("--from", "source", type=click.Path(path_type=Path), help="With --repair: the package, as it was built.")
@click.option("--dry-run", is_flag=True, help="Find and check the inputs, write nothing.")
@workspace_option
@progress_option
@json_option
def build(
    spec: Path | None,
    out: Path,
    form: str,
    volume_size: str,
    parity: int,
    repair: Path | None,
    source: Path | None,
    dry_run: bool,
    workspace: Path | None,
    progress: bool,
    as_json: bool,
) -> None:
    """Build the release that SPEC describes, sign it, and write its package; or repair one that came damaged."""
    if repair is not None or source is not None or spec is None:
        if spec is not None or repair is None or source is None:
            raise InputError(
                "build takes either a pack spec, or --repair REPORT together with --from PACKAGE",
                hint="airpack build --help",
            )
        _repair(repair, source, out, dry_run=dry_run, progress=progress, as_json=as_json)
        return
    from airpack.formats.sizes import parse_volume_size
    from airpack.ops.build import build as run
    from airpack.ops.workspace import Workspace

    result = run(
        Workspace.find(workspace, Path.cwd()),
        spec,
        out,
        form="oci" if form == "oci" else "package",
        passphrase=_passphrase(new=False),
        now=now(),
        volume_size=parse_volume_size(volume_size),
        parity=parity,
        dry_run=dry_run,
        reporter=output.reporter(as_json=as_json, progress=progress),
    )
    lines = [f"would pack   {result.product}@{result.version}: {result.files} files, {output.size(result.bytes_raw)}"]
    if result.built is not None:
        share = result.bytes_packed / result.bytes_raw if result.bytes_raw else 1.0
        again = " (built before: same release, same signatures)" if result.repeated else ""
        lines = [
            f"built        {result.built.name}{again}",
            f"release      {result.built.release}",
            f"sequence     {result.built.sequence}",
            f"files        {result.files}, {output.size(result.bytes_raw)}",
            f"written      {output.size(result.bytes_packed)} ({share:.0%}) in {result.out}",
            *(f"head         {path.name}" for path in [result.head] if path),
            *(f"volume       {path.name}" for path in result.volumes),
        ]
    output.show(result.document(), lines, as_json=as_json)


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count} chunks"


def _repair(report: Path, source: Path, out: Path, *, dry_run: bool, progress: bool, as_json: bool) -> None:
    from airpack.ops.repair_package import repair_package

    reporter = output.reporter(as_json=as_json, progress=progress)
    result = repair_package(report, source, out, dry_run=dry_run, reporter=reporter)
    rows = [
        (part.name, "whole volume" if part.chunks is None else _chunks(part.chunks), output.size(part.size))
        for part in result.parts
    ]
    done = "would copy" if dry_run else "copied"
    lines = [
        f"{done} {output.size(result.size)} of {result.product}@{result.version} to {result.out}",
        *output.table(rows),
        *([f"{result.head.name}, the head"] if result.head else []),
    ]
    output.show(result.document(), lines, as_json=as_json)


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


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option("--only", default="", metavar="VOLUMES", help="Only these: 3,5-7,p1 (p for parity), or names.")
@click.option("--medium", default=1, show_default=True, type=click.IntRange(1, 9999), help="Number of the first DIR.")
@click.option("--no-read-back", is_flag=True, help="Compare nothing: for transfer folders that empty as they fill.")
@click.option("--label", type=click.Path(path_type=Path), help="Write the labels to this file too, as text.")
@click.option("--force", is_flag=True, help="Replace other files under the package's names, and the file of --label.")
@click.option("--dry-run", is_flag=True, help="Say which file would go where, write nothing.")
@progress_option
@json_option
def write(
    package: Path,
    folders: tuple[Path, ...],
    only: str,
    medium: int,
    no_read_back: bool,
    label: Path | None,
    force: bool,
    dry_run: bool,
    progress: bool,
    as_json: bool,
) -> None:
    """Spread PACKAGE over the media mounted at DIR, the head last on each, and read them back."""
    from airpack.errors import PartialError
    from airpack.ops.write import Options, write_package

    options = Options(only=only, first=medium, replace=force, read_back=not no_read_back, dry_run=dry_run, label=label)
    reporter = output.reporter(as_json=as_json, progress=progress)
    try:
        result = write_package(package, folders, options=options, now=now(), reporter=reporter)
    except PartialError as error:
        if not as_json:
            output.show_found(_written_lines(error.document))
        raise
    output.show(result.document(), _written_lines(result.document()), as_json=as_json)


def _written_lines(document: dict[str, Any]) -> list[str]:
    """Return what went where, and each medium's label, for people."""
    lines: list[str] = []
    for medium in document.get("media", []):
        of = f" of {medium['of']}" if medium["of"] else ""
        kind = medium["file_system"] or "file system unknown"
        lines.append(f"medium {medium['medium']}{of}: {medium['folder']} ({kind})")
        done = "to write" if document["dry_run"] else "written"
        lines += output.table(
            ("  " + file["name"], output.size(file["size"]), "there already" if file["kept"] else done)
            for file in medium["files"]
        )
        lines += [_READ_BACK[medium["read_back"]]] if not document["dry_run"] else []
        lines += ["", *(f"    {line}" for line in medium["label"]), ""] if medium["label"] else []
    if document.get("survives_one"):
        lines.append("any one of these media may be lost: parity rebuilds what was on it")
    lines += [f"not of this package, left alone: {name}" for name in document.get("ignored", [])]
    return lines


_READ_BACK = {
    "direct": "  read back from the device, past the page cache: equal",
    "dropped": "  read back after the page cache was told to let go: equal",
    "no": "  not read back",
}

COMMANDS = (init, build, write, publish, releases)
