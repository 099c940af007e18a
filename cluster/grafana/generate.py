"""Write the Grafana dashboards: `python cluster/grafana/generate.py`.

They are geopipe.json (runs) and cluster.json (the Ray cluster of runs) beside this file; Grafana imports them by hand
or through a provisioning folder. A panel is defined here by what it shows; its place and its number follow from the
order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WIDTH = 24  # columns of Grafana's grid
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = {"RUN": 'job=~"$job", instance=~"$instance"', "SESSION": 'SessionName=~"$session"'}
"""What RUN and SESSION stand for in the expressions below: the runs, or the Ray clusters, that are chosen."""


@dataclass(frozen=True)
class Panel:
    """One panel with one query."""

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

RUNS = {
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
            'sum by (outcome) (geopipe_windows_total{RUN, outcome=~"failed|skipped"})',
            "{{outcome}}",
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


OF_SESSION = "sum by (instance) ({}{{SESSION{}}})"
"""The values of a metric of Ray, by node."""

CLUSTER = {
    "The cluster": [
        stat("Nodes alive", "That answer, the head included.", "none", "count(ray_node_cpu_count{SESSION})"),
        stat("CPUs", "That tasks and actors can reserve.", "none", 'sum(ray_resources{SESSION, Name="CPU"})'),
        stat("CPUs reserved", "Now.", "none", 'sum(ray_resources{SESSION, Name="CPU", State="USED"})'),
        stat("Jobs at work", "Their drivers, and those of Ray's jobs API.", "none", "sum(ray_running_jobs{SESSION})"),
        stat("Jobs ended", "Since the head was started.", "none", "sum(ray_finished_jobs_total{SESSION})"),
    ],
    "Nodes": [
        Panel("Processors at work", "100 is all.", "percent", "ray_node_cpu_utilization{SESSION}", "{{instance}}"),
        Panel(
            "Memory in use",
            "Ray kills workers at 95 %.",
            "percentunit",
            "ray_node_mem_used{SESSION} / ray_node_mem_total{SESSION}",
            "{{instance}}",
            defaults=SHARE,
        ),
        Panel(
            "CPUs reserved by node",
            "By tasks and actors.",
            "short",
            OF_SESSION.format("ray_resources", ', Name="CPU", State="USED"'),
            "{{instance}}",
        ),
        Panel(
            "Memory of Ray's processes",
            "Workers are ray::NAME.",
            "bytes",
            "sum by (Component) (ray_component_rss_bytes{SESSION})",
            "{{Component}}",
        ),
        Panel("Network, received", "In a second.", "Bps", "ray_node_network_receive_speed{SESSION}", "{{instance}}"),
        Panel("Free disk of the node", "For spilling, too.", "bytes", "ray_node_disk_free{SESSION}", "{{instance}}"),
    ],
    "Object store": [
        Panel(
            "Object store in use",
            "Of the shared memory of the node.",
            "percentunit",
            "ray_object_store_used_memory{SESSION} / "
            "(ray_object_store_used_memory{SESSION} + ray_object_store_available_memory{SESSION})",
            "{{instance}}",
            defaults=SHARE,
        ),
        Panel(
            "Spilled to disk",
            "What did not fit: waves are too large (merge.wave_tiles).",
            "bytes",
            OF_SESSION.format("ray_object_store_memory", ', Location="SPILLED"'),
            "{{instance}}",
        ),
        Panel(
            "Beside shared memory",
            "Objects that Ray keeps in slow files, because shared memory is too small (/dev/shm).",
            "bytes",
            "ray_object_store_fallback_memory{SESSION}",
            "{{instance}}",
        ),
    ],
    "Work": [
        Panel(
            "Tasks by state",
            "Many that wait for a node: the cluster is too small, or a request fits on no node.",
            "short",
            'clamp_min(sum by (State) (ray_tasks{SESSION, State!~"FINISHED|FAILED"}), 0)',
            "{{State}}",
        ),
        Panel(
            "Actors by state",
            "As the head knows them.",
            "short",
            'sum by (State) (ray_actors{SESSION, Source="gcs"})',
            "{{State}}",
        ),
        Panel(
            "Ray Data: tasks at work",
            "By step of the run.",
            "short",
            "sum by (operator) (ray_data_num_tasks_running{SESSION})",
            "{{operator}}",
        ),
        Panel(
            "Ray Data: actors",
            "That are alive, by step of the run.",
            "short",
            "sum by (operator) (ray_data_num_alive_actors{SESSION})",
            "{{operator}}",
        ),
        Panel(
            "Ray Data: blocks in queues",
            "That wait before a step of the run.",
            "short",
            "sum by (operator) (ray_data_operator_queued_blocks{SESSION})",
            "{{operator}}",
        ),
        Panel(
            "Ray Data: memory of objects",
            "In the object store, by step of the run.",
            "bytes",
            "sum by (operator) (ray_data_obj_store_mem_used{SESSION})",
            "{{operator}}",
        ),
    ],
}


@dataclass(frozen=True)
class Dashboard:
    """A dashboard: rows of panels by their titles, and variables with the series and the label of their values."""

    title: str
    about: str
    rows: dict[str, list[Panel]]
    variables: dict[str, tuple[str, str]]

    def json(self, uid: str) -> dict[str, Any]:
        """The dashboard as Grafana has it."""
        variables = [_variable(name, series, label) for name, (series, label) in self.variables.items()]
        return {
            "uid": uid,
            "title": self.title,
            "description": f"{self.about} Made by cluster/grafana/generate.py.",
            "tags": ["geopipe"],
            "schemaVersion": 38,
            "editable": True,
            "refresh": "15s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": [_datasource(), *variables]},
            "panels": _panels(self.rows),
        }


DASHBOARDS = {
    "geopipe": Dashboard(
        "geopipe",
        "How runs of geopipe go.",
        RUNS,
        {"job": ("geopipe_build_info", "job"), "instance": ('geopipe_build_info{job=~"$job"}', "instance")},
    ),
    "geopipe-cluster": Dashboard(
        "geopipe: Ray cluster",
        "The Ray clusters on which runs of geopipe work.",
        CLUSTER,
        {"session": ("ray_node_cpu_count", "SessionName")},
    ),
}
"""The dashboards by their uid."""


def _panels(rows: dict[str, list[Panel]]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in rows.items():
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
    for number, panel_json in enumerate(panels, 1):
        panel_json["id"] = number
    return panels


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, series: str, label: str) -> dict[str, Any]:
    query = f"label_values({series}, {label})"
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
    query = panel.query
    for name, selector in CHOSEN.items():
        query = query.replace(f"{{{name}", f"{{{selector}")
    target: dict[str, Any] = {"refId": "A", "datasource": SOURCE, "expr": query}
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


def files() -> dict[Path, str]:
    """The text of each file."""
    names = {uid: uid.removeprefix("geopipe-") + ".json" for uid in DASHBOARDS}
    return {
        Path(__file__).with_name(names[uid]): json.dumps(dashboard.json(uid), indent=2) + "\n"
        for uid, dashboard in DASHBOARDS.items()
    }


if __name__ == "__main__":
    for file, text in files().items():
        file.write_text(text, encoding="utf-8")
