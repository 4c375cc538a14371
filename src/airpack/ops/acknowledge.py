"""Sites as the build side knows them: a pinned key, and what the site's evidence says that it holds.

    receipt trust plant-7 --key site.pub     pins the key, once, brought from enrolment
    receipt add evidence.zip                 audits an export as an auditor does, and takes out what the site holds
    build --base site:plant-7                builds on the newest release that it holds

An export adds to what those before it said, and never goes back behind it (docs/spec/workspace.md section 3).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from airpack import fsops
from airpack.crypto.keys import PublicKey
from airpack.errors import AirpackError, InputError, NotFoundError, TrustError
from airpack.evidence import audit
from airpack.evidence.acknowledged import Acknowledged, Holding, follow
from airpack.evidence.archive import read_archive
from airpack.ops.audit import Audited
from airpack.ops.workspace import Workspace
from airpack.types import Limits

_NAME: Final = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*\Z")
_LENGTH: Final = 63  # characters
_SIGNATURE: Final = "signature"  # the check that tells whose export it is


@dataclass(frozen=True, slots=True)
class PinnedSite:
    """A site whose key is pinned.

    Attributes:
        name: What the workspace calls it.
        key: Its key.
        held: What it holds, None before the first export.
    """

    name: str
    key: PublicKey
    held: Acknowledged | None

    def newest(self, product: str) -> Holding | None:
        """Return the release of `product` that it imported last, of those that it holds."""
        releases = self.held.holdings if self.held else ()
        return next((each for each in reversed(releases) if each.name.partition("@")[0] == product), None)

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        return {
            "site": self.name,
            "key": str(self.key.fingerprint),
            "origin": self.held.state.origin if self.held else None,
            "export": self.held.state.export if self.held else None,
            "records": self.held.state.size if self.held else None,
            "releases": [
                {"name": each.name, "release": str(each.release)} for each in (self.held.holdings if self.held else ())
            ],
        }


def trust_site(workspace: Workspace, name: str, key: Path) -> PinnedSite:
    """Pin the key of a site.

    Args:
        workspace: The workspace.
        name: What to call the site, `[a-z0-9]+([._-][a-z0-9]+)*`.
        key: Its public key, PEM: SITE/evidence/site.pub, brought by a way that is trusted.

    Raises:
        InputError: `name` is none, or is pinned to another key already.
        NotFoundError: There is no such file.
        TrustError: It holds no Ed25519 key.
    """
    folder = _folder(workspace, _checked(name))
    pinned = PublicKey.from_pem(fsops.read_regular(key, Limits.DOCUMENT))
    _ = pinned.raw  # a site signs with no other kind
    with workspace.lock:
        if (folder / "site.pub").exists():
            site = open_site(workspace, name)
            if site.key != pinned:
                raise InputError(
                    f"site {name} is pinned to another key: {site.key.fingerprint}",
                    hint=f"give the new site another name; a site that was lost is forgotten by removing {folder}",
                    path=str(folder),
                )
            return site
        fsops.make_dir(folder)
        fsops.write_durable(folder / "site.pub", pinned.pem)
    return PinnedSite(name, pinned, None)


def add_receipts(workspace: Workspace, bundle: Path) -> PinnedSite:
    """Take from an evidence export which releases the site holds.

    The export is audited against the key of the site that signed it, and against what was added before.

    Args:
        workspace: The workspace.
        bundle: The export.

    Raises:
        NotFoundError: There is no such file, or no site is pinned.
        IntegrityError: The export does not hold; its `document` has every finding, also below.
        TrustError: No pinned site signed it.
        RollbackError: It goes back behind what was added, or contradicts it.
        InputError: It does not begin at the log's beginning, and nothing was added before.
    """
    data = fsops.read_regular(bundle, audit.MOST)
    with workspace.lock:
        site, result = _whose(workspace, data)
        if result.error is not None:
            result.error.document = Audited(result, None).document() | {"site": site.name}
            raise result.error
        assert result.state is not None
        held = follow(site.held, read_archive(data), result.state)
        fsops.write_durable(_folder(workspace, site.name) / "acknowledged.json", held.emit())
    return PinnedSite(site.name, site.key, held)


def _whose(workspace: Workspace, data: bytes) -> tuple[PinnedSite, audit.AuditResult]:
    """Return the pinned site that signed an export, with the verdict on it; another verdict than that is raised."""
    refusal: AirpackError | None = None
    names: list[str] = []
    for site in pinned_sites(workspace):
        result = audit.audit(data, key=site.key, state=site.held.state if site.held else None)
        checks: Mapping[str, bool] = {check.name: check.ok for check in result.findings}
        if checks[_SIGNATURE] or not isinstance(result.error, TrustError):
            return site, result
        refusal = refusal or result.error
        names.append(site.name)
    if refusal is None:
        raise NotFoundError(
            "no site's key is pinned in this workspace", hint="airpack receipt trust NAME --key SITE/evidence/site.pub"
        )
    raise TrustError(
        f"the export is signed by none of the sites that are pinned here: {', '.join(names[:20])}",
        hint="airpack receipt trust NAME --key SITE/evidence/site.pub pins a site's key; bring the key by another way",
    )


def open_site(workspace: Workspace, name: str) -> PinnedSite:
    """Return a pinned site.

    Raises:
        InputError: `name` is none that a site can have.
        NotFoundError: No such site is pinned.
        IntegrityError: What is known of it cannot be read.
        TrustError: Its key cannot be read.
    """
    folder = _folder(workspace, _checked(name))
    try:
        key = PublicKey.from_pem(fsops.read_regular(folder / "site.pub", Limits.DOCUMENT))
    except NotFoundError as error:
        raise NotFoundError(
            f"no site {name} is pinned in this workspace",
            hint=f"airpack receipt trust {name} --key SITE/evidence/site.pub",
        ) from error
    try:
        held = Acknowledged.parse(fsops.read_regular(folder / "acknowledged.json", Limits.DOCUMENT))
    except NotFoundError:
        held = None
    return PinnedSite(name, key, held)


def pinned_sites(workspace: Workspace) -> Iterator[PinnedSite]:
    """Yield the pinned sites, by name. Errors as `open_site`."""
    for path in sorted((workspace.root / "registry/sites").glob("*/site.pub")):
        yield open_site(workspace, path.parent.name)


def _checked(name: str) -> str:
    if len(name) > _LENGTH or not _NAME.match(name):
        raise InputError(
            f"not a name for a site: {name[:80]!r}; expected lower-case letters and digits joined by . _ -"
        )
    return name


def _folder(workspace: Workspace, name: str) -> Path:
    return workspace.root / "registry/sites" / name
