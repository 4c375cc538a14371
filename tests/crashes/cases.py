"""What is struck: commands that change a site, each after what was done there before."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.crashes.world import FAILING, PRODUCT, Act, World


@dataclass(frozen=True, slots=True)
class Case:
    """An act, what was done at the site before it, and the exit code that its command ends with."""

    before: tuple[Act, ...]
    act: Act
    code: int = 0

    def __str__(self) -> str:
        return f"{self.act} after {len(self.before)} acts"

    def words(self, world: World, place: Path) -> list[str]:
        """Return the command line after `airpack` that does the act at the site `place`."""
        act = self.act
        verb = {
            "import": ["import", str(world.medium(act.version))],
            "activate": ["activate", f"{PRODUCT}@{act.version}"],
            "rollback": ["rollback", PRODUCT],
            "export": ["evidence", "export", "--force", "-o", str(place.with_name(f"{place.name}.zip"))],
        }
        return [*verb.get(act.name, [act.name]), "--site", str(place)]


def _installed(*versions: str) -> tuple[Act, ...]:
    return tuple(Act(name, version) for version in versions for name in ("import", "activate"))


CASES: Final = (
    Case((), Act("import", "1.0.0")),
    Case(_installed("1.0.0"), Act("import", "1.1.0")),
    Case((Act("import", "1.0.0"),), Act("activate", "1.0.0")),
    Case((*_installed("1.0.0"), Act("import", "1.1.0")), Act("activate", "1.1.0")),
    Case((*_installed("1.0.0"), Act("import", FAILING)), Act("activate", FAILING), code=12),
    Case(_installed("1.0.0", "1.1.0"), Act("rollback")),
    Case(_installed("1.0.0", "1.1.0", "1.2.0", "1.4.0"), Act("gc")),
    Case((Act("import", "1.0.0"),), Act("export")),
    Case((Act("import", "1.0.0"),), Act("fsck")),
)
