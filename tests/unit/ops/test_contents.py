import base64
import csv
import hashlib
import io
import re
import tracemalloc
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.fuzz import seeds

from airpack.errors import InputError
from airpack.formats.package import Base, FileInfo, ParityGroup, ParityInfo
from airpack.formats.release import ModelInfo, ReleaseFile
from airpack.ops.contents import COLUMNS, csv_lines, html_pieces, write_html
from airpack.ops.inspect_ import Claim, Inspection, inspect_package
from airpack.types import Digest

HOSTILE = (
    "<script>alert(1)</script>",
    "</td></tr></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' style='x",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "a;=1",
    "\x1b[2J\u202egpj.exe",
    "\udcff",
    'a","b\r\nfile',
    "</style><script>alert(1)</script>",
    "&lt;b&gt;",
)


@pytest.fixture
def found(tmp_path: Path) -> Inspection:
    path = tmp_path / "tool.airpack"
    path.write_bytes((seeds.CORPUS / "head/seed-package").read_bytes())
    return inspect_package(path)


def hostile(found: Inspection) -> Inspection:
    """An inspection in which every text that comes from a head or a medium is hostile, whatever readers refuse."""
    files = tuple(
        ReleaseFile(
            f"{text}{number}", Digest.of(text.encode("utf-8", "replace")), number, number % 2 == 0, text, text, text
        )
        for number, text in enumerate(HOSTILE)
    )
    release = replace(
        found.release,
        files=files,
        models=tuple(ModelInfo(text, text, text) for text in HOSTILE),
    )
    manifest = replace(
        found.manifest,
        product=HOSTILE[0],
        version=HOSTILE[1],
        needs_airpack=HOSTILE[4],
        volumes=tuple(replace(found.manifest.volumes[0], name=text) for text in HOSTILE),
        parity=(ParityGroup(0, 1, 1, tuple(ParityInfo(text, 5, Digest.of(b"")) for text in HOSTILE)),),
        bases=tuple(Base(Digest.of(b"b"), text, text, (FileInfo(files[0].digest, 3),)) for text in HOSTILE),
    )
    return replace(
        found,
        head=found.head.with_name("=cmd|' calc'!A0 <b>.airpack"),
        manifest=manifest,
        release=release,
        bases={files[0].digest: HOSTILE[0], files[1].digest: HOSTILE[4]},
        claims=tuple(Claim(text, Digest.of(b""), text) for text in HOSTILE),
        ignored=HOSTILE,
    )


class Page(HTMLParser):
    """What a browser would see: tags, attributes, and the text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: set[tuple[str, str]] = set()
        self.open: list[str] = []
        self.text = ""
        self.style = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {(tag, name) for name, _ in attrs}
        if tag not in {"meta", "br", "wbr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data


TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "div", "footer", "h1", "h2", "h3", "small"),
    *("p", "strong", "code", "span", "br", "wbr", "dl", "dt", "dd", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"charset", "http-equiv", "content", "name", "lang", "class", "role"}


def page(found: Inspection) -> str:
    return "".join(html_pieces(found))


def rows(found: Inspection) -> list[dict[str, str]]:
    text = "".join(csv_lines(found))
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_page_of_hostile_names_has_no_tag_and_no_attribute_of_theirs(found: Inspection) -> None:
    text = page(hostile(found))
    seen = Page(text)
    assert set(seen.tags) <= TAGS
    assert {name for _, name in seen.attributes} <= ATTRIBUTES
    assert {tag for tag, name in seen.attributes if name == "content"} == {"meta"}
    assert "script" not in seen.tags
    assert seen.tags["style"] == 1
    for name in HOSTILE[:4]:
        assert name in seen.text, "what is escaped is still shown"
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J\\x202egpj.exe" in seen.text


def test_the_pages_policy_allows_its_own_style_and_nothing_else(found: Inspection) -> None:
    text = page(hostile(found))
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    style = base64.b64encode(hashlib.sha256(Page(text).style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    assert text.index(policy) < text.index("<title>")
    assert not re.search(r"url\(|@import|src=|href=", Page(text).style)


def test_the_page_says_first_that_nothing_is_verified_and_lists_everything(found: Inspection) -> None:
    text = Page(page(found)).text
    name = f"{found.manifest.product}@{found.manifest.version}"
    assert text.replace(f"{name}: not verified", "").index("NOT VERIFIED") < text.index(f"\n{name}\n")
    for file in found.release.files:
        for word in (file.path, file.media_type, file.component, file.digest.hex, f"{file.size:,}"):
            assert word in text
    for volume in found.manifest.volumes:
        assert volume.name in text
        assert volume.table.hex in text
    for claim in found.claims:
        assert claim.key_hint in text
    assert all(word in text for word in found.words.split())
    assert str(found.digest) in text
    assert found.payload.hex in text


def test_no_cell_of_hostile_names_computes_and_none_breaks_a_row(found: Inspection) -> None:
    made = hostile(found)
    text = "".join(csv_lines(made))
    assert text.isascii()
    assert not re.search(r"[^\r]\n|\r(?!\n)", text), "only CRLF at the ends of records"
    found_rows = rows(made)
    assert len(found_rows) == 1 + 4 * len(HOSTILE)
    for row in found_rows:
        assert set(row) == set(COLUMNS)
        for cell in row.values():
            assert not re.search(r"(^|;)\s*[=+\-@\t\r\n]", cell), cell
        assert row["verified"] == "no"


def test_the_csv_lists_the_head_every_volume_and_every_file(found: Inspection) -> None:
    listed = rows(found)
    assert (listed[0]["kind"], listed[0]["sha256"]) == ("head", found.digest.hex)
    assert listed[0]["size"] == str(found.head.stat().st_size)
    volumes = {row["name"]: row for row in listed if row["kind"] == "volume"}
    for info in found.manifest.volumes:
        assert volumes[info.name]["table_sha256"] == info.table.hex
        assert volumes[info.name]["sha256"] == ""
    files = {row["name"]: row for row in listed if row["kind"] == "file"}
    for file in found.release.files:
        assert files[file.path] == {
            "kind": "file",
            "name": file.path,
            "size": str(file.size),
            "sha256": file.digest.hex,
            "table_sha256": "",
            "media_type": file.media_type,
            "license": file.license,
            "component": file.component,
            "executable": "yes" if file.executable else "no",
            "from": "package",
            "verified": "no",
        }
    assert "".join(csv_lines(found)).startswith('"kind","name","size","sha256",')


def test_parity_and_bases_are_listed_and_files_that_do_not_travel_say_so(found: Inspection) -> None:
    held = found.release.files[0]
    group = ParityGroup(0, 1, 1, (ParityInfo("p.p01.airvol", 7, Digest.of(b"t")),))
    base = Base(Digest.of(b"old"), "tool", "0.9.0", (FileInfo(held.digest, held.size),))
    made = replace(
        found,
        manifest=replace(found.manifest, parity=(group,), bases=(base,)),
        bases={held.digest: base.name},
    )
    listed = {row["kind"]: row for row in rows(made) if row["kind"] in {"parity", "base"}}
    assert listed["parity"]["table_sha256"] == Digest.of(b"t").hex
    assert (listed["base"]["name"], listed["base"]["sha256"]) == ("tool@0.9.0", Digest.of(b"old").hex)
    assert [row["from"] for row in rows(made) if row["name"] == held.path] == ["tool@0.9.0"]
    text = Page(page(made)).text
    assert "from tool@0.9.0, not on the media" in text
    assert "parity over volumes 1 to 1" in text


def test_many_files_take_the_memory_of_few(found: Inspection) -> None:
    """Each list has several megabytes; what makes them holds a row at a time."""
    made = replace(found, release=replace(found.release, files=found.release.files[:1] * 20_000))
    for lines in (csv_lines, html_pieces):
        tracemalloc.start()
        try:
            size = sum(map(len, lines(made)))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert size > 3_000_000
        assert peak < 1 << 20


def test_a_page_replaces_nothing_unasked(found: Inspection, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html(found, out)
    assert out.read_text("utf-8") == page(found)
    with pytest.raises(InputError, match="exists"):
        write_html(found, out)
    out.write_text("old")
    write_html(found, out, replace=True)
    assert out.read_text("utf-8") == page(found)
