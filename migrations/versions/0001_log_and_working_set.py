"""The log and the working set.

Revision ID: 0001
Revises:
"""

import re
from pathlib import Path

from alembic import context, op

revision = "0001"
down_revision = None

_SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    schema = context.get_context().version_table_schema
    # The driver's own cursor: with no parameters it takes a whole script, and leaves every % alone.
    cursor = op.get_bind().connection.cursor()
    for name in ("0001_log.sql", "0001_engine.sql", "0001_projections.sql"):
        cursor.execute(re.sub(r"(?<!')\bperdure\.", f'"{schema}".', (_SQL / name).read_text()))
    cursor.close()
