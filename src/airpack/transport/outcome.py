"""What a reading of media came to, and what must be brought."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airpack.errors import PartialError
from airpack.transport.damage import Damage, Range
from airpack.transport.volumes import Media
from airpack.types import Digest

_NAMED = 20  # volumes named in one message


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reading of media came to.

    Attributes:
        missing: Volumes that are needed and nowhere to be found, by name, in the manifest's order.
        damaged: Volumes of which bytes are not as signed, and these bytes.
        damage: The same in words, as far as it goes.
        dropped: Files that an earlier run wrote and that proved to be lost: their frames are needed again.
        unproven: How many files could not be judged, for they build on base files that are not at hand.
        mended: Volumes of which bytes were not as signed at first, and were had otherwise, and these bytes.
    """

    missing: tuple[str, ...]
    damaged: Mapping[str, Sequence[Range]]
    damage: Damage
    dropped: tuple[Digest, ...] = ()
    unproven: int = 0
    mended: Mapping[str, Sequence[Range]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether everything that is needed came as it was signed."""
        return not (self.missing or self.damaged or self.dropped)

    def context(self) -> dict[str, Any]:
        """Return what must be brought, for machines."""
        return {"missing": list(self.missing), "damaged": places(self.damaged)}

    def refuse(self, media: Media) -> None:
        """Take nothing less than all of it: for those who keep nothing of what they read.

        Raises:
            IntegrityError: Bytes are not what was signed; of several places, the first.
            StorageError: Likewise, where they cannot be read.
            PartialError: Volumes are missing.
        """
        if self.damaged:
            error = self.damage.first[0].error()
            error.context |= self.context()
            raise error
        refuse_missing(media, self.missing)


def places(volumes: Mapping[str, Sequence[Range]]) -> list[dict[str, Any]]:
    """Return byte ranges of volumes for machines."""
    return [{"volume": name, "ranges": [list(place) for place in ranges]} for name, ranges in volumes.items()]


def refuse_missing(media: Media, missing: Sequence[str]) -> None:
    """Refuse media where volumes are missing.

    Raises:
        PartialError: `missing` names any; the context has them all.
    """
    if missing:
        places = ", ".join(str(folder) for folder in media.folders)
        raise PartialError(
            f"{len(missing)} of {len(media.volumes)} volumes are missing in {places}: {listed(missing)}",
            hint="put them beside the head file, or name their folders too, and run the same command again",
            path=str(media.folders[0]),
            missing=list(missing),
        )


def listed(names: Sequence[str]) -> str:
    """Return names for a message: the first twenty, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
