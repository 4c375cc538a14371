"""Makes the vectors: `python -m tests.vectors.make`. Signatures differ each time, so what is there is never made anew.

    python -m tests.vectors.make            # adds the folders that are missing, and writes README.md
    python -m tests.vectors.make --check    # exit 1 where a folder or the README is not of the form made here
    python -m tests.vectors.make NAME...    # makes these anew: for who changed an attack

The keys are those of `keys/`; everything was built at 2026-06-01 and is judged a day later. Good packages stand below,
attacks in `attacks.py`, what parity and repair volumes are for in `damage.py`.
"""

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tests.integration.conftest import safetensors
from tests.vectors import attacks, attacks_inside, damage, vectors
from tests.vectors.forge import CHECK, Bench, Frame, Package, key
from tests.vectors.vectors import HERE, ROOT, Vector

README: Final = HERE / "README.md"
BEGIN: Final = "<!-- made by make.py: what stands below is written by it -->\n"
_SPREAD: Final = 512  # bytes by which two makings of one file may differ: DER signatures in base64, many of them
_MANY: Final = {
    "weights.safetensors": safetensors("many"),
    "more/second.safetensors": safetensors("many, second", 40),
    "more/empty.txt": b"",
    "words.txt": b"all work and no play makes a dull model\n" * 100,
}
_RUNTIME: Final = {"check": CHECK, "helper": "#!/bin/sh\nexit 3\n", "notes/read.me": "nothing to see\n"}


def make_good() -> None:
    """Make the good packages, all at once: each is built on the channel as the one before left it."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.make(Path(folder))
        ROOT.write_bytes(bench.workspace.pinned_root.read_bytes())
        found = {"first_ok": bench.build("1.0.0"), "second_ok": bench.build("1.1.0")}
        found["plain_ok"] = bench.build("1.0.0", "plain", models=_MANY, runtime=_RUNTIME)
        built = bench.build("1.0.0", "many", models=_MANY, runtime=_RUNTIME)
        found["many_ok"] = built.repacked(in_volumes(built.stream()), slots=3)
        found["parts_ok"] = built.repacked([[Frame.parts(built.stream(), 5)]])
        for name, package in found.items():
            vectors.write(HERE / name, good(name, package), package.files())


def in_volumes(stream: bytes) -> list[list[Frame]]:
    """Return the stream as frames in four volumes: raw and zstd, large and small, bounds at no file's bound."""
    bounds = [0, 1, 100, 777, 900, 1500, 2500, len(stream)]
    pieces = [stream[start:stop] for start, stop in pairwise(bounds)]
    frames = [Frame.zstd(piece) if number % 2 else Frame.raw(piece) for number, piece in enumerate(pieces)]
    return [frames[:2], frames[2:4], frames[4:5], frames[5:]]


GOOD: Final = {
    "first_ok": "built by airpack 0.1.0: every later version imports it",
    "second_ok": "the next release of the same product; sites of most attacks run it",
    "plain_ok": "models in folders, an empty file, executable files, in one volume",
    "many_ok": "the same by hand in four volumes: raw and zstd frames, slots to spare; most attacks begin with it",
    "parts_ok": "the same by hand as one frame in five chunks",
}


def good(name: str, package: Package) -> dict[str, Any]:
    """Return `expect.json` of a good package."""
    manifest = package.manifest
    sequence = package.forger.statements(package.head)["release"].predicate["sequence"]
    return vectors.expectation(
        {**GOOD, **GOOD_TOO}.get(name, ""),
        {
            "exit_code": 0,
            "release": str(manifest.release),
            "name": f"{manifest.product}@{manifest.version}",
            "sequence": sequence,
        },
    )


def make_controls() -> None:
    """Make what looks like an attack and is none."""
    kit = attacks.Kit()
    many = kit.package()
    newest = attacks.reissued(many.head, attacks.same)
    rotated = attacks.reissued(many.head, attacks.same, keys={"timestamp": key("stranger")})
    strict = attacks.rooted(rotated, attacks.rekeyed("timestamp", "stranger"), "root")
    odd = {name: name.encode() for name in _ODD_NAMES}
    named = attacks_inside.assembled(kit, odd, formats=dict.fromkeys(odd, "text"), name=("names", "1.0.0"))
    for name, package, after in (
        ("renewed_ok", many.with_head(newest), ["second_ok"]),
        ("rotated_root_ok", many.with_head(strict), ["second_ok"]),
        ("older_medium_ok", kit.package("first_ok"), ["many_ok"]),
        ("names_ok", named, []),
    ):
        before = [{"import": other, "activate": False} for other in after]
        vectors.write(HERE / name, {**good(name, package), "after": before}, package.files())


def make_damaged() -> None:
    """Make the media that lost something and are imported all the same, those whose folders are missing."""
    kit = attacks.Kit()
    for name, (text, base, change) in damage.CONTROLS.items():
        if not (HERE / name).exists():
            package = damage.with_parity(kit.package()) if name == damage.BASE else kit.package(base or "")
            expect = {**good(name, package), "attack": text, "base": base}
            vectors.write(HERE / name, expect, change(package))


GOOD_TOO: Final = {
    "renewed_ok": "newer channel metadata in the head, the same volumes",
    "rotated_root_ok": "root 2 gives timestamps another key",
    "older_medium_ok": "a medium older than what the site has seen, whose release is still listed",
    "names_ok": "file names at the edge of what is allowed",
}
_ODD_NAMES: Final = (
    "a b [c] {d} (e) 'f' ~g!.txt",
    "nul-not",
    "con1/.hidden",
    "com10.txt",
    "..double",
    "x" * 255,
    "deep/" * 60 + "end",
)


def make_attacks(names: set[str]) -> None:
    """Make the attacks whose folder is missing, or that are in `names`."""
    kit = attacks.Kit()
    for name, attack in attacks.ATTACKS.items():
        folder = HERE / f"{name}_fail"
        if folder.name in names or not folder.exists():
            print(f"making {folder.name}")
            vectors.write(folder, attack.expect(), attack.files(kit))


def faults() -> list[str]:
    """Return where what is there is not of the form that would be made: names, expectations, files and their sizes."""
    kit, found = attacks.Kit(), []
    wanted = {f"{name}_fail" for name in attacks.ATTACKS} | GOOD.keys() | GOOD_TOO.keys() | damage.CONTROLS.keys()
    there = {vector.name for vector in vectors.every()}
    found += [f"{name}: {'missing' if name in wanted else 'made by nothing'}" for name in wanted ^ there]
    for name, attack in attacks.ATTACKS.items():
        vector = Vector.load(HERE / f"{name}_fail")
        if {**vector.expect, "remove": []} != attack.expect():
            found.append(f"{vector.name}: expect.json is not what attacks say")
        files, again = vector.files(), attack.files(kit)
        sizes = {file: len(data) for file, data in files.items()}
        if files.keys() != again.keys() or any(abs(len(again[file]) - size) > _SPREAD for file, size in sizes.items()):
            found.append(f"{vector.name}: its files are of another form")
    if README.read_text() != readme():
        found.append("README.md: its table is not that of the folders")
    return found


def readme() -> str:
    """Return README.md with its table as the folders say."""
    lines = ["| vector | what it is | refused at | error | exit | source |", "|---|---|---|---|---|---|"]
    for vector in vectors.every():
        outcome, expect = vector.expect["import"], vector.expect
        end = [outcome.get("step", "-"), outcome.get("code", "-"), str(outcome["exit_code"]), expect["source"] or "-"]
        lines.append(f"| `{vector.name}` | {' | '.join([expect['attack'], *end])} |")
    return README.read_text().partition(BEGIN)[0] + BEGIN + "\n".join(["", *lines, ""])


def main(words: list[str]) -> int:
    """Run from the command line."""
    if words == ["--check"]:
        found = faults()
        print("\n".join([*found, f"{len(vectors.every())} vectors, {len(found)} faults"]))
        return 1 if found else 0
    if not (HERE / "many_ok").exists():
        make_good()
    if not (HERE / "names_ok").exists():
        make_controls()
    make_damaged()
    make_attacks(set(words))
    README.write_text(readme())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
