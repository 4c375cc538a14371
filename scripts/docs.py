"""Writes the generated pages of the documents, and checks all documents. `./scripts/check` runs it with `--check`.

    scripts/docs.py           write docs/reference/commands.md and docs/exit-codes.md
    scripts/docs.py --check   change nothing; print what does not hold and end with exit code 1

Checked are: the generated pages are those of the code; every command and option has its help, and every command an
example; every environment variable is described; every relative link leads somewhere, headings included; every page
below docs/ can be reached from the README or from docs/README.md; examples are marked as what they are; the JSON
Schemas are valid; no file names a path of somebody's machine; no private key lies outside the tests.

Works on the files as they lie: a bare machine has no git.
"""

import argparse
import difflib
import importlib
import json
import os
import pkgutil
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import click
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

import airpack
from airpack.cli import anyone, build_side, site_side
from airpack.cli.main import main as airpack_command
from airpack.errors import AirpackError

ROOT: Final = Path(__file__).resolve().parent.parent
COMMANDS_PAGE: Final = Path("docs/reference/commands.md")
EXITS_PAGE: Final = Path("docs/exit-codes.md")
ENTRANCES: Final = (Path("README.md"), Path("docs/README.md"))
FENCES: Final = ("sh", "console", "toml", "json", "text")  # sh runs, console shows
PROGRAMS: Final = ("launcher", "onnxruntime_worker")  # not modules: they start at once
LONGEST_TEXT: Final = 8 << 20  # bytes; longer files hold no documents

SIDES: Final = (
    ("The connected side", build_side.COMMANDS),
    ("The disconnected side", site_side.COMMANDS),
    ("Anyone, without workspace or site", anyone.COMMANDS),
)

VARIABLES: Final = {
    "AIRPACK_KEY_PASSPHRASE_FILE": "File whose content is the passphrase of the private keys; else airpack asks on a "
    "terminal, and refuses without one.",
    "AIRPACK_NO_PROGRESS": "When not empty: no progress bar on a terminal.",
    "AIRPACK_SITE": "As `--site`.",
    "AIRPACK_WORKSPACE": "As `--workspace`.",
}

EXITS: Final = {
    0: ("done", "Also an import or a build repeated."),
    1: ("unexpected", "A bug, with a traceback on stderr. Report it."),
    2: ("usage or bad input", "Correct the command, the pack spec or the file that the message names."),
    3: ("not found", "Name the right folder, release or file."),
    10: (
        "integrity",
        "Bytes are not what was signed or recorded: copy the named file again. Of an audit: the evidence is broken.",
    ),
    11: (
        "trust",
        "A signature, key, threshold, root or date does not hold: get a fresh package. Of an audit: signatures.",
    ),
    12: (
        "policy or incompatible",
        "The release may not or cannot run here: revoked, unsafe format, wrong platform, no probe, a failed probe.",
    ),
    13: (
        "rollback refused",
        "Older than what proved good here, or in contradiction to what is held here, or by the auditor.",
    ),
    20: ("storage", "Disk or medium: full, read-only, I/O error. Run the command again once that is put right."),
    21: ("busy", "Another airpack works on this site or workspace. Run the command again later."),
    30: (
        "partial",
        (
            "Volumes are missing, or damaged; the message says which. Bring them, and run the command again: "
            "an import has kept what it read."
        ),
    ),
    130: ("cancelled", "Stopped by the user. Run the command again: it goes on where it can."),
}

# Written so that no pattern finds itself here.
MACHINE_PATHS: Final = re.compile(r"(?<![\w.])/(?:home|Users)/[A-Za-z]|(?<![\w.])/(?:root|work)/[\w.]|[A-Z]:\\\\?Users")
PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
LINK: Final = re.compile(r"(?<!!)\[[^\]\[]*\]\(([^()\s]+)\)")
FENCE: Final = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1[ \t]*$", re.DOTALL | re.MULTILINE)
VARIABLE: Final = re.compile(r"\bAIRPACK_[A-Z_]+\b")


def files() -> list[Path]:
    """Return the repository's files, relative and sorted: no dot folders but .ci, no environments, no downloads."""
    found = []
    for parent, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not _is_skipped(Path(parent, name)))
        found += [Path(parent, name).relative_to(ROOT) for name in sorted(names) if name != ".git"]  # a worktree's
    return found


def _is_skipped(folder: Path) -> bool:
    if folder.name.startswith(".") and folder.name != ".ci":
        return True
    generated = folder.name in {"__pycache__", "wheels", "build", "dist"} or folder.name.endswith(".egg-info")
    return generated or (folder / "pyvenv.cfg").exists()


@cache
def text(path: Path) -> str:
    """Return the text of a file of the repository; empty for one that is none."""
    if (ROOT / path).stat().st_size > LONGEST_TEXT:
        return ""
    try:
        return (ROOT / path).read_text("utf-8")
    except UnicodeDecodeError:
        return ""


def pages() -> list[Path]:
    """Return the documents."""
    return [path for path in files() if path.suffix == ".md"]


# Generated pages.


def leaves(group: click.Group, parent: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Return every command that does something, with its context."""
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, info_name=name, parent=parent)
        if isinstance(command, click.Group):
            yield from leaves(command, context)
        else:
            yield command, context


def all_leaves() -> list[tuple[click.Command, click.Context]]:
    """Return every command of airpack that does something."""
    return list(leaves(airpack_command, click.Context(airpack_command, info_name="airpack")))


def commands_page() -> str:
    """Return the command reference."""
    shown = _shown_in()
    lines = [
        "# Commands",
        "",
        "<!-- Written by scripts/docs.py from the command line itself: do not edit. -->",
        "",
        "Results go to stdout, everything else to stderr.",
        "With `--json` stdout is exactly one JSON document, also after an error ([keys](json.md)).",
        "Exit codes are the same for every command: [exit codes](../exit-codes.md).",
        "Site commands find the site by `--site`, build commands the workspace by `--workspace` or upwards from the",
        "working directory.",
        "`airpack --version` prints the version, `--help` (`-h`) works everywhere.",
        "",
        "| environment | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items()),
    ]
    found = {context.command_path: (command, context) for command, context in all_leaves()}
    for title, commands in SIDES:
        lines += ["", f"## {title}"]
        names = {command.name for command in commands}
        for path, (command, context) in found.items():
            if path.split()[1] in names:
                lines += ["", *_command(command, context, shown[path])]
    return "\n".join([*lines, ""])


def _command(command: click.Command, context: click.Context, shown: Iterable[Path]) -> list[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = [param for param in command.params if isinstance(param, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    return [
        f"### `{context.command_path}`",
        "",
        (command.help or "").strip(),
        "",
        "```text",
        usage,
        "```",
        "",
        "| option | meaning |",
        "|---|---|",
        *(f"| `{_cell(option)}` | {_cell(meaning)} |" for option, meaning in records),
        "",
        "Examples: " + ", ".join(f"[{_title(page)}]({_relative(page, COMMANDS_PAGE)})" for page in shown) + ".",
    ]


def _cell(words: str) -> str:
    return re.sub(r"\s+", " ", words).replace("|", "\\|")


def _title(page: Path) -> str:
    if page == Path("README.md"):
        return "README"
    return next((line.removeprefix("# ") for line in text(page).splitlines() if line.startswith("# ")), page.name)


def _relative(page: Path, start: Path) -> str:
    return os.path.relpath(page, start.parent)


def _shown_in() -> Mapping[str, list[Path]]:
    """Return for each command the handwritten pages with an example of it."""
    shown: defaultdict[str, list[Path]] = defaultdict(list)
    for page in pages():
        if page in {COMMANDS_PAGE, EXITS_PAGE}:
            continue
        blocks = "\n".join(body for language, body in fences(page) if language in {"sh", "console"})
        for _, context in all_leaves():
            if re.search(rf"\b{context.command_path}\b", blocks):
                shown[context.command_path].append(page)
    return shown


def exits_page() -> str:
    """Return the page of exit codes."""
    classes = _error_classes()
    lines = [
        "# Exit codes",
        "",
        "<!-- Written by scripts/docs.py from airpack.errors and its kin: do not edit. -->",
        "",
        "An exit code that is not listed here must be taken as a failure.",
        "",
        "| exit | what | what to do | `error.code` with `--json` |",
        "|---|---|---|---|",
    ]
    for number, (what, advice) in EXITS.items():
        codes = ", ".join(f"`{code}`" for code, kind in sorted(classes.items()) if kind.exit_code == number)
        lines.append(f"| {number} | {what} | {advice} | {codes or '-'} |")
    lines += ["", "## Error codes", "", "| `error.code` | exit | meaning |", "|---|---|---|"]
    for code, kind in sorted(classes.items(), key=lambda item: (item[1].exit_code, item[0])):
        meaning = "A bug." if kind is AirpackError else (kind.__doc__ or "").strip().splitlines()[0]
        lines.append(f"| `{code}` | {kind.exit_code} | {_cell(meaning)} |")
    lines += [
        "",
        "## As JSON",
        "",
        "```json",
        json.dumps({"error": _EXAMPLE}, indent=2),
        "```",
        "",
        "`verify`, `unpack`, `facts`, `audit verify`, `fsck` print their own document with `ok` false beside `error`.",
        "A `write` that found no room for everything prints its own keys: what it wrote, and what is left.",
        "`activate` and `rollback` print their own keys, `active` with what runs now among them.",
        "An `import` that is refused before its volumes are read prints `checks`.",
    ]
    return "\n".join([*lines, ""])


_EXAMPLE: Final = {
    "code": "not_found",
    "exit_code": 3,
    "message": "no release digits@9.9.9 at this site",
    "hint": "airpack list shows what is held",
    "context": {},
}


def _error_classes() -> dict[str, type[AirpackError]]:
    """Return every class of error, by its code, wherever in the package it stands."""
    for module in pkgutil.walk_packages(airpack.__path__, "airpack."):
        if module.name.rpartition(".")[2] not in {
            "launcher",
            "onnxruntime_worker",
            "__main__",
        }:  # programs of their own
            importlib.import_module(module.name)
    classes: dict[str, type[AirpackError]] = {}
    pending: list[type[AirpackError]] = [AirpackError]
    while pending:
        kind = pending.pop()
        classes[kind.code] = kind
        pending += kind.__subclasses__()
    return classes


GENERATED: Final[Mapping[Path, Callable[[], str]]] = {COMMANDS_PAGE: commands_page, EXITS_PAGE: exits_page}


# Checks: each returns what does not hold, one line a fault.


def check_generated() -> Iterator[str]:
    """Hold the committed pages against what the code says now."""
    for page, make in GENERATED.items():
        expected, found = make(), text(page) if (ROOT / page).exists() else ""
        if expected != found:
            diff = difflib.unified_diff(found.splitlines(), expected.splitlines(), str(page), "generated", lineterm="")
            yield f"{page} is not what the code says; run scripts/docs.py\n" + "\n".join(diff)


def check_commands() -> Iterator[str]:
    """Every command and option has its help; every command has an example; no exit code goes without advice."""
    shown = _shown_in()
    for command, context in all_leaves():
        path = context.command_path
        if not command.help:
            yield f"{path}: no help text"
        for param in command.params:
            if isinstance(param, click.Option) and not param.help:
                yield f"{path}: option {param.opts[0]} has no help text"
        if not shown[path]:
            yield f"{path}: no document has an example of it"
    used = {kind.exit_code for kind in _error_classes().values()} | {0}
    if used != set(EXITS):
        yield f"exit codes: used and described differ: {sorted(used ^ set(EXITS))}"


def check_variables() -> Iterator[str]:
    """Every environment variable that the code reads is described, and no other."""
    source = "\n".join(text(path) for path in files() if path.is_relative_to("src") and path.suffix == ".py")
    found = set(VARIABLE.findall(source))
    for name in sorted(found ^ set(VARIABLES)):
        yield f"environment variable {name}: {'not described' if name in found else 'described, but not used'}"


def fences(page: Path) -> list[tuple[str, str]]:
    """Return language and content of a document's fenced blocks."""
    return [(match[2].strip(), match[3]) for match in FENCE.finditer(text(page))]


def links(page: Path) -> list[str]:
    """Return the targets of a document's links, code left out."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text(page)))
    return LINK.findall(prose)


@cache
def headings(page: Path) -> frozenset[str]:
    """Return the fragments that lead to a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text(page)), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


def _target(page: Path, link: str) -> Path | None:
    """Return the file that a link leads to, None when it leads out of the repository."""
    if re.match(r"[a-z]+:", link):
        return None
    name = link.partition("#")[0]
    return Path(os.path.normpath(page.parent / name)) if name else page


def check_links() -> Iterator[str]:
    """Every relative link leads to a file or folder here, and to a heading where it names one."""
    for page in pages():
        for link in links(page):
            target = _target(page, link)
            if target is None:
                continue
            if target.is_absolute() or target.parts[:1] == ("..",) or not (ROOT / target).exists():
                yield f"{page}: link to {link} leads nowhere"
            elif (fragment := link.partition("#")[2]) and fragment not in headings(target):
                yield f"{page}: link to {link}: no such heading"


def check_reachable() -> Iterator[str]:
    """Every page below docs/ can be reached by links from an entrance."""
    seen: set[Path] = set()
    pending = list(ENTRANCES)
    while pending:
        page = pending.pop()
        if page in seen or not (ROOT / page).is_file() or page.suffix != ".md":
            continue
        seen.add(page)
        pending += [target for link in links(page) if (target := _target(page, link)) is not None]
    for page in pages():
        if page.is_relative_to("docs") and page not in seen:
            yield f"{page}: no link from {' or '.join(map(str, ENTRANCES))} leads there"


def check_fences() -> Iterator[str]:
    """Examples for users say what they are, so that the tests run those that are to be run."""
    for page in pages():
        if page == Path("README.md") or page.is_relative_to("docs/howto"):
            for language, body in fences(page):
                if language not in FENCES:
                    start = body.strip().splitlines()[0] if body.strip() else ""
                    yield f"{page}: block {start!r} is marked {language!r}; expected one of {', '.join(FENCES)}"


def check_schemas() -> Iterator[str]:
    """Every JSON Schema is valid, of draft 2020-12."""
    for path in files():
        if not path.name.endswith(".schema.json"):
            continue
        try:
            schema = json.loads(text(path))
            Draft202012Validator.check_schema(schema)
        except (ValueError, SchemaError) as error:
            yield f"{path}: {error}"
            continue
        if schema.get("$schema") != Draft202012Validator.META_SCHEMA["$id"]:
            yield f"{path}: $schema is not that of draft 2020-12"


def check_secrets() -> Iterator[str]:
    """No path of somebody's machine, no private key outside the tests."""
    for path in files():
        for number, line in enumerate(text(path).splitlines(), 1):
            if MACHINE_PATHS.search(line):
                yield f"{path}:{number}: names a path of a machine"
            if PRIVATE_KEY.search(line) and not path.is_relative_to("tests"):
                yield f"{path}:{number}: holds a private key"


CHECKS: Final = (
    check_generated,
    check_commands,
    check_variables,
    check_links,
    check_reachable,
    check_fences,
    check_schemas,
    check_secrets,
)


def main() -> int:
    """Write the generated pages, or check everything."""
    parser = argparse.ArgumentParser(description="Writes the generated pages of the documents.")
    parser.add_argument("--check", action="store_true", help="change nothing, say what does not hold")
    if not parser.parse_args().check:
        for page, make in GENERATED.items():
            (ROOT / page).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / page).write_text(make(), "utf-8")
        return 0
    faults = [fault for check in CHECKS for fault in check()]
    for fault in faults:
        print(fault)
    print(f"documents: {len(faults)} faults" if faults else f"documents: {len(pages())} pages hold")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
