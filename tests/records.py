"""Records of a run as tests make them, and what is in the monitor's tables."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg2

from geopipe.events.records import new_run_id

TS = 1_780_000_000.25

TABLES = (
    "pipeline_runs",
    "pipeline_logs",
    "pipeline_events",
    "pipeline_metrics",
    "pipeline_metrics_latest",
    "pipeline_progress",
    "pipeline_sources",
)


def record(run: str, seq: int, kind: str = "log", source: str = "host-1-1", **overrides: Any) -> dict[str, Any]:
    """A record of any kind with what it must have."""
    base: dict[str, Any] = {"run_id": run, "seq": seq, "source": source, "ts": TS + seq, "kind": kind}
    base |= {
        "log": {"level": "INFO", "logger": "geopipe", "message": f"message {seq}"},
        "progress": {"stage": "read", "layer": "a", "tiles": 1, "cells": 2, "rows": 3, "bytes": 4, "seconds": 0.25},
        "metric": {"name": "cpu_percent", "value": float(seq), "unit": "%", "node": "n"},
        "event": {"name": "wave_done", "detail": {"wave": seq}},
        "state": {"state": "running", "detail": {}},
    }[kind]
    return base | overrides


def a_run(sources: int = 3, count: int = 60) -> list[dict[str, Any]]:
    """All records of a run with several sources, each in its order: every kind, and a state at both ends."""
    run = new_run_id()
    result = [record(run, 1, "state", "driver", detail={"name": "many", "totals": {"read": 10}})]
    for source in range(sources):
        kinds = ("log", "progress", "metric", "event")
        result += [record(run, seq, kinds[seq % 4], f"worker-{source}") for seq in range(1, count + 1)]
    return [*result, record(run, 2, "state", "driver", state="completed", ts=TS + count, detail={"exit_code": 0})]


def query(dsn: str, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connected, connected, connected.cursor() as cursor:
        cursor.execute(text, parameters or None)
        return list(cursor.fetchall()) if cursor.description else []


def tables(dsn: str) -> dict[str, list[Any]]:
    """All rows of all tables, in one order."""
    return {
        name: [row for (row,) in query(dsn, f"SELECT to_jsonb(t) FROM {name} t ORDER BY to_jsonb(t)::text")]
        for name in TABLES
    }
