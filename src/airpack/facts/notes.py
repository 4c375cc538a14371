"""What a reader puts down beside the facts themselves: places, code, problems."""

from dataclasses import dataclass, field
from typing import Final

from airpack.formats.facts import Code, Place, Problem, clip
from airpack.types import Digest

_PLACES: Final = 4096  # facts of one file whose place is kept
_CODE: Final = 256  # pieces of code in one file that are shown
_PROBLEMS: Final = 64


@dataclass(slots=True)
class Notes:
    """What was noted about one file.

    Attributes:
        places: Where facts stand, by name.
        code: What is code in it.
        problems: What is wrong with it.
    """

    places: dict[str, Place] = field(default_factory=dict)
    code: list[Code] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def at(self, name: str, start: int, stop: int) -> None:
        """Note where the fact `name` stands; its first place counts."""
        if len(self.places) < _PLACES:
            self.places.setdefault(name, (start, stop))

    def problem(self, reason: str, at: int | None = None) -> None:
        """Note that something is wrong."""
        if len(self.problems) < _PROBLEMS:
            self.problems.append(Problem(clip(reason, 1000), at))

    def add(self, code: Code) -> None:
        """Note a piece of code; where there are more than are shown, that is a problem."""
        if len(self.code) < _CODE:
            self.code.append(code)
        elif len(self.code) == _CODE:
            self.problem(f"it holds more than {_CODE} pieces of code")

    def template(self, where: str, data: bytes, start: int | None = None) -> None:
        """Note a Jinja template: `data` is all of it, `start` where it lies in the file."""
        place = None if start is None else (start, start + len(data))
        text = clip(data.decode("utf-8", "replace"))
        self.add(Code("jinja", where, text=text, digest=str(Digest.of(data)), place=place))
