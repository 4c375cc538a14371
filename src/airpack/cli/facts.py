"""The command `facts`, and how facts are shown to people."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from airpack.cli import output
from airpack.cli.options import json_option

if TYPE_CHECKING:
    from airpack.formats.facts import Code, Facts

_WIDTH: Final = 160  # characters of a fact
_ROWS: Final = 40  # facts of one table
_NAMES: Final = 12  # names in code


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def facts(path: Path, as_json: bool) -> None:
    """Say what the model file PATH, or each file in the folder PATH, is by its bytes. Loads and runs nothing."""
    from airpack.ops.facts import find_facts

    found = find_facts(path)
    lines = [line for file in found.facts.files for line in _file(file)]
    if found.problems and not as_json:
        output.show_found(lines)
    found.check()
    output.show(found.document(), lines, as_json=as_json)


def _file(file: "Facts") -> Iterator[str]:
    """Yield what a file is, then a fact a line with the bytes where it stands."""
    yield "  ".join(word for word in (file.path, file.format, file.detail, output.size(file.size)) if word)
    rows = [(f"  {name}", text, file.places.get(name)) for name, text in _facts(file)]
    yield from output.table((name, text + (f"  @{place[0]}-{place[1]}" if place else "")) for name, text, place in rows)
    yield from (f"  code: {_code(code)}" for code in file.code)
    if file.unsafe:
        yield f"  unsafe: {file.unsafe}"
    yield from (f"  PROBLEM: {item.reason}" + ("" if item.at is None else f" @{item.at}") for item in file.problems)


def _facts(file: "Facts") -> Iterator[tuple[str, str]]:
    """Yield name and value of each fact, those in tables by `TABLE.NAME`."""
    said: dict[str, Any] = file.document().get(file.kind, {})
    for name, value in said.items():
        items = [(f"{name}.{key}", item) for key, item in value.items()] if isinstance(value, dict) else [(name, value)]
        yield from ((key, _text(item)) for key, item in items[:_ROWS])
        if len(items) > _ROWS:
            yield f"{name}.*", f"{len(items) - _ROWS} more"


def _text(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())[:_WIDTH]
    if isinstance(value, list):
        return ", ".join(map(_text, value))[:_WIDTH]
    return str(value)[:_WIDTH]


def _code(code: "Code") -> str:
    more = len(code.names) - _NAMES
    names = ", ".join(code.names[:_NAMES]) + (f" and {more} more" if more > 0 else "")
    shown = names or code.text.strip().replace("\n", "\\n")[:_WIDTH] or "names nothing"
    return f"{code.kind}{f' in {code.where}' if code.where else ''}: {shown}"
