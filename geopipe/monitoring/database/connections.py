"""Connections to the monitor's database: its DSN, errors in plain words, and the check of its schema.

The DSN comes from the environment or a file, never from the settings. No message holds a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection, parse_dsn

from geopipe.errors import MachineError, first_line
from geopipe.events.emit import emit
from geopipe.events.records import POSTGRES_STARTED, Event
from geopipe.monitoring.database import embedded
from geopipe.monitoring.database.migrations.revisions import HEAD, RELATIONS, REVISIONS, VERSION_TABLE
from geopipe.monitoring.database.place import folder
from geopipe.monitoring.home import HOME, home, write_private

DSN, DSN_FILE = "GEOPIPE_MONITORING_DSN", "GEOPIPE_MONITORING_DSN_FILE"
INVALID = "an address that is not valid"
UPGRADE = "run `geopipe db upgrade`"

DEFAULTS = {
    "application_name": "geopipe",
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Options of a connection whose DSN does not set them: a server that vanishes is noticed within a minute."""

LOCK_TIMEOUT = "30s"
"""Wait of a schema change for a table that another program has locked."""


# ---------------------------------------------------------------- where it is


def dsn(file: Path | None = None) -> str | None:
    """The DSN with its password: from the file or the environment, else of the embedded server if it runs.

    Args:
        file: with the DSN; it goes before the environment.

    Raises:
        MachineError: the file cannot be read or is empty.
    """
    address, file = _named() if file is None else (None, file)
    if file is None:
        return address or (embedded.url() if embedded.running() else None)
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise MachineError(
            f"the file with the address of the monitor's database, {file}, cannot be read: {reason}",
            f"correct {DSN_FILE} or --dsn-file, and let only its user read it (chmod 600)",
        ) from None
    if not text:
        raise MachineError(
            f"{file} holds no address of a database", "write a line postgresql://USER:PASSWORD@HOST/NAME"
        )
    return text


def _named() -> tuple[str | None, Path | None]:
    """The DSN of the environment, else the file with it."""
    address, file = (os.environ.get(name, "").strip() for name in (DSN, DSN_FILE))
    return address or None, Path(file).expanduser() if file and not address else None


def named() -> bool:
    """Whether the environment names a database."""
    return _named() != (None, None)


def needed_dsn(file: Path | None = None) -> str:
    """The DSN of the database, as `dsn`.

    Raises:
        MachineError: there is none.
    """
    address = dsn(file)
    if address is None and embedded.exists():
        raise MachineError(
            f"the monitor's database is an embedded Postgres in {folder()}, which does not run",
            f"start it: `geopipe db start` (the next run does so, too), or set {DSN} to another one",
        )
    if address is None:
        raise MachineError(
            "nothing says where the monitor's database is",
            f"set {DSN}, or {DSN_FILE} to a file that holds it, or start a database of your own: `geopipe db start`",
        )
    return address


def masked(dsn: str) -> str:
    """A DSN for messages: only its user, host, port and database."""
    try:
        parts = parse_dsn(dsn)
    except psycopg2.Error:
        return INVALID
    # a password with / or @ in it reaches libpq's port, host or database
    suspect = "".join(parts.get(name, "") for name in ("host", "port", "dbname", "user"))
    if "@" in suspect or parts.get("port", "").strip("0123456789,"):
        return INVALID
    user = f"{parts['user']}@" if parts.get("user") else ""
    port = f":{parts['port']}" if parts.get("port") else ""
    service = f" (service {parts['service']})" if parts.get("service") else ""
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"postgresql://{user}{host}{port}/{parts.get('dbname', '')}{service}"


def prepare_database() -> Path | None:
    """Check that records can be stored: at the address of the environment, else in an embedded server.

    Returns:
        file with the DSN, for processes without it in their environment.

    Raises:
        MachineError: the database cannot be used.
    """
    if not named():
        return _prepare_embedded()
    _, file = _named()
    connect(needed_dsn(file)).close()
    return file and file.absolute()


def _prepare_embedded() -> Path:
    """Start the embedded server with today's schema; returns a file with its DSN that only its user can read."""
    was_running, dsn = embedded.running(), embedded.start()
    if not was_running:
        emit(Event(POSTGRES_STARTED, {"folder": str(folder())}))
    try:
        connect(dsn).close()
    except MachineError:
        from geopipe.monitoring.database import schema  # loads alembic

        schema.upgrade(dsn)
    file = home() / "monitor.dsn"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_private(file, dsn)
    except OSError as error:
        raise MachineError(
            f"the file for workers with the address of the database, {file}, cannot be written: {error.strerror}",
            f"set {HOME} to a folder that can be written",
        ) from None
    return file


# ---------------------------------------------------------------- connections


def connect(
    dsn: str, *, statement_timeout: float = 30.0, connect_timeout: float = 10.0, schema: bool = True
) -> connection:
    """Connect to the database.

    Args:
        statement_timeout: seconds for a statement; 0 for no limit.
        connect_timeout: seconds; libpq waits for 2 at least.
        schema: whether to refuse a schema that is missing, too old or too new.

    Raises:
        MachineError: with one message for each reason.
    """
    try:
        parts = parse_dsn(dsn)
        options: dict[str, Any] = {name: parts.get(name, value) for name, value in DEFAULTS.items()}
        connected = psycopg2.connect(dsn, connect_timeout=max(int(connect_timeout), 2), **options)
    except psycopg2.Error as error:
        raise _refused(dsn, error) from None
    try:
        with working(dsn, "connecting"), connected.cursor() as cursor:
            # not in the options of the DSN, which may hold a search_path
            cursor.execute("SELECT set_config('statement_timeout', %s, false)", (f"{int(statement_timeout * 1000)}",))
            cursor.execute("SELECT set_config('TimeZone', 'UTC', false)")
            connected.commit()
            if schema:
                check_schema(dsn, version(cursor), old=bool(old_tables(cursor)))
            connected.commit()
    except BaseException:
        connected.close()
        raise
    return connected


def _refused(dsn: str, error: psycopg2.Error) -> MachineError:
    """The error of a refused connection. libpq quotes parts of a DSN that it cannot parse: the message hides them."""
    where, reason = f"the monitor's database at {masked(dsn)}", first_line(error)
    if isinstance(error, psycopg2.ProgrammingError) or "connection option" in reason or "invalid port" in reason:
        return MachineError(
            "the address of the monitor's database is not valid",
            f"correct {DSN}: postgresql://USER:PASSWORD@HOST:PORT/NAME, with %40 for an @ in the password",
        )
    if "password" in reason or "no pg_hba.conf entry" in reason or ("role " in reason and "does not exist" in reason):
        return MachineError(
            f"{where} refuses this user or password", f"correct user and password in {DSN} (or libpq's password file)"
        )
    if "database" in reason and "does not exist" in reason:
        return MachineError(
            f"{where}: the server has no database of this name", f"create it with createdb, or correct {DSN}"
        )
    reason = re.sub('"[^"]*"', '"..."', reason)
    return MachineError(
        f"{where} cannot be reached: {reason}", f"see that the server runs and lets this machine in, or correct {DSN}"
    )


@contextmanager
def working(dsn: str, what: str) -> Iterator[None]:
    """Turn errors of the server inside into a MachineError that names the work.

    Raises:
        MachineError: instead of any psycopg2.Error.
    """
    try:
        yield
    except Exception as error:
        error = getattr(error, "orig", error)  # SQLAlchemy wraps it
        if not isinstance(error, psycopg2.Error):
            raise
        text, hint = _FAILURES.get(error.pgcode or "", ("failed: {}", "see the server's log; nothing was changed"))
        raise MachineError(f"{what} at {masked(dsn)} {text.format(first_line(error))}", hint) from None


_FAILURES = {
    "42501": ("is not permitted: {}", "use the role that owns the tables and the schema"),
    "55P03": (
        "waits for a lock that another program holds; nothing was changed",
        "end what works on these tables (select * from pg_stat_activity), and try again",
    ),
    "57014": ("took too long and was given up", "try again when the server has less to do"),
}
"""Messages and hints by the error codes of Postgres."""


# ---------------------------------------------------------------- schema


def version(cursor: Any) -> str | None:
    """The revision of the schema on the search path; None if it has no tables of geopipe."""
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (VERSION_TABLE,))
    if not cursor.fetchone()[0]:
        return None
    cursor.execute(f"SELECT version_num FROM {VERSION_TABLE}")
    row = cursor.fetchone()
    return str(row[0]) if row else None


def check_schema(dsn: str, revision: str | None, *, old: bool = False) -> None:
    """Refuse a schema of another revision than this geopipe's.

    Raises:
        MachineError: it is missing, too old or too new.
    """
    where = f"the monitor's database at {masked(dsn)}"
    if revision == HEAD:
        return
    if revision is None:
        kept = "has the tables of the old system" if old else "has no tables of geopipe"
        raise MachineError(f"{where} {kept}", UPGRADE + (", which keeps every row of them" if old else ""))
    if revision in REVISIONS:
        raise MachineError(f"{where} has an old schema: revision {revision}, and {HEAD} is needed", UPGRADE)
    raise MachineError(
        f"{where} has the schema of a newer geopipe: revision {revision}, and this one knows {HEAD}",
        "install that geopipe (pip install -U geopipe)",
    )


def old_tables(cursor: Any) -> list[str]:
    """The tables with names of the old system's."""
    cursor.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace "
        "AND relname = ANY(%s)",
        ([*RELATIONS, "experiments"],),
    )
    return [str(name) for (name,) in cursor.fetchall()]
