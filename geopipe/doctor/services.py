"""What a run speaks to: Postgres, ports of this machine, and the token of a cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, suppress

import psutil

from geopipe.doctor.findings import MachineFinding
from geopipe.engine import address as addresses
from geopipe.errors import MachineError
from geopipe.monitoring.database import connections, embedded, place, programs

SECONDS = 2.0
"""Seconds that Postgres has to answer; libpq waits no shorter."""

PORTS = {"port-gcs": (6379, "`ray start --head`"), "port-dashboard": (8265, "the dashboard of Ray")}
"""Ports of a head by name, with what needs them."""

RAY = ("gcs_server", "ray")
"""Beginnings of the names of Ray's processes."""


def database(is_enabled: bool) -> MachineFinding:
    """The Postgres for the history of runs: one that is named must answer, and have today's schema.

    Args:
        is_enabled: whether the settings want a history.
    """
    if not is_enabled:
        return MachineFinding("postgres", "ok", "monitoring.enable_database_logging is off")
    try:
        if dsn := connections.dsn():
            with closing(connections.connect(dsn, connect_timeout=SECONDS, statement_timeout=SECONDS)):
                return MachineFinding("postgres", "ok", f"{connections.masked(dsn)} answers, its schema is current")
        if programs.installed():
            place.check_user(place.server_folder())
            return MachineFinding("postgres", "ok", "the embedded one is installed; a run starts it for its history")
    except MachineError as error:
        is_named = connections.named() or embedded.running()
        return MachineFinding("postgres", "problem" if is_named else "note", error.message, error.hint)
    hint = f"pip install 'geopipe[postgres]', or set {connections.DSN}; without one, runs have no history"
    return MachineFinding("postgres", "note", "none", hint)


def ports(metrics: int | None) -> Iterator[MachineFinding]:
    """The ports of a head and of a run's metrics: free, or who holds them.

    Args:
        metrics: monitoring.prometheus_port, if the settings name one.
    """
    needed = PORTS | ({"port-metrics": (metrics, "monitoring.prometheus_port")} if metrics else {})
    for name, (port, user) in needed.items():
        if _is_free(port):
            yield MachineFinding(name, "ok", f"{port} is free")
            continue
        holder = _holder(port)
        if name != "port-metrics" and holder.startswith(RAY):
            yield MachineFinding(name, "ok", f"{port} is held by {holder}: a cluster is at work")
            continue
        hint = f"end that program, or give {user} another port"
        yield MachineFinding(name, "note", f"{port}, which {user} uses, is held by {holder or 'another user'}", hint)


def authentication() -> MachineFinding:
    """The token that protects a cluster: there, and readable by this user alone."""
    mode, target = os.environ.get("RAY_AUTH_MODE", ""), addresses.requested(None)
    if mode == "token" and not addresses.has_token():
        hint = "set RAY_AUTH_TOKEN_PATH to a file with the token of the cluster, or write it to ~/.ray/auth_token"
        return MachineFinding("authentication", "problem", "RAY_AUTH_MODE is token, and there is no token", hint)
    beyond = target not in ("auto", "local") and not addresses.is_local(target)
    if mode != "token" and beyond:
        text = f"RAY_AUTH_MODE is {mode or 'not set'}, and the cluster of RAY_ADDRESS = {target} is beyond this machine"
        hint = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token of the cluster"
        return MachineFinding("authentication", "problem", text, hint)
    if mode not in ("", "token"):
        hint = "set RAY_AUTH_MODE=token: whoever reaches a head without a token can run any program"
        return MachineFinding("authentication", "note", f"RAY_AUTH_MODE is {mode}: clusters need no token", hint)
    return _token()


def _token() -> MachineFinding:
    if os.environ.get("RAY_AUTH_TOKEN"):
        hint = "name a file by RAY_AUTH_TOKEN_PATH: jobs and child processes see the environment"
        return MachineFinding("authentication", "note", "the token is in RAY_AUTH_TOKEN", hint)
    with suppress(OSError, RuntimeError):
        file = addresses.token_file()
        mode = file.stat().st_mode & 0o777
        if mode & 0o077 and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            return MachineFinding(
                "authentication", "problem", f"others can read {file} (mode {mode:04o})", f"chmod 600 {file}"
            )
        return MachineFinding("authentication", "ok", f"the token is in {file} (mode {mode:04o})")
    return MachineFinding("authentication", "ok", "no token yet; the first cluster of geopipe makes one")


def _is_free(port: int) -> bool:
    """Whether a server could listen on a port of this machine."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last connections of another do not count
        try:
            listener.bind(("", port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """The process that listens on a port; "" if this user may not see it."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return f"{_name(psutil.Process(connection.pid))} (process {connection.pid})" if connection.pid else ""
    return ""


def _name(process: psutil.Process) -> str:
    """The name of a process; Ray's dashboard goes by that of its interpreter."""
    return "ray-dashboard" if any("/ray/dashboard/" in part for part in process.cmdline()) else process.name()
