"""Publish: fresh channel metadata, and an old package's head renewed with it. Volumes and signatures stay."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import airpack
from airpack import fsops
from airpack.formats import head
from airpack.formats.head import Head
from airpack.formats.times import emit_time
from airpack.ops.medium import find_head, read_head
from airpack.ops.verify import fresh_refresh
from airpack.ops.workspace import Passphrase, Workspace
from airpack.policy.admission import Steps, admit
from airpack.types import Limits

_SIGNERS: Final = ("targets", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication did.

    Attributes:
        channel: The channel's name.
        versions: Version of each TUF role now.
        expires: When each role's metadata expires now.
        head: The head that was renewed, None for none.
    """

    channel: str
    versions: dict[str, int]
    expires: dict[str, datetime]
    head: Path | None

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "channel": self.channel,
            "versions": self.versions,
            "expires": {role: emit_time(moment) for role, moment in self.expires.items()},
            "head": str(self.head) if self.head else None,
        }


def publish(workspace: Workspace, path: Path | None, *, passphrase: Passphrase, now: datetime) -> Published:
    """Issue fresh metadata for the channel; with `path`, renew the head of that package too.

    Args:
        workspace: The channel's workspace.
        path: A package's folder or head, or None.
        passphrase: Asked once when keys are encrypted.
        now: The time of signing.

    Raises:
        NotFoundError: No head, or a key is not here.
        AirpackError: The renewed head would not be admitted: it is of another channel, or damaged; it stays as it was.
    """
    with workspace.lock:
        keys = workspace.private_keys(_SIGNERS, passphrase)
        file = find_head(path) if path is not None else None
        old = head.parse(read_head(file)) if file is not None else None
        channel = workspace.channel()
        channel.publish(keys, {}, now)
        channel = workspace.channel()
        if file is not None and old is not None:
            documents = {name: data for name, data in channel.targets().items() if "@" not in name}
            data = head.emit(Head(channel.metadata(), documents, old.package, old.blobs))
            root = fsops.read_regular(workspace.pinned_root, Limits.ROOT)
            admit(data, refresh=fresh_refresh(root, now), have=airpack.__version__, steps=Steps())
            fsops.write_durable(file, data)
    return Published(channel.name, channel.versions, channel.expires, file)
