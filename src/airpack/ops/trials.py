"""The probes of an activation: the release's own and the operator's, each in a process of its own."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airpack import fsops
from airpack.catalog.catalog import Generation, ReleaseRow
from airpack.errors import InputError, IntegrityError, ProbeError
from airpack.evidence.records import Event, Outcome, Subject, clip
from airpack.formats.fields import Fields
from airpack.formats.probe import Probe, parse_probe
from airpack.formats.release import Release
from airpack.ops.probes import ProbeResult, run_probe
from airpack.ops.site import Site, SitePolicy
from airpack.types import Limits


@dataclass(frozen=True, slots=True)
class Trial:
    """One probe that was run.

    Attributes:
        origin: `release` or `operator`: whose probe it was.
        result: What it found.
    """

    origin: str
    result: ProbeResult

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {"origin": self.origin, **self.result.to_dict()}


def run_trials(
    site: Site, row: ReleaseRow, release: Release, generation: Generation, policy: SitePolicy
) -> tuple[Trial, ...]:
    """Run the release's probe, then the operator's; the first failure ends it.

    Returns:
        What each probe found, in order; empty only where policy allows activation without any probe.

    Raises:
        ProbeError: There is no probe, and policy does not allow that.
        PolicyError: Probes cannot be isolated here, and policy does not allow that.
        InputError: The operator's probe file cannot be read.
    """
    tree = site.tree(generation)
    planned = _planned(site, row.product, release, tree)
    if not planned and not policy.allow_no_probe:
        raise ProbeError(
            f"{row.name} brings no probe, and {_operator_file(site, row.product)} does not exist",
            hint="write that file, or set allow_no_probe = true in policy.toml to activate without proof",
        )
    trials = []
    for origin, probe, golden in planned:
        result = run_probe(
            probe,
            generation=tree,
            golden=golden,
            scratch=site.root / "ingest",
            memory=release.compat.memory or None,
            allow_unisolated=policy.allow_unisolated,
            model=_model(probe, release),
        )
        trials.append(Trial(origin, result))
        site.log.note(
            Event.PROBE,
            Outcome.DONE if result.ok else Outcome.FAILED,
            reason="" if result.ok else ProbeError.code,
            subject=[Subject(row.name, row.digest)],
            data={"origin": origin, "kind": probe.kind, "isolation": result.isolation, "detail": clip(result.detail)},
        )
        if not result.ok:
            break
    return tuple(trials)


def _planned(site: Site, product: str, release: Release, tree: Path) -> list[tuple[str, Probe, Path | None]]:
    planned: list[tuple[str, Probe, Path | None]] = []
    own = release.compat.probe
    if own is not None:
        planned.append(("release", own, tree / own.golden if own.golden else None))
    file = _operator_file(site, product)
    if not file.parent.is_dir():
        raise InputError(f"the site has lost its folder {file.parent}", hint=f"mkdir {file.parent}")
    if os.path.lexists(file):  # a link that leads nowhere is a mistake to name, not a probe that is not there
        probe = read_probe(file)
        planned.append(("operator", probe, file.parent / probe.golden if probe.golden else None))
    return planned


def _operator_file(site: Site, product: str) -> Path:
    return site.root / "probes" / f"{product}.toml"


def read_probe(file: Path) -> Probe:
    """Read an operator's probe file.

    Raises:
        NotFoundError: It is not there.
        IntegrityError: It is no regular file.
        InputError: It is no probe.
        StorageError: It cannot be read.
    """
    data = fsops.read_regular(file, Limits.DOCUMENT)
    return parse_probe(Fields.from_toml(data, what=str(file), error=InputError))


def _model(probe: Probe, release: Release) -> str:
    """Return the model file that the probe loads, `NAME/file.onnx`: found by its format, not by its name.

    Raises:
        IntegrityError: The probe names a file that the release does not have, or none where several would do.
    """
    if probe.kind != "onnxruntime":
        return ""
    models = [file.path.removeprefix("model/") for file in release.compat.files if file.format == "onnx"]
    if probe.model:
        models = [path for path in models if path == probe.model]
    if len(models) != 1:
        raise IntegrityError(
            f"the probe must name one ONNX model of the release; it says {probe.model!r}, {len(models)} fit"
        )
    return models[0]
