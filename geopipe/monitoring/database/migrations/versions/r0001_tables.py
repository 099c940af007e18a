"""Runs, logs, events, metrics and progress; partitions for each day."""

from geopipe.monitoring.database.migrations import sql

revision, down_revision = "0001", None


def upgrade() -> None:
    sql.run(__file__)
