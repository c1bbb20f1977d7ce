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
    for name in ("0001_log.sql", "0001_engine.sql", "0001_projections.sql"):
        text = re.sub(r"(?<!')\bperdure\.", f'"{schema}".', (_SQL / name).read_text())
        op.get_bind().exec_driver_sql(text)
