"""The built-in views' tables, as SQLAlchemy Core knows them. The migrations create them; a test holds the two equal."""

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, MetaData, Table, Text, Uuid, text

metadata = MetaData(schema="perdure")

projections = Table(
    "projections",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("position", BigInteger, nullable=False, server_default=text("0")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column("error", Text),
    comment="How far each projection has folded the log; error says why one has stopped.",
)

runs = Table(
    "runs",
    metadata,
    Column("run", Uuid, primary_key=True),
    Column("workflow_id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("key", Text),
    Column("event", Text),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("tasks", Integer, nullable=False, comment="How many of its tasks have been scheduled at least once."),
    Column("events", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("error", Text, comment="Why it did not complete."),
    comment="Every run, as far as its events have been folded.",
)
Index("runs_started", runs.c.started_at.desc(), runs.c.run)
Index("runs_status", runs.c.status, runs.c.started_at.desc(), runs.c.run)
Index("runs_workflow", runs.c.workflow_id, runs.c.started_at.desc(), runs.c.run)

tasks = Table(
    "tasks",
    metadata,
    Column("run", Uuid, primary_key=True),
    Column("task_id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False, comment="The latest attempt; 0 for a task that never had one."),
    Column("failures", Integer, nullable=False, comment="Attempts that failed or timed out."),
    Column("interruptions", Integer, nullable=False, comment="Attempts whose node stopped or died."),
    Column(
        "scheduled_at", DateTime(timezone=True), comment="When its latest attempt was scheduled; started_at likewise."
    ),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("retry_at", DateTime(timezone=True)),
    Column("node", Uuid),
    Column("reason", Text, comment="Why it was skipped."),
    Column("error", Text, comment="The message of its latest failure, even if a later attempt succeeded."),
    comment="Every task that something has happened to; one that only waits has no row.",
)
