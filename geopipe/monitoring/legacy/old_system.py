"""The entry to the old system's tables: set them aside, copy their rows into ours, and fill coordinates of cells.

The old tables have no version. They stay as they were under the name NAME_legacy, so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import chain, count
from typing import Any

from psycopg2 import sql

from geopipe.errors import MachineError
from geopipe.monitoring.database.connections import LOCK_TIMEOUT, connect, working
from geopipe.monitoring.database.migrations.revisions import RELATIONS
from geopipe.monitoring.legacy.cells import Migrated, PixelGrid, fill_coordinates
from geopipe.monitoring.legacy.columns import relations
from geopipe.monitoring.legacy.takeover import take_over

__all__ = ["PixelGrid", "Migrated", "set_aside", "take_over", "migrate_coordinates"]

OUR_COLUMNS = {"run_id", "state", "attempt", "heartbeat_at", "request"}
"""Columns by which our own pipeline_runs is recognised."""


def set_aside(cursor: Any) -> dict[str, str]:
    """Rename tables and views that have the names of ours, in the transaction of the caller.

    Returns:
        new name of each; empty if there was no old system.

    Raises:
        MachineError: the tables are ours, and only the table with their revision is gone.
    """
    present = relations(cursor)
    if set(present.get("pipeline_runs", ())) >= OUR_COLUMNS:
        raise MachineError(
            "the tables of geopipe are there without the table that has their revision",
            "restore geopipe_version together with the tables, or move these to another schema",
        )
    renamed, taken = {}, relations(cursor, "rpvmfiISc")
    for name in sorted(present.keys() & RELATIONS):
        numbered = (f"{name}_legacy_{number}" for number in count(2))
        renamed[name] = next(free for free in chain([f"{name}_legacy"], numbered) if free not in taken)
        names = map(sql.Identifier, (name, renamed[name]))
        cursor.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(*names))
    return renamed


def migrate_coordinates(
    dsn: str, *, grid: PixelGrid | None = None, tables: Sequence[str] = (), dry_run: bool = False
) -> list[Migrated]:
    """Fill x_coord and y_coord of the old system's tables of cells in one transaction, and verify them.

    Args:
        grid: for tables without a row in a table of datasets.
        tables: only these.

    Raises:
        SettingsError: a table has no cells, or its grid is unknown.
        MachineError: the database cannot be used, or its rows do not fit the grid; nothing was changed.
    """
    with (
        closing(connect(dsn, statement_timeout=0, schema=False)) as connected,
        working(dsn, "filling coordinates"),
        connected,
        connected.cursor() as cursor,
    ):
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        return fill_coordinates(cursor, grid, tables, dry_run)
