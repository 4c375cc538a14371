"""What the documents show is what happens: examples run, keys are there, and scripts/docs.py finds no fault.

The README's steps run once; each how-to then goes on from a copy of the folder that they leave. A block marked `sh`
runs as it stands; a comment `# exit N` at the end of a line says the exit code that the line must have.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from airpack.ops.probes import isolation_available

ROOT = Path(__file__).resolve().parents[2]
HOWTOS = sorted((ROOT / "docs/howto").glob("*.md"))
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXPECTED = re.compile(r"^(?P<command>[^#\n]*\S) +# exit (?P<code>\d+)$", re.MULTILINE)
JSON_ROW = re.compile(r"^\| `airpack ([^`]+)` \| (.+) \|$", re.MULTILINE)
ALLOW = "printf 'allow_unisolated = true\\n' >$work/site/policy.toml"


def blocks(page: Path, language: str) -> list[str]:
    return [match[2] for match in FENCE.finditer(page.read_text("utf-8")) if match[1] == language]


def story() -> str:
    """The README's block, which is the one that makes the work folder."""
    found = [block for block in blocks(README, "sh") if "work=$(mktemp -d)" in block]
    assert len(found) == 1
    if isolation_available():
        return found[0]
    # What the README says to do on a machine without namespaces.
    return re.sub(r"^(airpack site init .*)$", rf"\1\n{ALLOW}", found[0], flags=re.MULTILINE)


def run(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in the checkout with temporary files in `folder`."""
    expecting = EXPECTED.sub(r"{ \g<command>; } && exit 99 || test $? -eq \g<code>", script)
    bin_folder = str(Path(sys.executable).parent)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", expecting],
        cwd=ROOT,
        env={
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "LANG": "C.UTF-8",
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def tidy(folder: Path) -> None:
    """Remove a folder with generations in it, which are read-only on purpose."""
    for parent, _, _ in os.walk(folder):
        Path(parent).chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the README's steps leave."""
    folder = tmp_path_factory.mktemp("readme")
    before = checkout()
    result = run(story(), folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert checkout() == before, "the README's steps leave something in the checkout"
    (work,) = [path for path in folder.iterdir() if (path / "workspace").is_dir()]
    yield work
    tidy(folder)


def checkout() -> set[str]:
    """The names that the steps could leave behind: at the top and in the folders that a workspace has too."""
    return {str(path) for name in (".", "keys", "manifests", "registry", "docs") for path in (ROOT / name).iterdir()}


@pytest.fixture
def work(told: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it, for one how-to alone. Hard links stay hard links."""
    subprocess.run(["cp", "-a", str(told), str(tmp_path / "work")], check=True)
    yield tmp_path / "work"
    tidy(tmp_path)


def test_readme_tells_the_story_in_ten_steps(told: Path) -> None:
    assert (told / "evidence.zip").is_file()
    assert (told / "site/products/digits/current").readlink() == Path("../../generations/digits/1")
    commands = re.findall(r"\bairpack [a-z]", story())
    assert len(commands) == 12  # ten steps, the update being three commands in one


def test_readme_opens_with_five_lines_and_the_two_commands() -> None:
    opening, _, rest = README.read_text("utf-8").partition("```sh\n")
    assert len([line for line in opening.splitlines() if line and not line.startswith("#")]) == 5
    assert [line.split()[0] for line in rest.splitlines()[:2]] == ["./scripts/demo", "./scripts/test"]


@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.stem)
def test_howto_runs(page: Path, work: Path, tmp_path: Path) -> None:
    scripts = blocks(page, "sh")
    assert scripts, "a how-to without a single runnable step"
    result = run("\n".join(scripts), tmp_path, work=str(work))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("line", "passes"),
    [("(exit 3)  # exit 3", True), ("(exit 4)  # exit 3", False), ("true  # exit 3", False)],
)
def test_a_line_that_must_fail_is_held_to_its_exit_code(line: str, passes: bool, tmp_path: Path) -> None:
    assert (run(line, tmp_path).returncode == 0) is passes


def test_json_keys_are_there(work: Path) -> None:
    rows = JSON_ROW.findall((ROOT / "docs/reference/json.md").read_text("utf-8"))
    assert len(rows) == len({words for words, _ in rows}) >= 17
    for words, cell in rows:
        places = {"work": str(work), "AIRPACK_SITE": str(work / "site"), "AIRPACK_WORKSPACE": str(work / "workspace")}
        result = run(f"airpack {words} --json", work, **places)
        assert result.returncode == 0, words + result.stderr
        keys = set(re.findall(r"`(\w+)`", cell.partition("; ")[0]))
        assert keys
        assert keys <= set(json.loads(result.stdout)), words


def test_documents_check_finds_no_fault() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts/docs.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/docs.py, looking at a small repository without fault."""
    spec = importlib.util.spec_from_file_location("docs_script", ROOT / "scripts/docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "docs/howto").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# A\n\n[b](docs/b.md#c-d)\n")
    (tmp_path / "docs/b.md").write_text("# B\n\n## `C` D!\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


PLAIN_CHECKS = ("check_links", "check_reachable", "check_fences", "check_schemas", "check_secrets")


def faults(docs: ModuleType) -> list[str]:
    return [fault for name in PLAIN_CHECKS for fault in getattr(docs, name)()]


def test_a_repository_without_fault_passes(docs: ModuleType) -> None:
    assert faults(docs) == []


@pytest.mark.parametrize(
    ("path", "content", "fault"),
    [
        ("keys/README.md", "[x](nowhere.md)", "leads nowhere"),
        ("keys/README.md", "[x](../../outside.md)", "leads nowhere"),
        ("keys/README.md", "[x](../docs/b.md#e)", "no such heading"),
        ("docs/lonely.md", "# Lonely", "no link from README.md"),
        ("docs/howto/x.md", "```bash\nls\n```\n", "marked 'bash'"),
        ("docs/howto/x.md", "```\nls\n```\n", "marked ''"),
        ("a.schema.json", '{"type": 1}', "not valid"),
        ("a.schema.json", "{", "a.schema.json"),
        ("a.schema.json", "{}", "draft 2020-12"),
        ("src/a.py", "# see /ho" + "me/me/notes", "path of a machine"),
        ("keys/a.pem", "-----BEGIN ENCRYPTED PRIV" + "ATE KEY-----", "private key"),
    ],
)
def test_a_planted_fault_is_found(path: str, content: str, fault: str, docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(content)
    assert fault in "\n".join(faults(docs))


@pytest.mark.parametrize("path", [".venv/a.py", "env/lib/a.py", "src/__pycache__/a.py"])
def test_what_is_not_the_repositorys_is_not_looked_at(path: str, docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / "env").mkdir(exist_ok=True)
    (tmp_path / "env/pyvenv.cfg").touch()
    (tmp_path / path).write_text("# see /ho" + "me/me/notes")
    assert faults(docs) == []


def test_a_stale_or_missing_generated_page_is_found(docs: ModuleType, tmp_path: Path) -> None:
    assert len(list(docs.check_generated())) == 2
    for page, make in docs.GENERATED.items():
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(make())
    docs.text.cache_clear()
    assert list(docs.check_generated()) == []
    (tmp_path / "docs/exit-codes.md").write_text(docs.exits_page().replace("| 13 |", "| 14 |"))
    docs.text.cache_clear()
    (fault,) = docs.check_generated()
    assert "-| 14 |" in fault
    assert "+| 13 |" in fault


def test_a_command_without_an_example_is_found(docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("```sh\nairpack site init x --root y\n```\n")
    found = list(docs.check_commands())
    assert "airpack gc: no document has an example of it" in found
    assert not [fault for fault in found if fault.startswith("airpack site init")]


def test_an_environment_variable_nobody_describes_is_found(docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text(" ".join([*docs.VARIABLES, "AIRPACK_" + "NEW"]))
    assert list(docs.check_variables()) == ["environment variable AIRPACK_" + "NEW: not described"]
