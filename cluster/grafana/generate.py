"""Write the Grafana dashboard: `python cluster/grafana/generate.py`.

The dashboard is geopipe.json beside this file; Grafana imports it by hand or through a provisioning folder. Panels are
told here by what they show; where they lie and what number they have follows from their order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("geopipe.json")
WIDTH = 24  # columns of Grafana's grid
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUN = 'job=~"$job", instance=~"$instance"'


@dataclass(frozen=True)
class Panel:
    """One panel with one query. In its expression RUN stands for the runs that are chosen."""

    title: str
    about: str
    unit: str
    query: str
    legend: str = ""
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    options: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


def stat(title: str, about: str, unit: str, query: str, legend: str = "", limit: float | None = None) -> Panel:
    """A number, red from `limit` on; with a legend that in its place."""
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if limit is not None:
        steps.append({"color": "red", "value": limit})
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "name" if legend else "auto"}
    return Panel(
        title, about, unit, query, legend, "stat", 4, 4, options, {"thresholds": {"mode": "absolute", "steps": steps}}
    )


def rate(metric: str, by: str, where: str = "") -> str:
    """A counter's increase in a second, added up by labels."""
    return f"sum by ({by}) (rate({metric}{{RUN{where}}}[$__rate_interval]))"


def quantile(share: float) -> str:
    """The time that this share of the windows does not exceed, by stage."""
    return f"histogram_quantile({share}, {rate('geopipe_window_duration_seconds_bucket', 'stage, le')})"


WRITTEN = 'geopipe_windows_total{RUN, stage="write", outcome="done"}'
TO_WRITE = 'geopipe_planned_windows{RUN, stage="write"}'
DONE = 'sum by (stage) (geopipe_windows_total{RUN, outcome="done"})'
FAILED = 'sum(rate(geopipe_windows_total{RUN, outcome="failed"}[5m]))'
TRIED = 'sum(rate(geopipe_windows_total{RUN, outcome=~"done|failed"}[5m]))'
SHARE = {"min": 0, "max": 1}
BARS = {"orientation": "horizontal", "reduceOptions": {"calcs": ["lastNotNull"]}}

ROWS = {
    "Progress": [
        stat("State", "The last that the run said of itself.", "none", "geopipe_run_state{RUN} == 1", "{{state}}"),
        stat(
            "Since the last progress",
            "Over 10 minutes while running is an alert.",
            "s",
            "time() - geopipe_last_progress_timestamp_seconds{RUN}",
            limit=600,
        ),
        stat(
            "Time left",
            "For what is left to write, at the speed of the last 10 minutes.",
            "s",
            f"sum({TO_WRITE} - ignoring (outcome) {WRITTEN}) / (sum(rate({WRITTEN}[10m])) > 0)",
        ),
        stat(
            "Last success",
            "When a run was last completed here.",
            "dateTimeFromNow",
            "geopipe_last_success_timestamp_seconds{RUN} * 1000",
        ),
        Panel(
            "Done",
            "Windows done of those that the plan has.",
            "percentunit",
            f"{DONE} / (sum by (stage) (geopipe_planned_windows{{RUN}}) > 0)",
            "{{stage}}",
            "bargauge",
            8,
            4,
            BARS,
            SHARE,
        ),
    ],
    "Throughput": [
        Panel(
            "Windows",
            "Done in a second.",
            "ops",
            rate("geopipe_windows_total", "stage", ', outcome="done"'),
            "{{stage}}",
        ),
        Panel(
            "Cells",
            "In a second; a cell counts once for each layer that is read.",
            "short",
            rate("geopipe_cells_total", "stage"),
            "{{stage}}",
        ),
        Panel("Rows", "Of the table, in a second.", "short", rate("geopipe_rows_total", "stage"), "{{stage}}"),
        Panel(
            "Bytes",
            "In a second.",
            "Bps",
            rate("geopipe_bytes_total", "stage, direction"),
            "{{stage}} {{direction}}",
        ),
        Panel("Time of a window, median", "Half of them take longer.", "s", quantile(0.5), "{{stage}}"),
        Panel("Time of a window, 95 %", "One in twenty takes longer.", "s", quantile(0.95), "{{stage}}"),
    ],
    "Errors": [
        Panel(
            "Share of windows that fail",
            "Over 1 % for 5 minutes is an alert.",
            "percentunit",
            f"{FAILED} / ({TRIED} > 0)",
            "failed",
        ),
        Panel(
            "Windows failed and skipped",
            "Since the run began.",
            "short",
            'sum by (stage, outcome) (geopipe_windows_total{RUN, outcome=~"failed|skipped"}) > 0',
            "{{stage}} {{outcome}}",
        ),
        Panel("Log records", "In a minute.", "short", rate("geopipe_records_total", "level") + " * 60", "{{level}}"),
    ],
    "Memory, spill and disk": [
        Panel("Memory of the run", "All its processes.", "bytes", "geopipe_rss_bytes{RUN}", "{{node}}"),
        Panel(
            "Memory in use",
            "By whatever, of what the node or its container has. Ray kills workers at 95 %.",
            "percentunit",
            "geopipe_memory_used_bytes{RUN} / geopipe_memory_limit_bytes{RUN}",
            "{{node}}",
            defaults=SHARE,
        ),
        Panel("Processors at work", "100 is all of them.", "percent", "geopipe_node_cpu_percent{RUN}", "{{node}}"),
        Panel("Object store", "Ray's, in memory.", "bytes", "geopipe_object_store_bytes{RUN}", "{{node}}"),
        Panel(
            "Spilled",
            "What did not fit in the object store: waves are too large (merge.wave_tiles).",
            "bytes",
            "geopipe_spill_bytes{RUN}",
            "{{node}}",
        ),
        Panel(
            "Free disk",
            "For the output; under 2 GiB is an alert.",
            "bytes",
            "geopipe_disk_free_bytes{RUN}",
            "{{node}}",
            defaults={"min": 0},
        ),
    ],
    "Health of the monitor": [
        Panel(
            "Records that wait",
            "In spools, until the database takes them.",
            "short",
            "geopipe_spool_pending_records{RUN}",
            "{{instance}}",
        ),
        stat(
            "Records lost",
            "Their spool was full. The table is whole all the same.",
            "short",
            "sum(geopipe_records_dropped_total{RUN})",
            limit=1,
        ),
        stat("Answers", "1: the last scrape was answered.", "none", "min(up{RUN})"),
        Panel("Versions", "What makes the table.", "none", "geopipe_build_info{RUN}", kind="table", height=4),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON has it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, y, WIDTH, 1)}
        )
        x, y, tallest = 0, y + 1, 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            panels.append(_panel(panel, _place(x, y, panel.width, panel.height)))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    for number, made in enumerate(panels, 1):
        made["id"] = number
    return {
        "uid": "geopipe",
        "title": "geopipe",
        "description": "How runs of geopipe go. Made by cluster/grafana/generate.py.",
        "tags": ["geopipe"],
        "schemaVersion": 38,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), _variable("job", "geopipe_build_info"), _variable("instance", _OF_JOB)]},
        "panels": panels,
    }


_OF_JOB = 'geopipe_build_info{job=~"$job"}'


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, series: str) -> dict[str, Any]:
    query = f"label_values({series}, {name})"
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    target: dict[str, Any] = {"refId": "A", "datasource": SOURCE, "expr": panel.query.replace("RUN", RUN)}
    if panel.legend:
        target["legendFormat"] = panel.legend
    if panel.kind == "table":
        target |= {"format": "table", "instant": True}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [target],
        "options": panel.options,
        "fieldConfig": {"defaults": {"unit": panel.unit, **panel.defaults}, "overrides": []},
    }


def text() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
