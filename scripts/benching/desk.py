"""The desk to measure at: a workspace, pack specs, a site, and the airpack commands as users type them."""

import json
from pathlib import Path
from typing import Any, Final

from scripts.benching.measure import AIRPACK, measure

PRODUCT: Final = "bench"


def ask(*words: str | Path, folder: Path) -> dict[str, Any]:
    """Return what an airpack command says with --json, unmeasured."""
    _, said = measure([AIRPACK, *words, "--json"], folder=folder)
    answer: dict[str, Any] = json.loads(said)
    return answer


def make_workspace(folder: Path) -> None:
    """Make a workspace with keys in the clear."""
    ask("init", "workspace", "--no-passphrase", folder=folder)


def make_site(folder: Path, name: str = "site") -> None:
    """Make an empty site that trusts the workspace."""
    ask("site", "init", name, "--root", "workspace/keys/root.json", folder=folder)


def write_spec(folder: Path, version: str, *, model: str = "", runtime: str = "") -> None:
    """Write `spec.toml` of a release with a model, a runtime, or both; both are names of folders."""
    text = f'[release]\nproduct = "{PRODUCT}"\nversion = "{version}"\n'
    if model:
        text += f'\n[[model]]\nname = "weights"\npath = "{model}"\nlicense = "CC0-1.0"\n'
    if runtime:
        text += f'\n[[runtime]]\nname = "engine"\nkind = "files"\npath = "{runtime}"\nplatform = "linux/amd64"\n'
    (folder / "spec.toml").write_text(text)


def build_command(out: str, *options: str) -> list[str | Path]:
    """Return the command that is measured as build."""
    return [AIRPACK, "build", "spec.toml", "-o", out, "--workspace", "workspace", *options, "--json"]


def build(folder: Path, out: str, *options: str) -> dict[str, Any]:
    """Build what the spec says, unmeasured, and return what the command says."""
    _, said = measure(build_command(out, *options), folder=folder)
    answer: dict[str, Any] = json.loads(said)
    return answer


IMPORT: Final[tuple[str | Path, ...]] = (AIRPACK, "import", "package", "--site", "site", "--json")
VERIFY: Final[tuple[str | Path, ...]] = (AIRPACK, "verify", "package", "--root", "workspace/keys/root.json", "--json")
