"""`geopipe cluster`: a Ray cluster on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from geopipe.cli.options import json_option, print_json

if TYPE_CHECKING:
    from geopipe.jobs.cluster import ClusterStatus


@click.group("cluster")
def cluster_group() -> None:
    """Start and end a Ray cluster on this machine.

    It is the one that `geopipe jobs start` uses, and starts as a head alone if there is none.
    """


@cluster_group.command(epilog="Example: geopipe cluster up --workers 2 --cpus-per-node 2")
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Nodes beside the head.")
@click.option("--cpus-per-node", "cpus", type=click.IntRange(1, 1024), help="CPUs of each node (default: a share).")
@click.option("--dashboard-port", type=click.IntRange(1, 65535), help="Port of the dashboard (default: 8265 if free).")
@click.option("--no-prometheus", is_flag=True, help="Start no Prometheus, even if it is installed.")
@json_option
def up(workers: int, cpus: int | None, dashboard_port: int | None, no_prometheus: bool, as_json: bool) -> None:
    """Start a head and worker nodes, and wait until they are alive.

    A token protects the cluster. The embedded Postgres is started, too, unless a database is named, and Prometheus if
    `prometheus` is in PATH. If the cluster is up already, its status is printed.
    """
    from geopipe.jobs import cluster, scraping
    from geopipe.jobs.local import Size

    prometheus = scraping.is_installed() and not no_prometheus
    _print(cluster.up(Size(workers, cpus or 0, dashboard_port or 0, prometheus)), as_json)


@cluster_group.command(epilog="Example: geopipe cluster status --json")
@json_option
def status(as_json: bool) -> int:
    """Show nodes, jobs at work and addresses.

    Exits with 1 if no cluster is up, or if it has lost nodes.
    """
    from geopipe.jobs import cluster

    now = cluster.status()
    if now is not None:
        _print(now, as_json)
    elif as_json:
        print_json({"up": False})
    else:
        click.echo("no cluster of geopipe is up on this machine; start one: geopipe cluster up")
    return 0 if now is not None and now.is_whole else 1


@cluster_group.command(epilog="Example: geopipe cluster down")
@click.option("--force", is_flag=True, help="End it even if jobs are at work; they end, too.")
@json_option
def down(force: bool, as_json: bool) -> None:
    """End the cluster with all its processes.

    No other Ray on this machine is touched. The database keeps running: `geopipe db stop` stops the embedded one.
    """
    from geopipe.jobs import cluster

    ended = cluster.down(force)
    if as_json:
        print_json({"processes": ended})
    else:
        click.echo(f"ended the cluster, {ended} processes" if ended else "no cluster of geopipe is up on this machine")


def _print(now: ClusterStatus, as_json: bool) -> None:
    from geopipe.cli.screen import console, facts, headline, table
    from geopipe.jobs import scraping
    from geopipe.text import size

    own = now.cluster
    grafana = [str(scraping.shipped("grafana")), f"{own.session}/metrics/grafana/dashboards"]
    if as_json:
        print_json(_as_json(now) | {"grafana": grafana})
        return
    out = console()
    headline(out, f"{own} is up" if now.is_whole else f"{own} has lost nodes")
    rows = [
        (
            "head" if node.is_head else "worker",
            "alive" if node.is_alive else "dead",
            f"{node.cpus:g}",
            size(node.memory),
            size(node.object_store),
            node.id[:12],
        )
        for node in now.nodes
    ]
    table(out, ("node", "state", "CPUs", "memory", "store", "id"), rows, right=("CPUs", "memory", "store"))
    prometheus = own.prometheus + ("" if now.scrapes else " (does not answer)") if own.prometheus else "none"
    database = now.database.url or "none"
    facts(
        out,
        {
            "dashboard": f"{own.dashboard}  (asks for the token in ~/.ray/auth_token)",
            "--address": f"{own.dashboard}  or  {own.address}",
            "Postgres": f"{database} ({now.database.problem})" if now.database.problem else database,
            "Prometheus": prometheus,
            "Grafana": "dashboards to import, geopipe's and Ray's:\n" + "\n".join(grafana),
            "jobs": "\n".join(now.jobs) or "none at work",
        },
    )


def _as_json(now: ClusterStatus) -> dict[str, Any]:
    own = now.cluster
    return {
        "up": True,
        "whole": now.is_whole,
        "address": own.address,
        "dashboard": own.dashboard,
        "session": own.session,
        "nodes": [asdict(node) for node in now.nodes],
        "jobs": now.jobs,
        "prometheus": {"url": own.prometheus or None, "reachable": now.scrapes},
        "postgres": {"url": now.database.url or None, "problem": now.database.problem or None},
    }
