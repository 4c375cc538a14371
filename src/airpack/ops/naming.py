"""Progress by the paths of a release: media speak of files by their digests, people by their names."""

from airpack.formats.release import Release
from airpack.types import Reporter


class ByPath:
    """A `Reporter` that passes everything on, with a path of `release` in place of each file's digest."""

    def __init__(self, reporter: Reporter, release: Release) -> None:
        self._reporter = reporter
        self._paths = {str(file.digest): file.path for file in release.files}

    def start(self, task: str, total: int) -> None:
        """Begin a task of `total` bytes."""
        self._reporter.start(task, total)

    def advance(self, done: int, item: str = "", volume: str = "") -> None:
        """Add `done` bytes."""
        self._reporter.advance(done, self._paths.get(item, item), volume)

    def finish(self) -> None:
        """End the task."""
        self._reporter.finish()

    def note(self, text: str) -> None:
        """Say one line."""
        self._reporter.note(text)
