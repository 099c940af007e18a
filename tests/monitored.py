"""Runs that never were, as records in the monitor's tables: at work, silent, failed, finished, and hostile."""

from __future__ import annotations

import math
import random
import time
import uuid
from contextlib import closing
from typing import Any

import psycopg2

from geopipe.monitoring.database import store

HOSTILE = "x'); DROP TABLE pipeline_runs; -- \x1b[2J\x1b]0;owned\x07 [red]markup[/red] :boom: \u202egnp.exe"
TRACEBACK = 'Traceback (most recent call last):\n  File "read.py", line 1, in read\nOSError: \x1b[31mno such block'


def new_id(at: float, number: int = 0) -> str:
    """A UUIDv7 of this time."""
    stamp = int(at * 1000) & (2**48 - 1)
    return str(uuid.UUID(int=(stamp << 80) | (7 << 76) | (2 << 62) | number))


class Source:
    """A process of a run that makes records."""

    def __init__(self, run_id: str, name: str = "host-a-1-1", **context: Any) -> None:
        self.run_id, self.name, self.context = run_id, name, context
        self.seq, self.records = 0, list[dict[str, Any]]()

    def add(self, kind: str, ts: float, **values: Any) -> Source:
        self.seq += 1
        known = {"seq": self.seq, "source": self.name, "run_id": self.run_id, "ts": ts, "kind": kind}
        self.records.append({**known, **self.context, **values})
        return self

    def log(self, ts: float, message: str, level: str = "INFO", **values: Any) -> Source:
        return self.add("log", ts, level=level, logger="geopipe.test", message=message, **values)

    def state(self, ts: float, state: str, **detail: Any) -> Source:
        return self.add("state", ts, state=state, detail=detail)

    def progress(self, ts: float, stage: str, tiles: int, cells: int = 0, **values: Any) -> Source:
        return self.add("progress", ts, stage=stage, tiles=tiles, cells=cells, rows=0, bytes=0, seconds=1.0, **values)

    def metric(self, ts: float, name: str, value: float, unit: str, **values: Any) -> Source:
        return self.add("metric", ts, name=name, value=value, unit=unit, **values)

    def write(self, dsn: str) -> None:
        """Send what has been added since the last time."""
        with closing(psycopg2.connect(dsn)) as connected:
            store.write(connected, self.records)
        self.records = []


def settle(dsn: str, *statements: str) -> None:
    """Run statements; what the store does not write by itself: requests, ages."""
    with closing(psycopg2.connect(dsn)) as connected, connected, connected.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def at_work(now: float, name: str = "world", nodes: int = 2, number: int = 1) -> Source:
    """A run that has worked for five minutes on some nodes, and has met errors of three causes."""
    start = now - 300
    run = Source(new_id(start, number))
    run.state(start, "pending", name=name, output="/data/runs/2026/world-100m/output", plan_hash="ab" * 32)
    run.state(start + 2, "running", totals={"read": 2900, "merge": 580, "write": 580, "layers": {"srtm": 580}})
    run.add("event", start + 1, name="plan_made", detail={"strategy": "aligned", "tiles": 580})
    run.add("event", start + 2, name="run_started", detail={})
    run.add("event", start + 3, name="layer_skipped", layer="wells", detail={"reason": "no such file: wells.csv"})
    rng = random.Random(7)
    for step in range(30):
        at = start + 10 * step + 5
        for layer in ("srtm", "nlcd", "climate"):
            run.progress(at, "read", 22, 22 * 2**20, layer=layer)
        run.progress(at, "merge", 11, 11 * 2**20)
        run.progress(at, "write", 10, 10 * 2**20)
        run.log(at, f"wave {step} of 58 done", stage="merge", tile=step)
        for node in range(nodes):
            host = f"worker-{node + 1}"
            swing = 1 + 0.4 * math.sin(step / 4 + node) + rng.random() / 10
            run.metric(at, "cpu_percent", 90 * swing, "percent", node=host)
            run.metric(at, "rss_bytes", 1.1e9 * swing, "bytes", node=host)
            run.metric(at, "memory_used_bytes", 4.1e9 * swing, "bytes", node=host)
            run.metric(at, "memory_total_bytes", 16.5e9, "bytes", node=host)
            run.metric(at, "object_store_bytes", 0.3e9 * swing, "bytes", node=host)
            run.metric(at, "spill_bytes", 0.0, "bytes", node=host)
            run.metric(at, "disk_free_bytes", 84e9 - 1e8 * step, "bytes", node=host)
        run.metric(at, "seconds_left", 3470 - 10 * step, "s", stage="run")
        for stage, speed in (("read", 6.9e6), ("merge", 1.2e6), ("write", 1.05e6)):
            run.metric(at, "cells_per_second", speed * (1 + rng.random() / 3), "cells/s", stage=stage)
    for tile in range(12):
        where = {"stage": "read", "layer": "srtm", "tile": tile, "traceback": TRACEBACK}
        message = f"srtm.tif: band 1, block {tile}: not readable (TIFFReadEncodedTile failed)"
        run.log(now - 60 + tile, message, "ERROR", **where)
    run.log(now - 40, "connection to s3://bucket/nlcd.tif was reset after 30 s", "ERROR", stage="read", layer="nlcd")
    run.log(now - 38, "tile 17 was written twice", "WARNING", stage="write", tile=17)
    run.log(now - 30, "worker 4711 died: out of memory", "CRITICAL", stage="merge")
    return run.log(now - 1, "still at work", "DEBUG")


def fill(dsn: str, now: float | None = None) -> dict[str, str]:
    """Several runs; their ids by what they are."""
    now = now or time.time()
    runs = {"running": at_work(now)}

    stale = Source(new_id(now - 7200, 2))
    stale.state(now - 7200, "running", name="soils", output="/data/soils", totals={"read": 100, "write": 50})
    runs["stale"] = stale.progress(now - 7000, "read", 40, 4000).progress(now - 3600, "write", 5, 500)

    failed = Source(new_id(now - 86400, 3))
    failed.state(now - 86400, "running", name="demo", output="demo/output", totals={"read": 8, "merge": 1, "write": 1})
    failed.progress(now - 86390, "read", 3, 600_000)
    failed.log(now - 86381, "read failed after 9.5 s", "ERROR", stage="read")
    error = {"type": "SourceError", "message": "elevation.tif: band 1 has no CRS", "hint": "give layers.crs"}
    runs["failed"] = failed.state(now - 86380, "failed", exit_code=2, error=error)

    done = Source(new_id(now - 600, 4))
    done.state(now - 600, "running", name="demo", output="demo/output", totals={"read": 8, "merge": 1, "write": 1})
    done.progress(now - 590, "read", 8, 1_600_000).progress(now - 588, "merge", 1, 200_000)
    for second in range(3000):
        stage = ("read", "merge", "write")[second % 3]
        done.log(now - 590 + second / 1000, f"line {second}", ("INFO", "DEBUG")[second % 2], stage=stage)
    done.progress(now - 586, "write", 1, 200_000)
    runs["completed"] = done.state(now - 585, "completed", exit_code=0)

    odd = Source(new_id(now - 4 * 86400, 5))
    odd.state(now - 4 * 86400, "running", name=HOSTILE, output=HOSTILE, totals={"read": 1})
    odd.log(now - 4 * 86400 + 1, HOSTILE + "\n12:00:00 info     forged", "ERROR", stage=HOSTILE, traceback=HOSTILE)
    odd.add("event", now - 4 * 86400 + 2, name=HOSTILE, detail={HOSTILE: HOSTILE})
    odd.metric(now - 4 * 86400 + 2, HOSTILE, 1.0, HOSTILE, node=HOSTILE)
    runs["hostile"] = odd.state(now - 4 * 86400 + 3, "cancelled")

    for source in runs.values():
        source.write(dsn)
    beat = "UPDATE pipeline_runs SET heartbeat_at = now() {} interval '1 h' WHERE run_id = '{}'"
    settle(dsn, beat.format("-", stale.run_id), beat.format("+", runs["running"].run_id))  # alive as long as tests take
    return {what: source.run_id for what, source in runs.items()}
