"""Options that several commands share."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from airpack.errors import InputError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """Add `--json`."""
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, errors too.")
    return option(command)


def progress_option(command: _Command) -> _Command:
    """Add `--progress`."""
    text = "Show progress on stderr also when it is no terminal; JSON lines with --json."
    return click.option("--progress", is_flag=True, help=text)(command)


def site_option(command: _Command) -> _Command:
    """Add `--site`."""
    return click.option(
        "--site",
        type=click.Path(path_type=Path),
        default=Path("/var/lib/airpack"),
        envvar="AIRPACK_SITE",
        show_default=True,
        show_envvar=True,
        help="The site's folder.",
    )(command)


def workspace_option(command: _Command) -> _Command:
    """Add `--workspace`."""
    return click.option(
        "--workspace",
        type=click.Path(path_type=Path),
        default=None,
        envvar="AIRPACK_WORKSPACE",
        show_envvar=True,
        help="The workspace; by default the nearest one upwards from the working directory.",
    )(command)


def now() -> datetime:
    """Return the machine's clock, UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def parse_time(text: str) -> datetime:
    """Return the time that a person gave, RFC 3339 with a zone, or a date (midnight UTC).

    Raises:
        InputError: It is neither.
    """
    try:
        moment = datetime.fromisoformat(text if "T" in text else f"{text}T00:00:00+00:00")
    except ValueError as error:
        raise InputError(f"{text!r} is not a time", hint="for example 2026-03-01T12:00:00Z, or 2026-03-01") from error
    if moment.tzinfo is None:
        raise InputError(f"{text!r} has no time zone", hint="for example 2026-03-01T12:00:00Z")
    return moment
