"""All findings: of this machine, of a node, and of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from geopipe import machine
from geopipe.doctor import folder, services, system, variables, versions
from geopipe.doctor.findings import MachineFinding
from geopipe.engine import address as addresses
from geopipe.errors import MachineError
from geopipe.monitoring.database import connections
from geopipe.text import count, size

SECONDS = 60.0
"""Seconds in which each node answers; the first task of a node starts a process there."""


@dataclass(frozen=True)
class Scope:
    """What is checked beside the machine.

    Attributes:
        folder: that a run works in.
        is_named: whether the user named it, so that it must be good.
        history: whether the settings want a history in Postgres.
        metrics: port of a run's metrics, if the settings name one.
    """

    folder: Path
    is_named: bool = False
    history: bool = True
    metrics: int | None = None


def diagnose(scope: Scope) -> list[MachineFinding]:
    """The findings of this machine, one after the other."""
    return [
        *versions.findings(),
        *system.findings(),
        folder.check(scope.folder, scope.is_named),
        services.database(scope.history),
        services.authentication(),
        *services.ports(scope.metrics),
        *variables.findings(),
    ]


# ---------------------------------------------------------------- a cluster


def diagnose_joined() -> MachineFinding:
    """Which cluster a run joins that names none."""
    joined = addresses.existing(None)
    run = f"a run joins the cluster of {joined}" if joined else "no RAY_ADDRESS: a run starts Ray if it needs it"
    return MachineFinding("cluster", "ok", run)


@dataclass(frozen=True)
class NodeFindings:
    """What a node finds on itself, with its versions, and its processors and memory (bytes) in their container."""

    versions: dict[str, str]
    findings: list[MachineFinding]
    cpus: int
    memory: int


def diagnose_cluster(address: str, scope: Scope) -> Iterator[MachineFinding]:
    """Ask every node of the cluster at an address: findings of each, and the differences between nodes."""
    from geopipe.engine import nodes
    from geopipe.engine.cluster import cluster

    marker = folder.existing(scope.folder) / f".geopipe-doctor-{uuid4().hex}"
    try:
        with cluster(address, 0), folder.locked(marker) as path:
            answers = nodes.on_every_node(look, scope, path, seconds=SECONDS)
    except MachineError as error:
        yield MachineFinding("cluster", "problem", error.message, error.hint)
        return
    yield MachineFinding("cluster", "ok", f"{address}: {count(len(answers), 'node')}")
    by_node = {str(answer.node): answer.value for answer in answers}
    yield from versions.differences(
        versions.numbers(), {node: seen.versions for node, seen in by_node.items() if seen is not None}
    )
    for answer in answers:
        name, seen = str(answer.node), answer.value
        if seen is None:
            hint = "install the same geopipe on every node; see the node's log in the dashboard of Ray"
            yield MachineFinding("node", "problem", f"no answer: {answer.error}", hint, name)
            continue
        yield from (replace(finding, node=name) for finding in seen.findings)
        yield replace(_offer(answer.node.resources, seen), node=name)


def _offer(resources: Mapping[str, float], seen: NodeFindings) -> MachineFinding:
    """What Ray counts on a node, beside what its container allows."""
    cpus, memory = resources.get("CPU", 0), resources.get("memory", 0) + resources.get("object_store_memory", 0)
    store = size(resources.get("object_store_memory", 0))
    value = f"Ray counts {cpus:g} CPUs and {size(memory)}, {store} of it for objects"
    if cpus > seen.cpus or memory > seen.memory:
        hint = "start the node with --num-cpus and --memory as its container has them: else it is killed for memory"
        return MachineFinding("ray-node", "note", f"{value}; it has {seen.cpus} and {size(seen.memory)}", hint)
    return MachineFinding("ray-node", "ok", value)


def look(scope: Scope, marker: str) -> NodeFindings:
    """The findings of this node.

    Args:
        marker: locked file in the folder of the scope, which every node must see; "" to check no folder.
    """
    findings = [*system.findings(), *variables.findings()]
    if connections.named():
        findings.append(services.database(scope.history))
    if marker and scope.is_named:
        findings.append(folder.check_shared(scope.folder, Path(marker)))
    return NodeFindings(versions.numbers(), findings, machine.cpus(), machine.memory())
