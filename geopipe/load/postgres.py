"""Read tables in Postgres: read-only, through cursors on the server, by ranges of a key.

The password of a server is never in the settings, the plan or a message. Each process that reads the table takes it
from the environment: from libpq's own variables or password file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
import pyarrow as pa
from psycopg2 import sql
from psycopg2.extensions import connection, new_type, parse_dsn, register_type

from geopipe.errors import MachineError, SettingsError, first_line
from geopipe.layers.layer import Layer
from geopipe.layers.tables import PART_ROWS, SERVER, Part, TableColumn, TableHeader

DSN = "GEOPIPE_POSTGRES_DSN"
"""The environment variable with the address of the server, if the settings do not have it."""

CONNECT_SECONDS = 10
"""Time limit for a server to answer, unless the DSN or PGCONNECT_TIMEOUT has another."""

STATEMENT_SECONDS = 600.0
"""Time limit for a statement, and for fetching a batch of rows, unless the server or DSN has another."""

KEEPALIVES = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""With these a lost connection is noticed within a minute."""

BATCH_ROWS = 50_000
"""Rows that the server sends at a time."""

TYPES = {16: "uint8", 20: "int64", 21: "int16", 23: "int32", 700: "float32", 701: "float64", 1700: "float64"}
"""Types of numbers by the OID of the type. `numeric` is read as float64, true and false as 1 and 0."""

NUMERIC = new_type((1700,), "float64", lambda text, cursor: None if text is None else float(text))
"""Makes floats of `numeric`, and no decimals of Python."""

WHOLE = ("int16", "int32", "int64")


def check_keys(layer: Layer) -> None:
    """Check the keys of a layer that say what to read.

    Raises:
        SettingsError: a layer in Postgres without table or query, or with both; another layer with one.
    """
    server = [path for path in layer.paths if path.startswith(SERVER)]
    if not server and (layer.table or layer.query or layer.key):
        raise SettingsError(
            f"layer {layer.name}: table, query and key are for Postgres, and {layer.paths[0]} is a file",
            'leave them out, or give path = "postgresql:"',
        )
    if server and (len(layer.paths) > 1 or (layer.table is None) == (layer.query is None)):
        hint = 'for example path = "postgresql:", table = "public.wells"'
        raise SettingsError(f"layer {layer.name}: a layer in Postgres has one path, and one of table and query", hint)


@contextmanager
def _connected(path: str, layer: Layer, place: str = "") -> Iterator[connection]:
    """Open a read-only connection. All its reads see the same snapshot of the database.

    Args:
        place: begins errors of Postgres inside, behind the layer.
    """
    rest = path.partition(":")[2]
    dsn, named = f"postgresql:{rest}", path
    if not rest.strip("/"):
        dsn, named = os.environ.get(DSN, ""), f"what {DSN} or libpq's variables name"
    patience = {} if "PGCONNECT_TIMEOUT" in os.environ else {"connect_timeout": CONNECT_SECONDS}
    try:
        # options of the DSN win
        connected = psycopg2.connect(**{"application_name": "geopipe", **patience, **KEEPALIVES, **parse_dsn(dsn)})
    except psycopg2.Error as error:
        raise MachineError(
            f"layer {layer.name}: no connection to Postgres at {named}: {_without_secrets(error)}",
            f"set {DSN}, or libpq's PGHOST, PGUSER, PGPASSWORD and so on, where the run works",
        ) from None
    try:
        register_type(NUMERIC, connected)
        connected.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connected.cursor() as cursor:  # a limit of the server, the role or the DSN stays
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, false) WHERE current_setting('statement_timeout') = '0'",
                (f"{int(STATEMENT_SECONDS * 1000)}",),
            )
        yield connected
    except psycopg2.Error as error:
        reason, hint = f"Postgres says: {first_line(error)}", "correct table, query or key of the layer"
        if error.pgcode == "57014":
            reason = f"Postgres gave up after a statement took too long: {first_line(error)}"
            hint = (
                "see what holds the table (select * from pg_stat_activity), give a key that has an index, or set "
                "another limit: PGOPTIONS='-c statement_timeout=1h'"
            )
        raise layer.error(place + reason, hint) from None
    finally:
        connected.close()


def _without_secrets(error: psycopg2.Error) -> str:
    """The reason of a failed connection. libpq repeats parts of an invalid DSN, and one may be the password."""
    return "the DSN is not valid" if "dsn" in str(error).lower() else re.sub('"[^"]*"', '"..."', first_line(error))


def _relation(layer: Layer) -> sql.Composable:
    """The table or query, for a FROM clause."""
    if layer.table is not None:
        return sql.Identifier(*layer.table.split("."))
    return sql.SQL("({}) AS q").format(sql.SQL(str(layer.query).strip().rstrip(";")))


def header(path: str, layer: Layer | None) -> TableHeader:
    """Read the header of a table or query: columns, number of rows, and ranges of its key.

    The key is that of the settings, or a table's primary key if it is one column of integers. Without a key the table
    is one part.

    Raises:
        SourceError: it does not exist, or its key is no whole number or has nulls.
        MachineError: there is no connection.
    """
    if layer is None or (layer.table is None and layer.query is None):
        raise SettingsError(f"{path}: nothing says which table", "give a layer table or query in the settings")
    with _connected(path, layer) as connected, connected.cursor() as cursor:
        relation, info = _relation(layer), connected.info
        cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(relation))
        codes = {c.name: int(c.type_code) for c in cursor.description or ()}
        cursor.execute("SELECT oid, typname FROM pg_type WHERE oid = ANY(%s)", (list(codes.values()),))
        names = dict(cursor.fetchall())
        columns = tuple(TableColumn(n, TYPES.get(code, ""), names[code]) for n, code in codes.items())
        key = layer.key or _primary_key(cursor, layer, columns)
        parts, text = _parts(cursor, layer, columns, relation, key), relation.as_string(connected)
        uri = f"postgresql://{info.host or 'localhost'}:{info.port}/{info.dbname}"
    return TableHeader(uri, "PostgreSQL", columns, sum(p.rows for p in parts), parts, relation=text, key=key, path=path)


def _primary_key(cursor: Any, layer: Layer, columns: tuple[TableColumn, ...]) -> str:
    """The column of a table's primary key, "" if it is not one column of integers."""
    if layer.table is None:
        return ""
    cursor.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) "
        "WHERE i.indisprimary AND i.indrelid = %s::regclass",
        (sql.Identifier(*layer.table.split(".")).as_string(cursor),),
    )
    names = [name for (name,) in cursor.fetchall()]
    whole = [c.name for c in columns if c.dtype in WHOLE]
    return str(names[0]) if len(names) == 1 and names[0] in whole else ""


def _parts(
    cursor: Any, layer: Layer, columns: tuple[TableColumn, ...], relation: sql.Composable, key: str
) -> tuple[Part, ...]:
    """Ranges of the key with about PART_ROWS rows each, and their numbers of rows. There is at least one."""
    if not key:
        cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(relation))
        return (Part(0, 1, cursor.fetchone()[0]),)
    if next((c.dtype for c in columns if c.name == key), "") not in WHOLE:
        raise layer.error(
            f"key = {key!r} is no column of whole numbers; there are "
            + ", ".join(f"{c.name} ({c.type_name})" for c in columns),
            "name another column, or leave key out",
        )
    name = sql.Identifier(key)
    cursor.execute(sql.SQL("SELECT count(*), count({0}), min({0}), max({0}) FROM {1}").format(name, relation))
    rows, keyed, low, high = cursor.fetchone()
    if keyed < rows:
        raise layer.error(
            f"{rows - keyed:,} of {rows:,} rows have no {key}, which is the key", "name another key, or leave it out"
        )
    if rows == 0:
        return (Part(0, 1, 0),)
    count = -(-rows // PART_ROWS)
    step = (high - low) // count + 1
    cursor.execute(
        # numeric, because the difference of two keys may not fit in theirs
        sql.SQL("SELECT div({0}::numeric - {1}, {2}), count(*) FROM {3} GROUP BY 1 ORDER BY 1").format(
            name, sql.Literal(low), sql.Literal(step), relation
        )
    )
    return tuple(Part(low + int(n) * step, low + (int(n) + 1) * step, c) for n, c in cursor.fetchall())


def batches(layer: Layer, header: TableHeader, part: Part, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read columns of a part in the order of the key, then of the columns.

    Raises:
        SourceError: the table cannot be read, or has another number of rows than in the plan.
        MachineError: there is no connection.
    """
    columns = [sql.Identifier(name) for name in names]
    order = ([sql.Identifier(header.key)] if header.key else []) + columns
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(columns), sql.SQL(header.relation))
    if header.key:
        query += sql.SQL(" WHERE {0} >= {1} AND {0} < {2}").format(
            sql.Identifier(header.key), sql.Literal(part.start), sql.Literal(part.stop)
        )
    query += sql.SQL(" ORDER BY {}").format(sql.SQL(", ").join(order))
    seen = 0
    with _connected(header.path, layer, f"{header.uri}: ") as connected, connected.cursor("geopipe") as cursor:
        cursor.execute(query)
        while batch := cursor.fetchmany(BATCH_ROWS):
            seen += len(batch)
            yield pa.record_batch([pa.array(column) for column in zip(*batch, strict=True)], names=list(names))
    if seen != part.rows:
        text = f"{header.uri} has {seen:,} rows where the plan counted {part.rows:,}: it was changed"
        raise layer.error(text, "run it again, on a table that nobody writes to")
