"""What llama.cpp and ggml libraries read, from their data.

    read_llama(Elf(libllama))       ->  LlamaFacts(architectures=("arcee", ...), pre_tokenizers=("a.x-4.0", ...), ...)
    read_ggml(Elf(libggml_base))    ->  GgmlFacts(types=(GgmlType(0, "f32", ...), ...), version="0.25.1", ...)

Architectures and pre-tokenizers are lists in its source, so a compiler lays their names end to end: between a name that
every build has and the text that follows the list. A name that is also the tail of another is not in the run, but where
that other is: `facts.names.find_names` finds it. So the lists are for people; a rule asks for the name.

Tensor types are ggml's table `type_traits`, found through the relocations of its pointers: an entry of fixed length for
each type number, name first, then elements and bytes of a block. It decides alone which numbers are read.

A library that was built otherwise gives None for what it does not show.
"""

import re
from collections.abc import Mapping
from typing import Final

from airpack.facts.elf import Elf, relative_pointers
from airpack.facts.names import data_of, find_names
from airpack.facts.reader import MalformedError
from airpack.facts.symbols import Symbols
from airpack.formats.runtimefacts import GgmlFacts, GgmlType, LlamaBuild, LlamaFacts

_ANCHORS: Final = ("llama", "gpt2", "falcon", "(unknown)", "general.architecture")
_NAME: Final = re.compile(rb"[a-z0-9][a-z0-9._-]{0,63}\Z")
_ARCHITECTURES: Final = re.compile(rb"\0((?:[a-z0-9][a-z0-9._-]{0,63}\0){8,600})\(unknown\)\0")
_TOKENIZERS: Final = re.compile(rb"\0default\0((?:[a-z0-9][a-z0-9._-]{0,63}\0){8,600})")
_RUN: Final = 64 << 10  # bytes of the longest run of names
_TYPES: Final = 256  # tensor types
_TYPE_NAME: Final = re.compile(r"[a-z][A-Za-z0-9_]{1,31}\Z")
_STRIDES: Final = range(24, 264, 8)  # bytes of one entry of the table
_BLOCK: Final = 1 << 16  # elements or bytes of one block
_RETURNS: Final = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?\x48\x8d\x05(....)\xc3", re.DOTALL)  # lea rax, [rip + x]; ret
_TEXT: Final = re.compile(r"[\x21-\x7e]{1,64}\Z")


def read_llama(elf: Elf) -> LlamaFacts | None:
    """Return what a libllama reads; None when the file is none.

    Args:
        elf: The library, or a program that holds it.

    Raises:
        MalformedError: It contradicts itself, or asks for more work than any real one.
        StorageError: It cannot be read.
    """
    anchors = find_names(elf, _ANCHORS)
    if len(anchors) < len(_ANCHORS):
        return None
    symbols = Symbols(elf)
    return LlamaFacts(
        path=elf.reader.what,
        version=_returned(elf, symbols, b"llama_version"),
        architectures=_architectures(elf),
        pre_tokenizers=_run(elf, _TOKENIZERS),
        at=anchors["llama"],
    )


def read_build(elf: Elf) -> LlamaBuild | None:
    """Return which build of llama.cpp a library or program is part of; None where it exports no number."""
    symbols = Symbols(elf)
    place = symbols.find(b"LLAMA_BUILD_NUMBER")
    if place is None or place.size != elf.forms.int.size:
        return None
    at = elf.offset(place.address, place.size)
    return LlamaBuild(elf.reader.what, elf.reader.unpack(elf.forms.int, at)[0], _pointed(elf, symbols), at)


def read_ggml(elf: Elf) -> GgmlFacts | None:
    """Return what a libggml-base reads; None when the file is none. Arguments and errors as `read_llama`."""
    symbols = Symbols(elf)
    if not symbols.defines(b"ggml_type_name", ""):
        return None
    types = _types(elf)
    return GgmlFacts(
        path=elf.reader.what,
        version=_returned(elf, symbols, b"ggml_version"),
        commit=_returned(elf, symbols, b"ggml_commit"),
        types=types,
    )


def _architectures(elf: Elf) -> tuple[str, ...] | None:
    names = _run(elf, _ARCHITECTURES, ordered=True)
    if names is None or "llama" not in names:
        return None
    first = names.index("llama")
    if first and names[first - 1] == "clip":  # the one before it, since there is such a kind of file
        first -= 1
    return tuple(sorted(set(names[first:])))


def _run(elf: Elf, pattern: "re.Pattern[bytes]", *, ordered: bool = False) -> tuple[str, ...] | None:
    """Return the names in the one run that `pattern` finds; None where it finds none, or more than one."""
    found: dict[int, bytes] = {}
    for at, piece in data_of(elf, overlap=_RUN):
        for match in pattern.finditer(piece):
            if match.end() - match.start() <= _RUN:
                found[at + match.start()] = match[1]
    if len(found) != 1:
        return None
    names = [name.decode() for name in next(iter(found.values())).split(b"\0")[:-1]]
    return tuple(names) if ordered else tuple(sorted(set(names)))


def _types(elf: Elf) -> tuple[GgmlType, ...] | None:
    """Return the tensor types of the table; None where it is not there in the form that is known."""
    pointers = relative_pointers(elf)
    named = {start: name for start, target in pointers.items() if (name := _text_at(elf, target))}
    for start in sorted(start for start, name in named.items() if name == "f32"):
        for stride in _STRIDES:
            if named.get(start + stride) == "f16" and named.get(start + 2 * stride) == "q4_0":
                return _table(elf, named, start, stride)
    return None


def _table(elf: Elf, named: Mapping[int, str], start: int, stride: int) -> tuple[GgmlType, ...]:
    found: list[GgmlType] = []
    for number in range(_TYPES):
        address = start + number * stride
        name = named.get(address, "")
        if not name and not any(address + step * stride in named for step in range(1, 9)):
            break
        if not _TYPE_NAME.match(name):
            if name and "REMOVED" not in name and "DEPRECATED" not in name:
                break  # what follows the table
            continue
        at = elf.offset(address, stride)
        elements, size = _block(elf, at, stride)
        if not (0 < elements <= _BLOCK and 0 < size <= _BLOCK):
            break
        found.append(GgmlType(number, name, elements, size, at))
    return tuple(found)


def _block(elf: Elf, at: int, stride: int) -> tuple[int, int]:
    """Return elements and bytes of one block: the second field, and the next that is not 0 (an interleave is)."""
    word = elf.forms.word
    fields = [
        elf.reader.unpack(word, at + place)[0] for place in range(word.size, min(stride, 4 * word.size), word.size)
    ]
    return fields[0], next((field for field in fields[1:] if field), 0)


def _text_at(elf: Elf, address: int) -> str:
    """Return the short text at an address; empty where there is none."""
    try:
        return elf.reader.text(elf.offset(address), elf.offset(address) + 96)
    except MalformedError:
        return ""


def _returned(elf: Elf, symbols: Symbols, name: bytes) -> str:
    """Return the text whose address a function returns and does nothing else; empty for any other function."""
    place = symbols.find(name)
    if place is None or elf.architecture != "amd64" or not 8 <= place.size <= 16:  # noqa: PLR2004 - bytes of such code
        return ""
    match = _RETURNS.match(elf.reader.exactly(elf.offset(place.address, place.size), place.size))
    if match is None:
        return ""
    text = _text_at(elf, place.address + match.end() - 1 + int.from_bytes(match[1], "little", signed=True))
    return text if _TEXT.match(text) else ""


def _pointed(elf: Elf, symbols: Symbols) -> str:
    """Return the commit; empty where none is exported."""
    place = symbols.find(b"LLAMA_COMMIT")
    target = relative_pointers(elf).get(place.address) if place is not None else None
    text = _text_at(elf, target) if target is not None else ""
    return text if _TEXT.match(text) else ""
