"""The log at full strength: several streams in one go, staging, subscriptions split by stream, the tree, the keeper.

Revision ID: 0002
Revises: 0001
"""

from perdure.migrate import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(
        "0002_append.sql", "0002_import.sql", "0002_staging.sql", "0002_subscriptions.sql", "0002_tree.sql",
        "0002_keys.sql", "0002_keeper.sql", "0002_snapshots.sql", "0002_roles.sql",
    )  # fmt: skip
