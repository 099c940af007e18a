"""Pods by the numbers of a plan, compared with tables that were computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from helpers import VERSIONS, header

from geopipe.errors import PlanError
from geopipe.grid.grid import Grid
from geopipe.kuberay import sizing
from geopipe.kuberay.sizing import GIB, ROOMY, Limits, Pods
from geopipe.layers.layer import Layer
from geopipe.plan.estimate import MERGERS, WORKER_BYTES
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, Plan, make_plan


def plan_of(seconds: float, tasks: int, edge: int = 4096, **options: Any) -> Plan:
    """A plan of edge x edge cells of float32 in tiles of 512, with other seconds of one processor and tasks."""
    grid = Grid("EPSG:32612", 500_000, 4_000_000, 30, 30, width=edge, height=edge)
    source = header(width=edge, height=edge)
    chosen = Options(**{"window_size": 512, "engine": "ray"} | options)
    plan = make_plan(Inputs("p", grid, [(Layer("a", ()), [source])], VERSIONS), chosen, ROOMY)
    return replace(plan, seconds={"ray": 6 + seconds}, estimate=replace(plan.estimate, tasks=tasks))


@pytest.mark.parametrize(
    ("seconds", "tasks", "limits", "count", "cpus"),
    [
        # within an hour, less the 6 s of the start: 3,594 s of each processor
        (1, 1, Limits(), 1, 2),
        (3_594, 1_000, Limits(), 1, 2),  # one processor
        (3 * 3_594, 1_000, Limits(), 1, 3),
        (7 * 3_594, 1_000, Limits(), 1, 7),
        (7 * 3_594 + 1, 1_000, Limits(), 2, 7),  # 8 processors
        (70 * 3_594, 1_000, Limits(), 10, 7),
        (1e9, 1_000_000, Limits(), 16, 7),  # the most pods
        (1e9, 20, Limits(), 3, 7),  # no more processors than tasks
        (36_000, 1_000, Limits(within=606), 9, 7),  # 60 processors
        (36_000, 1_000, Limits(within=606, most=4), 4, 7),
        (36_000, 1_000, Limits(within=606, cpus=30), 2, 30),  # few large pods
        (36_000, 1_000, Limits(within=606, most=99, cpus=1), 60, 1),
        (36_000, 12, Limits(within=1), 2, 7),  # a wish that cannot be: as many as there are tasks
    ],
)
def test_processors_suffice_for_the_wished_time_within_the_limits(
    seconds: float, tasks: int, limits: Limits, count: int, cpus: int
) -> None:
    pods = sizing.size_pods(plan_of(seconds, tasks), limits)
    assert (pods.count, pods.cpus) == (count, cpus)


def test_memory_holds_a_worker_for_each_processor_and_a_tenth_more() -> None:
    plan = plan_of(7 * 3_594, 1_000, strategy="aligned")
    pods = sizing.size_pods(plan, Limits())
    exact = 1.1 * 7 * (WORKER_BYTES + plan.estimate.task_bytes)
    assert pods.memory == math.ceil(exact / GIB) * GIB
    assert pods.object_store == GIB
    assert (pods.limit, pods.shm) == (pods.memory + 3 * GIB, 2 * GIB)
    assert (pods.spill, pods.disk) == (5 * GIB, 15 * GIB)


def test_a_shuffle_has_memory_for_merging_and_a_store_for_a_tile_of_each_processor() -> None:
    plan = plan_of(1e9, 1_000, strategy="groupby", wave_tiles=64)
    pods = sizing.size_pods(plan, Limits(cpus=30))
    tile = 512 * 512 * 5  # float32, and whether it is valid
    assert pods.object_store >= 30 * tile / 0.2
    assert pods.memory > 30 * (1 + MERGERS) * WORKER_BYTES
    assert pods.spill >= 2 * pods.object_store


def test_object_stores_hold_a_wave_that_the_settings_make_large() -> None:
    edge = 32_768
    pods = sizing.size_pods(plan_of(1, 4_096, edge, strategy="groupby", wave_tiles=4_096), Limits())
    assert pods.object_store == 2 * edge * edge * 5  # 10 GiB: the whole table is half of the store


@pytest.mark.parametrize(
    ("seconds", "pods", "expected"),
    [
        (1, Pods(1, 2, GIB, GIB), 3_600),  # never less than an hour
        # 1,800 for pods to start; twice the start of 6 s and four times the work of each of 14 processors
        (14_000, Pods(2, 7, GIB, GIB), 1_800 + 60 * 134),
    ],
)
def test_the_deadline_leaves_a_margin_to_the_predicted_time(seconds: float, pods: Pods, expected: int) -> None:
    assert sizing.deadline(plan_of(seconds, 1_000), pods) == expected


def test_memory_by_hand_is_shared_out() -> None:
    assert sizing.pods_by_hand(3, 7, 28 * GIB) == Pods(3, 7, 19 * GIB, 7 * GIB)
    assert sizing.pods_by_hand(1, 2, 4 * GIB) == Pods(1, 2, GIB, GIB)
    with pytest.raises(PlanError, match="3 GiB has too little memory"):
        sizing.pods_by_hand(1, 2, 3 * GIB)
