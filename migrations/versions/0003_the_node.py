"""The node: pausing, dispatch between nodes, limits, schedules.

Revision ID: 0003
Revises: 0002
"""

from perdure.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql("0003_working_set.sql", "0003_limits.sql", "0003_schedules.sql")
