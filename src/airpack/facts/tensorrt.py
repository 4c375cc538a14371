"""Reads the fixed header of TensorRT plans: tag `ftrt`, u32 0, and in bytes 24 to 27 the version that wrote it.

NVIDIA's trtexec reads the same. What GPU a plan was built for stands at no public place: it is on record at build.
"""

from typing import Final

from airpack.facts.notes import Notes
from airpack.facts.reader import Reader
from airpack.formats.facts import TensorrtFacts

READER: Final = "tensorrt/1"
_VERSION: Final = (24, 28)


def read(reader: Reader, notes: Notes) -> TensorrtFacts:
    """Return what a TensorRT plan says.

    Raises:
        MalformedError: It is shorter than its header.
        StorageError: It cannot be read.
    """
    start, stop = _VERSION
    version = reader.exactly(start, stop - start)
    notes.at("version", start, stop)
    return TensorrtFacts(".".join(str(byte) for byte in version))
