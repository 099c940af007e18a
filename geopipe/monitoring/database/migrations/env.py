"""Run by alembic, with the connection and the transaction of `schema.upgrade`."""

from __future__ import annotations

from alembic import context

from geopipe.monitoring.database.migrations.revisions import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema=context.config.attributes["schema"],
)
context.run_migrations()
