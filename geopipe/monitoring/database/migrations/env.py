"""Run by alembic. The connection comes from the caller, and so does the transaction around all revisions."""

from __future__ import annotations

from alembic import context

from geopipe.monitoring.database.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema=context.config.attributes["schema"],
)
context.run_migrations()
