"""`geopipe db`: manage the monitor's database. psycopg2 and alembic are imported where they are used."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from geopipe.cli.options import json_option, print_json

dsn_option = click.option(
    "--dsn-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the address of the database (default: GEOPIPE_MONITORING_DSN, GEOPIPE_MONITORING_DSN_FILE, "
    "else the embedded server).",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")


def _print(value: Any, as_json: bool, lines: Iterable[str]) -> None:
    """Print a result as JSON or as lines."""
    if as_json:
        print_json(value)
    else:
        click.echo("\n".join(lines))


@click.group(epilog="Example: geopipe db upgrade")
def db() -> None:
    """Manage the database that records runs.

    GEOPIPE_MONITORING_DSN holds its address, or the file that GEOPIPE_MONITORING_DSN_FILE names. Without these it is
    the embedded server, which `geopipe db start` starts.
    """


@db.command(epilog="Example: geopipe db upgrade --dsn-file ~/geopipe.dsn")
@dsn_option
@json_option
def upgrade(dsn_file: Path | None, as_json: bool) -> None:
    """Create the tables, or upgrade them, in one transaction.

    Tables of the old system are kept as NAME_legacy, and their rows are copied.
    """
    from geopipe.monitoring.database import connections, schema

    dsn = connections.needed_dsn(dsn_file)
    done = schema.upgrade(dsn)
    before = " already" if done.before == done.after else f", was {done.before or 'none'}"
    lines = [f"revision {done.after}{before}: {connections.masked(dsn)}"]
    lines += [f"  kept the old {name} as {kept}" for name, kept in done.renamed.items()]
    lines += [f"  took over {rows:,} rows of the old {name}" for name, rows in done.taken_over.items()]
    _print(asdict(done), as_json, lines)


@db.command(epilog="Example: geopipe db current")
@dsn_option
@json_option
def current(dsn_file: Path | None, as_json: bool) -> int:
    """Print the revision of the tables.

    Exits with 1 if this geopipe needs another one.
    """
    from geopipe.monitoring.database import connections, schema

    now = schema.current(connections.needed_dsn(dsn_file))
    lines = [f"revision {now.revision or 'none'}, this geopipe needs {now.head}: {now.url}, {now.server}"]
    if now.old_system:
        lines.append(f"  of the old system: {', '.join(now.old_system)}; `geopipe db upgrade` copies their rows")
    elif not now.is_current:
        lines.append("  run: geopipe db upgrade")
    _print(asdict(now) | {"is_current": now.is_current}, as_json, lines)
    return 0 if now.is_current else 1


@db.command(epilog="Example: geopipe db validate")
@dsn_option
@json_option
def validate(dsn_file: Path | None, as_json: bool) -> None:
    """Test the database with records of every kind.

    They are written as a run does it, read back and deleted.
    """
    from geopipe.monitoring.database import connections, schema

    done = schema.validate(connections.needed_dsn(dsn_file))
    lines = [f"valid: {done.url}, {done.server}, revision {done.revision}, {done.seconds:.2f} s"]
    lines.append(f"  written twice, read back once: {', '.join(done.checks)}")
    if not done.removed:
        lines.append("  the run `validate` stays: this role may not delete, as it should be")
    _print(asdict(done), as_json, lines)


@db.command(epilog="Example: geopipe db prune --older-than 90 --dry-run")
@click.option("--older-than", type=click.IntRange(min=1), required=True, metavar="DAYS", help="Days to keep.")
@dry_run_option
@dsn_option
@json_option
def prune(older_than: int, dry_run: bool, dsn_file: Path | None, as_json: bool) -> None:
    """Drop the records of past days.

    Whole partitions are dropped; days with an active run are kept.
    """
    from geopipe.monitoring.database import connections, schema

    done = schema.prune(connections.needed_dsn(dsn_file), older_than, dry_run=dry_run)
    days = f"{len(done.days):,} days before {done.before}" if done.days else f"nothing before {done.before}"
    lines = [f"{'would drop' if dry_run else 'dropped'} {days}"]
    if done.days:
        counts = ", ".join(f"{count:,} of {table}" for table, count in done.rows.items())
        lines.append(f"  {len(done.partitions):,} partitions; rows: {counts}")
    if done.kept:
        lines.append(f"  kept {', '.join(map(str, done.kept))}: a run of that day is active")
    _print(asdict(done), as_json, lines)


@db.command("migrate-coordinates", epilog="Example: geopipe db migrate-coordinates --dry-run")
@click.option("--origin-x", "x", type=float, metavar="X", help="Left edge of column 0, if no table of datasets has it.")
@click.option("--origin-y", "y", type=float, metavar="Y", help="Upper edge of row 0.")
@click.option("--pixel-width", "width", type=float, metavar="SIZE", help="Width of a pixel.")
@click.option("--pixel-height", "height", type=float, metavar="SIZE", help="Height of a pixel; rows go down.")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be repeated.")
@dry_run_option
@dsn_option
@json_option
def migrate_coordinates(
    tables: tuple[str, ...], dry_run: bool, dsn_file: Path | None, as_json: bool, **sides: float | None
) -> None:
    """Add coordinates to the old system's tables of cells.

    Tables passthrough_... and resampled_... get the pixel centres as columns x_coord and y_coord, in one transaction
    that is verified. The grid comes from a table of datasets (bounds and resolution), else from the options.
    """
    from geopipe.monitoring.database import connections
    from geopipe.monitoring.legacy import old_system

    numbers = {name: number for name, number in sides.items() if number is not None}
    if len(numbers) not in (0, 4):
        raise click.UsageError("--origin-x, --origin-y, --pixel-width and --pixel-height go together")
    grid = old_system.PixelGrid(**numbers) if numbers else None  # type: ignore[arg-type]  # the source is not a number
    done = old_system.migrate_coordinates(connections.needed_dsn(dsn_file), grid=grid, tables=tables, dry_run=dry_run)
    lines = [] if done else ["there are no such tables"]
    for table in done:
        g, verb = table.grid, "would get" if dry_run else "got"
        lines.append(f"{table.table}: {table.filled:,} of {table.rows:,} rows {verb} coordinates")
        lines.append(f"  from {g.x:.12g}, {g.y:.12g}, pixels of {g.width:.12g} x {g.height:.12g} ({g.source})")
        if table.x_range and table.y_range:
            x, y = ("{:.12g} to {:.12g}".format(*ends) for ends in (table.x_range, table.y_range))
            lines.append(f"  centres x {x}, y {y}")
    _print([asdict(table) for table in done], as_json, lines)


@db.command(epilog="Example: geopipe db start")
@json_option
def start(as_json: bool) -> None:
    """Start the embedded Postgres, and create its tables.

    It keeps running on this machine after the command.
    """
    from geopipe.monitoring.database import connections, embedded, schema
    from geopipe.monitoring.database.place import folder

    dsn = embedded.start()
    done = schema.upgrade(dsn)
    server = {"url": connections.masked(dsn), "folder": folder(), "revision": done.after}
    others = [name for name in (connections.DSN, connections.DSN_FILE) if os.environ.get(name)]
    lines = [f"  but {name} is set, and is used instead" for name in others]
    _print(server, as_json, ["runs: {url}, data in {folder}, revision {revision}".format(**server), *lines])


@db.command(epilog="Example: geopipe db stop")
@json_option
def stop(as_json: bool) -> None:
    """Stop the embedded Postgres. Its data stay."""
    from geopipe.monitoring.database import embedded

    stopped = embedded.stop()
    _print({"stopped": stopped}, as_json, ["stopped" if stopped else "it does not run"])


@db.command(epilog="Example: geopipe db url")
def url() -> None:
    """Print the URL of the server WITH ITS PASSWORD.

    Use it for psql, for Grafana or as GEOPIPE_MONITORING_DSN.
    """
    from geopipe.monitoring.database import embedded

    click.echo(embedded.url())


@db.command(epilog="Example: geopipe db role --name geopipe_run | psql")
@click.option("--name", default="geopipe_run", show_default=True, help="Name of the role.")
@click.option("--schema", default="public", show_default=True, help="Schema of the tables.")
def role(name: str, schema: str) -> None:
    """Print the SQL for a role that runs can use.

    The role can read and write records, and drop nothing.

    Run it in psql as the owner of the tables, after each `geopipe db upgrade`.
    """
    from geopipe.monitoring.database.role import statements

    click.echo(statements(name, schema), nl=False)
