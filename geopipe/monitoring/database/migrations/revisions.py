"""The names of the revisions, tables and views, so that a run can check its database without loading alembic.

Each revision is a module beside its SQL in `versions`; `schema.upgrade` has alembic run `env`.
"""

from __future__ import annotations

REVISIONS = ("0001", "0002")
"""All revisions, the oldest first."""

HEAD = REVISIONS[-1]

VERSION_TABLE = "geopipe_version"
"""Not alembic's default name: another program that uses alembic may share the database."""

RELATIONS = (
    "pipeline_runs",
    "pipeline_logs",
    "pipeline_events",
    "pipeline_metrics",
    "pipeline_metrics_latest",
    "pipeline_progress",
    "pipeline_sources",
    "pipeline_active_runs",
    "pipeline_error_summary",
    "pipeline_progress_tree",
)
"""The tables and views of the schema. Before the first revision, relations of these names are the old system's."""

PARTITIONED = ("pipeline_logs", "pipeline_events", "pipeline_metrics")
"""The tables with a partition for each day."""
