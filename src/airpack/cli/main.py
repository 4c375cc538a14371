"""The command line: parse, call one operation, show. Operations are imported by the command that needs them."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

import airpack
from airpack.cli import anyone, build_side, output, site_side
from airpack.errors import AirpackError, CancelledError


class Main(click.Group):
    """The command group; the one place where errors become messages and exit codes."""

    def main(self, args: Sequence[str] | None = None, *_args: Any, **extra: Any) -> Any:
        """Run one command and exit with its code."""
        os.umask(os.umask(0o022) | 0o022)  # nobody else writes to what airpack makes, whatever the caller's mask
        arguments = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in arguments
        extra["standalone_mode"] = False
        extra.setdefault("prog_name", "airpack")
        try:
            result = super().main(arguments, **extra)
            code = result if isinstance(result, int) else 0
        except AirpackError as error:
            code = output.fail(error, as_json=as_json)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = 2
        except click.ClickException as error:
            code = output.usage(error, as_json=as_json)
        except (click.Abort, KeyboardInterrupt):
            code = output.fail(CancelledError("cancelled"), as_json=as_json)
        except BrokenPipeError:
            # The reader of stdout has gone (`| head`); there is nobody left to tell.
            sys.stderr.close()
            code = 0
        except Exception as error:  # noqa: BLE001, the last resort: everything unforeseen is a bug and says so
            code = output.crash(error, as_json=as_json)
        sys.exit(code)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(airpack.__version__, prog_name="airpack")
def main() -> None:
    """Carry AI models, their runtimes and the proof that they belong together across an air gap."""


for _module in (build_side, site_side, anyone):
    for _command in _module.COMMANDS:
        main.add_command(_command)
