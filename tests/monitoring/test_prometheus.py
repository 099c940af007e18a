"""The metrics, alerts and dashboards in cluster/, in a real Prometheus and its promtool."""

from __future__ import annotations

import itertools
import json
import re
import runpy
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_server as prometheus
import pytest
import surroundings
import yaml
from dashboards import expressions, panels
from waiting import PATIENCE, until

from geopipe.monitoring.prometheus import Exporter

CLUSTER = surroundings.REPOSITORY / "cluster"
CONFIG, RULES, RULES_TEST = (CLUSTER / "prometheus" / f"{name}.yml" for name in ("prometheus", "rules", "rules_test"))
DASHBOARDS = {
    name: json.loads((CLUSTER / "grafana" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("geopipe", "cluster")
}
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
RATE = 1000.0  # cells in a second, of the run that is scraped


def tool(folder: Path, *args: object, text: str | None = None) -> str:
    """What promtool prints; it must not find fault."""
    done = subprocess.run(
        [folder / "promtool", *map(str, args)], input=text, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def busy() -> Exporter:
    """The exporter of a run in which everything has happened that has a metric."""
    exporter = Exporter({"version": "test"})
    for stage in ("read", "merge", "write"):
        exporter.record(
            {"kind": "progress", "stage": stage, "tiles": 2, "cells": 9, "rows": 9, "bytes": 9, "seconds": 0.5}
        )
    exporter.record({"kind": "state", "state": "completed"})
    exporter.record({"kind": "state", "state": "running", "detail": {"totals": {"read": 9, "merge": 9, "write": 9}}})
    exporter.record({"kind": "log", "level": "ERROR", "stage": "read", "tile": 3})
    exporter.record({"kind": "event", "name": "records_dropped", "detail": {"count": 5}})
    for name in ("cpu_percent", "rss_bytes", "object_store_bytes", "spill_bytes", "disk_free_bytes"):
        exporter.record({"kind": "metric", "name": name, "value": 2.0**40, "node": "node-1"})
    for name, value in (("memory_used_bytes", 50.0), ("memory_total_bytes", 100.0)):
        exporter.record({"kind": "metric", "name": name, "value": value, "node": "node-1"})
    return exporter


def test_promtool_finds_no_fault_with_the_files(prometheus_programs: Path) -> None:
    assert "SUCCESS" in tool(prometheus_programs, "check", "config", CONFIG)
    assert f"{len(ALERTS)} rules found" in tool(prometheus_programs, "check", "rules", RULES)
    assert "SUCCESS" in tool(prometheus_programs, "test", "rules", RULES_TEST)
    tool(prometheus_programs, "check", "metrics", text=busy().text())


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in yaml.safe_load(RULES_TEST.read_text())["tests"] for case in test["alert_rule_test"]]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case["exp_alerts"]) is fires} == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_the_cases_notice_an_alert_that_is_off(prometheus_programs: Path, tmp_path: Path, alert: str) -> None:
    changed: dict[str, dict[str, Any]] = {"never": {"expr": "vector(0) > 1"}}
    loose = {">": "> -1", "<": "< 1e18", "==": ">= 0"}
    expression = re.sub(r"(>|<|==) [\d.]+", lambda match: loose[match[1]], ALERTS[alert]["expr"])
    changed["loose"] = {"expr": expression, "for": "0s"}
    if "for" in ALERTS[alert]:
        changed["at once"] = {"for": "0s"}
    (tmp_path / "test.yml").write_text(RULES_TEST.read_text())
    for name, change in changed.items():
        rules = yaml.safe_load(RULES.read_text())
        next(rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == alert).update(change)
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
        args = [prometheus_programs / "promtool", "test", "rules", tmp_path / "test.yml"]
        done = subprocess.run(args, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1, name
        assert alert in done.stdout + done.stderr, name


def test_the_dashboards_are_what_their_generator_makes() -> None:
    files = runpy.run_path(str(CLUSTER / "grafana" / "generate.py"))["files"]()
    assert {file.stem for file in files} == DASHBOARDS.keys()
    for file, text in files.items():
        assert file.read_text(encoding="utf-8") == text, "run cluster/grafana/generate.py"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_sound(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert re.fullmatch(r"[a-z0-9-]{1,40}", dashboard["uid"])
    assert dashboard["title"]
    every = dashboard["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"__rate_interval", "__all"}
    assert used == names
    for panel in panels(dashboard):
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_expression_of_a_dashboard_is_promql(prometheus_programs: Path, tmp_path: Path, name: str) -> None:
    texts = expressions(DASHBOARDS[name]).values()
    named = [{"record": f"panel:n{number}", "expr": text} for number, text in enumerate(texts)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": named}]}))
    assert f"{len(named)} rules found" in tool(prometheus_programs, "check", "rules", tmp_path / "rules.yml")


def test_every_name_in_rules_and_dashboard_is_one_of_the_exporter() -> None:
    lines = [line for line in busy().text().splitlines() if not line.startswith("#")]
    known = {re.split(r"[{ ]", line)[0] for line in lines}
    texts = {
        "rules": RULES.read_text(),
        "tests": RULES_TEST.read_text(),
        "dashboard": json.dumps(DASHBOARDS["geopipe"]),
    }
    for name, text in texts.items():
        used = set(re.findall(r"\bgeopipe_\w+", text))
        assert used
        assert not used - known, name
    watched = set(re.findall(r"\bgeopipe_\w+", texts["dashboard"]))
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in watched}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in known} == shown  # nothing is made that nobody sees
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "hint"}


@pytest.fixture(scope="module")
def scraped(prometheus_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[prometheus.Server]:
    """A Prometheus with the committed files, which scrapes a run that reads RATE cells a second, and Ray's file."""
    folder = tmp_path_factory.mktemp("prometheus")
    exporter, ray, ended = busy(), Exporter({"version": "in the place of Ray"}), threading.Event()
    ports = exporter.serve(0, "127.0.0.1"), ray.serve(0, "127.0.0.1")
    discovery = folder / "prom_metrics_service_discovery.json"
    discovery.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{ports[1]}"]}]))
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    geopipe, rays = config["scrape_configs"]
    assert (geopipe["job_name"], rays["job_name"]) == ("geopipe", "ray")
    geopipe["static_configs"][0]["targets"] = [f"127.0.0.1:{ports[0]}"]
    rays["file_sd_configs"][0]["files"] = [str(discovery)]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules.yml").write_text(RULES.read_text())

    def work() -> None:
        start, count = time.monotonic(), 0
        while not ended.wait(0.1):
            cells = int((time.monotonic() - start) * RATE) - count
            count += cells
            exporter.record({"kind": "progress", "stage": "read", "tiles": 1, "cells": cells, "seconds": 0.1})
            exporter.record({"kind": "progress", "stage": "write", "tiles": 1, "cells": cells, "seconds": 0.1})

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with prometheus.server(prometheus_programs, folder / "prometheus.yml", folder / "data") as running:
            yield running
    finally:
        ended.set()
        worker.join()
        exporter.close()
        ray.close()


def test_a_rate_is_the_speed_of_the_run(scraped: prometheus.Server) -> None:
    def speed() -> float | None:
        value = scraped.value('rate(geopipe_cells_total{job="geopipe", stage="read"}[5s])')
        return value if value is not None and abs(value - RATE) <= RATE / 20 else None

    until(speed)
    assert scraped.value('geopipe_run_state{job="geopipe", state="running"}') == 1
    assert scraped.value('geopipe_rss_bytes{job="geopipe", node="node-1"}') == 2.0**40
    quantile = "histogram_quantile(0.95, sum by (le) (rate(geopipe_window_duration_seconds_bucket{%s}[5s])))"
    assert 0.03 < (until(lambda: scraped.value(quantile % 'job="geopipe", stage="read"')) or 0) <= 0.1


def test_every_panel_has_data(scraped: prometheus.Server) -> None:
    for title, expression in expressions(DASHBOARDS["geopipe"]).items():
        until(lambda expression=expression, title=title: scraped.query(expression) and title)


def test_nodes_of_ray_are_found_and_the_rules_work(scraped: prometheus.Server) -> None:
    assert until(lambda: scraped.value('up{job="ray"}')) == 1

    def healthy() -> bool:
        rules = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
        assert not [rule for rule in rules if rule["health"] == "err"]
        return {rule["name"] for rule in rules if rule["health"] == "ok"} == ALERTS.keys()

    until(healthy)
