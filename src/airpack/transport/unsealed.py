"""Volume files that are written, and wait for their headers: those need the digest of the manifest that lists them."""

from airpack.fsops import NewFile, remove_file


class Unsealed:
    """One volume file without its header and its name.

    Args:
        file: Where it is written; parked once it is finished.
    """

    def __init__(self, file: NewFile) -> None:
        self.path, self.file = file.path, file
        self._is_published = False

    def publish(self, header: bytes) -> None:
        """Write the header and give the volume its name, durably."""
        self.file.resume()
        self.file.write_at(header, 0)
        self._is_published = True  # from here on it may have its name, even if the folder cannot be synced
        self.file.commit()

    def withdraw(self) -> None:
        """Take the name back: a later volume could not be published."""
        if self._is_published:
            remove_file(self.path)
