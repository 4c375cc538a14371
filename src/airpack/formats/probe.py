"""The table that says how a release is tried out: in a pack spec, in the signed compat document, and at a site.

    [probe]
    kind = "onnxruntime"
    golden = "golden.npz"
    min_goodput = 50

Law: `parse_probe(Fields(probe.emit(), ...)) == probe`, also after a trip through canonical JSON, where RFC 8785 writes
60.0 as 60. docs/reference/pack-spec.md, "[probe]".
"""

from dataclasses import dataclass
from typing import Any, Final

from airpack.formats.fields import Fields
from airpack.types import Limits

KINDS: Final = ("onnxruntime", "command")
COMPARES: Final = ("allclose", "argmax")
LONGEST: Final = 3600  # seconds
LARGEST_GOLDEN: Final = 256 << 20  # bytes, of the golden file and of all its arrays together
_RTOL: Final = 1e-4
_ATOL: Final = 1e-5  # above what onnxruntime versions differ by (1.2e-7), far below a wrong model
_WORDS = 64  # words in one command
_LOOSEST = 0.1  # largest accepted rtol; beyond it hardly anything is compared


@dataclass(frozen=True, slots=True)
class Probe:
    """How a release is tried out before it is used.

    Attributes:
        kind: `onnxruntime` (golden arrays) or `command` (a program of the release; exit status 0 passes).
        model: Which model file, `NAME/file.onnx`; empty when only one would do.
        golden: The golden arrays' file, relative to the spec file, to SITE/probes, or to the generation: by where the
            table stands.
        compare: `allclose` or `argmax` (over the last axis).
        rtol: Relative tolerance of `allclose`.
        atol: Absolute tolerance of `allclose`, in units of the output.
        min_correct: Share of the cases that must be answered correctly, 0 to 1.
        min_goodput: Correct answers per second.
        timeout: Seconds after which the probe has failed.
        command: Path of a program inside the generation, and its arguments.
    """

    kind: str
    model: str = ""
    golden: str = ""
    compare: str = "allclose"
    rtol: float = _RTOL
    atol: float = _ATOL
    min_correct: float = 1.0
    min_goodput: float = 0.0
    timeout: float = 60.0
    command: tuple[str, ...] = ()

    def emit(self) -> dict[str, Any]:
        """Return the table as JSON values, holding exactly the keys that this kind has."""
        if self.kind == "command":
            return {"kind": self.kind, "command": list(self.command), "timeout": self.timeout}
        table: dict[str, Any] = {
            "kind": self.kind,
            "golden": self.golden,
            "compare": self.compare,
            "min_correct": self.min_correct,
            "min_goodput": self.min_goodput,
            "timeout": self.timeout,
        }
        if self.model:
            table["model"] = self.model
        if self.compare == "allclose":
            table |= {"rtol": self.rtol, "atol": self.atol}
        return table


def parse_probe(fields: Fields, *, upwards: bool = False) -> Probe:
    """Return the probe that a table describes.

    Args:
        fields: The table, not yet read.
        upwards: Whether `golden` may lead upwards by `..`: in a pack spec only, whose author is also its reader.

    Raises:
        AirpackError: Of the class that `fields` was made with: a key unknown to this kind, missing, of the wrong type
            or out of bounds, or a path that leads outside.
    """
    kind = fields.text("kind", choices=KINDS)
    timeout = fields.number("timeout", 60.0, low=1, high=LONGEST)
    if kind == "command":
        probe = Probe(kind=kind, command=_command(fields), timeout=timeout)
    else:
        probe = _onnxruntime(fields, timeout, upwards=upwards)
    fields.done()
    return probe


def _onnxruntime(fields: Fields, timeout: float, *, upwards: bool) -> Probe:
    compare = fields.text("compare", "allclose", choices=COMPARES)
    model = fields.text("model", "")
    rtol, atol = _RTOL, _ATOL
    if compare == "allclose":
        # Beside argmax they stay unread, so that `done` refuses them: no tolerance may stand there that is not held.
        rtol = fields.number("rtol", rtol, high=_LOOSEST)
        atol = fields.number("atol", atol)
    return Probe(
        kind="onnxruntime",
        model=_path(fields, "model", model) if model else "",
        golden=_path(fields, "golden", fields.text("golden"), upwards=upwards),
        compare=compare,
        rtol=rtol,
        atol=atol,
        min_correct=fields.number("min_correct", 1.0, low=0, high=1),
        min_goodput=fields.number("min_goodput", 0.0, low=0, high=1e12),
        timeout=timeout,
    )


def _command(fields: Fields) -> tuple[str, ...]:
    words = fields.texts("command", most=_WORDS)
    if not words:
        raise fields.fail("'command' is empty; expected a path inside the release and its arguments")
    if any("\0" in word for word in words):
        raise fields.fail("'command' holds a NUL character")
    return (_path(fields, "command", words[0]), *words[1:])


def _path(fields: Fields, key: str, path: str, *, upwards: bool = False) -> str:
    """Return `path` once it is relative, `/`-separated and leads nowhere else."""
    parts = path.split("/")
    bad = {"", "."} if upwards else {"", ".", ".."}
    if bad & set(parts) or not path.isprintable() or "\\" in path or len(path) > Limits.PATH:
        raise fields.fail(
            f"'{key}' must be a relative path without empty, '.' or '..' parts, found {path[:60]!r}",
            hint=f'{key} = "runtime/NAME/check"' if key == "command" else "",
        )
    return path
