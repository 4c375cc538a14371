"""The demo's story, step by step, with the airpack command as a user would type it. Run by `./scripts/demo`.

Each step states what must come of it; a step that comes out otherwise ends the demo with exit code 1.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent
AIRPACK = Path(sys.executable).parent / "airpack"
SPECS = REPOSITORY / "manifests"
DONE, REFUSED_PROBE, DAMAGED = 0, 12, 30


class Story:
    """Runs and prints the steps in one temporary folder."""

    def __init__(self, folder: Path, offline: Sequence[str]) -> None:
        self.folder = folder
        self._offline = list(offline)
        self.summary: list[str] = []

    @property
    def is_offline(self) -> bool:
        """Whether the site's commands run in an empty network namespace."""
        return bool(self._offline)

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n== {title}", flush=True)

    def run(self, *words: str, expect: int = DONE, offline: bool = False) -> str:
        """Run one airpack command, show it and what it says, and hold it to its exit code."""
        print(f"$ airpack {' '.join(words)}", flush=True)
        command = [*(self._offline if offline else []), str(AIRPACK), *words]
        result = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        print("".join(f"  {line}\n" for line in result.stdout.splitlines()), end="", flush=True)
        if result.returncode != expect:
            fail(f"airpack {words[0]} ended with exit code {result.returncode}; {expect} was expected")
        return result.stdout

    def ask(self, *words: str) -> Any:
        """Return what a command says with --json, without showing it."""
        result = subprocess.run(
            [str(AIRPACK), *words, "--json"], cwd=self.folder, capture_output=True, text=True, check=False
        )
        return json.loads(result.stdout)

    def must_run(self, version: str) -> None:
        """Hold the site to running `version` of the model."""
        active = self.ask("status", "--site", "site")["products"]["digits"]["active"]
        if active is None or active["version"] != version:
            fail(f"digits {version} should run now, but it is {active}")

    def note(self, line: str) -> None:
        """Keep a line for the summary."""
        self.summary.append(line)


def fail(message: str) -> NoReturn:
    """End the demo."""
    print(f"\ndemo: FAILED: {message}", flush=True)
    sys.exit(1)


def network_off() -> list[str]:
    """Return the words that start a command in an empty network namespace, none where the machine allows none."""
    for words in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if (
            shutil.which(words[0])
            and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
        ):
            return words
    return []


def connected_side(story: Story) -> None:
    """Make the workspace and the first package."""
    story.chapter("1. The connected side: a workspace, and the first release")
    story.run("init", "workspace", "--no-passphrase")
    build(story, "1.0.0")
    story.run("inspect", "medium-1.0.0")
    story.run("verify", "medium-1.0.0", "--root", "workspace/keys/root.json")


def build(story: Story, version: str) -> None:
    """Build one version of the example into its own medium."""
    spec = os.path.relpath(SPECS / f"digits-{version}.toml", story.folder)
    story.run("build", spec, "-o", f"medium-{version}", "--workspace", "workspace")


def disconnected_side(story: Story) -> None:
    """Enrol the site, import without network, activate."""
    story.chapter("2. The disconnected side: enrol, import without any network, activate")
    root = "workspace/keys/root.json"
    fingerprint = story.ask("verify", "medium-1.0.0", "--root", root)["root_fingerprint"]
    story.run("site", "init", "site", "--root", root, "--fingerprint", fingerprint)
    allow_unisolated_where_needed(story)
    story.run("import", "medium-1.0.0", "--site", "site", offline=True)
    story.run("activate", "digits@1.0.0", "--site", "site", offline=True)
    story.must_run("1.0.0")
    how = "in an empty network namespace" if story.is_offline else "(no namespace here to prove it; no call needs it)"
    story.note(f"1.0.0 imported without network {how}; the packed runtime ran the model on its golden inputs")


def allow_unisolated_where_needed(story: Story) -> None:
    """Say so, and set the site's policy, where this machine cannot isolate probes."""
    words = [sys.executable, "-c", "from airpack.ops.probes import isolation_available as on; print(on())"]
    if subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "True":
        return
    policy = story.folder / "site/policy.toml"
    policy.write_text(policy.read_text().replace("allow_unisolated = false", "allow_unisolated = true"))
    line = "this machine offers no namespaces: the demo sets allow_unisolated = true in its own site's policy.toml"
    print(f"  NOTE: {line}")
    story.note(line)


def updates(story: Story) -> None:
    """A good update, a bad one that falls back, a rollback."""
    story.chapter("3. An update that is better")
    build(story, "1.1.0")
    story.run("import", "medium-1.1.0", "--site", "site", offline=True)
    story.run("activate", "digits@1.1.0", "--site", "site", offline=True)
    story.must_run("1.1.0")
    story.note("1.1.0 activated; 1.0.0 stays known good")
    story.chapter("4. An update that gives wrong answers: signed and intact, but it does not pass its probe")
    build(story, "1.2.0")
    story.run("import", "medium-1.2.0", "--site", "site", offline=True)
    story.run("activate", "digits@1.2.0", "--site", "site", expect=REFUSED_PROBE, offline=True)
    story.must_run("1.1.0")
    story.note("1.2.0 failed its probe at activation; 1.1.0 went on running")
    story.chapter("5. Back to the release before")
    story.run("rollback", "digits", "--site", "site", offline=True)
    story.must_run("1.0.0")
    story.run("status", "--site", "site")
    story.run("list", "--site", "site")
    story.note("rolled back to 1.0.0 by one command")


def evidence(story: Story) -> None:
    """Carry the evidence out, and check it."""
    story.chapter("6. The auditor: what happened there, without trusting the site")
    shutil.copy(story.folder / "site/evidence/site.pub", story.folder / "site-key-from-enrolment.pub")
    story.run("evidence", "export", "--site", "site", "-o", "evidence.zip", offline=True)
    story.run("audit", "verify", "evidence.zip", "--key", "site-key-from-enrolment.pub", "--state", "auditor.json")
    records = story.ask("audit", "verify", "evidence.zip", "--key", "site-key-from-enrolment.pub")["summary"]["records"]
    story.note(f"{records} records exported and audited with the site's pinned key")


def tampering(story: Story) -> None:
    """Change one byte of a package: it is refused, and nothing else changes."""
    story.chapter("7. One byte of a package is changed on the way")
    shutil.copytree(story.folder / "medium-1.1.0", story.folder / "medium-tampered")
    volume = next((story.folder / "medium-tampered").glob("*.airvol"))
    place = volume.stat().st_size // 2
    with volume.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    print(f"(byte {place} of {volume.name} changed from {byte:#04x} to {byte ^ 1:#04x})")
    told = story.run("import", "medium-tampered", "--site", "site", expect=DAMAGED, offline=True)
    if volume.name not in told:
        fail("the refusal does not name the volume")
    story.must_run("1.0.0")
    story.note("the tampered package was refused, naming file and place; 1.0.0 still runs")


CHAPTERS: tuple[Callable[[Story], None], ...] = (connected_side, disconnected_side, updates, evidence, tampering)


def remove(folder: Path) -> None:
    """Remove the demo's folder; generations are read-only on purpose."""
    for parent, _, _ in os.walk(folder):
        Path(parent).chmod(0o700)
    shutil.rmtree(folder)


def main() -> int:
    """Tell the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder there and name it")
    keep = parser.parse_args().keep
    offline = network_off()
    folder = Path(tempfile.mkdtemp(prefix="airpack-demo-"))
    story = Story(folder, offline)
    how = "in an empty network namespace" if offline else "with the network there: this machine offers no namespace"
    print(f"airpack demo in {folder}; site commands run {how}")
    try:
        for chapter in CHAPTERS:
            chapter(story)
    finally:
        if keep:
            print(f"\nkept: {folder}")
        else:
            remove(folder)
    print("\nsummary")
    for line in story.summary:
        print(f"  - {line}")
    print("demo: all steps came out as they should")
    return 0


if __name__ == "__main__":
    sys.exit(main())
