"""The nodes of a Ray cluster, and small functions that each of them calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geopipe.errors import find, first_line

T = TypeVar("T")

HEAD = "node:__internal_head__"
"""Resource that the head of a cluster has, and no other node."""


@dataclass(frozen=True)
class ClusterNode:
    """A node of the cluster.

    Attributes:
        name: of its host; several nodes may run on one host.
        address: of its network interface.
        resources: what it offers in all, such as CPU, memory and object_store_memory, in Ray's units (bytes).
        labels: such as ray.io/market-type.
    """

    id: str
    name: str
    address: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def is_head(self) -> bool:
        """Whether it is the head of the cluster."""
        return HEAD in self.resources

    @property
    def is_own(self) -> bool:
        """Whether this process runs on it."""
        return self.id == ray.get_runtime_context().get_node_id()

    def __str__(self) -> str:
        return f"node {self.name} ({self.address})"


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a function returned on a node; `error` says why it has returned nothing, and is empty if it has."""

    node: ClusterNode
    value: T | None = None
    error: str = ""


Calls = Sequence[tuple[ClusterNode, "ray.ObjectRef[Any]"]]
"""Calls at work, by node."""


def alive() -> list[ClusterNode]:
    """The nodes of the cluster that are alive, the head first, then by address."""
    nodes = [
        ClusterNode(
            n["NodeID"], n["NodeManagerHostname"], n["NodeManagerAddress"], n["Resources"], n.get("Labels") or {}
        )
        for n in ray.nodes()
        if n["Alive"]
    ]
    return sorted(nodes, key=lambda node: (not node.is_head, node.address, node.name, node.id))


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether labels are those that a label selector of Ray asks for: value, !value, in(a,b) or !in(a,b)."""
    for key, text in selector.items():
        values = text.removeprefix("!").removeprefix("in(").removesuffix(")").split(",")
        if (labels.get(key) in [value.strip() for value in values]) == text.startswith("!"):
            return False
    return True


def begin(nodes: Sequence[ClusterNode], function: Callable[..., Any], *args: Any) -> Calls:
    """Begin to call a function on each of these nodes, which takes no CPU of the cluster; do not wait.

    Args:
        nodes: to call it on.
        function: of a module that every node has.
        args: for the function, small.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    places = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in nodes]
    return [(n, task.options(scheduling_strategy=p).remote(*args)) for n, p in zip(nodes, places, strict=True)]


def wait(calls: Calls, seconds: float) -> list[Answer[Any]]:
    """Wait for the answers of calls, in their order. After `seconds` no call is waited for."""
    if not calls:
        return []
    ready, _ = ray.wait([call for _, call in calls], num_returns=len(calls), timeout=seconds)
    done = set(ready)
    return [
        _answer(node, call) if call in done else Answer(node, error=f"no answer in {seconds:g} s")
        for node, call in calls
    ]


def on_every_node(function: Callable[..., T], *args: Any, seconds: float) -> list[Answer[T]]:
    """Call a function once on every node of the cluster that is alive, and return the answers by node.

    Args:
        function: of a module that every node has.
        args: for the function, small.
        seconds: for which answers are waited for.
    """
    return wait(begin(alive(), function, *args), seconds)


def _answer(node: ClusterNode, call: Any) -> Answer[Any]:
    try:
        return Answer(node, ray.get(call))
    except ray.exceptions.RayTaskError as error:
        return Answer(node, error=first_line(find(error) or error.cause or error))
    except ray.exceptions.RayError as error:
        return Answer(node, error=first_line(error))
