"""A command that is killed at any of its durable steps: nothing half-done shows, and the next run takes it up again.

The command runs in a child process that kills itself with SIGKILL before its N-th durable step, or in the middle of it
when it writes; catalog transactions are such steps too. N goes from 1 until the command gets through, so that every
place where a power cut could strike is struck once. `./scripts/crash` goes on from here: random schedules, power cuts,
every state that a disk may be left in.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.crashes.strike import struck
from tests.crashes.world import copy_site, remove_site

from airpack.errors import ProbeError
from airpack.ops.activate import activate
from airpack.ops.examine import open_damaged
from airpack.ops.import_ import import_package
from airpack.ops.maintain import Fsck, fsck, gc
from airpack.ops.site import Site
from airpack.store.blobs import hash_file
from airpack.types import State

AIRPACK = Path(sys.executable).parent / "airpack"


def import_at(site: Path, medium: Path) -> None:
    import_package(Site.open(site), [medium])


def activate_at(site: Path) -> None:
    """Activate 1.1.0; that its probe fails is an end like any other here."""
    with contextlib.suppress(ProbeError):
        activate(Site.open(site), "tool@1.1.0")


def gc_at(site: Path) -> None:
    gc(Site.open(site))


def repair_at(site: Path, medium: Path) -> Fsck:
    return fsck(open_damaged(site), repair=True, packages=[medium])


def outcomes(site: Path) -> dict[str, list[str]]:
    """Return event -> outcomes of its intents in order; an intent without a result gives `open`."""
    lines = (site / "evidence/log/entries.jsonl").read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    results = {record["corr"]: record["outcome"] for record in records if record["phase"] == "result"}
    found: dict[str, list[str]] = {}
    for record in records:
        if record["phase"] == "intent":
            found.setdefault(record["event"], []).append(results.get(record["corr"], "open"))
    return found


def check_store(site: Path) -> None:
    """Every blob that has its name has its bytes, whatever happened."""
    for path in (site / "store").rglob("*"):
        if path.is_file() and len(path.name) == 64:
            assert hash_file(path)[0].hex == path.name


@pytest.fixture
def copies(memory: Path) -> Callable[[Path], Iterator[tuple[int, Path]]]:
    """Return what gives a fresh copy of a site for each N; the one before is gone then."""

    def each(template: Path) -> Iterator[tuple[int, Path]]:
        place = Path(tempfile.mkdtemp(dir=memory))
        for at in itertools.count(1):
            assert at < 2000, "this never gets through"
            site = copy_site(template, place / f"struck-{at}")
            yield at, site
            remove_site(site)

    return each


def test_a_killed_import_is_taken_up_again_and_leaves_nothing_half_visible(
    site: Any, bench: Any, copies: Callable[[Path], Iterator[tuple[int, Path]]], tmp_path: Path
) -> None:
    medium = bench.build("1.0.0")
    seen = set()
    for at, place in copies(site.folder):
        through = struck(at, partial(import_at, place, medium))
        rows = Site.open(place).catalog.releases()
        assert [row.state for row in rows] in ([], [State.IMPORTED]), "whole or not there"
        assert not list(place.glob("products/*/current"))
        check_store(place)
        if through:
            break
        done = import_package(Site.open(place), [medium])
        assert done.row is not None
        assert done.row.state is State.IMPORTED
        assert done.receipt is not None
        assert done.receipt.read_bytes() == done.row.receipt
        assert list((place / "ingest").iterdir()) == [], "nothing is left over"
        fsck(Site.open(place))
        *before, last = outcomes(place)["import"]
        assert last == "done"
        assert set(before) <= {"interrupted", "done"}
        seen |= set(before)
        if at % 10 == 0:
            type(site)(place).audit(tmp_path / "evidence.zip")
    assert at > 50, "the sweep must have swept something"
    assert seen == {"interrupted", "done"}


def test_a_killed_repair_is_done_on_record_only_once_it_is_done(
    site: Any, bench: Any, copies: Callable[[Path], Iterator[tuple[int, Path]]]
) -> None:
    """Importing again what is held brings back what was lost; cut short, it must not go down as done."""
    medium = bench.build("1.0.0")
    site.run("import", medium)
    size = (bench.spec("1.0.0").parent / "model/weights.safetensors").stat().st_size
    (lost,) = [path for path in (site.folder / "store").rglob("*") if path.is_file() and path.stat().st_size == size]
    lost.unlink()
    for at, place in copies(site.folder):
        through = struck(at, partial(import_at, place, medium))
        gc(Site.open(place))
        if outcomes(place)["import"][-1] == "done" and len(outcomes(place)["import"]) > 1:
            assert (place / lost.relative_to(site.folder)).is_file(), f"step {at}"
        if through:
            break
    assert at > 20


def test_a_killed_activation_leaves_the_old_or_the_new_one_and_is_taken_up_again(
    site: Any, bench: Any, copies: Callable[[Path], Iterator[tuple[int, Path]]], tmp_path: Path
) -> None:
    for version in ("1.0.0", "1.1.0"):
        site.run("import", bench.build(version))
    site.run("activate", "tool@1.0.0")
    weights = {file.read_bytes() for file in bench.folder.glob("specs/tool-1.[01].0/model/weights.safetensors")}
    assert len(weights) == 2
    for at, place in copies(site.folder):
        through = struck(at, partial(activate_at, place))
        link = place / "products/tool/current"
        assert (link / "model/m/weights.safetensors").read_bytes() in weights
        if through:
            break
        done = activate(Site.open(place), "tool@1.1.0")
        assert done.active is not None
        assert done.active.version == "1.1.0"
        fsck(Site.open(place))
        assert set(outcomes(place)["activate"]) <= {"interrupted", "done"}
        assert list((place / "ingest").iterdir()) == []
        if at % 10 == 0:
            type(site)(place).audit(tmp_path / "evidence.zip")
    assert at > 30


def test_a_killed_fallback_never_leaves_a_failed_release_running(
    site: Any, bench: Any, copies: Callable[[Path], Iterator[tuple[int, Path]]]
) -> None:
    for version in ("1.0.0", "1.1.0"):
        site.run("import", bench.build(version))
        site.run("activate", f"tool@{version}")
    (site.folder / "probes/tool.toml").write_text('kind = "command"\ncommand = ["runtime/tool/check", "1"]\n')
    for at, place in copies(site.folder):
        through = struck(at, partial(activate_at, place))
        gc(Site.open(place))  # any command puts right what was cut short
        opened = Site.open(place)
        active = opened.catalog.active("tool")
        assert active is not None
        row = opened.catalog.release(active.release)
        assert row is not None
        assert row.state is State.KNOWN_GOOD, f"step {at}: {row.name} runs, and is {row.state}"
        assert opened.current("tool").resolve() == opened.tree(active)
        fsck(Site.open(place))
        assert "open" not in outcomes(place)["activate"]
        fell_back = row.version == "1.0.0"
        assert ("done" in outcomes(place).get("rollback", [])) == fell_back, f"step {at}: what the log says is true"
        if through:
            break
    assert at > 20


def test_a_killed_gc_is_finished_by_the_next_one(
    site: Any, bench: Any, copies: Callable[[Path], Iterator[tuple[int, Path]]]
) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"):
        site.run("import", bench.build(version))
        site.run("activate", f"tool@{version}")
    for at, place in copies(site.folder):
        through = struck(at, partial(gc_at, place))
        gc(Site.open(place))
        fsck(Site.open(place))
        opened = Site.open(place)
        assert {row.version for row in opened.catalog.releases() if row.state is State.KNOWN_GOOD} == {
            "1.2.0",
            "1.3.0",
            "1.4.0",
        }
        assert len(opened.catalog.generations()) == 3, f"step {at}"
        assert len(list((place / "generations/tool").iterdir())) == 3, f"step {at}"
        if through:
            break
    assert at > 10


def test_a_trial_that_is_cut_short_three_times_has_failed(site: Any, bench: Any) -> None:
    """A hang or a power cut counts as a try: the try was stored before the probe began."""
    site.run("import", bench.build("1.0.0"))

    def cut(*_args: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def act() -> None:
        setattr(sys.modules[activate.__module__], "run_trials", cut)  # noqa: B010, in the child only
        activate(Site.open(site.folder), "tool@1.0.0")

    states = []
    for _ in range(3):
        assert not struck(0, act)
        site.run("gc")
        states.append(site.states()["tool@1.0.0"])
    assert states == ["ready", "ready", "failed"]
    recovered = [record for record in site.records() if record["event"] == "recover"]
    assert [record["data"]["tries_left"] for record in recovered if "tries_left" in record["data"]] == [2, 1, 0]
    assert site.run("activate", "tool@1.0.0").json["state"] == "good", "the operator may decide to try again"


def test_a_killed_fsck_repair_is_done_by_the_next_one(
    site: Any, bench: Any, copies: Callable[[Path], Iterator[tuple[int, Path]]], tmp_path: Path
) -> None:
    medium = bench.build("1.0.0")
    site.run("import", medium)
    site.run("activate", "tool@1.0.0")
    for name in ("site.toml", "root.json", "evidence/site.pub", "products/tool/current"):
        (site.folder / name).unlink()
    blobs = sorted((site.folder / "store").rglob("?" * 64), key=lambda file: file.stat().st_size)
    for file in blobs[:2]:
        file.unlink()
    shutil.rmtree(site.folder / "trust" / (site.folder / "trust/current").readlink())
    for file in (site.folder / "evidence/receipts").iterdir():
        file.write_bytes(b"rotten")
    for at, place in copies(site.folder):
        through = struck(at, partial(repair_at, place, medium))
        check_store(place)
        assert repair_at(place, medium).ok, f"step {at}: the second look of the next repair finds nothing"
        assert "open" not in outcomes(place)["fsck"]
        assert (place / "products/tool/current/model/m/weights.safetensors").is_file(), f"step {at}"
        if at % 20 == 0:
            type(site)(place).audit(tmp_path / "evidence.zip")
        if through:
            break
    assert at > 50


def test_a_program_that_is_killed_while_it_reads_is_taken_up_again(site: Any, bench: Any, tmp_path: Path) -> None:
    """The real command, a real SIGKILL, at the first sign that bulk data is read."""
    medium = bench.build("1.0.0", "large", count=12_000_000, volume_size="8MiB")
    words = [str(AIRPACK), "import", str(medium), "--site", str(site.folder), "--json", "--progress"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "note" in process.stderr.readline()
        assert json.loads(process.stderr.readline())["type"] == "start"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert site.states() == {}
    check_store(site.folder)
    assert site.run("import", medium).json["state"] == "ready"
    assert site.run("fsck").json["ok"] is True
    assert outcomes(site.folder)["import"] == ["interrupted", "done"]
    site.audit(tmp_path / "evidence.zip")
