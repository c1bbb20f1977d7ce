"""The log's tables, as SQLAlchemy Core knows them. The migrations create them; a test holds the two equal."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
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
from sqlalchemy.dialects.postgresql import INT8RANGE, JSON

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

keys = Table(
    "keys",
    metadata,
    Column("stream", Uuid, primary_key=True),
    Column("wrapped", LargeBinary),
    Column("destroyed_at", DateTime(timezone=True)),
    comment="The wrapped key of each stream whose payloads are encrypted; null once destroyed.",
)

keeper = Table(
    "keeper",
    metadata,
    Column("xid", BigInteger, primary_key=True, autoincrement=False),
    comment="The transaction in which the keeper is at work; seen empty by everybody else.",
)

archived = Table(
    "archived",
    metadata,
    Column("stream", Uuid, primary_key=True),
    Column("versions", Integer, nullable=False, comment="How many events; head is the hash of the last of them."),
    Column("head", LargeBinary, nullable=False),
    Column(
        "positions",
        INT8RANGE,
        nullable=False,
        comment="From its first event to its last one; other streams lie between.",
    ),
    Column("file", Text, nullable=False),
    Column("archived_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Index("archived_positions", "positions", postgresql_using="gist"),
    comment="Streams whose events were moved to a file; what is believed is the event that says so.",
)

identity = Table(
    "identity",
    metadata,
    Column("id", SmallInteger, CheckConstraint("id = 1"), primary_key=True, server_default=text("1")),
    Column("log_id", Uuid, nullable=False),
    comment="Which log this is: a random id, made once, that its signed heads bear.",
)

tree_chunks = Table(
    "tree_chunks",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("first_position", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    Column(
        "leaves",
        LargeBinary,
        nullable=False,
        comment="256 times the position (8 bytes, big-endian) and the hash of an event.",
    ),
    Column("root", LargeBinary, nullable=False),
    Index("tree_chunks_first_position", "first_position"),
    comment="The tree's leaves, 256 a row, in the order of position.",
)

tree_nodes = Table(
    "tree_nodes",
    metadata,
    Column("level", SmallInteger, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    comment="The roots of complete subtrees above the chunks: level 9 has 512 leaves below it.",
)

heads = Table(
    "heads",
    metadata,
    Column("size", BigInteger, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    Column("signed_at", DateTime(timezone=True), nullable=False),
    comment="Every signed head of the tree; the note is what was signed and published.",
)
