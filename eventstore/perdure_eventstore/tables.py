"""The log's tables, as SQLAlchemy Core knows them. The migrations create them; a test holds the two equal."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON

metadata = MetaData(schema="perdure")

events = Table(
    "events",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("stream", Uuid, nullable=False),
    Column("version", Integer, nullable=False),
    Column("schema_version", SmallInteger, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column(
        "payload",
        LargeBinary,
        comment="What users gave or got, as written. Null with a digest: large (in payloads) or erased.",
    ),
    Column("payload_salt", LargeBinary),
    Column("payload_digest", LargeBinary),
    Column("hash", LargeBinary, nullable=False),
    UniqueConstraint("stream", "version", name="events_stream_version"),
    comment="Every event, in the order of position; append-only.",
)

payloads = Table(
    "payloads",
    metadata,
    Column("stream", Uuid, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("payload", LargeBinary, nullable=False),
    comment="Payloads too large to lie beside their event.",
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column(
        "part",
        SmallInteger,
        primary_key=True,
        autoincrement=False,
        server_default=text("0"),
        comment="Of the streams whose id's last byte, modulo parts, is this.",
    ),
    Column("parts", SmallInteger, nullable=False, server_default=text("1")),
    CheckConstraint("part between 0 and parts - 1 and parts <= 64", name="subscriptions_part"),
    comment="How far each part of each durable subscription has read.",
)
