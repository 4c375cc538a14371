"""The catalog's tables. What a site holds and runs; the evidence log is files, never rows."""

from typing import Final

from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint

VERSION: Final = "1"
REVISION: Final = "revision"
"""Key in `meta`: how many transactions changed this catalog; absent means 0."""

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))

releases = Table(
    "releases",
    metadata,
    Column("digest", String, primary_key=True),
    Column("product", String, nullable=False),
    Column("version", String, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("proven", Integer, nullable=False, default=0),
    Column("was_good", Integer, nullable=False, default=0),
    Column("tries", Integer, nullable=False, default=0),
    Column("imported", String, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    UniqueConstraint("product", "version"),
    UniqueConstraint("product", "sequence"),
)

blobs = Table("blobs", metadata, Column("digest", String, primary_key=True), Column("size", Integer, nullable=False))

release_blobs = Table(
    "release_blobs",
    metadata,
    Column("release", ForeignKey("releases.digest", ondelete="CASCADE"), primary_key=True),
    Column("blob", ForeignKey("blobs.digest"), primary_key=True),
)

products = Table(
    "products",
    metadata,
    Column("name", String, primary_key=True),
    Column("floor", Integer, nullable=False, default=0),
    Column("active", Integer),
)

generations = Table(
    "generations",
    metadata,
    Column("product", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("release", ForeignKey("releases.digest"), nullable=False),
)
