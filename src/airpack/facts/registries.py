"""Which models vLLM and transformers register, from the tables in their source: nothing is imported.

    read_vllm({"vllm/model_executor/models/registry.py": b"...", ...})          ->  VllmFacts(...)
    read_transformers({"transformers/models/auto/auto_mappings.py": b"...", ...})  ->  TransformersFacts(...)

A table is a statement at the left margin: `NAME = {...}`, `NAME = OrderedDict([...])`, `NAME = Literal[...]`,
`NAME.update({...})`. Each such statement is cut out and parsed by itself, so that the rest of the file may be written
for a newer Python than this one, and a hostile file costs no more than its tables.

What is registered while a program runs (plug-ins) is in no table; a table that is not plain text gives None.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from airpack.facts.reader import MalformedError
from airpack.formats.runtimefacts import TransformersFacts, VllmFacts

SOURCE: Final = 4 << 20  # bytes of one source file
_STATEMENT: Final = 96 << 10  # bytes of one table: parsed, each costs some 600
_TABLES: Final = 1024  # of one file
_ENTRIES: Final = 1 << 14  # of one table
_NAME: Final = 200  # characters
_ENDS: Final = re.compile(rb"^(?![\s)\]}#]|$)", re.MULTILINE)  # a line that begins another statement

VLLM_REGISTRY: Final = "vllm/model_executor/models/registry.py"
VLLM_QUANTIZATION: Final = "vllm/model_executor/layers/quantization/__init__.py"
TRANSFORMERS: Final = tuple(
    f"transformers/models/auto/{name}.py" for name in ("configuration_auto", "auto_mappings", "modeling_auto")
)
_VLLM_TABLES: Final = re.compile(rb"^(_[A-Z_]+_MODELS)\b", re.MULTILINE)
_VLLM_METHODS: Final = re.compile(rb"^(QuantizationMethods)\b", re.MULTILINE)
_CONFIGS: Final = re.compile(rb"^(CONFIG_MAPPING_NAMES)\b", re.MULTILINE)
_CLASSES: Final = re.compile(rb"^(MODEL_[A-Z0-9_]*MAPPING_NAMES)\b", re.MULTILINE)
_DROPPED: Final = "_PREVIOUSLY_SUPPORTED_MODELS"
_ELSEWHERE: Final = "_OOT_SUPPORTED_MODELS"  # models that need a package of their own


@dataclass(frozen=True, slots=True)
class _Table:
    """One table: its name, its texts, for each of them the texts beside it, and where its statement begins."""

    name: str
    entries: Mapping[str, tuple[str, ...]]
    at: int


def read_vllm(sources: Mapping[str, bytes], version: str) -> VllmFacts | None:
    """Return the models that vLLM registers.

    Args:
        sources: Its source files by path: `VLLM_REGISTRY`, `VLLM_QUANTIZATION`.
        version: Its version.

    Returns:
        Facts; None without its registry.

    Raises:
        MalformedError: A table cannot be read: it is too long, or not plain texts.
    """
    if VLLM_REGISTRY not in sources:
        return None
    tables = list(_tables(sources[VLLM_REGISTRY], _VLLM_TABLES))
    models: set[str] = set()
    dropped: dict[str, str] = {}
    for table in tables:
        if table.name == _DROPPED:
            dropped |= {name: "".join(values[:1]) for name, values in table.entries.items()}
        elif table.name != _ELSEWHERE:
            models |= table.entries.keys()
    methods = [table for table in _tables(sources.get(VLLM_QUANTIZATION, b""), _VLLM_METHODS) if table.entries]
    return VllmFacts(
        path=VLLM_REGISTRY,
        version=version,
        architectures=tuple(sorted(models)) or None,
        dropped=dropped,
        quantizations=tuple(sorted(methods[0].entries)) if methods else None,
        at=tables[0].at if tables else 0,
    )


def read_transformers(sources: Mapping[str, bytes], version: str) -> TransformersFacts | None:
    """Return the models that transformers registers.

    Args:
        sources: Its source files by path: some of `TRANSFORMERS`.
        version: Its version.

    Returns:
        Facts; None without any of those files.

    Raises:
        MalformedError: As `read_vllm`.
    """
    found = {path: sources[path] for path in TRANSFORMERS if path in sources}
    if not found:
        return None
    types: set[str] = set()
    classes: set[str] = set()
    first: tuple[str, int] | None = None
    for path, source in found.items():
        for table in _tables(source, _CONFIGS):
            types |= table.entries.keys()
            first = first or (path, table.at)
        for table in _tables(source, _CLASSES):
            classes |= {name for values in table.entries.values() for name in values}
    return TransformersFacts(
        path=first[0] if first else next(iter(found)),
        version=version,
        model_types=tuple(sorted(types)) or None,
        architectures=tuple(sorted(classes)) or None,
        at=first[1] if first else 0,
    )


def _tables(source: bytes, names: "re.Pattern[bytes]") -> Iterator[_Table]:
    """Yield the tables whose names match, in order."""
    if len(source) > SOURCE:
        raise MalformedError(f"a source file of {len(source)} bytes; at most {SOURCE} are read", 0)
    for number, match in enumerate(names.finditer(source)):
        if number >= _TABLES:
            raise MalformedError(f"more than {_TABLES} tables", match.start())
        reading = _Reading(names, match.start())
        if reading.statement(_statement(source, match.start())):
            yield _Table(match[1].decode(), reading.found, match.start())


def _statement(source: bytes, start: int) -> bytes:
    """Return the statement that begins at `start`, up to the line that begins another."""
    line = source.find(b"\n", start)
    if line < 0:
        return source[start:]
    end = _ENDS.search(source, line + 1)
    text = source[start : end.start() if end else len(source)]
    if len(text) > _STATEMENT:
        raise MalformedError(f"a table of {len(text)} bytes; at most {_STATEMENT} are read", start)
    return text


class _Reading:
    """The texts of one table being read.

    An entry that is no plain text makes the table unreadable: what is missing from half a table may be in the other.
    Other tables of the same kind that are put into this one are read where they stand.

    Args:
        names: What tables of this kind are called.
        at: Where the statement begins, for messages.
    """

    def __init__(self, names: "re.Pattern[bytes]", at: int) -> None:
        self._names, self._at = names, at
        self.found: dict[str, tuple[str, ...]] = {}

    def statement(self, text: bytes) -> bool:
        """Read a statement; false for one that makes no table, such as a type's annotation."""
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._fault(f"a table that Python cannot read: {type(error).__name__}") from error
        match body:
            case [ast.Assign(value=value)] | [ast.AnnAssign(value=ast.expr() as value)]:
                self._table(value)
            case [ast.Expr(value=ast.Call(func=ast.Attribute(attr="update"), args=parts, keywords=[]))]:
                self._parts(parts)
            case _:
                return False
        return True

    def _table(self, value: ast.expr) -> None:
        match value:
            case ast.Dict(keys=keys, values=values):
                for key, item in zip(keys, values, strict=True):
                    if key is None:
                        self._parts([item])
                    else:
                        self._entry(key, item)
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                for item in items:
                    self._item(item)
            case ast.Call(func=ast.Name(id="OrderedDict" | "dict" | "set" | "frozenset"), args=parts, keywords=named):
                self._parts([*parts, *(keyword.value for keyword in named if keyword.arg is None)])
                for keyword in named:
                    if keyword.arg is not None:
                        self._entry(ast.Constant(keyword.arg), keyword.value)
            case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
                self._table(inner if isinstance(inner, ast.Tuple) else ast.Tuple(elts=[inner]))
            case _:
                self._parts([value])

    def _parts(self, parts: Iterable[ast.expr]) -> None:
        """Read what is put into a table: a literal, or another table by its name."""
        for part in parts:
            match part:
                case ast.Dict() | ast.List() | ast.Tuple() | ast.Set():
                    self._table(part)
                case _ if any(
                    isinstance(node, ast.Name) and self._names.match(node.id.encode()) for node in ast.walk(part)
                ):
                    pass
                case _:
                    raise self._fault("a table made of something that is no table of the kind")

    def _item(self, item: ast.expr) -> None:
        match item:
            case ast.Starred(value=value):
                self._parts([value])
            case ast.Tuple(elts=[key, *rest]):
                self._entry(key, ast.Tuple(elts=rest))
            case _:
                self._entry(item, None)

    def _entry(self, key: ast.expr, value: ast.expr | None) -> None:
        match key:
            case ast.Constant(value=str(name)) if 0 < len(name) <= _NAME:
                self.found[name] = tuple(_texts(value)) if value is not None else ()
            case _:
                raise self._fault("a table with an entry that is no plain text")
        if len(self.found) > _ENTRIES:
            raise self._fault(f"a table of more than {_ENTRIES} entries")

    def _fault(self, reason: str) -> MalformedError:
        return MalformedError(reason, self._at)


def _texts(value: ast.expr, depth: int = 3) -> Iterator[str]:
    """Yield the texts in a literal beside an entry."""
    match value:
        case ast.Constant(value=str(text)) if len(text) <= _NAME:
            yield text
        case ast.Tuple(elts=items) | ast.List(elts=items) if depth:
            for item in items:
                yield from _texts(item, depth - 1)
