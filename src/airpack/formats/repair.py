"""What a site asks to be brought again: the repair report (docs/spec/package.md section 9).

It is no document of trust: whoever makes a repair volume from it copies bytes as they were stored, and the site takes
none that has not its signed digest. So it is parsed strictly, bounded, and believed only where the package's manifest
bears it out.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

from airpack.formats import canonical
from airpack.formats.fields import Fields
from airpack.formats.package import is_volume_name
from airpack.types import Digest, Limits

SCHEMA: Final = "airpack.repair/1"
RANGES: Final = 100_000  # ranges in one report

_WHAT = "repair report"


@dataclass(frozen=True, slots=True)
class Needed:
    """What of one volume is needed.

    Attributes:
        name: The volume's name in the manifest.
        ranges: Offset and length of each range in bytes, in order, none touching another; all of a volume that is
            missing.
    """

    name: str
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a site needs to end an import.

    Law: `parse(report.emit()) == report`.

    Attributes:
        package: Digest of the package manifest's signed bytes.
        release: Digest of the release's index.
        product: The product's name, for people.
        version: The product's version, likewise.
        volumes: Volumes of which bytes are needed, in the manifest's order.
    """

    package: Digest
    release: Digest
    product: str
    version: str
    volumes: tuple[Needed, ...]

    def emit(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.emit(
            {
                "schema": SCHEMA,
                "package": str(self.package),
                "release": str(self.release),
                "product": self.product,
                "version": self.version,
                "volumes": [_emit(needed) for needed in self.volumes],
            }
        )

    @classmethod
    def parse(cls, data: bytes, *, what: str = _WHAT) -> Self:
        """Return the report in `data`, whoever wrote it.

        Args:
            data: At most `Limits.DOCUMENT` bytes.
            what: Its name, for messages.

        Raises:
            IntegrityError: It is not such a document.
        """
        fields = Fields(canonical.parse_canonical(data, what=what), what=what)
        fields.schema(SCHEMA)
        report = cls(
            package=fields.digest("package"),
            release=fields.digest("release"),
            product=fields.text("product"),
            version=fields.text("version"),
            volumes=tuple(_parse(item) for item in fields.tables("volumes", most=Limits.VOLUMES)),
        )
        fields.done()
        if not report.volumes or len({needed.name for needed in report.volumes}) != len(report.volumes):
            raise fields.fail("no volume is listed, or one twice")
        if sum(len(needed.ranges) for needed in report.volumes) > RANGES:
            raise fields.fail(f"more than {RANGES} ranges are listed")
        return report


def _emit(needed: Needed) -> dict[str, Any]:
    return {"name": needed.name, "ranges": [list(place) for place in needed.ranges]}


def _parse(fields: Fields) -> Needed:
    name = fields.text("name")
    if not is_volume_name(name):
        raise fields.fail(f"'name' is not well formed: {name[:80]!r}")
    ranges = tuple(_parse_range(item, fields) for item in fields.items("ranges", most=RANGES))
    fields.done()
    if not ranges or any(sum(one) >= two[0] for one, two in pairwise(ranges)):
        raise fields.fail("there is no range, or two of them touch or are not in order")
    return Needed(name, ranges)


def _parse_range(item: Any, fields: Fields) -> tuple[int, int]:
    match item:
        case [offset, length] if type(offset) is type(length) is int:
            if offset < 0 or length < 1 or offset + length > 2 * Limits.VOLUME:
                raise fields.fail(f"a range of {length} bytes from {offset} is in no volume")
            return offset, length
        case _:
            raise fields.fail("a range must be two whole numbers, offset and length")
