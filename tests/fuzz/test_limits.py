"""What the worst documents cost, measured by the kernel in a process of its own for each."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.fuzz.targets import TARGETS

from airpack.types import Limits

REPOSITORY = Path(__file__).resolve().parent.parent.parent
AT_THE_BOUND = """\
import sys
from pathlib import Path
from tests.fuzz import bulk, mutate, watch
name, size, memory, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) << 20, Path(sys.argv[4])
seen = watch.Watch(watch.TARGETS[name], out, memory=memory)
documents = bulk.documents(size - 80)
for worst in ("most keys", "keys", "most wide strings"):
    seen.run(mutate.checked(documents[worst]) if name == "head" else documents[worst])
seen.keep()
"""


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "name",
    [
        *("head", "settings", "names", "archive", "codec", "volume", "log", "wheel", "tensors", "golden"),
        *("onnx", "tflite", "pickles", "hf", "elf", "registry"),
    ],
)
def test_no_large_input_takes_more_than_64_mib_or_10_seconds(name: str, tmp_path: Path) -> None:
    done = run("-m", "tests.fuzz.watch", name, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f'"largest": {TARGETS[name].most}' in (tmp_path / "large.json").read_text()  # they were run


@pytest.mark.parametrize(
    ("name", "size", "memory"),
    [("head", Limits.HEAD, 192), ("trust", Limits.DOCUMENT, 96)],
)
def test_at_its_own_bound_the_worst_document_takes_no_more_than_is_promised(
    name: str, size: int, memory: int, tmp_path: Path
) -> None:
    done = run("-c", AT_THE_BOUND, name, str(size), str(memory), tmp_path / "cost.json")
    assert done.returncode == 0, done.stderr


def test_what_takes_more_is_seen(tmp_path: Path) -> None:
    done = run("-c", AT_THE_BOUND, "trust", str(Limits.DOCUMENT), "8", tmp_path / "cost.json")
    assert done.returncode == 1
    assert "MemoryError" in done.stderr
