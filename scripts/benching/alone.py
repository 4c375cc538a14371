"""What a build cannot do without, each measured alone on one core: two cores can at best halve their sum."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from scripts.benching.measure import apart

_CHUNK = 1 << 20  # bytes of a chunk as stored


def run(folder: Path) -> dict[str, float]:
    """Return the seconds that hashing, encoding and writing what `spec.toml` names take, in another process."""
    answer = folder / "alone.json"
    apart(_measure, folder / "spec.toml", answer)
    found: dict[str, float] = json.loads(answer.read_text())
    answer.unlink()
    return found


def _measure(spec: Path, answer: Path) -> None:
    """Go over the very frames of the package, one after the other, and time each kind of work."""
    from airpack.transport import codec  # noqa: PLC0415, only this process may hold what works

    names = ("SHA-256 of the files", "encoding", "SHA-256 of the chunks", "writing")
    seconds = dict.fromkeys(names, 0.0)
    out = os.open(answer.with_suffix(".bin"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for frame, kind in _frames(spec):
            at = [time.perf_counter()]
            hashlib.sha256(frame).digest()
            at.append(time.perf_counter())
            _, stored = codec.encode(frame, kind)
            at.append(time.perf_counter())
            view = memoryview(stored)
            for place in range(0, len(view), _CHUNK):
                hashlib.sha256(view[place : place + _CHUNK]).digest()
            at.append(time.perf_counter())
            while view:
                view = view[os.write(out, view) :]
            at.append(time.perf_counter())
            for name, (start, stop) in zip(names, pairwise(at), strict=True):
                seconds[name] += stop - start
        began = time.perf_counter()
        os.fsync(out)
        seconds["writing"] += time.perf_counter() - began
    finally:
        os.close(out)
        answer.with_suffix(".bin").unlink()
    answer.write_text(json.dumps(seconds))


def _frames(spec_path: Path) -> Iterator[tuple[bytes, Any]]:
    """Yield the frames that the build makes of the spec's files, and how they are coded."""
    from airpack.formats import packspec  # noqa: PLC0415, as above
    from airpack.ops.inputs import gather  # noqa: PLC0415, as above
    from airpack.transport import plan  # noqa: PLC0415, as above

    spec = packspec.parse(spec_path.read_bytes(), spec_path.name)
    with ExitStack() as stack:
        sources = gather(spec, spec_path.parent, stack).sources
        for is_solid in (False, True):
            chosen = [source for source in sources if source.solid is is_solid]
            streams = (source.open() for source in chosen)
            whole = _Joined(streams)
            for span in plan.cuts(span for source in chosen for span in plan.spans(source)):
                for start in range(0, span.size, plan.SOLID):  # solid ones come as one
                    yield whole.read(min(plan.SOLID, span.size - start)), span.kind


class _Joined:
    """Streams read end to end."""

    def __init__(self, streams: Iterator[BinaryIO]) -> None:
        self._streams = streams
        self._stream = next(streams, None)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        data = b""
        while len(data) < size and self._stream is not None:
            more = self._stream.read(size - len(data))
            if not more:
                self._stream.close()
                self._stream = next(self._streams, None)
            data += more
        return data
