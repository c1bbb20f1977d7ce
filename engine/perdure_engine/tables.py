"""The engine's tables, as SQLAlchemy Core knows them. The migrations create them; a test holds the two equal."""

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
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
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType

metadata = MetaData(schema="perdure")


class Xid8(UserDefinedType[int]):
    """Postgres' 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        return "XID8"


# SQLAlchemy does not know it when it reads a table's columns.
ischema_names.setdefault("xid8", Xid8)

_NOW = text("clock_timestamp()")
_THIS_TRANSACTION = text("pg_current_xact_id()")

nodes = Table(
    "nodes",
    metadata,
    Column("node", Uuid, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("task_types", ARRAY(Text), nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("alive_until", DateTime(timezone=True), nullable=False),
    Column(
        "concurrency",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="How many attempts it executes at once.",
    ),
    Column(
        "load",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="How many attempts of its own runs it executes or has waiting, as of its last renewal.",
    ),
    Column(
        "at_most_once",
        ARRAY(Text),
        nullable=False,
        server_default=text("'{}'"),
        comment="Those of its task types that it delivers at most once.",
    ),
    comment="Running engine processes. Every append by a node checks its epoch here.",
)

shards = Table(
    "shards",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("node", Uuid),
    Column("lease_until", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'")),
    Column(
        "token",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="How often the shard has changed hands: the fencing token of its runs.",
    ),
    comment="Which node may run the runs of a shard, and until when.",
)

definitions = Table(
    "definitions",
    metadata,
    Column("workflow_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("events", ARRAY(Text), nullable=False),
    Column("keyed", Boolean, nullable=False),
    Column("registered_at", BigInteger, nullable=False),
    Column("retired_at", BigInteger),
    Index("definitions_digest", "digest"),
    comment="Every registered definition; registered_at and retired_at are positions.",
)

open_runs = Table(
    "open_runs",
    metadata,
    Column("run", Uuid, primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("workflow_id", Text, nullable=False),
    Column("key", Text),
    Column("started_at", BigInteger, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column(
        "parked",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="It waits for events, timers or to be resumed: no node has to look at it.",
    ),
    Index("open_runs_active", "shard", "run", postgresql_where=text("not parked")),
    Index("open_runs_shard", "shard", "run"),
    Index("open_runs_key", "workflow_id", "key", unique=True, postgresql_where=text("key is not null")),
    comment="Runs that have not ended; started_at is a position.",
)

timers = Table(
    "timers",
    metadata,
    Column("run", Uuid, primary_key=True),
    Column("timer", Text, primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("due", DateTime(timezone=True), nullable=False),
    Column(
        "held",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Its run is paused: it waits until the run is resumed.",
    ),
    Index("timers_due", "shard", "due", postgresql_where=text("not held")),
    comment="When the log wants to be woken: retries, waits, deadlines.",
)

waits = Table(
    "waits",
    metadata,
    Column("run", Uuid, primary_key=True),
    Column("trigger", Integer, primary_key=True),
    Column("event", Text, nullable=False),
    Column("key", Text),
    Column("armed_at", BigInteger, nullable=False),
    Index("waits_event", "event", "key"),
    comment="The outside events that open runs still wait for; armed_at is a position.",
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("run", Uuid, nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("event", Uuid),
    Column("detail", JSON, comment="What belongs to a command: the reason of a cancel."),
    Column(
        "payload",
        LargeBinary,
        comment="What an attempt on another node gave; sealed with its run's key where payloads are.",
    ),
    Index("inbox_shard", "shard", "id"),
    comment="What reached a run from outside and its owner has not decided on yet.",
)

assignments = Table(
    "assignments",
    metadata,
    Column("run", Uuid, primary_key=True),
    Column("task_id", Text, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("node", Uuid, nullable=False),
    Column("token", BigInteger, nullable=False, comment="The fencing token of the attempt."),
    Column("digest", Text, nullable=False, comment="The definition of the run."),
    Column("scheduled", Integer, comment="The version of the event that has its inputs, where it is known."),
    Column("failures", Integer, nullable=False, comment="Of the task before this attempt."),
    Column("cancelled", Boolean, nullable=False, server_default=text("false"), comment="The owner wants it ended."),
    Column("id", BigInteger, Identity(always=True), nullable=False, comment="Grows with every attempt."),
    Index("assignments_node", "node", "id"),
    Index("assignments_shard", "shard"),
    comment="Attempts that a node executes for the owner of their run.",
)

permits = Table(
    "permits",
    metadata,
    Column("key", Text, primary_key=True),
    Column(
        "number", BigInteger, Identity(always=True), primary_key=True, comment="Later ones of a key have higher ones."
    ),
    Column("run", Uuid, nullable=False),
    Column("task_id", Text, nullable=False),
    Index("permits_run", "run", "task_id"),
    comment="Attempts that may begin, or began, of tasks whose key has a limit.",
)

rates = Table(
    "rates",
    metadata,
    Column("name", Text, primary_key=True),
    Column("period", Double, primary_key=True, comment="Of the limit, in seconds. Another one is counted anew."),
    Column(
        "slice",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="The number of a slice of time, a tenth of the period.",
    ),
    Column("begun", Integer, nullable=False),
    comment="How many attempts of a task type began lately.",
)

schedules = Table(
    "schedules",
    metadata,
    Column("schedule", Uuid, primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("workflow_id", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("catch_up", Text, nullable=False),
    Column("set_by", Integer, nullable=False, comment="The version of the event that has the input and the key."),
    Column("paused", Boolean, nullable=False),
    Column("next_due", DateTime(timezone=True), nullable=False),
    Column("last_due", DateTime(timezone=True)),
    Column("last_run", Uuid),
    Column("waiting", JSON, comment="Times that wait for an earlier run, and what is left of backfills."),
    Column("has_more", Boolean, nullable=False, comment="Its node has to look at it before it is due next."),
    UniqueConstraint("name", name="schedules_name"),
    Index("schedules_due", "shard", "next_due", postgresql_where=text("not paused")),
    Index("schedules_more", "shard", postgresql_where=text("has_more")),
    comment="Schedules that were set and not deleted.",
)

router = Table(
    "router",
    metadata,
    Column("id", SmallInteger, CheckConstraint("id = 1"), primary_key=True, server_default=text("1")),
    Column("position", BigInteger, nullable=False),
    comment="How far published events have been routed to runs.",
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("run", Uuid, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("format", Text, nullable=False, comment="A digest of the code that wrote it, and alone can read it."),
    Column(
        "state",
        LargeBinary,
        nullable=False,
        comment="What users gave and got stands in it: it goes when that is erased.",
    ),
    Column("taken_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    comment="The state of long runs at an event of theirs, for a faster reload. May be deleted at any time.",
)

documents = Table(
    "documents",
    metadata,
    Column("document_id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("run_id", Uuid, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("document", JSON, nullable=False),
    UniqueConstraint("run_id", "task_id", name="documents_task"),
    comment="What tasks of type database kept, where they name no statement.",
)

staged = Table(
    "staged",
    metadata,
    Column("xact", Xid8, primary_key=True, server_default=_THIS_TRANSACTION),
    Column("number", BigInteger, Identity(always=True), primary_key=True),
    Column("stream", Uuid, nullable=False),
    Column("bytes", Integer, nullable=False, comment="How much it is, so that what is moved together has a limit."),
    Column("ids", ARRAY(Uuid), nullable=False),
    Column("types", ARRAY(Text), nullable=False),
    Column("schema_versions", ARRAY(SmallInteger), nullable=False),
    Column("data", ARRAY(Text), nullable=False),
    Column("metadata", ARRAY(Text), nullable=False),
    Column("payloads", ARRAY(LargeBinary), nullable=False),
    Column("companion", JSON),
    UniqueConstraint("xact", "stream", name="staged_stream"),
    prefixes=["UNLOGGED"],
    comment="What open transactions will append as they commit: new streams, and (with no event) rows of the inbox.",
)

staging = Table(
    "staging",
    metadata,
    Column("xact", Xid8, primary_key=True, server_default=_THIS_TRANSACTION),
    Column("step", SmallInteger, primary_key=True, autoincrement=False),
    prefixes=["UNLOGGED"],
    comment="Which open transactions have something staged; the trigger of these rows moves it.",
)
