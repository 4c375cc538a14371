"""Every input that fuzzing kept, and changed ones beside it, without a fuzzer: what was fixed once stays fixed."""

import ast
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.fuzz import campaign, forge, mutate, seeds
from tests.fuzz.targets import AUDIT_PARTS, TARGETS, Target, admitted, export_of, same, tried

from airpack.errors import IntegrityError
from airpack.evidence.audit import audit
from airpack.formats import head
from airpack.ops.inspect_ import inspect_package

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER.parent.parent / "src/airpack"
NAMES = sorted(TARGETS)
SMALL = 64 << 10  # bytes


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a folder of its own to work in."""
    monkeypatch.setenv("AIRPACK_FUZZ_WORK", str(tmp_path))
    forge.forget_work()
    yield
    forge.forget_work()


def inputs(target: Target) -> list[Path]:
    return sorted((seeds.CORPUS / target.name).iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_no_kept_input_crashes_its_target(name: str) -> None:
    for path in inputs(TARGETS[name]):
        TARGETS[name].run(path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_no_changed_input_crashes_its_target(name: str) -> None:
    target, random = TARGETS[name], Random(name)
    chosen = [path.read_bytes() for path in inputs(target)]
    for _ in range(target.rounds):
        change = target.mutate if random.random() < 0.7 else mutate.raw
        data = change(random.choice(chosen), random, SMALL)
        try:
            target.run(data)
        except BaseException as error:
            error.add_note(f"the input: {data!r}")
            raise


def test_every_folder_of_inputs_has_its_target_and_every_target_its_inputs() -> None:
    assert sorted(path.name for path in seeds.CORPUS.iterdir()) == NAMES
    assert all(inputs(target) for target in TARGETS.values())


def test_all_inputs_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in seeds.CORPUS.rglob("*") if path.is_file()) < 1 << 20


def test_the_seeds_are_what_their_maker_makes() -> None:
    made = {f"{target}/seed-{name}": data for target, name, data in seeds.every()}
    found = {str(path.relative_to(seeds.CORPUS)): path.read_bytes() for path in seeds.CORPUS.glob("*/seed-*")}
    assert made.keys() == found.keys()
    # What zlib and zstd make differs from version to version.
    packed = {"golden/seed-arrays-8", "wheel/seed-demo-packed", "identify/seed-zlib"}
    packed |= {name for name in made if name.startswith(("codec/", "unpack/", "volume/"))}
    assert {name: made[name] for name in made.keys() - packed} == {name: found[name] for name in made.keys() - packed}


def test_the_seed_of_a_package_is_admitted_and_inspected(tmp_path: Path) -> None:
    made = forge.package_of((seeds.CORPUS / "admit/seed-good").read_bytes())
    assert made is not None
    assert admitted(made)
    path = tmp_path / "tool.airpack"
    path.write_bytes(made)
    assert inspect_package(path).release.name == forge.NAME
    assert head.parse((seeds.CORPUS / "head/seed-package").read_bytes()).blobs


def test_the_seed_of_an_audit_passes() -> None:
    found = forge.parts((seeds.CORPUS / "audit/seed-good").read_bytes(), AUDIT_PARTS)
    assert found
    result = audit(export_of(found), key=forge.key("site").public)
    assert result.ok, result.error


def test_every_format_that_is_parsed_is_fuzzed() -> None:
    parsing = {"parse", "read", "decode", "check", "admit", "audit", "identify", "open", "verify", "inspect", "from"}
    read = {module for target in TARGETS.values() for module in target.reads}
    for folder in ("formats", "evidence", "facts"):
        for path in sorted((SOURCE / folder).glob("*.py")):
            functions = {
                node.name.partition("_")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef)
            }
            module = f"airpack.{folder}.{path.stem}"
            if functions & parsing and module not in NOT_FROM_OUTSIDE:
                assert module in read, f"no target reads {module}"


NOT_FROM_OUTSIDE = {
    "airpack.evidence.merkle": "hashes of fixed length, held by property tests; the audit target reaches it",
}


def test_every_module_that_a_target_names_is_there() -> None:
    for target in TARGETS.values():
        for module in target.reads:
            path = SOURCE.parent / Path(*module.split("."))
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


def test_the_page_lists_every_target() -> None:
    page = (FOLDER / "README.md").read_text()
    for name, target in TARGETS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert all(module.removeprefix("airpack.") in row for module in target.reads), row


@pytest.mark.parametrize("name", NAMES)
def test_a_mutator_gives_the_same_bytes_for_the_same_numbers_and_keeps_its_bound(name: str) -> None:
    target = TARGETS[name]
    data = inputs(target)[0].read_bytes()
    for number in range(20):
        first, second = (target.mutate(data, Random(number), 2000) for _ in range(2))
        assert first == second
        assert len(first) <= 2000


def test_a_head_that_was_changed_has_a_right_checksum() -> None:
    data = (seeds.CORPUS / "head/seed-least").read_bytes()
    changed = {mutate.head(data, Random(number), SMALL) for number in range(50)}
    assert len(changed) > 40
    for each in changed:
        assert head._body(each)


def test_a_target_that_breaks_its_law_or_raises_something_else_is_seen() -> None:
    with pytest.raises(AssertionError, match="law"):
        same(1, 2)
    with pytest.raises(ZeroDivisionError):
        tried(IntegrityError, divmod, 1, 0)


def test_what_libfuzzer_said_is_read() -> None:
    text = "#12\tNEW    cov: 7 ft: 9 corp: 3/40b\n#99\tDONE   cov: 8 ft: 9 corp: 4/50b\n"
    text += "stat::number_of_executed_units: 99\n"
    assert campaign.read_log(text) == (99, 8, 4)
    assert campaign.read_log("") == (0, 0, 0)
    assert campaign.reason("Traceback\nKeyError: 'x'\n==7== ERROR: libFuzzer: deadly signal\n", 77) == "KeyError: 'x'"
    assert campaign.reason("", 9) == "ended with exit code 9"


def test_the_program_names_its_targets_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == NAMES
    for words in (["60", "nothing"], [], ["0"], ["60", "--jobs", "0"]):
        with pytest.raises(SystemExit) as ended:
            campaign.main(words)
        assert ended.value.code == 2


def test_without_atheris_it_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert campaign.main(["1", "head"]) == campaign.UNABLE
    assert "./scripts/test tests/fuzz" in capsys.readouterr().err


def test_what_was_found_is_kept_beside_the_seeds_within_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, data in {
        "corpus/head/seed-a": b"seed",
        "corpus/head/old": b"o" * 20,
        "corpus/head/older": b"o" * campaign.LARGEST,
        "work/head/corpus/new": b"n",
        "work/head/corpus/large": b"l" * (campaign.LARGEST + 1),
        **{f"work/head/corpus/{number:03}": bytes(2) for number in range(campaign.MOST - 2)},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(campaign, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(campaign, "WORK", tmp_path / "work")
    campaign.keep()
    found = {path.name for path in (tmp_path / "corpus/head").iterdir()}
    assert found == {"seed-a", "old", "new", *(f"{number:03}" for number in range(campaign.MOST - 2))}
