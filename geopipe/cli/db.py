"""`geopipe db`: the monitor's database on the command line.

What loads psycopg2 or alembic is imported where it is used.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geopipe.cli.options import json_option, print_json

if TYPE_CHECKING:
    from geopipe.monitoring.legacy.cells import PixelGrid

dsn_option = click.option(
    "--dsn-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the database's address (else GEOPIPE_MONITORING_DSN, GEOPIPE_MONITORING_DSN_FILE, else the "
    "embedded server).",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


@click.group()
def db() -> None:
    """Care for the database in which runs are watched.

    Its address is in GEOPIPE_MONITORING_DSN, or in the file that GEOPIPE_MONITORING_DSN_FILE names; without these it is
    the embedded server, which `start` starts.
    """


@db.command()
@dsn_option
@json_option
def upgrade(dsn_file: Path | None, as_json: bool) -> None:
    """Make the tables, or bring them up to date.

    All of it is one transaction: it is done or nothing is. Tables of the old system are kept as NAME_legacy, and their
    rows are taken over.
    """
    from geopipe.monitoring.database import schema as database

    address = database.needed_dsn(dsn_file)
    done = database.upgrade(address)
    if as_json:
        print_json(asdict(done))
        return
    if done.before == done.after:
        click.echo(f"revision {done.after} already: {database.masked(address)}")
    else:
        click.echo(f"revision {done.after}, was {done.before or 'none'}: {database.masked(address)}")
    for name, kept in done.renamed.items():
        click.echo(f"  kept the old {name} as {kept}")
    for name, rows in done.taken_over.items():
        click.echo(f"  took over {rows:,} rows of the old {name}")


@db.command()
@dsn_option
@json_option
def current(dsn_file: Path | None, as_json: bool) -> int:
    """Say which revision the tables have, and which this geopipe needs. Exits with 1 where they differ."""
    from geopipe.monitoring.database import schema as database

    found = database.current(database.needed_dsn(dsn_file))
    if as_json:
        print_json(asdict(found) | {"is_current": found.is_current})
    else:
        click.echo(f"revision {found.revision or 'none'}, this geopipe needs {found.head}: {found.url}, {found.server}")
        if found.old_system:
            click.echo(f"  of the old system: {', '.join(found.old_system)}; geopipe db upgrade takes them over")
        elif not found.is_current:
            click.echo("  run: geopipe db upgrade")
    return 0 if found.is_current else 1


@db.command()
@dsn_option
@json_option
def validate(dsn_file: Path | None, as_json: bool) -> None:
    """Prove that a run can be watched: a log, a metric and an event are written, read back, and removed."""
    from geopipe.monitoring.database import schema as database

    found = database.validate(database.needed_dsn(dsn_file))
    if as_json:
        print_json(asdict(found))
        return
    click.echo(f"valid: {found.url}, {found.server}, revision {found.revision}, {found.seconds:.2f} s")
    click.echo(f"  written, written again, and read back as if once: {', '.join(found.checks)}")
    if not found.removed:
        click.echo("  the run `validate` stays: this role may not delete, as it should be")


@db.command()
@click.option("--older-than", type=click.IntRange(min=1), required=True, metavar="DAYS", help="Keep so many days.")
@dry_run_option
@dsn_option
@json_option
def prune(older_than: int, dry_run: bool, dsn_file: Path | None, as_json: bool) -> None:
    """Drop the logs, events, metrics and runs of days that are past. Whole partitions go; days with a live run stay."""
    from geopipe.monitoring.database import schema as database

    done = database.prune(database.needed_dsn(dsn_file), older_than, dry_run=dry_run)
    if as_json:
        print_json(asdict(done))
        return
    days = f"{len(done.days):,} days before {done.before}" if done.days else f"nothing before {done.before}"
    click.echo(f"{'would drop' if dry_run else 'dropped'} {days}")
    if done.days:
        counts = ", ".join(f"{count:,} of {table}" for table, count in done.rows.items())
        click.echo(f"  {len(done.partitions):,} partitions; rows: {counts}")
    if done.kept:
        click.echo(f"  kept {', '.join(map(str, done.kept))}: a run of that day is at work")


@db.command("migrate-coordinates")
@click.option("--origin-x", type=float, metavar="X", help="Left edge of column 0, where no table of datasets says it.")
@click.option("--origin-y", type=float, metavar="Y", help="Upper edge of row 0.")
@click.option("--pixel-width", type=float, metavar="SIZE", help="Width of a pixel.")
@click.option("--pixel-height", type=float, metavar="SIZE", help="Height of a pixel; rows go down.")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be given again.")
@dry_run_option
@dsn_option
@json_option
def migrate_coordinates(
    origin_x: float | None,
    origin_y: float | None,
    pixel_width: float | None,
    pixel_height: float | None,
    tables: tuple[str, ...],
    dry_run: bool,
    dsn_file: Path | None,
    as_json: bool,
) -> None:
    """Give old tables of cells (passthrough_..., resampled_...) the coordinates of their pixels' centres.

    They get columns x_coord and y_coord, all in one transaction that is verified before it ends. The grid is what a
    table of datasets says (bounds and resolution), else what the options say.
    """
    from geopipe.monitoring.database import schema as database

    grid = _grid(origin_x, origin_y, pixel_width, pixel_height)
    address = database.needed_dsn(dsn_file)
    done = database.migrate_coordinates(address, grid=grid, tables=tables, dry_run=dry_run)
    if as_json:
        print_json([asdict(one) for one in done])
        return
    for one in done:
        g = one.grid
        click.echo(f"{one.table}: {one.filled:,} of {one.rows:,} rows {'would get' if dry_run else 'got'} coordinates")
        click.echo(f"  from {g.x:.12g}, {g.y:.12g}, pixels of {g.width:.12g} x {g.height:.12g} ({g.source})")
        if one.x_range and one.y_range:
            x, y = ("{:.12g} to {:.12g}".format(*ends) for ends in (one.x_range, one.y_range))
            click.echo(f"  centres x {x}, y {y}")
    if not done:
        click.echo("there are no such tables")


def _grid(x: float | None, y: float | None, width: float | None, height: float | None) -> PixelGrid | None:
    from geopipe.monitoring.legacy.cells import PixelGrid

    if x is None and y is None and width is None and height is None:
        return None
    if x is None or y is None or width is None or height is None:
        raise click.UsageError("--origin-x, --origin-y, --pixel-width and --pixel-height go together")
    return PixelGrid(x, y, width, height)


@db.command()
@json_option
def start(as_json: bool) -> None:
    """Start the embedded Postgres of this machine, and make its tables. It runs on when this command has ended."""
    from geopipe.monitoring.database import embedded
    from geopipe.monitoring.database import schema as database

    address = embedded.start()
    done = database.upgrade(address)
    if as_json:
        print_json({"url": database.masked(address), "folder": embedded.folder(), "revision": done.after})
        return
    click.echo(f"runs: {database.masked(address)}, data in {embedded.folder()}, revision {done.after}")
    for variable in (database.DSN, database.DSN_FILE):
        if os.environ.get(variable):
            click.echo(f"  but {variable} is set, and goes before it")


@db.command()
@json_option
def stop(as_json: bool) -> None:
    """Stop the embedded Postgres. What is in it stays."""
    from geopipe.monitoring.database import embedded

    stopped = embedded.stop()
    if as_json:
        print_json({"stopped": stopped})
    else:
        click.echo("stopped" if stopped else "it does not run")


@db.command()
def url() -> None:
    """Print the address of the embedded Postgres WITH ITS PASSWORD, for psql, Grafana or GEOPIPE_MONITORING_DSN."""
    from geopipe.monitoring.database import embedded

    click.echo(embedded.url())


@db.command()
@click.option("--name", default="geopipe_run", show_default=True, help="Name of the role.")
@click.option("--schema", default="public", show_default=True, help="Schema of the tables.")
def role(name: str, schema: str) -> None:
    """Print the SQL of a role for runs, which can write and read, and neither change nor drop anything.

    Give it to psql as the owner of the tables, after `geopipe db upgrade` (and again after later ones).
    """
    from geopipe.monitoring.database.role import statements

    click.echo(statements(name, schema), nl=False)
