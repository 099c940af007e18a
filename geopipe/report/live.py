"""`geopipe report --serve`: a page that shows a run at work, and becomes its report when the run is done.

    folder: tiles that have receipts --+
    monitor's database, if it answers: +-- state, once a second --> page in the browser
      stages, errors, time left      --+

The server listens on this machine alone, unless it is told another address; then each request needs a token.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from geopipe.engine.address import is_local
from geopipe.errors import GeopipeError, MachineError, SettingsError
from geopipe.export import state
from geopipe.export.lock import holder
from geopipe.export.state import PAGE, Unfinished
from geopipe.plan.cells import keys_of, runs_of
from geopipe.redaction import redacted

EVERY = 0.5
"""Seconds for which a state is good enough: many browsers cost as much as one."""

HISTORY = 60.0
"""Seconds over which the pace of tiles is computed."""


class LiveState:
    """The state of the run in an output folder, as JSON values.

    Args:
        output: the folder.
        run_id: of the run to follow in the database; "" for the one in the folder.
    """

    def __init__(self, output: Path, run_id: str = "") -> None:
        self.output, self.run_id = output, run_id
        self._lock, self._last, self._read = threading.Lock(), 0.0, dict[str, Any]()
        self._counts = list[tuple[float, int]]()
        self._monitor = _Monitor()

    def look(self) -> dict[str, Any]:
        """What the page shows."""
        with self._lock:
            if not self._read or time.monotonic() - self._last >= EVERY:
                try:
                    self._read = self._now()
                except GeopipeError as error:
                    self._read = {"state": "unknown", "output": str(self.output), "note": error.message}
                self._last = time.monotonic()
            return self._read

    def _now(self) -> dict[str, Any]:
        run = self._at_work()
        if run is None and (success := state.finished(self.output)) is not None:
            facts = {name: success.get(name) for name in ("name", "run_id", "rows", "files", "bytes")}
            return {"state": "finished", "output": str(self.output), "page": (self.output / PAGE).exists()} | facts
        at_work = bool(holder(self.output))
        if run is None:
            return {"state": "starting" if at_work else "waiting", "output": str(self.output)}
        return {
            "state": "running" if at_work else "unfinished",
            "output": str(self.output),
            "name": run.name,
            "run_id": run.run_id,
            "tiles": self._tiles(run),
            "monitor": self._monitor.look(self.run_id or run.run_id),
        }

    def _at_work(self) -> Unfinished | None:
        """The run in the folder that is at work or was cut short: the newest."""
        runs = state.readable_runs(self.output)
        finished = state.finished(self.output) or {}
        runs = [run for run in runs if run.run_id != finished.get("run_id")]
        return runs[-1] if runs else None

    def _tiles(self, run: Unfinished) -> dict[str, Any]:
        """Which tiles are committed, and how fast they come."""
        grid, size = run.identity["grid"], run.identity["resampling"]["window_size"]
        now, keys = time.monotonic(), keys_of(run.runs)
        done = keys[run.ledger.done[keys]]
        self._counts = [c for c in self._counts if now - c[0] <= HISTORY and c[1] <= len(done)] + [(now, len(done))]
        then, before = self._counts[0]
        pace = (len(done) - before) / (now - then) if now - then >= 2 and len(done) > before else None
        return {
            "rows": -(-grid["height"] // size),
            "cols": -(-grid["width"] // size),
            "planned": run.tiles,
            "count": len(done),
            "outline": [[start, end] for start, end in run.runs],
            "done": [[start, end] for start, end in runs_of(done)],
            "per_second": pace,
            "seconds_left": (run.tiles - len(done)) / pace if pace else None,
        }

    def close(self) -> None:
        """Stop following the database."""
        self._monitor.close()


class _Monitor:
    """The last look at a run in the monitor's database, which a thread renews."""

    def __init__(self) -> None:
        self._run, self._closed = "", threading.Event()
        self._seen: dict[str, Any] = {"note": "the monitor's database is asked"}

    def look(self, run_id: str) -> dict[str, Any]:
        """Stages, errors and time left of a run; or a note why they are not known."""
        if run_id != self._run:
            self._run = run_id
            threading.Thread(target=self._follow, args=(run_id,), daemon=True).start()
        return self._seen

    def _follow(self, run_id: str) -> None:
        try:
            from geopipe.monitoring.database import follow, queries

            looks = follow.looks(follow.connect_to_read, run_id, partial(queries.look, run_id=run_id))
            for look, paces, away in follow.paced(looks):
                if self._closed.is_set() or self._run != run_id:
                    return
                stages = [
                    {"stage": s.stage, "done": s.tiles, "of": s.of, "cells_per_second": paces.get(s.stage)}
                    for s in look.stages
                ]
                errors = [{"level": e.level, "message": e.message} for e in look.errors]
                run: dict[str, Any] = {"seconds": look.run.seconds, "seconds_left": look.left, "note": away}
                run |= {"errors": look.error_count, "warnings": look.warning_count}
                self._seen = run | {"stages": stages, "last": redacted(errors)}
        except GeopipeError as error:
            self._seen = {"note": f"stages and errors are not known: {error.message}"}

    def close(self) -> None:
        self._closed.set()


class _Handler(BaseHTTPRequestHandler):
    """Answers with the page of a run at work, its state, or the report of a finished one."""

    protocol_version = "HTTP/1.1"
    progress: LiveState
    token: str
    timeout = 30

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._is_allowed(parse_qs(url.query).get("token", [""])[0]):
            self._send(HTTPStatus.FORBIDDEN, b"the address lacks its token, or names another host\n", "text/plain")
        elif url.path == "/state":
            self._send(HTTPStatus.OK, json.dumps(self.progress.look()).encode(), "application/json")
        elif url.path == "/":
            page = self.progress.output / PAGE
            finished = self.progress.look()["state"] == "finished" and page.exists()
            self._send(HTTPStatus.OK, page.read_bytes() if finished else _page(), "text/html; charset=utf-8")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"there is / and /state\n", "text/plain")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _is_allowed(self, token: str) -> bool:
        """Whether the request has the token, or comes to this machine by a name of its own: no other page's script."""
        if self.token:
            return secrets.compare_digest(token.encode(), self.token.encode())
        return is_local(self.headers.get("Host", ""))

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: a line for each request would hide what matters."""


def _page() -> bytes:
    folder = resources.files("geopipe.report") / "templates"
    style = (folder / "style.css").read_text(encoding="utf-8")
    return (folder / "live.html").read_text(encoding="utf-8").replace("/*style*/", style).encode()


@contextmanager
def server(target: str, host: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[str, Callable[[], None]]]:
    """Listen for browsers. Yields the page's address, and the function that serves until it is interrupted.

    Args:
        target: an output folder, whether it exists already or not; or a run in the monitor's database: its id, the
            start of it, its name, or "latest".
        host: address to listen on. One beyond this machine puts a token into the page's address.
        port: 0 for any that is free.

    Raises:
        SettingsError: there is no such run.
        MachineError: the port is taken, or the database cannot be read.
    """
    token = "" if is_local(host) else secrets.token_urlsafe(24)
    progress = LiveState(*_output_of(target))
    handler = type("Handler", (_Handler,), {"progress": progress, "token": token})
    try:
        listening = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise MachineError(f"{host}:{port} cannot be listened on: {error.strerror}", "choose another --port") from None
    listening.daemon_threads = True
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.server_port}/" + (f"?token={token}" if token else "")
    try:
        yield address, partial(listening.serve_forever, poll_interval=0.2)
    finally:
        progress.close()
        listening.server_close()


def _output_of(target: str) -> tuple[Path, str]:
    """The folder of a run, and its id where the target names a run."""
    folder = Path(target).expanduser().absolute()
    if folder.is_dir() or "/" in target:
        return folder, ""
    from geopipe.monitoring.database import follow, queries

    try:
        with follow.reading() as connected:
            run = queries.find_run(connected, None if target == "latest" else target)
    except GeopipeError as error:
        hint = "give an output folder, or a run that `geopipe monitor runs` lists"
        raise SettingsError(f"{target} is no folder, and no run: {error.message}", hint) from None
    if run.output is None or not Path(run.output).is_absolute():
        raise SettingsError(f"run {run.run_id} works in {run.output}, which is no folder", "give a folder")
    return Path(run.output), run.run_id
