"""The log and the working set.

Revision ID: 0001
Revises:
"""

from perdure.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql("0001_log.sql", "0001_engine.sql", "0001_projections.sql")
