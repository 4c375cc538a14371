"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

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
