"""This machine against a release: facts read anew each time, for drivers and interpreters change under a site."""

from airpack.facts.host import HostFacts, read_host
from airpack.formats.release import Release
from airpack.policy.compat import Finding, Host, judge, refuse


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
