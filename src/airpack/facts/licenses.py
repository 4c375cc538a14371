"""What a model's pack spec and a wheel's METADATA declare about licences. Read, never concluded from other words.

A wheel says it in three ways (PyPA specifications, "Core metadata"); the first that says something usable counts:

1. `License-Expression` (PEP 639): an SPDX expression;
2. `License`: one line of at most `LONGEST` characters, as it stands; whole licence texts are passed over;
3. the classifiers `License :: ...`: the last part of each, which names a family and seldom one licence.

No word is turned into an SPDX identifier that is none: `Apache 2.0` stays a name.
"""

from typing import Final

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.metadata import parse_email

from airpack.formats.bom import License

LONGEST: Final = 200  # characters
_CLASSIFIER: Final = "License :: "
_GROUPS: Final = frozenset({"License", "OSI Approved"})  # classifiers that name no licence
_MOST: Final = 16  # licences of one wheel


def declared(text: str) -> License | None:
    """Return the licence that `text` declares; None where it is empty, not one line of printable text, or too long.

    `UNKNOWN` is what setuptools wrote where there was none.

    Args:
        text: An SPDX identifier in any case, an SPDX expression, or other words.
    """
    text = text.strip()
    if not text or len(text) > LONGEST or not text.isprintable() or "\ufffd" in text or text.upper() == "UNKNOWN":
        return None
    try:
        expression = canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return License("name", text)
    # A lone LicenseRef is no identifier of the SPDX list, which CycloneDX's `id` wants; "GPL-2.0+" neither.
    one = expression.replace("-", "").replace(".", "").isalnum() and not expression.startswith("LicenseRef-")
    return License("id" if one else "expression", str(expression))


def of_metadata(metadata: bytes) -> tuple[License, ...]:
    """Return what a wheel's METADATA declares; empty where it declares nothing usable.

    Args:
        metadata: The file's bytes; the caller bounds them. A field that may stand once and stands twice is passed over.
    """
    raw, _ = parse_email(metadata)
    for text in (raw.get("license_expression", ""), raw.get("license", "")):
        found = declared(text)
        if found is not None:
            return (found,)
    names = {line.rpartition(" :: ")[2] for line in raw.get("classifiers", []) if line.startswith(_CLASSIFIER)}
    classified = [declared(name) for name in sorted(names - _GROUPS)[:_MOST]]
    return tuple(License("name", item.text) for item in classified if item is not None)
