"""The monitor's database: where it is, and a connection to it."""

from __future__ import annotations

import os

import psycopg2
from psycopg2.extensions import connection

from geopipe.errors import MachineError

DSN = "GEOPIPE_MONITORING_DSN"


def needed_dsn() -> str:
    """The address of the database.

    Raises:
        MachineError: nothing says where the monitor's database is.
    """
    if found := os.environ.get(DSN, "").strip():
        return found
    raise MachineError("nothing says where the monitor's database is", f"set {DSN}")


def connect(dsn: str) -> connection:
    """A connection.

    Raises:
        MachineError: there is none.
    """
    try:
        return psycopg2.connect(dsn)
    except psycopg2.Error as error:
        raise MachineError(f"the monitor's database cannot be reached: {str(error).splitlines()[0]}") from None
