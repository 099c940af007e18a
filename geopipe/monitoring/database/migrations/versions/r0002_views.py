"""Views for people and dashboards: active runs, errors by cause, progress as a tree; the day of a run."""

from geopipe.monitoring.database.migrations import sql

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    sql.run(__file__)
