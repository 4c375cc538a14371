"""Make the digits example: train three small classifiers, export them as ONNX, write their goldens and cards.

Numpy trains, `onnx` writes; there is no network and the seed is fixed. Two runs on one machine give the
same bytes. Another processor may round the last bits of a weight otherwise; that is why `--check` compares
weights within a tolerance, and accuracies exactly.

    python manifests/digits/make.py            write the models, cards and goldens beside this file
    python manifests/digits/make.py --check    make them anew elsewhere and compare with what is here

Shapes: N is the number of images; an image is 64 pixels (8 rows of 8) with ink from 0 to 16; 10 classes.
"""

import argparse
import csv
import gzip
import io
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx  # type: ignore[import-not-found,unused-ignore]  # make.lock has it; the type checker's environment may not
from onnx import helper, numpy_helper  # type: ignore[import-not-found,unused-ignore]
from onnx.reference import ReferenceEvaluator  # type: ignore[import-not-found,unused-ignore]

HERE: Final = Path(__file__).resolve().parent

PIXELS: Final = 64
CLASSES: Final = 10
INK: Final = 16.0  # the largest pixel value
HELD_OUT_EVERY: Final = 3  # rows 2, 5, 8, … (counted from 0) are held out; data/DATA.md says why

SEED: Final = 20240229
STEPS: Final = 600  # full-batch gradient steps
LEARNING_RATE: Final = 0.2
MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 1e-3

IR_VERSION: Final = 8
OPSET: Final = 17
WEIGHT_TOLERANCE: Final = 1e-4  # absolute; weights are of the order of 1

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Layer = tuple[Floats, Floats]  # weights [in, out], bias [out]


def read_labels(table: Ints) -> Ints:
    """Take the labels, digits 0 to 9, [N], from the last column of `table`, [N, 65]."""
    return table[:, PIXELS]


def read_labels_from_one(table: Ints) -> Ints:
    """Take the labels as if they counted from 1, [N]: the mistake in 1.2.0, kept on purpose.

    The label 0 becomes -1, which numpy takes as the last class, so nothing fails: each digit is learnt as
    the one before it, and 0 as 9.
    """
    return table[:, PIXELS] - 1


@dataclass(frozen=True)
class Recipe:
    """One version of the model: its kind, and the reader of the labels that it learns."""

    version: str
    kind: str
    hidden: tuple[int, ...]  # widths of the hidden layers
    labels: Callable[[Ints], Ints]
    note: str


RECIPES: Final = (
    Recipe("1.0.0", "softmax regression", (), read_labels, "The first version."),
    Recipe("1.1.0", "one hidden layer of 128 ReLU units", (128,), read_labels, "More often right than 1.0.0."),
    Recipe(
        "1.2.0",
        "one hidden layer of 128 ReLU units",
        (128,),
        read_labels_from_one,
        "**Faulty on purpose; do not use.** The reader of its training labels counted from 1 instead of 0, so it"
        "\nanswers with the digit before the right one. It loads, it is fast, its scores look confident, and by its"
        "\nown labels it is as good as 1.1.0: only goldens with true labels show that it must not go into service.",
    ),
)


def load_table() -> Ints:
    """Read the data set: 64 pixels and the label of each image, [1797, 65]."""
    with gzip.open(HERE / "data" / "digits.csv.gz", "rt", encoding="ascii", newline="") as file:
        table = np.array([[int(value) for value in row] for row in csv.reader(file)], dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != PIXELS + 1:  # noqa: PLR2004 - a table has two axes
        raise ValueError(f"data/digits.csv.gz: not a table of {PIXELS + 1} columns")
    return table


def split(table: Ints) -> tuple[Ints, Ints]:
    """Split the rows into train, [1198, 65], and held-out, [599, 65]."""
    held_out = np.arange(len(table)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return table[~held_out], table[held_out]


def one_hot(labels: Ints) -> Floats:
    """Turn labels, [N], into rows that are 1 at the label and 0 elsewhere, [N, 10]."""
    rows: Floats = np.eye(CLASSES)[labels]
    return rows


def softmax(logits: Floats) -> Floats:
    """Turn logits, [N, 10], into probabilities, [N, 10]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def new_layers(hidden: tuple[int, ...]) -> list[Layer]:
    """Draw the starting weights (He initialisation) of a network from 64 pixels over `hidden` to 10 logits."""
    random = np.random.default_rng(SEED)
    widths = (PIXELS, *hidden, CLASSES)
    return [
        (random.normal(scale=(2 / fan_in) ** 0.5, size=(fan_in, fan_out)), np.zeros(fan_out))
        for fan_in, fan_out in pairwise(widths)
    ]


def activations(layers: list[Layer], inputs: Floats) -> list[Floats]:
    """Compute what goes into each layer, and last the logits: [N, 64], …, [N, 10]."""
    values = [inputs]
    for index, (weights, bias) in enumerate(layers):
        logits = values[-1] @ weights + bias
        values.append(np.maximum(logits, 0) if index < len(layers) - 1 else logits)
    return values


def gradients(layers: list[Layer], inputs: Floats, targets: Floats) -> list[Layer]:
    """Compute the gradient of mean cross-entropy plus weight decay; `inputs` [N, 64], `targets` [N, 10]."""
    values = activations(layers, inputs)
    error = (softmax(values[-1]) - targets) / len(inputs)
    found: list[Layer] = []
    for (weights, _), below in zip(reversed(layers), reversed(values[:-1]), strict=True):
        found.append((below.T @ error + WEIGHT_DECAY * weights, error.sum(axis=0)))
        error = (error @ weights.T) * (below > 0)  # ReLU; not used below the first layer
    return found[::-1]


def train(pixels: Ints, labels: Ints, hidden: tuple[int, ...]) -> list[Layer]:
    """Fit a network to `pixels`, [N, 64], and `labels`, [N], by gradient descent with momentum."""
    inputs, targets = pixels / INK, one_hot(labels)
    layers = new_layers(hidden)
    speeds = [(np.zeros_like(weights), np.zeros_like(bias)) for weights, bias in layers]
    for _ in range(STEPS):
        slopes = gradients(layers, inputs, targets)
        speeds = [
            (MOMENTUM * speed_w - LEARNING_RATE * slope_w, MOMENTUM * speed_b - LEARNING_RATE * slope_b)
            for (speed_w, speed_b), (slope_w, slope_b) in zip(speeds, slopes, strict=True)
        ]
        layers = [
            (weights + speed_w, bias + speed_b)
            for (weights, bias), (speed_w, speed_b) in zip(layers, speeds, strict=True)
        ]
    return layers


def export(layers: list[Layer]) -> bytes:
    """Write the network as an ONNX model: `pixels` float32 [N, 64], ink 0 to 16 → `scores` float32 [N, 10]."""
    nodes = [helper.make_node("Mul", ["pixels", "scale"], ["value0"])]
    weights = [numpy_helper.from_array(np.array(1 / INK, dtype=np.float32), "scale")]
    for index, (matrix, bias) in enumerate(layers):
        last = index == len(layers) - 1
        names = [f"value{index}", f"weights{index}", f"bias{index}"]
        weights += [
            numpy_helper.from_array(matrix.astype(np.float32), names[1]),
            numpy_helper.from_array(bias.astype(np.float32), names[2]),
        ]
        nodes.append(helper.make_node("Gemm", names, ["logits" if last else f"sum{index}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"sum{index}"], [f"value{index + 1}"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["N", PIXELS])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", CLASSES])],
        weights,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, producer_name="airpack-digits")
    onnx.checker.check_model(model, full_check=True)
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def accuracy(model: bytes, pixels: Ints, labels: Ints) -> float:
    """Run the exported bytes with onnx's reference evaluator; the share of `labels`, [N], that they get right."""
    evaluator = ReferenceEvaluator(onnx.load_from_string(model))
    (scores,) = evaluator.run(["scores"], {"pixels": pixels.astype(np.float32)})
    return float((np.asarray(scores).argmax(axis=1) == labels % CLASSES).mean())


def golden(held_out: Ints) -> bytes:
    """Write all held-out cases as an npz: `input/pixels` [599, 64]; `expected/scores` [599, 10], 1 at the truth."""
    arrays: dict[str, Floats32] = {
        "input/pixels": held_out[:, :PIXELS].astype(np.float32),
        "expected/scores": one_hot(read_labels(held_out)).astype(np.float32),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def card(recipe: Recipe, counts: tuple[int, int], share: float, own: float) -> str:
    """Write the model card; `counts` are images trained on and held out, the shares are from 0 to 1."""
    by_own = "" if recipe.labels is read_labels else f" By the labels it was trained on: {own:.4f}."
    return f"""# digits {recipe.version}

{recipe.note}

- Task: which digit, 0 to 9, an 8x8 grey image shows.
- Kind: {recipe.kind}; ONNX IR {IR_VERSION}, opset {OPSET}.
- Input: `pixels`, float32 [N, 64], row by row, ink from 0 to 16. Output: `scores`, float32 [N, 10], probabilities.
- Data: Optical Recognition of Handwritten Digits (UCI, CC BY 4.0); {counts[0]} images, {counts[1]} more held out.
- Training: numpy, {STEPS} full-batch steps of gradient descent with momentum, seed {SEED}.
- Held-out accuracy: {share:.4f} ({round(share * counts[1])} of {counts[1]}).{by_own}
- Limits: the data was not split by writer, so expect less of a new writer's digits.
- Licence of the model: Apache-2.0.
"""


def make(target: Path) -> None:
    """Train every version, write its model and card and the goldens under `target`, and print the accuracies."""
    table = load_table()
    taught, held_out = split(table)
    for recipe in RECIPES:
        model = export(train(taught[:, :PIXELS], recipe.labels(taught), recipe.hidden))
        share = accuracy(model, held_out[:, :PIXELS], read_labels(held_out))
        own = accuracy(model, held_out[:, :PIXELS], recipe.labels(held_out))
        folder = target / recipe.version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "digits.onnx").write_bytes(model)
        text = card(recipe, (len(taught), len(held_out)), share, own)
        (folder / "README.md").write_text(text, encoding="utf-8")
        print(f"{recipe.version}  held-out accuracy {share:.4f}, by the labels it was trained on {own:.4f}")
    (target / "golden.npz").write_bytes(golden(held_out))


def weights_of(model: bytes) -> dict[str, Floats32]:
    """Read the weights of an ONNX model by name."""
    return {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(model).graph.initializer}


def same_weights(left: bytes, right: bytes) -> bool:
    """Tell whether two ONNX models have the same weights, up to `WEIGHT_TOLERANCE`."""
    ours, theirs = weights_of(left), weights_of(right)
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape and np.allclose(ours[name], theirs[name], rtol=0, atol=WEIGHT_TOLERANCE)
        for name in ours
    )


def same_arrays(left: bytes, right: bytes) -> bool:
    """Tell whether two npz files hold equal arrays under equal names."""
    ours, theirs = (np.load(io.BytesIO(data), allow_pickle=False) for data in (left, right))
    return set(ours) == set(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def agree(name: str, left: bytes, right: bytes) -> bool:
    """Tell whether two makings of the file `name` mean the same; text must be equal to the letter."""
    if name.endswith(".onnx"):
        return same_weights(left, right)
    return same_arrays(left, right) if name.endswith(".npz") else left == right


def check() -> bool:
    """Make everything anew in a temporary folder and compare it with the files here; cards hold the accuracies."""
    good = True
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        make(fresh)
        for path in sorted(fresh.rglob("*.*")):
            if not path.is_file():
                continue
            name = path.relative_to(fresh).as_posix()
            here = HERE / name
            made, kept = path.read_bytes(), here.read_bytes() if here.is_file() else None
            same = kept is not None and agree(name, made, kept)
            print(f"{'identical' if made == kept else 'agrees' if same else 'DIFFERS'}  {name}")
            good = good and same
    return good


def main() -> int:
    """Read the command line; 0 when all is well, 1 when `--check` found a difference."""
    parser = argparse.ArgumentParser(description="Make the digits example.")
    parser.add_argument("--check", action="store_true", help="make anew elsewhere and compare with the files here")
    if parser.parse_args().check:
        return 0 if check() else 1
    make(HERE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
