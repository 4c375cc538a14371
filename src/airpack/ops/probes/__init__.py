"""Tries a release out before it is used, in a throw-away process shut off from this machine.

docs/design.md, "Activating".
"""

from airpack.ops.probes.isolation import isolation_available, isolation_problem
from airpack.ops.probes.run import ProbeResult, run_probe

__all__ = ["ProbeResult", "isolation_available", "isolation_problem", "run_probe"]
