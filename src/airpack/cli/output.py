"""What people and scripts see: results on stdout, everything else on stderr."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import zip_longest
from typing import Any, Final

import click

from airpack.errors import AirpackError, InputError, StorageError
from airpack.formats.text import printable
from airpack.types import Reporter, Silent

_EVERY: Final = 0.5  # seconds between two progress lines
_SHOWN: Final = 40  # characters of a name on a bar
_REPORT: Final = "this is a bug in airpack; please report it with the lines above"


def size(count: int) -> str:
    """Return `count` bytes for people: `12.3 MiB`."""
    number = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:  # noqa: PLR2004, binary prefixes
            return f"{int(number)} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def table(rows: Iterable[Iterable[object]]) -> list[str]:
    """Return `rows` as lines with aligned columns."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def columns(rows: Callable[[], Iterable[Iterable[object]]]) -> Iterator[str]:
    """Yield lines as `table` makes them, one after the other: for rows too many to hold, so they are made twice."""
    widths: list[int] = []
    for row in rows():
        lengths = [len(str(cell)) for cell in row]
        widths = [max(pair) for pair in zip_longest(widths, lengths, fillvalue=0)]
    for row in rows():
        yield "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def show(document: dict[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result: one JSON document, or lines for people."""
    if as_json:
        _echo_json(document)
        return
    _write_lines(lines)


def show_found(lines: Iterable[str]) -> None:
    """Print what a command that fails has found; where stdout takes nothing, only the failure is left to say."""
    with suppress(StorageError):
        _write_lines(lines)


def show_csv(lines: Iterable[str]) -> None:
    """Print lines that bring their own ends."""
    for line in lines:
        _write(line, end=False)


def _write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        _write(printable(line))


def _write(line: str, *, end: bool = True) -> None:
    """Print one line of a result, with a newline unless `end` is false.

    Raises:
        StorageError: stdout takes nothing, a full disk for one. What the command has done stays done.
    """
    try:
        click.echo(line, nl=end)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(
            f"what the command did is done, but its output cannot be written: {error.strerror}"
        ) from error


def _echo_json(document: dict[str, Any]) -> None:
    """Print one JSON document in ASCII: names on a medium must neither break the encoding nor drive a terminal."""
    _write(json.dumps(document, indent=2))


def fail(error: AirpackError, *, as_json: bool) -> int:
    """Print an error and return its exit code; all of it on stderr where stdout takes nothing."""
    if as_json:
        _echo_failure(error)
        return error.exit_code
    checks = error.document.get("checks") or error.document.get("findings") or []
    show_found(table((_mark(item), item["name"], item["detail"]) for item in checks))
    first, *more = error.message.split("\n")
    click.echo(f"airpack: error: {printable(first)}", err=True)
    for line in more:
        click.echo(f"  {printable(line)}", err=True)
    if error.hint:
        click.echo(f"airpack: hint: {printable(error.hint)}", err=True)
    return error.exit_code


def _echo_failure(error: AirpackError) -> None:
    """Print the JSON document of a failure; its message on stderr where stdout takes nothing."""
    try:
        _echo_json({**error.document, "error": described(error)})
    except StorageError:
        click.echo(f"airpack: error: {printable(error.message)}", err=True)


def _mark(check: dict[str, Any]) -> str:
    """Return how a check stands: what could not be checked is neither good nor bad."""
    if check["ok"]:
        return "ok"
    return "-" if check["detail"].startswith("not checked") else "FAILED"


def described(error: AirpackError) -> dict[str, Any]:
    """Return the machine's view of an error."""
    return {
        "code": error.code,
        "exit_code": error.exit_code,
        "message": error.message,
        "hint": error.hint,
        "context": {key: _plain(value) for key, value in error.context.items()},
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)


def crash(error: Exception, *, as_json: bool) -> int:
    """Print a bug and return exit code 1."""
    traceback.print_exception(error, file=sys.stderr)
    click.echo(_REPORT, err=True)
    if as_json:
        bug = AirpackError(f"{type(error).__name__}: {error}", hint=_REPORT)
        _echo_failure(bug)
    return AirpackError.exit_code


def usage(error: click.ClickException, *, as_json: bool) -> int:
    """Print a usage error and return exit code 2."""
    if as_json:
        context = getattr(error, "ctx", None)
        hint = f"see `{context.command_path} --help`" if context else "see `airpack --help`"
        return fail(InputError(error.format_message(), hint=hint), as_json=True)
    error.show()
    return InputError.exit_code


class JsonLines:
    """A `Reporter` that writes one JSON object a line on stderr, at most two a second."""

    def __init__(self) -> None:
        self._task, self._total, self._done, self._began, self._said = "", 0, 0, 0.0, 0.0
        self._item, self._volume = "", ""

    def start(self, task: str, total: int) -> None:
        """Begin a task of `total` bytes."""
        self._task, self._total, self._done = task, total, 0
        self._item, self._volume = "", ""
        self._began = time.monotonic()
        self._say("start")

    def advance(self, done: int, item: str = "", volume: str = "") -> None:
        """Add `done` bytes."""
        self._done += done
        self._item, self._volume = item or self._item, volume or self._volume
        if time.monotonic() - self._said >= _EVERY:
            self._say("progress")

    def finish(self) -> None:
        """End the task; the line names what was in hand last."""
        self._say("end")

    def note(self, text: str) -> None:
        """Say one line."""
        click.echo(json.dumps({"type": "note", "text": text}), err=True)

    def _say(self, kind: str) -> None:
        self._said = time.monotonic()
        seconds = self._said - self._began
        rate = self._done / seconds if seconds > 0 else 0.0
        left = (self._total - self._done) / rate if rate and self._total else None
        line = {
            "type": kind,
            "task": self._task,
            "done": self._done,
            "total": self._total,
            "item": self._item,
            "volume": self._volume,
            "bytes_per_second": round(rate),
            "seconds_left": round(left) if left is not None else None,
        }
        click.echo(json.dumps(line), err=True)


class Bar:
    """A `Reporter` that draws a bar with rate and time left on a terminal's stderr."""

    def __init__(self) -> None:
        # Imported here: only a terminal needs it, and it costs start-up time.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[item]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )

    def start(self, task: str, total: int) -> None:
        """Begin a task of `total` bytes."""
        self._task = self._progress.add_task(task, total=total or None, item="")
        self._progress.start()

    def advance(self, done: int, item: str = "", volume: str = "") -> None:
        """Add `done` bytes."""
        self._progress.update(self._task, advance=done, item=_in_hand(item, volume))

    def finish(self) -> None:
        """End the task."""
        self._progress.stop()
        self._progress.remove_task(self._task)

    def note(self, text: str) -> None:
        """Say one line."""
        click.echo(f"airpack: note: {printable(text)}", err=True)


def _in_hand(item: str, volume: str) -> str:
    """Return what a bar says of the file and the volume in hand, the ends of their names."""
    return "  ".join(printable(name)[-_SHOWN:] for name in (volume, item) if name)


class Notes(Silent):
    """A `Reporter` that only passes notes on."""

    def note(self, text: str) -> None:
        """Say one line."""
        click.echo(f"airpack: note: {printable(text)}", err=True)


def reporter(*, as_json: bool, progress: bool) -> Reporter:
    """Return where progress goes: JSON lines when asked for, a bar on a terminal, else notes alone."""
    if as_json:
        return JsonLines() if progress else Silent()
    if progress or (sys.stderr.isatty() and not os.environ.get("AIRPACK_NO_PROGRESS")):
        return Bar()
    return Notes()
