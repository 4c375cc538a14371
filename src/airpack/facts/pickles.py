"""Reads pickles without unpickling: which names they would import, by walking their opcodes.

    scan(reader, 0, reader.size)  ->  Scan(protocol=2, pickles=1, names={"collections.OrderedDict", ...}, ...)

Opcodes and what they do to the stack are those of the standard library's pickletools. Values are not built: texts
stand on the stack, because a name may be put together from them, and for everything else nothing does. A name that
cannot be told is `?`. Where a pickle is no valid one, what came before would still have been called: names found so
far stay.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import Code, PickleFacts

READER: Final = "pickle/1"
UNKNOWN: Final = "?"

_TEXT: Final = 1024  # bytes of a text that may be part of a name
_LINE: Final = 4096  # bytes of a line, an argument of protocol 0
_LONGEST_LINE: Final = 1 << 20  # bytes of one that is passed over, a text of protocol 0
_NAMES: Final = 4096  # different names in one file
_PICKLES: Final = 1024  # one behind the other
_STACK: Final = 1 << 20  # things on the stack, or remembered

_MARK: Final = object()
_Item = object  # a str, _MARK, or None for everything else


@dataclass(frozen=True, slots=True)
class _Op:
    """What one opcode takes and leaves.

    Attributes:
        size: Bytes of its argument; -1 for lines, -2 for an argument with its length before it.
        width: Bytes of that length.
        lines: How many lines.
        pops: What it takes from the stack, down to the last mark where `marked`, and then so many more.
        marked: As said.
        pushes: What it leaves.
        texts: Whether its argument is a text.
    """

    size: int
    width: int
    lines: int
    pops: int
    marked: bool
    pushes: int
    texts: bool


def _op(op: pickletools.OpcodeInfo) -> _Op:
    before = [str(item) for item in op.stack_before]
    marked = "mark" in before
    kind = op.arg.n if op.arg is not None else 0
    return _Op(
        size=kind if kind >= 0 else -1 if kind == pickletools.UP_TO_NEWLINE else -2,
        width={-2: 1, -3: 4, -4: 4, -5: 8}.get(kind, 0),
        lines=(2 if op.code in "ci" else 1) if kind == pickletools.UP_TO_NEWLINE else 0,
        pops=before.index("mark") if marked else len(before),
        marked=marked,
        pushes=len(op.stack_after),
        texts="UNICODE" in op.name or "STRING" in op.name,
    )


_OPS: Final[Mapping[int, _Op]] = {ord(op.code): _op(op) for op in pickletools.opcodes}
_LENGTHS: Final = {1: struct.Struct("<B"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}
_GLOBAL, _INST, _STACK_GLOBAL, _STOP, _PROTO = ord("c"), ord("i"), 0x93, ord("."), 0x80
_MEMOIZE, _DUP, _POP, _MARK_OP = 0x94, ord("2"), ord("0"), ord("(")
_BINPUT, _BINGET = ord("q"), ord("h")
_PUTS: Final = (ord("p"), _BINPUT, ord("r"))
_GETS: Final = (ord("g"), _BINGET, ord("j"))
_EXTENSIONS: Final = {0x82: struct.Struct("<B"), 0x83: struct.Struct("<H"), 0x84: struct.Struct("<i")}
_NUMBERS: Final = {code: struct.Struct(form) for code, form in zip(b"qhrj", ("<B", "<B", "<I", "<I"), strict=True)}
_HIGHEST: Final = 5  # protocol
_NEAR: Final = 16  # bytes: an opcode of fixed length is shorter
# Opcodes of fixed length that neither name, remember, mark nor double anything: length, what they take and leave.
_PLAIN: Final = {
    code: (1 + op.size, op.pops, op.pushes)
    for code, op in _OPS.items()
    if op.size >= 0
    and not op.marked
    and code
    not in {_STACK_GLOBAL, _PROTO, _MEMOIZE, _DUP, _POP, _MARK_OP, _BINPUT, _BINGET, ord("r"), ord("j"), *_EXTENSIONS}
}


@dataclass(slots=True)
class Scan:
    """What was found in pickles that lie one behind the other.

    Attributes:
        protocol: The highest.
        pickles: How many ended as they should.
        names: What they name, with where it is named first.
        start: Where the first one begins.
        end: Where the last one ends.
        fault: Why the last one is none, and where; None when nothing is wrong.
    """

    protocol: int = 0
    pickles: int = 0
    names: dict[str, int] = field(default_factory=dict)
    start: int = 0
    end: int = 0
    fault: MalformedError | None = None


def scan(reader: Reader, start: int, stop: int) -> Scan:
    """Return what the pickles from `start` on name, none of them beyond `stop`.

    A second pickle is looked for where the first ends, by its header: only one of protocol 2 or higher is found.

    Raises:
        StorageError: The file cannot be read.
    """
    found = Scan(start=start, end=start)
    try:
        while found.pickles < _PICKLES and found.end < stop:
            if found.pickles and not _begins(reader, found.end, stop):
                break
            found.end = _Machine(reader, stop, found).run(found.end)
            found.pickles += 1
    except MalformedError as error:
        found.fault = error
    return found


def _begins(reader: Reader, at: int, stop: int) -> bool:
    head = reader.most(at, min(3, stop - at))
    return len(head) == 3 and head[0] == _PROTO and head[1] <= _HIGHEST and head[2] in _OPS  # noqa: PLR2004 - 3 bytes


class _Machine:
    """The stack machine of one pickle."""

    def __init__(self, reader: Reader, stop: int, found: Scan) -> None:
        self._reader = reader
        self._stop = stop
        self._found = found
        self._stack: list[_Item] = []
        self._memo: dict[int, _Item] = {}

    def run(self, at: int) -> int:
        """Return where the pickle that begins at `at` ends."""
        block, base, limit, ops = b"", 0, -1, 0
        while True:
            place = at - base
            if not 0 <= place < limit:
                self._reader.step(at, ops)
                block, base = self._reader.window(at, _NEAR)
                place, limit, ops = at - base, len(block) - _NEAR, 0
            if at >= self._stop or place >= len(block):
                raise MalformedError("a pickle is cut off", min(at, self._stop))
            code = block[place]
            ops += 1
            plain = _PLAIN.get(code)
            if plain is not None:
                at = self._plain(plain, at)
                if code == _STOP:
                    return at
            elif code == _BINPUT and place < limit:
                at = self._remember(block[place + 1], at, at + 2)
            elif code == _BINGET and place < limit:
                at = self._recall(block[place + 1], at, at + 2)
            else:
                at = self._other(code, at)

    def _plain(self, op: tuple[int, int, int], at: int) -> int:
        """Do what an opcode of fixed length does that neither remembers nor names anything; return where it ends."""
        length, pops, pushes = op
        stack = self._stack
        if pops:
            if len(stack) < pops or _MARK in stack[-pops:]:
                raise MalformedError("a pickle takes from its stack what is not there", at)
            del stack[-pops:]
        if pushes:
            stack.append(None)
        return at + length

    def _other(self, code: int, at: int) -> int:
        """Do what any opcode does; return where it ends."""
        op = _OPS.get(code)
        if op is None:
            raise MalformedError(f"byte {code:#04x} is no opcode of a pickle", at)
        begin, end = self._argument(op, at + 1)
        if end > self._stop:
            raise MalformedError("a pickle is cut off", at)
        if code in self._special:
            self._special[code](self, code, at, begin, end)
        else:
            self._take(op, at)
            self._stack += (self._text(code, begin, end) if op.texts else None,) * op.pushes
        if len(self._stack) + len(self._memo) > _STACK:
            raise MalformedError(f"a pickle keeps more than {_STACK} things", at)
        return end

    def _argument(self, op: _Op, at: int) -> tuple[int, int]:
        """Return where an argument lies: its content, where a length stands before it."""
        if op.size >= 0:
            return at, at + op.size
        if op.size == -2:  # noqa: PLR2004 - a length before it
            begin = at + op.width
            return begin, begin + int(self._reader.unpack(_LENGTHS[op.width], at)[0])
        end = at
        for _ in range(op.lines):
            end = self._line_end(end)
        return at, end

    def _line_end(self, at: int) -> int:
        """Return where the line from `at` on ends, behind its newline."""
        start = at
        while at < self._stop and at - start < _LONGEST_LINE:
            block, base = self._reader.window(at, 1)
            place = block.find(b"\n", at - base)
            if place >= 0:
                return base + place + 1
            at = base + len(block)
        raise MalformedError("a line of a pickle does not end", start)

    def _text(self, code: int, begin: int, end: int) -> str | None:
        """Return a text that may be part of a name."""
        if end - begin > _TEXT:
            return None
        data = self._reader.exactly(begin, end - begin)
        if code == ord("S"):  # in quotes, as repr writes it
            data = data.strip()[1:-1]
        return data.decode("utf-8", "replace").removesuffix("\n") if code in b"VS" else data.decode("utf-8", "replace")

    def _take(self, op: _Op, at: int) -> None:
        """Take from the stack what an opcode takes."""
        if op.marked:
            while self._pop(at) is not _MARK:
                pass
        for _ in range(op.pops):
            if self._pop(at) is _MARK:
                raise MalformedError("a pickle takes from its stack what is not there", at)

    def _pop(self, at: int) -> _Item:
        if not self._stack:
            raise MalformedError("a pickle takes from its stack what is not there", at)
        return self._stack.pop()

    def _name(self, name: str, at: int) -> None:
        names = self._found.names
        if name not in names and len(names) >= _NAMES:
            raise MalformedError(f"a pickle names more than {_NAMES} things", at)
        names.setdefault(name[:_TEXT], at)

    def _by_lines(self, code: int, at: int, begin: int, end: int) -> None:
        """GLOBAL and INST: two lines, the second of a name."""
        self._take(_OPS[code], at)
        self._stack.append(None)
        if end - begin > _LINE:
            self._name(UNKNOWN, at)
        else:
            module, name, _ = self._reader.exactly(begin, end - begin).decode("utf-8", "replace").split("\n", 2)
            self._name(f"{module}.{name}", at)

    def _by_stack(self, _code: int, at: int, _begin: int, _end: int) -> None:
        """STACK_GLOBAL: module and name are on the stack."""
        name, module = self._pop(at), self._pop(at)
        self._stack.append(None)
        self._name(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else UNKNOWN, at)

    def _by_extension(self, code: int, at: int, begin: int, _end: int) -> None:
        """EXT1 to EXT4: a number that copyreg gives a meaning to."""
        (number,) = self._reader.unpack(_EXTENSIONS[code], begin)
        self._stack.append(None)
        self._name(f"copyreg.extension.{number}", at)

    def _proto(self, _code: int, at: int, begin: int, end: int) -> None:
        (protocol,) = self._reader.exactly(begin, end - begin)
        if protocol > _HIGHEST:
            raise MalformedError(f"protocol {protocol} is none", at)
        self._found.protocol = max(self._found.protocol, protocol)

    def _number(self, code: int, begin: int, end: int) -> int:
        form = _NUMBERS.get(code)
        if form is not None:
            return int(self._reader.unpack(form, begin)[0])
        line = self._reader.exactly(begin, min(end - begin, 20)).removesuffix(b"\n")
        if not line.isdigit():
            raise MalformedError("a pickle remembers something by what is no number", begin)
        return int(line)

    def _put(self, code: int, at: int, begin: int, end: int) -> None:
        self._remember(self._number(code, begin, end), at, end)

    def _remember(self, number: int, at: int, end: int) -> int:
        if not self._stack or self._stack[-1] is _MARK:
            raise MalformedError("a pickle remembers what is not there", at)
        self._memo[number] = self._stack[-1]
        return end

    def _get(self, code: int, at: int, begin: int, end: int) -> None:
        self._recall(self._number(code, begin, end), at, end)

    def _recall(self, number: int, at: int, end: int) -> int:
        if number not in self._memo:
            raise MalformedError("a pickle asks for what it does not remember", at)
        self._stack.append(self._memo[number])
        return end

    def _memoize(self, _code: int, at: int, _begin: int, end: int) -> None:
        self._remember(len(self._memo), at, end)

    def _dup(self, _code: int, at: int, _begin: int, _end: int) -> None:
        item = self._pop(at)
        self._stack += (item, item)

    def _drop(self, _code: int, at: int, _begin: int, _end: int) -> None:
        self._pop(at)

    def _mark(self, _code: int, _at: int, _begin: int, _end: int) -> None:
        self._stack.append(_MARK)

    _special: ClassVar[Mapping[int, Callable[["_Machine", int, int, int, int], None]]] = {
        _GLOBAL: _by_lines,
        _INST: _by_lines,
        _STACK_GLOBAL: _by_stack,
        **dict.fromkeys(_EXTENSIONS, _by_extension),
        _PROTO: _proto,
        **dict.fromkeys(_PUTS, _put),
        **dict.fromkeys(_GETS, _get),
        _MEMOIZE: _memoize,
        _DUP: _dup,
        _POP: _drop,
        _MARK_OP: _mark,
    }


def note(found: Scan, notes: Notes, where: str, *, here: bool) -> None:
    """Put down what a scan found as code.

    Args:
        found: The scan.
        notes: Where it is put down.
        where: The member that was scanned; empty for the file itself.
        here: Whether places in the scan are places in the file.
    """
    place = (found.start, found.end) if here else None
    notes.add(Code("pickle", where, tuple(sorted(found.names)), place=place))
    if found.fault is not None:
        prefix = f"{where}: " if where else ""
        notes.problem(f"{prefix}{found.fault.reason}", found.fault.at if here else None)


def read(reader: Reader, notes: Notes) -> PickleFacts:
    """Return what a file of pickles says.

    Raises:
        StorageError: It cannot be read.
    """
    found = scan(reader, 0, reader.size)
    note(found, notes, "", here=True)
    for name, at in found.names.items():
        notes.at(f"globals.{name}", at, at + 1)
    rest = reader.size - found.end if found.fault is None else 0
    return PickleFacts(found.protocol, found.pickles, tuple(sorted(found.names)), rest)
