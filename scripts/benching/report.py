"""Figures for people: Markdown tables, and the page between whose markers they stand."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
MB: Final = 1_000_000


def mib(size: float) -> str:
    """Return a size for people."""
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MiB"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table whose columns line up; the first row is its head, the first column text."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    rule = [("-" * (width + 1) + ":") if place else "-" * (width + 2) for place, width in enumerate(widths)]
    return [lines[0], "|" + "|".join(rule) + "|", *lines[1:]]


def spread(figures: Sequence[float]) -> str:
    """Return the median of some seconds, and between what they lay."""
    return f"{statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})"


def goal(text: str, figure: float, bound: float, *, at_most: bool = False, form: str = "{:.2f}") -> tuple[str, ...]:
    """Return a row of the table of goals: what, measured, wanted, and whether it holds."""
    holds = figure <= bound if at_most else figure >= bound
    wanted = ("at most " if at_most else "at least ") + form.format(bound)
    return text, form.format(figure), wanted, "holds" if holds else "SHORT"


GOALS: Final = ("goal", "measured", "wanted", "")


def machine_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the machine and the date for people."""
    machine = results["machine"]
    extensions = "with" if machine["sha_instructions"] else "without"
    facts = (
        f"{machine['cpu']} ({machine['cores']} cores, {extensions} SHA instructions)",
        f"{mib(machine['memory'])} of memory",
        machine["file_system"],
        machine["system"],
        f"Linux {machine['kernel']}",
        f"Python {machine['python']}",
        machine["openssl"],
        f"libzstd {machine['libzstd']}",
        f"load {machine['load'][0]} at the start",
    )
    return [f"Measured {results['date']} with airpack {results['airpack']}:", f"{', '.join(facts)}."]


def write_page(page: Path, lines: Sequence[str]) -> None:
    """Put `lines` between the markers of a Markdown page.

    Raises:
        ValueError: It has no markers.
    """
    before, after = split_page(page)
    page.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), encoding="utf-8")


def split_page(page: Path) -> tuple[str, str]:
    """Return what stands before and after the markers of a page.

    Raises:
        ValueError: It has none.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no {BEGIN} and {END} to write between")
    return before, after
