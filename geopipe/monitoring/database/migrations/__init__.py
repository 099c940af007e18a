"""The schema of the monitor's tables: its revisions, from the oldest to the one that this geopipe works with.

A revision is a text of SQL beside the module that alembic runs. `env` is run by `database.schema.upgrade`, which
brings the connection and the transaction. Nothing here is imported for anything else than an upgrade.
"""

from __future__ import annotations

REVISIONS = ("0001", "0002")
"""All revisions in their order. Here, so that a run can compare its database without loading alembic."""

HEAD = REVISIONS[-1]

VERSION_TABLE = "geopipe_version"
"""Not alembic's own name for it: a database may be shared with another program that uses alembic."""

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
"""The tables and views that the revisions make. What has one of these names before belongs to the old system."""

PARTITIONED = ("pipeline_logs", "pipeline_events", "pipeline_metrics")
"""The tables that have a partition for each day."""
