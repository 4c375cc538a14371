"""This machine: its facts, and whether a release fits it. Read anew each time: drivers and interpreters change."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airpack import fsops
from airpack.errors import InputError
from airpack.facts.host import HostFacts, read_host
from airpack.formats.release import Release
from airpack.policy.compat import Finding, Host, judge, refuse


@dataclass(frozen=True, slots=True)
class HostReport:
    """The facts of this machine, and the file that they were saved to, if any."""

    facts: HostFacts
    saved: Path | None

    def document(self) -> dict[str, Any]:
        """Return the keys of `airpack host --json`."""
        return {
            "digest": str(self.facts.digest()),
            "host": self.facts.to_dict(),
            "saved": None if self.saved is None else str(self.saved),
        }


def describe_host(*, save: Path | None = None, replace: bool = False) -> HostReport:
    """Return the facts of this machine, and save them.

    Args:
        save: File for their canonical bytes; None for none.
        replace: Whether an existing file is replaced.

    Raises:
        InputError: The file exists already.
        StorageError: It cannot be written.
    """
    if save is not None and not replace and save.exists():
        raise InputError(f"{save} exists", hint="choose another name, or give --force to replace it")
    facts = read_host()
    if save is not None:
        fsops.write_durable(save, facts.emit(), replace=replace)
    return HostReport(facts, None if save is None else save.absolute())


def check_host(release: Release) -> tuple[HostFacts, tuple[Finding, ...]]:
    """Return the host's facts and what each rule found.

    Raises:
        IncompatibleError: A rule failed, or could not be decided.
    """
    facts = read_host()
    host = Host(
        os=facts.os,
        architecture=facts.architecture,
        python_tags=frozenset(facts.python_tags),
        memory=facts.memory,
    )
    findings = judge(release.compat, host)
    refuse(findings)
    return facts, findings
