"""The issue's story end to end: the real digits model and the real onnxruntime wheels, the site without any network.

Each call is held to the JSON keys that the issue promises to scripts.
"""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airpack.crypto.keys import PublicKey
from airpack.ops.probes import isolation_available

SPECS = Path(__file__).resolve().parents[2] / "manifests"
PRODUCT = "digits"


@dataclass
class Story:
    """The folders of the story and how commands are run in it."""

    folder: Path
    offline: list[str]
    program: Callable[..., Any]

    def ask(self, *words: str | Path, expect: int = 0) -> Any:
        """Run a command of the connected side and return its document."""
        return self.program(*words, "--json", expect=expect, cwd=self.folder).json

    def at_site(self, *words: str | Path, expect: int = 0) -> Any:
        """Run a command of the site, where there is no network at all."""
        words = (*words, "--site", self.folder / "site", "--json")
        return self.program(*words, expect=expect, cwd=self.folder, before=self.offline).json

    def build(self, version: str) -> Any:
        spec = SPECS / f"{PRODUCT}-{version}.toml"
        return self.ask("build", spec, "-o", f"medium-{version}", "--workspace", "workspace")

    @property
    def current(self) -> Path:
        return self.folder / "site/products" / PRODUCT / "current"

    def runs(self) -> str | None:
        """Return what runs, by `status`; the link must lead to a generation that holds it."""
        active = self.at_site("status")["products"][PRODUCT]["active"]
        if active is None:
            return None
        assert set(active) >= {"version", "release", "state"}
        shown = self.at_site("show", f"{PRODUCT}@{active['version']}")
        assert self.current.is_symlink()
        assert str(self.current.resolve()) in {item["path"] for item in shown["generations"]}
        return str(active["version"])


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, offline: list[str], program: Callable[..., Any], digits_wheels: Path
) -> Story:
    """The story up to 1.2.0 on the site, told once; the tests look at it from all sides, in order."""
    assert any(digits_wheels.glob("onnxruntime-*.whl"))
    return Story(tmp_path_factory.mktemp("story"), offline, program)


def keys(document: Any, *names: str) -> None:
    assert set(document) >= set(names), f"missing: {set(names) - set(document)}"


def absolute(*paths: str) -> None:
    for path in paths:
        assert Path(path).is_absolute(), path
        assert Path(path).exists(), path


def test_the_site_side_has_no_network(offline: list[str]) -> None:
    if not offline:
        pytest.skip("this machine offers no network namespace; the reason stands in the report above")
    code = "import socket; socket.create_connection(('192.0.2.1', 9), 1)"
    tried = subprocess.run([*offline, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Network is unreachable" in tried.stderr


def test_01_init_names_the_root_to_pin(story: Story) -> None:
    made = story.ask("init", "workspace", "--no-passphrase")
    keys(made, "root", "fingerprint")
    absolute(made["root"])
    assert made["fingerprint"].startswith("sha256:")


def test_02_build_says_what_it_made(story: Story) -> None:
    made = story.build("1.0.0")
    keys(made, "release", "product", "version", "sequence", "head", "volumes", "bytes_raw", "bytes_packed")
    assert (made["product"], made["version"], made["sequence"]) == (PRODUCT, "1.0.0", 1)
    absolute(made["head"], *made["volumes"])
    out = story.folder / "medium-1.0.0"
    assert made["bytes_packed"] == sum(path.stat().st_size for path in out.iterdir()), "all files in OUT"
    assert sorted(map(str, out.iterdir())) == sorted([made["head"], *made["volumes"]])
    assert 1 << 20 < made["bytes_packed"] < made["bytes_raw"]
    built = story.ask("releases", "--workspace", "workspace")["releases"]
    assert [(item["version"], item["release"]) for item in built] == [("1.0.0", made["release"])]


def test_03_inspect_and_verify_agree_on_the_release(story: Story) -> None:
    seen = story.ask("inspect", "medium-1.0.0")
    checked = story.ask("verify", "medium-1.0.0", "--root", "workspace/keys/root.json")
    keys(checked, "ok", "release", "checks")
    assert checked["ok"] is True
    assert checked["release"] == seen["release"]
    assert seen["verified"] is False
    for check in checked["checks"]:
        assert set(check) == {"name", "ok", "detail"}
        assert check["ok"] is True
    order = ["head", "channel", "policy", "package", "release", "attestations", "compatibility", "volumes"]
    assert [check["name"] for check in checked["checks"]] == order


def test_04_site_init_pins_the_root_and_makes_an_evidence_key(story: Story) -> None:
    fingerprint = story.ask("verify", "medium-1.0.0", "--root", "workspace/keys/root.json")["root_fingerprint"]
    root = "workspace/keys/root.json"
    made = story.program(
        "site", "init", "site", "--root", root, "--fingerprint", fingerprint, "--json", cwd=story.folder
    ).json
    keys(made, "site", "root_fingerprint")
    absolute(made["site"])
    assert made["root_fingerprint"] == fingerprint
    assert PublicKey.from_pem((story.folder / "site/evidence/site.pub").read_bytes()).algorithm == "ed25519"
    if not isolation_available():
        policy = story.folder / "site/policy.toml"
        policy.write_text(policy.read_text().replace("allow_unisolated = false", "allow_unisolated = true"))


def test_05_import_leaves_a_receipt_and_runs_nothing(story: Story) -> None:
    done = story.at_site("import", "medium-1.0.0")
    keys(done, "release", "product", "version", "state", "receipt")
    assert (done["product"], done["version"], done["state"]) == (PRODUCT, "1.0.0", "ready")
    absolute(done["receipt"])
    assert not story.current.is_symlink()
    status = story.at_site("status")
    assert status["products"][PRODUCT] | {"floor": 0, "current": None} == {
        "active": None,
        "known_good": [],
        "floor": 0,
        "current": None,
    }
    assert status["starter"] is True


def test_06_activation_runs_the_packed_runtime_on_the_golden_inputs(story: Story) -> None:
    done = story.at_site("activate", "digits@1.0.0")
    keys(done, "product", "version", "state", "generation", "probe", "active")
    assert (done["product"], done["version"], done["state"]) == (PRODUCT, "1.0.0", "good")
    assert done["active"]["version"] == "1.0.0"
    (probe,) = done["probes"]
    assert probe == done["probe"]
    (wheel,) = (SPECS / "digits/wheels").glob("onnxruntime-*.whl")
    assert probe["runtime_version"] == wheel.name.split("-")[1], "the packed runtime answered, not one of this machine"
    assert (probe["origin"], probe["ok"], probe["cases"]) == ("release", True, 599)
    assert probe["correct"] >= 0.9
    assert probe["goodput"] > 50
    assert probe["isolation"] == ("namespaces" if isolation_available() else "unavailable")
    assert story.runs() == "1.0.0"
    tree = story.current.resolve()
    assert (tree / "model/digits/digits.onnx").read_bytes() == (SPECS / "digits/1.0.0/digits.onnx").read_bytes()
    writable = [path for path in tree.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o222]
    assert writable == [], "a generation is read-only"


def test_07_an_update_becomes_active(story: Story) -> None:
    assert story.build("1.1.0")["sequence"] == 2
    story.at_site("import", "medium-1.1.0")
    done = story.at_site("activate", "digits@1.1.0")
    assert done["state"] == "good"
    assert story.runs() == "1.1.0"
    assert story.at_site("status")["products"][PRODUCT]["known_good"] == ["1.1.0", "1.0.0"]


def test_08_wrong_answers_fail_the_probe_and_1_1_0_stays(story: Story) -> None:
    story.build("1.2.0")
    story.at_site("import", "medium-1.2.0")
    before = story.current.readlink()
    failed = story.at_site("activate", "digits@1.2.0", expect=12)
    keys(failed, "product", "version", "state", "generation", "probe", "active", "error")
    assert (failed["version"], failed["state"]) == ("1.2.0", "failed")
    assert failed["active"]["version"] == "1.1.0"
    assert failed["error"]["code"] == "probe"
    assert failed["error"]["exit_code"] == 12
    (probe,) = failed["probes"]
    assert probe == failed["probe"]
    assert (probe["ok"], probe["reason"]) == (False, "wrong")
    assert story.current.readlink() == before
    assert story.runs() == "1.1.0"
    releases = story.at_site("list")["releases"]
    for row in releases:
        keys(row, "product", "version", "release", "state", "sequence")
    assert [(row["version"], row["state"], row["sequence"]) for row in releases] == [
        ("1.0.0", "good", 1),
        ("1.1.0", "good", 2),
        ("1.2.0", "failed", 3),
    ]


def test_09_rollback_goes_to_the_newest_older_good_one_and_to_a_named_one(story: Story) -> None:
    back = story.at_site("rollback", PRODUCT)
    keys(back, "product", "version", "state")
    assert (back["product"], back["version"], back["state"]) == (PRODUCT, "1.0.0", "good")
    assert story.runs() == "1.0.0"
    assert story.at_site("rollback", PRODUCT, expect=12)["error"]["code"] == "policy", "there is nothing older"
    assert story.at_site("rollback", PRODUCT, "--to", "1.1.0")["version"] == "1.1.0"
    assert story.runs() == "1.1.0"
    assert story.at_site("rollback", PRODUCT, "--to", "1.2.0", expect=12)["error"]["code"] == "policy"
    assert story.at_site("rollback", PRODUCT, "--to", "1.0.0")["version"] == "1.0.0"
    assert story.runs() == "1.0.0"


def test_10_one_changed_byte_is_refused_by_file_and_place(story: Story) -> None:
    medium = story.folder / "medium-tampered"
    shutil.copytree(story.folder / "medium-1.1.0", medium)
    (volume,) = medium.glob("*.airvol")
    place = volume.stat().st_size // 2
    with volume.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    before = (story.at_site("list"), story.at_site("status")["products"], story.current.readlink())
    refused = story.at_site("import", medium, expect=30)["error"]
    assert (refused["code"], refused["exit_code"]) == ("damaged", 30)
    assert refused["context"]["waits_for"] == [volume.name]
    assert volume.name in refused["message"]
    context = refused["context"]
    assert context["volume"] == volume.name
    assert context["offset"] <= place < context["offset"] + context["length"]
    assert refused["hint"]
    assert (story.at_site("list"), story.at_site("status")["products"], story.current.readlink()) == before
    checked = story.ask("verify", medium, "--root", "workspace/keys/root.json", expect=10)
    assert checked["ok"] is False
    assert checked["checks"][-1]["name"] == "volumes"
    assert checked["checks"][-1]["ok"] is False


def test_11_the_auditor_finds_the_whole_story_and_holds_the_site_to_it(story: Story) -> None:
    pinned = story.folder / "pinned.pub"
    shutil.copy(story.folder / "site/evidence/site.pub", pinned)
    out = story.at_site("evidence", "export", "-o", story.folder / "evidence.zip")
    keys(out, "records", "checkpoint")
    assert isinstance(out["records"], int)
    assert out["checkpoint"].splitlines()[1] == str(out["records"])
    state = story.folder / "auditor.json"
    found = story.ask("audit", "verify", "evidence.zip", "--key", pinned, "--state", state)
    keys(found, "ok", "findings")
    assert found["ok"] is True
    for finding in found["findings"]:
        assert set(finding) == {"name", "ok", "detail"}
        assert finding["ok"] is True
    counts = found["summary"]
    assert (counts["imports"], counts["activations"], counts["rollbacks"]) == (3, 2, 3)
    assert counts["refusals"] >= 1, "the tampered package is on record"
    assert state.is_file()
    story.at_site("evidence", "export", "-o", story.folder / "later.zip")
    assert story.ask("audit", "verify", "later.zip", "--key", pinned, "--state", state)["ok"] is True
    again = story.ask("audit", "verify", "evidence.zip", "--key", pinned, "--state", state, expect=13)
    assert (again["ok"], again["error"]["code"]) == (False, "rollback")


def test_12_changed_evidence_is_found(story: Story) -> None:
    forged = story.folder / "forged.zip"
    with zipfile.ZipFile(story.folder / "evidence.zip") as good, zipfile.ZipFile(forged, "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            bad.writestr(name, data.replace(b'"failed"', b'"done"') if name == "log/entries.jsonl" else data)
    found = story.ask("audit", "verify", forged, "--key", "pinned.pub", expect=10)
    assert found["ok"] is False
    assert found["findings"][-1]["ok"] is False
    other = story.folder / "other.pub"
    other.write_bytes((story.folder / "workspace/keys/release.pub").read_bytes())
    assert story.ask("audit", "verify", "evidence.zip", "--key", other, expect=11)["ok"] is False


def test_13_every_refusal_and_act_is_on_record_with_intent_before_result(story: Story) -> None:
    lines = (story.folder / "site/evidence/log/entries.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    open_intents: dict[str, str] = {}
    for record in records:
        if record["phase"] == "intent":
            open_intents[record["corr"]] = record["event"]
        elif record["phase"] == "result":
            assert open_intents.pop(record["corr"]) == record["event"]
    assert open_intents == {}
    refused = [record for record in records if record["event"] == "import" and record["outcome"] == "refused"]
    assert refused[-1]["reason"] == "damaged"
    assert story.at_site("fsck")["ok"] is True
