"""The command `facts`, and how facts of models and runtimes are shown to people."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from airpack.cli import output
from airpack.cli.host import highest
from airpack.cli.options import json_option

if TYPE_CHECKING:
    from airpack.formats.facts import Code, Facts
    from airpack.formats.runtimefacts import ClosureFacts, RuntimeFacts

_WIDTH: Final = 160  # characters of a fact
_ROWS: Final = 40  # facts of one table
_NAMES: Final = 12  # names in code
_ORIGINS: Final = {
    "nowhere": "nowhere",
    "host": "from the host",
    "elsewhere": "from a file that is not loaded with it",
    "python": "from Python",
    "node": "from Node.js",
}
_PROGRAMS: Final = frozenset({"python", "node"})  # whose symbols all come with them


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def facts(path: Path, as_json: bool) -> None:
    """Say what the file PATH, or each file in the folder PATH, is by its bytes: models, runtimes. Runs nothing."""
    from airpack.ops.facts import find_facts

    found = find_facts(path)
    lines = [line for file in found.facts.files for line in _file(file)]
    if found.runtime is not None:
        lines += output.table(_runtime(found.runtime))
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


# --- runtimes ---------------------------------------------------------------------------------------------------------


def _runtime(facts: "RuntimeFacts") -> Iterator[tuple[str, str]]:
    """Yield what a runtime is, a fact a row."""
    machines = sorted({file.architecture for file in facts.native})
    yield "runtime", f"{facts.files} files, {output.size(facts.size)}"
    yield "  native", f"{len(facts.native)} files" + (f" for {', '.join(machines)}" if machines else "")
    if facts.closure is not None:
        yield from _few(_closure(facts.closure))
    yield from _few(
        ("  cuda", f"{each.path}: {_listed(f'{code.kind} {code.architecture}' for code in each.code)}")
        for each in facts.cuda
    )
    yield from _projects(facts)
    yield from _engines(facts)
    yield from _few(("  PROBLEM", f"{item.path}: {item.reason}") for item in facts.all_problems)


def _closure(closure: "ClosureFacts") -> Iterator[tuple[str, str]]:
    for need in closure.host:
        words = (need.library, *highest(need.versions), f"on {need.architecture}, needed by {need.users}")
        yield "  from host", " ".join(words)
    for away in closure.out_of_path:
        yield "  out of path", f"{away.path} needs {away.library}, which is at {away.found}"
    for missing in closure.missing:
        yield "  missing", f"{missing.path} needs {missing.version} of {missing.found}"
    for each in closure.unresolved:
        names = "" if each.origin in _PROGRAMS else f": {_listed(each.names)}"
        yield "  unresolved", f"{each.path}: {each.count} symbols, to be had {_ORIGINS[each.origin]}{names}"


def _projects(facts: "RuntimeFacts") -> Iterator[tuple[str, str]]:
    for project in facts.projects[:_ROWS]:
        said = [f"{project.name} {project.version}", *project.architectures]
        said += [f"glibc {project.glibc}"] if project.glibc else []
        said += [f"built with NumPy {max(use.major for use in project.numpy)}"] if project.numpy else []
        yield "  project", ", ".join(said)
        yield from _few(
            ("  contradiction", f"{each.tag}, but {each.path} {each.found}") for each in project.contradictions
        )
    yield from _few(
        ("  pin", f"{pin.project} needs {pin.requirement}; {pin.found or 'none'} is here")
        for pin in facts.pins
        if pin.holds is False
    )


def _engines(facts: "RuntimeFacts") -> Iterator[tuple[str, str]]:
    """Yield what engines that load models read."""
    for each in facts.onnxruntime:
        opsets = _listed(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in each.opsets)
        yield "  onnxruntime", f"IR {_known(each.ir)}, opsets {opsets}"
    for library in facts.llama:
        counts = (_count(library.architectures), _count(library.pre_tokenizers))
        yield "  llama.cpp", f"{counts[0]} architectures, {counts[1]} pre-tokenizers"
    for ggml in facts.ggml:
        yield "  ggml", f"{_count(ggml.types)} tensor types"
    for build in facts.builds:
        yield "  build", f"{build.number} {build.commit}".rstrip()
    if facts.vllm is not None:
        yield "  vllm", f"{facts.vllm.version or 'no version'}: {_count(facts.vllm.architectures)} architectures"
    if facts.transformers is not None:
        known = facts.transformers
        yield "  transformers", f"{known.version or 'no version'}: {_count(known.model_types)} model types"


def _few(rows: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the first rows of a table, and how many are left out."""
    found = list(rows)
    yield from found[:_ROWS]
    if len(found) > _ROWS:
        yield found[-1][0], f"{len(found) - _ROWS} more"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)[:_WIDTH]


def _known(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _count(values: tuple[object, ...] | None) -> str:
    return "unknown" if values is None else str(len(values))
