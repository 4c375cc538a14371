"""The command line as others see it: documents and exit codes, streams, keys, places, and what a build promises."""

import csv
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from airpack.cli.main import main
from airpack.formats.sizes import MEDIA
from airpack.formats.words import spoken
from airpack.types import Digest

HEAVY = ("sigstore", "sqlalchemy", "oras", "in_toto", "tuf")


def commands(group: click.Group = main, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group."""
    for name, command in group.commands.items():
        yield (*before, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))


def is_group(words: tuple[str, ...]) -> bool:
    found: click.Command = main
    for word in words:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return isinstance(found, click.Group)


@pytest.fixture(scope="module")
def medium(bench: Any) -> Path:
    return Path(bench.build("1.0.0", count=1_200_000, volume_size="2MiB"))


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, program: Callable[..., Any]) -> Path:
    """A workspace whose keys are encrypted, beside the file that holds its passphrase."""
    folder = tmp_path_factory.mktemp("encrypted")
    (folder / "passphrase").write_text("correct horse\n")
    program("init", folder / "workspace", AIRPACK_KEY_PASSPHRASE_FILE=str(folder / "passphrase"))
    return folder


def check_error(document: Any, exit_code: int, code: str) -> Any:
    error = document["error"]
    assert set(error) == {"code", "exit_code", "message", "hint", "context"}
    assert (error["exit_code"], error["code"]) == (exit_code, code), error["message"]
    return error


# -- help, usage, documents -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_help_and_json(airpack: Callable[..., Any], words: tuple[str, ...]) -> None:
    text = airpack(*words, "--help").out
    assert text.startswith(f"Usage: airpack {' '.join(words)} ")
    if not is_group(words):
        assert "--json" in text


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom airpack.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Carry AI models" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--json"],
        ["nonsense", "--json"],
        ["import", "--json"],
        ["import", "--dry-run", "--json"],
        ["list", "--nonsense", "--json"],
        ["build", "spec", "-o", "out", "--format", "zip", "--json"],
        ["evidence", "export", "-o", "x", "--since", "minus", "--json"],
        ["site", "nonsense", "--json"],
    ],
    ids=" ".join,
)
def test_a_usage_error_is_one_json_document_too(program: Callable[..., Any], words: list[str], tmp_path: Path) -> None:
    done = program(*words, expect=2, cwd=tmp_path)
    error = check_error(done.json, 2, "input")
    assert "--help" in error["hint"]
    assert done.err == ""


def test_without_json_an_error_goes_to_stderr_alone(program: Callable[..., Any], tmp_path: Path) -> None:
    done = program("status", "--site", tmp_path / "none", expect=3)
    assert done.out == ""
    assert done.err.startswith("airpack: error: ")
    assert "airpack: hint: " in done.err


def test_no_words_at_all_are_answered_with_help(program: Callable[..., Any]) -> None:
    assert "Commands:" in program(expect=2).err


def test_the_version_is_the_package_s_own(airpack: Callable[..., Any]) -> None:
    import airpack as package  # noqa: PLC0415, the fixture of the same name runs it

    assert airpack("--version").out.split()[-1] == package.__version__


def test_a_bug_says_that_it_is_one(airpack: Callable[..., Any], site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_site: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("airpack.ops.status.status", broken)
    done = airpack("status", "--site", site.folder, "--json", expect=1)
    error = check_error(done.json, 1, "internal_error")
    assert "unforeseen" in error["message"]
    assert "bug" in error["hint"]
    assert "Traceback" in done.err


def test_ctrl_c_is_cancelled(airpack: Callable[..., Any], site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_site: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("airpack.ops.status.status", interrupted)
    check_error(airpack("status", "--site", site.folder, "--json", expect=130).json, 130, "cancelled")


@pytest.mark.parametrize("words", [["status"], ["list"], ["import", "x"], ["activate", "tool@1"], ["fsck"], ["gc"]])
def test_a_site_that_is_not_there_is_not_found_with_a_way_on(
    airpack: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/x.airpack").touch()
    words = [str(tmp_path / "x") if word == "x" else word for word in words]
    error = check_error(airpack(*words, "--site", tmp_path / "none", "--json", expect=3).json, 3, "not_found")
    assert "airpack site init" in error["hint"]
    assert "AIRPACK_SITE" in error["hint"]
    assert not (tmp_path / "none").exists()


def test_a_workspace_that_is_not_there_is_not_found_with_a_way_on(
    program: Callable[..., Any], bench: Any, tmp_path: Path
) -> None:
    for words in (["releases"], ["build", bench.spec(), "-o", "out"], ["publish"]):
        error = check_error(program(*words, "--json", cwd=tmp_path, expect=3).json, 3, "not_found")
        assert "airpack init" in error["hint"]
    assert list(tmp_path.iterdir()) == []


def test_the_site_is_found_by_flag_then_environment(program: Callable[..., Any], site: Any, tmp_path: Path) -> None:
    assert program("status", "--json", AIRPACK_SITE=str(site.folder)).json["site"] == str(site.folder)
    flag = program("status", "--json", "--site", site.folder, AIRPACK_SITE=str(tmp_path / "none"))
    assert flag.json["site"] == str(site.folder)
    default = program("status", "--json", AIRPACK_SITE=None, expect=None)
    assert "/var/lib/airpack" in default.out


def test_the_workspace_is_found_by_flag_environment_and_upwards(
    program: Callable[..., Any], bench: Any, medium: Path, tmp_path: Path
) -> None:
    assert medium.is_dir()
    inside = bench.workspace / "manifests"
    assert program("releases", "--json", cwd=inside).json["channel"] == "main"
    assert program("releases", "--json", cwd=tmp_path, AIRPACK_WORKSPACE=str(bench.workspace)).json["releases"]
    flag = program("releases", "--workspace", bench.workspace, "--json", cwd=tmp_path, AIRPACK_WORKSPACE="/nowhere")
    assert flag.json["channel"] == "main"


def test_no_option_that_weakens_trust_is_read_from_the_environment() -> None:
    """Only places and the passphrase's file come from there."""
    found = {
        str(option.envvar)
        for words in commands()
        for option in _command(words).params
        if isinstance(option, click.Option) and option.envvar
    }
    assert found == {"AIRPACK_SITE", "AIRPACK_WORKSPACE"}


def _command(words: tuple[str, ...]) -> click.Command:
    found: click.Command = main
    for word in words:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return found


def test_the_help_of_build_names_every_medium_that_volumes_can_be_made_for(airpack: Callable[..., Any]) -> None:
    text = airpack("build", "--help").out
    assert all(name in text for name in MEDIA)


# -- streams ----------------------------------------------------------------------------------------------------------


def test_progress_is_json_lines_on_stderr_while_stdout_is_one_document(
    program: Callable[..., Any], bench: Any, site: Any, medium: Path, tmp_path: Path
) -> None:
    runs = {
        "pack": ["build", bench.spec("1.0.0", count=1_200_000), "-o", tmp_path / "out", "--workspace", bench.workspace],
        "verify": ["verify", medium, "--root", bench.root],
        "unpack": ["import", medium, "--site", site.folder],
        "fsck": ["fsck", "--site", site.folder],
    }
    for task, words in runs.items():
        done = program(*words, "--json", "--progress")
        assert isinstance(done.json, dict)
        lines = [line for line in map(json.loads, done.err.splitlines()) if line["type"] != "note"]
        assert [line["type"] for line in lines if line["type"] != "progress"] == ["start", "end"]
        assert {line["task"] for line in lines} == {task}
        assert lines[-1]["done"] == lines[-1]["total"] > 4_800_000
        assert set(lines[0]) >= {"done", "total", "item", "volume", "bytes_per_second", "seconds_left"}
        if task != "fsck":
            assert lines[-1]["item"].endswith(("weights.safetensors", "check")), "what was in hand last"
            volumes = ["tool-1.0.0.0001.airvol"] if task == "pack" else [path.name for path in medium.glob("*.airvol")]
            assert lines[-1]["volume"] == max(volumes)


def test_json_without_progress_leaves_stderr_empty(program: Callable[..., Any], bench: Any, medium: Path) -> None:
    assert program("verify", medium, "--root", bench.root, "--json").err == ""


def test_a_name_on_a_medium_cannot_steer_the_terminal(
    program: Callable[..., Any], medium: Path, carry: Callable[[Path], Path]
) -> None:
    carried = carry(medium)
    (carried / "evil\x1b[2J\nfake line").touch()
    done = program("inspect", carried)
    assert "\x1b" not in done.out
    assert "\nfake line" not in done.out
    assert "evil\\x1b[2J" in done.out


# -- keys -------------------------------------------------------------------------------------------------------------


def test_private_keys_are_for_their_owner_alone_and_never_tracked(encrypted: Path) -> None:
    workspace = encrypted / "workspace"
    private = workspace / ".airpack/private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((workspace / ".airpack").stat().st_mode) == 0o700
    keys = sorted(private.iterdir())
    assert len(keys) == 8
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert key.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    elsewhere = [path for path in workspace.rglob("*") if path.is_file() and path not in keys]
    assert [path for path in elsewhere if b"PRIVATE KEY" in path.read_bytes()] == []
    assert (workspace / ".airpack/.gitignore").read_text() == "*\n"


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git to ask")
def test_git_tracks_the_public_half_of_a_workspace_only(encrypted: Path, tmp_path: Path) -> None:
    shutil.copytree(encrypted / "workspace", tmp_path / "workspace")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    listed = subprocess.run(
        ["git", "-C", tmp_path, "ls-files", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "workspace/keys/root.json" in listed
    assert [name for name in listed if ".airpack" in name] == []


def test_the_passphrase_comes_from_the_named_file(
    program: Callable[..., Any], encrypted: Path, bench: Any, tmp_path: Path
) -> None:
    words = ["build", bench.spec("1.0.0", "sealed"), "-o", tmp_path / "out", "--workspace", encrypted / "workspace"]
    (tmp_path / "wrong").write_text("battery staple\n")
    wrong = program(*words, "--json", expect=11, AIRPACK_KEY_PASSPHRASE_FILE=str(tmp_path / "wrong"))
    error = check_error(wrong.json, 11, "trust")
    assert "AIRPACK_KEY_PASSPHRASE_FILE" in error["hint"]
    none = program(*words, "--json", expect=2, AIRPACK_KEY_PASSPHRASE_FILE=None)
    assert "passphrase" in check_error(none.json, 2, "input")["message"]
    lost = program(*words, "--json", expect=20, AIRPACK_KEY_PASSPHRASE_FILE=str(tmp_path / "lost"))
    check_error(lost.json, 20, "storage")
    assert [path for path in tmp_path.rglob("*.airpack") if path.is_file()] == []
    right = program(*words, "--json", AIRPACK_KEY_PASSPHRASE_FILE=str(encrypted / "passphrase"))
    assert right.json["sequence"] == 1
    for done in (wrong, none, right):
        assert "horse" not in done.out + done.err


def test_keys_in_the_clear_must_be_asked_for(program: Callable[..., Any], tmp_path: Path) -> None:
    done = program("init", tmp_path / "workspace", "--json", expect=2, AIRPACK_KEY_PASSPHRASE_FILE=None)
    assert "--no-passphrase" in check_error(done.json, 2, "input")["hint"]
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_a_private_key_that_others_can_reach_is_refused(
    airpack: Callable[..., Any], new_bench: Callable[[], Any], mode: int, tmp_path: Path
) -> None:
    bench = new_bench()
    key = bench.workspace / ".airpack/private/packer.pem"
    key.chmod(mode)
    words = ("build", bench.spec(), "-o", tmp_path / "out", "--workspace", bench.workspace, "--json")
    error = check_error(airpack(*words, expect=11).json, 11, "trust")
    assert error["hint"] == f"chmod 600 {key}"
    key.chmod(0o600)
    assert airpack(*words).json["sequence"] == 1


def test_the_site_s_own_key_is_for_its_owner_alone(site: Any) -> None:
    assert stat.S_IMODE((site.folder / "evidence/site.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((site.folder / "ingest").stat().st_mode) == 0o700


def test_a_root_with_another_fingerprint_is_not_pinned(airpack: Callable[..., Any], bench: Any, tmp_path: Path) -> None:
    words = ("site", "init", tmp_path / "site", "--root", bench.root, "--json")
    check_error(airpack(*words, "--fingerprint", "sha256:" + "0" * 64, expect=11).json, 11, "trust")
    assert not (tmp_path / "site").exists()
    (tmp_path / "other.json").write_text("{}")
    no_root = airpack("site", "init", tmp_path / "site", "--root", tmp_path / "other.json", "--json", expect=None)
    assert no_root.code in {10, 11}
    assert not (tmp_path / "site").exists()


def test_a_workspace_or_site_is_never_made_over_another(airpack: Callable[..., Any], bench: Any, site: Any) -> None:
    check_error(airpack("init", bench.workspace, "--no-passphrase", "--json", expect=2).json, 2, "input")
    again = airpack("site", "init", site.folder, "--root", bench.root, "--json", expect=2)
    check_error(again.json, 2, "input")


# -- pack specs -------------------------------------------------------------------------------------------------------


def edited_spec(bench: Any, old: str, new: str) -> Path:
    """Return a good pack spec with `old` in it replaced."""
    spec: Path = bench.spec()
    text = spec.read_text()
    assert old in text
    spec.write_text(text.replace(old, new))
    return spec


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("product =", "prodct =", "product"),
        ("[[model]]\nname", "[[model]]\nnmae", "name"),
        ("license =", "licence =", "license"),
        ("[[runtime]]", "[[runtimes]]", "runtime"),
        ("[probe]", "[prob]", "probe"),
        ("command =", "comand =", "command"),
        ('kind = "files"', 'kind = "file"', "files"),
        ('kind = "command"', 'kind = "comand"', "command"),
    ],
)
def test_an_unknown_key_in_a_pack_spec_is_refused_with_the_nearest_right_one(  # noqa: PLR0917, fixtures come by name
    airpack: Callable[..., Any], new_bench: Callable[[], Any], tmp_path: Path, old: str, new: str, named: str
) -> None:
    bench = new_bench()
    spec = edited_spec(bench, old, new)
    done = airpack("build", spec, "-o", tmp_path / "out", "--workspace", bench.workspace, "--json", expect=2)
    error = check_error(done.json, 2, "input")
    assert f"'{named}'" in error["hint"], error


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('product = "tool"', 'product = "Tool"', 2),
        ('product = "tool"', 'product = "a"', 2),
        ('product = "tool"', 'product = "../x"', 2),
        ('version = "1.0.0"', 'version = "current"', 2),
        ('version = "1.0.0"', 'version = "../1"', 2),
        ('path = "model"', 'path = "nowhere"', 2),
        ('path = "tool"', 'path = "nowhere"', 2),
        ("[release]", "[release", 2),
        ('command = ["runtime/tool/check"]', 'command = ["/bin/sh"]', 2),
        ('command = ["runtime/tool/check"]', 'command = ["../../bin/sh"]', 2),
    ],
)
def test_a_pack_spec_that_cannot_be_built_is_bad_input(  # noqa: PLR0917, parameters and fixtures come by name
    airpack: Callable[..., Any], new_bench: Callable[[], Any], tmp_path: Path, old: str, new: str, code: int
) -> None:
    bench = new_bench()
    spec = edited_spec(bench, old, new)
    done = airpack("build", spec, "-o", tmp_path / "out", "--workspace", bench.workspace, "--json", expect=code)
    check_error(done.json, code, "input")
    assert airpack("releases", "--workspace", bench.workspace, "--json").json["releases"] == []
    assert not list(tmp_path.rglob("*.air*"))


def test_a_pickle_and_a_link_are_not_packed(airpack: Callable[..., Any], new_bench: Callable[[], Any]) -> None:
    bench = new_bench()
    spec = bench.spec()
    words = ("build", spec, "-o", bench.folder / "out", "--workspace", bench.workspace, "--json")
    extra = spec.parent / "model/extra.bin"
    extra.write_bytes(b"\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.")
    check_error(airpack(*words, expect=12).json, 12, "incompatible")
    extra.unlink()
    extra.symlink_to("/etc/passwd")
    check_error(airpack(*words, expect=2).json, 2, "input")


# -- builds -----------------------------------------------------------------------------------------------------------


def test_an_identical_rebuild_gives_the_same_release_sequence_and_attestations(
    airpack: Callable[..., Any], bench: Any, forger: Any, tmp_path: Path
) -> None:
    spec = bench.spec("2.0.0", "again")

    def build(out: Path) -> Any:
        return airpack("build", spec, "-o", out, "--workspace", bench.workspace, "--json").json

    first, second = build(tmp_path / "one"), build(tmp_path / "two")
    assert (first["repeated"], second["repeated"]) == (False, True)
    assert first["release"] == second["release"]
    assert first["sequence"] == second["sequence"]
    one, two = forger.read(tmp_path / "one"), forger.read(tmp_path / "two")
    assert one.blobs == two.blobs, "the release's documents and its attestations, byte for byte"
    volumes = [[path.read_bytes() for path in sorted((tmp_path / name).glob("*.airvol"))] for name in ("one", "two")]
    assert volumes[0] == volumes[1]
    os.utime(spec.parent / "model/weights.safetensors", (0, 0))
    (spec.parent / "model/weights.safetensors").chmod(0o600)
    assert build(tmp_path / "three")["release"] == first["release"], "no time and no mode of a model is part of it"
    third = build(tmp_path / "three")
    assert third["release"] == first["release"], "into the same folder too"


def test_another_workspace_builds_the_same_release(airpack: Callable[..., Any], new_bench: Callable[[], Any]) -> None:
    digests = set()
    for bench in (new_bench(), new_bench()):
        out = bench.folder / "out"
        made = airpack("build", bench.spec(), "-o", out, "--workspace", bench.workspace, "--json").json
        digests.add(made["release"])
    assert len(digests) == 1


def test_changed_content_under_a_released_name_refuses(airpack: Callable[..., Any], bench: Any, tmp_path: Path) -> None:
    spec = bench.spec("3.0.0", "fixed")
    words = ("build", spec, "--workspace", bench.workspace, "--json")
    before = airpack(*words, "-o", tmp_path / "one").json
    weights = spec.parent / "model/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    error = check_error(airpack(*words, "-o", tmp_path / "two", expect=2).json, 2, "input")
    assert "new version" in error["hint"]
    assert not list(tmp_path.glob("two/*"))
    built = airpack("releases", "--workspace", bench.workspace, "--json").json["releases"]
    assert [item["release"] for item in built if item["product"] == "fixed"] == [before["release"]]


def test_sequences_count_up_by_product_and_a_lower_one_is_refused(
    airpack: Callable[..., Any], bench: Any, tmp_path: Path
) -> None:
    def build(version: str, *, expect: int = 0, sequence: str = "") -> Any:
        spec = bench.spec(version, "counted")
        spec.write_text(spec.read_text().replace("[[model]]", f"{sequence}\n[[model]]", 1))
        words = ("build", spec, "-o", tmp_path / version, "--workspace", bench.workspace, "--json")
        return airpack(*words, expect=expect).json

    assert build("1")["sequence"] == 1
    assert build("2", sequence="sequence = 10")["sequence"] == 10
    assert build("3")["sequence"] == 11
    check_error(build("4", expect=2, sequence="sequence = 11"), 2, "input")


def test_a_dry_run_of_a_build_says_what_it_would_pack_and_writes_nothing(
    airpack: Callable[..., Any], bench: Any, tmp_path: Path
) -> None:
    before = sorted(path for path in bench.workspace.rglob("*") if path.is_file())
    words = ("build", bench.spec("9.9.9"), "-o", tmp_path / "out", "--workspace", bench.workspace, "--json")
    plan = airpack(*words, "--dry-run").json
    assert (plan["release"], plan["head"], plan["bytes_packed"], plan["files"]) == (None, None, 0, 2)
    assert not (tmp_path / "out").exists()
    assert sorted(path for path in bench.workspace.rglob("*") if path.is_file()) == before
    assert plan["bytes_raw"] == airpack(*words).json["bytes_raw"]


def test_an_oci_layout_holds_every_blob_under_its_digest(
    airpack: Callable[..., Any], bench: Any, medium: Path, tmp_path: Path, forger: Any
) -> None:
    out = tmp_path / "layout"
    spec = bench.spec("1.0.0", count=1_200_000)
    made = airpack("build", spec, "-o", out, "--workspace", bench.workspace, "--format", "oci", "--json").json
    head = forger.read(medium)
    assert made["release"] == str(forger.manifest(head).release), "whatever way it travels, it is the same release"
    assert json.loads((out / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert made["bytes_packed"] == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    blobs = {path.name: path for path in (out / "blobs/sha256").iterdir()}
    for name, path in blobs.items():
        assert Digest.of(path.read_bytes()).hex == name
    reached: dict[str, int] = {}

    def follow(descriptor: Any) -> None:
        name = descriptor["digest"].removeprefix("sha256:")
        reached[name] = descriptor["size"]
        if not descriptor["mediaType"].endswith(("index.v1+json", "manifest.v1+json")):
            return
        document = json.loads(blobs[name].read_bytes())
        assert "artifactType" not in document or document["mediaType"].endswith("manifest.v1+json")
        for child in [*document.get("manifests", []), *document.get("layers", [])]:
            follow(child)
        if "config" in document:
            follow(document["config"])

    index = json.loads((out / "index.json").read_bytes())
    for top in index["manifests"]:
        follow(top)
    assert reached == {name: path.stat().st_size for name, path in blobs.items()}
    referrers = [
        json.loads(blobs[top["digest"].removeprefix("sha256:")].read_bytes()) for top in index["manifests"][1:]
    ]
    assert [item["subject"]["digest"] for item in referrers] == [made["release"]] * 4
    again = airpack("build", spec, "-o", out, "--workspace", bench.workspace, "--format", "oci", "--json", expect=2)
    check_error(again.json, 2, "input")


# -- looking at a medium ----------------------------------------------------------------------------------------------


def test_inspect_needs_neither_keys_nor_volumes_nor_a_site(
    program: Callable[..., Any], medium: Path, forger: Any, tmp_path: Path
) -> None:
    head = tmp_path / "alone" / forger.file(medium).name
    head.parent.mkdir()
    shutil.copy(forger.file(medium), head)
    whole = program("inspect", medium, "--json", cwd=tmp_path).json
    alone = program("inspect", head, "--json", cwd=tmp_path, AIRPACK_SITE=None, HOME="/nonexistent").json
    assert whole["verified"] is False
    assert alone["head_digest"] == str(Digest.of(head.read_bytes()))
    assert {volume["present"] for volume in whole["volumes"]} == {True}
    assert {volume["present"] for volume in alone["volumes"]} == {False}
    assert [file["path"] for file in alone["files"]] == ["model/m/weights.safetensors", "runtime/tool/check"]
    assert [file["executable"] for file in alone["files"]] == [False, True]
    assert len(alone["claims"]) == 4
    assert alone["bom"] is True
    text = program("inspect", head, "--files").out
    assert text.startswith("NOT VERIFIED")
    assert "MISSING" in text
    assert "model/m/weights.safetensors" in text


def test_inspect_lists_a_head_alone_as_text_csv_and_page(
    program: Callable[..., Any], medium: Path, forger: Any, tmp_path: Path
) -> None:
    head = tmp_path / "alone" / forger.file(medium).name
    head.parent.mkdir()
    shutil.copy(forger.file(medium), head)
    page = tmp_path / "page.html"
    found = program("inspect", head, "--html", page, "--json").json
    assert found["html"] == str(page)
    assert found["words"] == spoken(Digest(found["head_digest"]))
    volume = json.loads(program("inspect", medium, "--json").out)["volumes"][0]
    listed = list(csv.DictReader(io.StringIO(program("inspect", head, "--csv").out, newline="")))
    assert [row["name"] for row in listed if row["kind"] == "file"] == [file["path"] for file in found["files"]]
    assert volume["table"].removeprefix("sha256:") in {row["table_sha256"] for row in listed}
    text = program("inspect", head, "--files").out
    for file in found["files"]:
        for shown in (text, page.read_text("utf-8").replace("<wbr>", "")):
            assert file["path"] in shown
            assert file["digest"].removeprefix("sha256:") in shown
            assert file["media_type"] in shown
    assert found["words"] in text
    assert volume["table"] in text
    for words in (["--csv", "--json"], ["--csv", "--files"], ["--html", page]):
        program("inspect", head, *words, expect=2)
    program("inspect", head, "--html", page, "--force")


def test_inspect_of_a_damaged_head_is_refused(
    airpack: Callable[..., Any], medium: Path, carry: Callable[[Path], Path], forger: Any
) -> None:
    carried = carry(medium)
    file = forger.file(carried)
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)
    check_error(airpack("inspect", carried, "--json", expect=10).json, 10, "integrity")


def test_a_time_that_is_none_is_bad_input(airpack: Callable[..., Any], bench: Any, medium: Path) -> None:
    for moment in ("tomorrow", "2026-01-01T00:00:00", "2026-13-01"):
        done = airpack("verify", medium, "--root", bench.root, "--at", moment, "--json", expect=2)
        check_error(done.json, 2, "input")


# -- evidence ---------------------------------------------------------------------------------------------------------


def test_an_export_is_not_written_over_another(airpack: Callable[..., Any], site: Any, tmp_path: Path) -> None:
    out = tmp_path / "evidence.zip"
    words = ("evidence", "export", "-o", out)
    assert site.run(*words).json["records"] == len(site.records()) - 1, "the result of the export comes after it"
    check_error(site.run(*words, expect=2).json, 2, "input")
    assert site.run(*words, "--force").json["export"] == 2
    document = airpack("audit", "verify", out, "--key", site.folder / "evidence/site.pub", "--json").json
    history = next(finding for finding in document["findings"] if finding["name"] == "history")
    assert history["ok"] is True
    assert history["detail"].startswith("not checked")


def test_an_export_carries_the_receipt_of_every_import(site: Any, medium: Path, tmp_path: Path) -> None:
    receipt = Path(site.run("import", medium).json["receipt"])
    site.run("evidence", "export", "-o", tmp_path / "evidence.zip")
    with zipfile.ZipFile(tmp_path / "evidence.zip") as bundle:
        receipts = [name for name in bundle.namelist() if "receipts" in name]
        assert receipts == [f"attestations/receipts/{receipt.name}"]
        assert bundle.read(receipts[0]) == receipt.read_bytes()


def test_audit_failures_have_their_exit_codes_and_a_document(
    airpack: Callable[..., Any], bench: Any, site: Any, new_site: Callable[..., Any], tmp_path: Path
) -> None:
    out, key = tmp_path / "evidence.zip", site.folder / "evidence/site.pub"
    site.run("evidence", "export", "-o", out)
    stranger = new_site(bench.root).folder / "evidence/site.pub"
    document = airpack("audit", "verify", out, "--key", stranger, "--json", expect=11).json
    check_error(document, 11, "trust")
    assert document["ok"] is False
    cut = tmp_path / "cut.zip"
    cut.write_bytes(out.read_bytes()[:-30])
    document = airpack("audit", "verify", cut, "--key", key, "--json", expect=10).json
    assert (document["ok"], document["findings"][-1]["ok"]) == (False, False)
    check_error(airpack("audit", "verify", tmp_path / "none", "--key", key, "--json", expect=3).json, 3, "not_found")
    check_error(airpack("audit", "verify", out, "--key", tmp_path / "none", "--json", expect=3).json, 3, "not_found")


def test_status_of_a_starter_channel_says_so_every_time(airpack: Callable[..., Any], site: Any, medium: Path) -> None:
    for _ in range(2):
        assert site.run("status").json["starter"] is True
        assert "STARTER" in airpack("status", "--site", site.folder).out
        site.run("import", medium)


def test_every_path_in_a_document_is_absolute(
    program: Callable[..., Any], bench: Any, medium: Path, tmp_path: Path
) -> None:
    shutil.copytree(medium, tmp_path / "medium")
    made = program("site", "init", "site", "--root", bench.root, "--json", cwd=tmp_path).json
    done = program("import", "medium", "--site", "site", "--json", cwd=tmp_path).json
    seen = program("inspect", "medium", "--json", cwd=tmp_path).json
    shown = program("status", "--site", "site", "--json", cwd=tmp_path).json
    out = program("evidence", "export", "-o", "out.zip", "--site", "site", "--json", cwd=tmp_path).json
    for path in (made["site"], made["evidence_key"], done["receipt"], seen["head"], shown["site"], out["file"]):
        assert Path(path).is_absolute()
        assert Path(path).exists()


def test_looking_changes_nothing(site: Any, medium: Path, snapshot: Callable[[Path], Any], bench: Any) -> None:
    site.run("import", medium)
    site.run("activate", "tool@1.0.0")
    before = snapshot(site.folder)
    for words in (["list"], ["status"], ["show", "tool@1.0.0"]):
        site.run(*words)
    assert snapshot(site.folder) == before
    assert bench.workspace.is_dir()


def test_a_failed_verify_shows_people_how_far_it_got(
    bench: Any, carry: Callable[[Path], Path], airpack: Callable[..., Any]
) -> None:
    medium = carry(bench.build("1.0.0", "shown"))
    (volume,) = medium.glob("*.airvol")
    data = bytearray(volume.read_bytes())
    data[-1] ^= 1
    volume.write_bytes(data)
    told = airpack("verify", medium, "--root", bench.root, expect=10)
    marks = [line.split()[:2] for line in told.out.splitlines()]
    assert marks[0] == ["ok", "head"]
    assert marks[-1] == ["FAILED", "volumes"]
    assert "airpack: error: volume" in told.err


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_a_result_that_cannot_be_written_is_a_failure_of_storage(
    new_site: Callable[..., Any], bench: Any, words: tuple[str, ...]
) -> None:
    """Found by `./scripts/crash inject`: the import was done, and its last line was a traceback."""
    place = new_site(bench.root)
    medium = bench.build("1.0.0", "said")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [Path(sys.executable).parent / "airpack", "import", medium, "--site", place.folder, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 20
    assert "what the command did is done" in done.stderr
    assert "Traceback" not in done.stderr
    assert place.states() == {"said@1.0.0": "ready"}


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_a_failure_that_cannot_be_written_keeps_its_exit_code_and_its_message(
    new_site: Callable[..., Any], bench: Any, words: tuple[str, ...]
) -> None:
    place = new_site(bench.root)
    (place.folder / "site.toml").write_bytes(b"")
    for command, code in ((["fsck"], 10), (["status"], 10), (["show", "no@1"], 10), (["gc", "--nothing"], 2)):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [Path(sys.executable).parent / "airpack", *command, "--site", place.folder, *words],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == code, done.stderr
        assert "rror" in done.stderr
        assert "Traceback" not in done.stderr
