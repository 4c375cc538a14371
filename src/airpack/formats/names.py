"""Names from outside: file paths, products, versions, components, packages and REFs.

    check_paths(["model/minilm/model.onnx", "model/minilm/README.md"])

A path of a release must be safe and the same file on ext4, NTFS, APFS and FAT32: what one of them cannot hold, folds
together or treats as a device is refused at build and again when signed names are read.
docs/spec/release.md, "File names".
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from airpack.errors import AirpackError, InputError, IntegrityError
from airpack.types import Digest, Limits

_FORBIDDEN: Final = frozenset('\\:*?"<>|')
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
)
_PRODUCT = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*\Z")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}\Z")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_RESERVED: Final = frozenset({"current", "known-good"})  # names of links and of listings at a site
_PRODUCT_LENGTH: Final = (2, 63)  # characters; one-letter repository names are refused by registry clients
_COMPONENT_LENGTH: Final = 63  # characters
_PACKAGE_LENGTH: Final = 128  # characters: a product, a version and the sign between them


@dataclass(frozen=True, slots=True)
class Ref:
    """A release named by people, `product` or `product@version`.

    Attributes:
        product: The product's name.
        version: The version; None for whichever the command takes by default.
    """

    product: str
    version: str | None = None

    def __str__(self) -> str:
        return self.product if self.version is None else f"{self.product}@{self.version}"


def check_path(path: str, *, error: type[AirpackError] = IntegrityError) -> str:
    """Return `path` once it is a relative path that every target file system holds as it is.

    Args:
        path: `/`-separated, at most `Limits.PATH` bytes, each part at most `Limits.NAME` bytes.
        error: Raised when it is not: `InputError` at build, `IntegrityError` for signed names.

    Raises:
        AirpackError: Of the class `error`, naming the rule that is broken. docs/spec/release.md, "File names".
    """
    if len(path) > Limits.PATH:
        raise error(f"file name {_shown(path)} has {len(path)} characters; at most {Limits.PATH} are allowed")
    for part in path.split("/"):
        reason = _part_fault(part)
        if reason:
            raise error(f"file name {_shown(path)}: {reason}", path=path)
    return path


def check_paths(paths: Iterable[str], *, error: type[AirpackError] = IntegrityError) -> None:
    """Check each path, and that all of them can stand in one tree, also where case is folded.

    Args:
        paths: Relative paths of one generation or of one wheel.
        error: As for `check_path`.

    Raises:
        AirpackError: Of the class `error`: a path breaks a rule, two are equal after casefold, or one is a folder of
            another.
    """
    files: dict[str, str] = {}
    for path in paths:
        folded = check_path(path, error=error).casefold()
        if folded in files:
            raise error(f"file names {_shown(files[folded])} and {_shown(path)} are one on a disk that ignores case")
        files[folded] = path
    # With "/" below every other character, what lies in a folder comes right behind a file of that name. No folder is
    # remembered: a path of 1024 characters has 511 of them, each as long as it leads down.
    for one, two in pairwise(sorted(files, key=lambda folded: folded.replace("/", "\0"))):
        if two.startswith(f"{one}/"):
            raise error(f"file name {_shown(files[one])} is also a folder of {_shown(files[two])}")


def check_product(name: str, *, error: type[AirpackError] = IntegrityError) -> str:
    """Return `name` once it may name a product: also a repository name, so 2 to 63 of `[a-z0-9]` with `._-` between.

    Raises:
        AirpackError: Of the class `error`.
    """
    low, high = _PRODUCT_LENGTH
    if not low <= len(name) <= high or not _PRODUCT.match(name) or _is_device(name):
        raise error(
            f"product {_shown(name)} is not a name: expected {low} to {high} characters of [a-z0-9], single . _ or - "
            "between them, and no device name of Windows"
        )
    return name


def check_version(version: str, *, error: type[AirpackError] = IntegrityError) -> str:
    """Return `version` once it may name one: also a tag, so at most 64 of `[0-9A-Za-z._-]`, the first no sign.

    Raises:
        AirpackError: Of the class `error`; also for `current` and `known-good`, which mean something at a site.
    """
    if not _VERSION.match(version) or version.casefold() in _RESERVED:
        raise error(
            f"version {_shown(version)} is not one: expected at most 64 characters of [0-9A-Za-z._-], beginning with a "
            "letter or digit, and neither current nor known-good"
        )
    return version


def check_component(name: str, *, error: type[AirpackError] = IntegrityError) -> str:
    """Return `name` once it may name a model or a runtime: a folder, 1 to 63 characters as in a product's name.

    Raises:
        AirpackError: Of the class `error`.
    """
    if len(name) > _COMPONENT_LENGTH or not _PRODUCT.match(name) or _is_device(name):
        raise error(
            f"component {_shown(name)} is not a name: expected at most {_COMPONENT_LENGTH} characters of [a-z0-9], "
            "single . _ or - between them, and no device name of Windows"
        )
    return name


def check_package_name(name: str, *, error: type[AirpackError] = IntegrityError) -> str:
    """Return `name` once it may begin the names of a package's files: at most 128 of `[a-z0-9._-]`, the first no sign.

    Raises:
        AirpackError: Of the class `error`.
    """
    if len(name) > _PACKAGE_LENGTH or not _PACKAGE.match(name) or _is_device(name):
        raise error(
            f"package name {_shown(name)} is not one: expected at most {_PACKAGE_LENGTH} characters of [a-z0-9._-], "
            "beginning with a letter or digit, and no device name of Windows"
        )
    return name


def parse_ref(text: str) -> Ref | Digest:
    """Return what a REF on the command line names: `product`, `product@version`, or `sha256:<64 hex digits>`.

    Raises:
        InputError: It is none of them.
    """
    if text.startswith("sha256:"):
        try:
            return Digest(text)
        except IntegrityError as error:
            raise InputError(error.message, hint="give product@version instead, as `airpack list` shows it") from error
    product, at, version = text.partition("@")
    return Ref(
        check_product(product, error=InputError),
        check_version(version, error=InputError) if at else None,
    )


def parse_release_name(text: str) -> Ref:
    """Return the parts of a signed `PRODUCT@VERSION`.

    Raises:
        IntegrityError: It is not one; both parts are required.
    """
    product, at, version = text.partition("@")
    if not at:
        raise IntegrityError(f"{_shown(text)} is not PRODUCT@VERSION")
    return Ref(check_product(product), check_version(version))


def _part_fault(part: str) -> str:
    """Return why `part` of a path is refused; empty when it is not."""
    if part in {"", ".", ".."}:
        return "it must be relative, without empty, '.' or '..' parts"
    if not part.isascii() or not part.isprintable() or _FORBIDDEN & set(part):
        return 'only printable ASCII without \\ : * ? " < > | is allowed'
    if len(part) > Limits.NAME:
        return f"a part has {len(part)} characters; at most {Limits.NAME} are allowed"
    if part != part.strip(" ") or part.endswith("."):
        return "no part may begin or end with a space or end with a dot"
    return "a part is a device name of Windows" if _is_device(part) else ""


def _is_device(part: str) -> bool:
    # Windows looks at what stands before the first dot, and drops spaces at its end: `NUL .txt` is the null device.
    return part.partition(".")[0].rstrip(" ").casefold() in _DEVICES


def _shown(text: str) -> str:
    """Return `text` quoted for a message, shortened from the middle so that its end stays visible."""
    return repr(text if len(text) <= 160 else f"{text[:80]}...{text[-60:]}")  # noqa: PLR2004 - widths for people
