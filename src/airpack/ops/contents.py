"""The transfer officer's lists: what a head says will lie at the site, as CSV for a spreadsheet and as one HTML page.

Both come piece by piece, so that a hundred thousand files take no more memory than ten. Nothing that a head says is
believed: text of others is escaped (`formats.text`), the page has no script and loads nothing, and its content security
policy allows its own style alone.
"""

import base64
import csv
import hashlib
import html
import io
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

import airpack
from airpack.errors import InputError
from airpack.formats.release import ReleaseFile
from airpack.formats.text import printable, spreadsheet_cell
from airpack.fsops import NewFile
from airpack.ops.inspect_ import Inspection

COLUMNS: Final = (
    "kind",
    "name",
    "size",
    "sha256",
    "table_sha256",
    "media_type",
    "license",
    "component",
    "executable",
    "from",
    "verified",
)

_GATHERED: Final = 1 << 16  # characters written at once


def csv_lines(found: Inspection) -> Iterator[str]:
    """Yield what `found` lists as CSV (RFC 4180), line by line, each with its CRLF; the first has the names of columns.

    `kind` is `head`, `file` (as it will lie at the site), `volume`, `parity` or `base` (a release that the site must
    hold). `sha256` is of the whole file, or the base's release digest. A volume has `table_sha256` instead: the digest
    of its chunk table, which is what the manifest signs. `verified` is always `no`.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in _rows(found):
        writer.writerow([spreadsheet_cell(cell) for cell in row])
        yield _taken(buffer)
    yield _taken(buffer)


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


def _rows(found: Inspection) -> Iterator[tuple[str, ...]]:
    """Yield the rows below the columns' names."""
    yield _row("head", found.head.name, found.size, sha256=found.digest.hex)
    for base in found.manifest.bases:
        yield _row("base", base.name, sum(file.size for file in base.files), sha256=base.release.hex)
    for volume in found.manifest.volumes:
        yield _row("volume", volume.name, volume.size, table=volume.table.hex)
    for group in found.manifest.parity:
        for info in group.volumes:
            yield _row("parity", info.name, info.size, table=info.table.hex)
    for file in found.release.files:
        yield _row(
            "file",
            file.path,
            file.size,
            sha256=file.digest.hex,
            media_type=file.media_type,
            licence=file.license,
            component=file.component,
            executable="yes" if file.executable else "no",
            source=found.bases.get(file.digest, "package"),
        )


def _row(
    kind: str,
    name: str,
    size: int,
    *,
    sha256: str = "",
    table: str = "",
    media_type: str = "",
    licence: str = "",
    component: str = "",
    executable: str = "",
    source: str = "",
) -> tuple[str, ...]:
    return kind, name, str(size), sha256, table, media_type, licence, component, executable, source, "no"


def write_html(found: Inspection, path: Path, *, replace: bool = False) -> None:
    """Write the page to `path`.

    Raises:
        InputError: It exists, and `replace` is false.
        StorageError: It cannot be written.
    """
    if os.path.lexists(path) and not replace:
        raise InputError(f"{path} exists", hint="choose another name, or give --force to replace it")
    with NewFile(path.absolute(), foreign=True) as new:
        for piece in _gathered(html_pieces(found)):
            new.write(piece.encode())
        new.commit()


def _gathered(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the same text in pieces worth a write."""
    gathered: list[str] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= _GATHERED:
            yield "".join(gathered)
            gathered, size = [], 0
    yield "".join(gathered)


_STYLE: Final = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5b6677; --line: #d9dee6; --paper: #fff; --ground: #f3f5f8;
  --warn: #a3260a; --warn-ground: #fff1ec; --accent: #1f4e8c; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", "DejaVu Sans", Arial, sans-serif; }
main { max-width: 78rem; margin: 0 auto; padding: 1.5rem; }
.banner { background: var(--warn-ground); border: 1px solid var(--warn); border-left-width: .6rem; border-radius: .4rem;
  color: var(--warn); padding: .8rem 1.1rem; margin-bottom: 1.5rem; }
.banner strong { display: block; font-size: 1.2rem; letter-spacing: .06em; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; font-weight: 600; overflow-wrap: anywhere; }
h3 small, h2 small, .soft { color: var(--soft); font-weight: 400; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: .5rem; padding: 1.1rem 1.3rem;
  margin-bottom: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code, td.digest { font-family: ui-monospace, "Cascadia Mono", "Liberation Mono", "DejaVu Sans Mono", monospace; }
code { font-size: .87em; }
ol.words { list-style: none; display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; margin: .7rem 0 .2rem; }
ol.words li { background: var(--ground); border: 1px solid var(--line); border-radius: .4rem; padding: .35rem .8rem;
  font-size: 1.15rem; font-weight: 600; color: var(--accent); }
table { border-collapse: collapse; width: 100%; font-size: .87rem; table-layout: fixed; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: .32rem 1.1rem .32rem 0; vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
td { border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
tbody tr:last-child td { border-bottom: 0; }
th.size, td.size { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; width: 9rem; }
th.type { width: 21rem; } td.type { font-size: .8rem; }
th.licence { width: 8rem; }
th.digest { width: 16.6rem; } td.digest { font-size: .78rem; }
.tag { display: inline-block; border: 1px solid var(--line); border-radius: .7rem; padding: 0 .55rem; font-size: .74rem;
  color: var(--soft); white-space: nowrap; }
.tag.warn { color: var(--warn); border-color: var(--warn); }
.files { content-visibility: auto; contain-intrinsic-size: auto 30rem; }
footer { color: var(--soft); font-size: .82rem; padding: 0 .3rem; }
@media print {
  @page { size: A4 landscape; margin: 12mm 12mm 15mm;
    @bottom-left { content: "NOT VERIFIED"; font: 600 8pt sans-serif; color: #a3260a; }
    @bottom-right { content: "page " counter(page) " of " counter(pages); font: 8pt sans-serif; color: #5b6677; } }
  body { background: none; font-size: 9pt; }
  main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; margin-bottom: 7mm; }
  .banner { padding: 2mm 4mm; margin-bottom: 5mm; print-color-adjust: exact; }
  .files { content-visibility: visible; }
  table { font-size: 7.5pt; }
  td.type { font-size: 7pt; } th.type { width: 58mm; } th.licence { width: 24mm; }
  th.size, td.size { width: 26mm; } th.digest { width: 49mm; } td.digest { font-size: 6.8pt; }
  thead { display: table-header-group; }
  tr, ol.words, dl { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"


def html_pieces(found: Inspection) -> Iterator[str]:
    """Yield the page, piece by piece."""
    title = _text(f"{found.manifest.product}@{found.manifest.version}")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: not verified</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        '<div class="banner" role="note"><strong>NOT VERIFIED</strong>This is what the head file says of itself. '
        "No signature was checked and no volume was read: <code>airpack verify</code> does that.</div>\n"
        f"<section>\n<h1>{title}</h1>\n"
    )
    yield from _summary(found)
    yield from _volumes(found)
    yield from _claims(found)
    yield from _files(found)
    yield (
        f"<footer>Made by airpack {_text(airpack.__version__)} from {_text(found.head.name)}, "
        f"<code>{found.digest}</code>. Not verified.</footer>\n</main>\n</body>\n</html>\n"
    )


def _summary(found: Inspection) -> Iterator[str]:
    files, release = found.release.files, found.release
    executables = sum(file.executable for file in files)
    said = [
        ("Release", f"<code>{release.digest}</code>"),
        ("Files at the site", f"{len(files):,}, of them {executables:,} executable"),
        ("Bytes at the site", f"{sum(file.size for file in files):,}"),
        (
            "Bytes on the media",
            f"{found.manifest.stored:,} in {len(found.manifest.names):,} volumes, {found.size:,} in the head",
        ),
        *(
            ("Model", f"{_text(model.name)}: {_text(model.format or 'mixed')}, licence {_licence(model.license)}")
            for model in release.models
        ),
        *(
            ("Runtime", f"{_text(item.name)}: {_text(item.kind)} for {_text(item.platform or 'any platform')}")
            for item in release.compat.runtimes
        ),
        *(("Needs at the site", f"{_text(base.name)}, <code>{base.release}</code>") for base in found.manifest.bases),
        ("Bill of materials", "comes along (CycloneDX)" if found.has_bom else "none"),
        ("Needs", f"airpack {_text(found.manifest.needs_airpack)} or newer"),
        ("Head file", f"{_text(found.head.name)}<br><code>{found.digest}</code>"),
    ]
    yield _pairs(said)
    words = "".join(f"<li>{_text(word)}</li>" for word in found.words.split())
    yield (
        f"<h3>To read aloud <small>the first 64 bits of the head file's SHA-256, PGP word list</small></h3>\n"
        f'<ol class="words">{words}</ol>\n</section>\n'
    )


def _volumes(found: Inspection) -> Iterator[str]:
    rows = [("", volume.name, volume.size, volume.table.hex) for volume in found.manifest.volumes]
    for group in found.manifest.parity:
        covers = f"parity over volumes {group.first + 1} to {group.first + group.count}"
        rows += [(covers, info.name, info.size, info.table.hex) for info in group.volumes]
    yield (
        f"<section>\n<h2>Volumes <small>{len(rows):,}</small></h2>\n"
        '<p class="soft">Signed is the SHA-256 of a volume\'s chunk table, which in turn lists the SHA-256 of every '
        f"chunk. Each volume begins with the package manifest's own: <code>{found.payload.hex}</code>.</p>\n"
    )
    if rows:
        yield _head("Name", "Size", "SHA-256 of its chunk table")
        for note, name, size, table in rows:
            tag = f' <span class="tag">{_text(note)}</span>' if note else ""
            yield (
                f'<tr><td>{_text(name)}{tag}</td><td class="size">{size:,}</td>'
                f'<td class="digest">{_digest(table)}</td></tr>\n'
            )
        yield "</tbody></table>\n"
    yield "</section>\n"


def _claims(found: Inspection) -> Iterator[str]:
    yield (
        "<section>\n<h2>Who says they signed <small>not verified</small></h2>\n"
        "<table><thead><tr><th>Statement</th><th>Key, as it names itself</th></tr></thead><tbody>\n"
        f"<tr><td>package manifest, {found.signatures} signature{'' if found.signatures == 1 else 's'}</td>"
        "<td>names none</td></tr>\n"
    )
    for claim in found.claims:
        yield f"<tr><td>{_text(claim.predicate_type)}</td><td><code>{_text(claim.key_hint)}</code></td></tr>\n"
    yield "</tbody></table>\n</section>\n"


def _files(found: Inspection) -> Iterator[str]:
    files = sorted(found.release.files, key=lambda file: file.component)  # stable: by path within
    yield f"<section>\n<h2>Files at the site <small>{len(files):,}</small></h2>\n"
    for component, group in groupby(files, key=lambda file: file.component):
        yield f'<div class="files">\n<h3>{_text(component)}</h3>\n'
        yield _head("Path", "Size", "Media type", "Licence", "SHA-256")
        for file in group:
            yield _file(file, found.bases.get(file.digest, ""))
        yield "</tbody></table>\n</div>\n"
    yield "</section>\n"


def _file(file: ReleaseFile, base: str) -> str:
    tags = '<span class="tag warn">executable</span>' if file.executable else ""
    tags += f'<span class="tag">from {_text(base)}, not on the media</span>' if base else ""
    return (
        f'<tr><td>{_text(file.path)} {tags}</td><td class="size">{file.size:,}</td>'
        f'<td class="type">{_text(file.media_type)}</td><td>{_licence(file.license)}</td>'
        f'<td class="digest">{_digest(file.digest.hex)}</td></tr>\n'
    )


def _pairs(said: Iterable[tuple[str, str]]) -> str:
    return "<dl>\n" + "".join(f"<dt>{name}</dt><dd>{content}</dd>\n" for name, content in said) + "</dl>\n"


_COLUMNS: Final = {"Size": "size", "Media type": "type", "Licence": "licence"}


def _head(*names: str) -> str:
    """Return the start of a table; a column of digests comes last."""
    cells = [f'<th class="{_COLUMNS[name]}">{name}</th>' if name in _COLUMNS else f"<th>{name}</th>" for name in names]
    cells[-1] = f'<th class="digest">{names[-1]}</th>'
    return f"<table><thead><tr>{''.join(cells)}</tr></thead><tbody>\n"


def _digest(digits: str) -> str:
    """Return 64 hex digits that may break in the middle, and are found and copied as one word all the same."""
    return f"{digits[:32]}<wbr>{digits[32:]}"


def _licence(text: str) -> str:
    return _text(text) if text else '<span class="soft">not stated</span>'


def _text(text: str) -> str:
    """Return text of others as HTML that shows it and does nothing."""
    return html.escape(printable(text), quote=True)
