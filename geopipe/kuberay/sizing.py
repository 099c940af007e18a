"""From the numbers of a plan to the number and size of worker pods."""

from __future__ import annotations

import math
from dataclasses import dataclass

from geopipe.errors import PlanError
from geopipe.plan.estimate import DRIVER_BYTES, WAVE_SHARE, Estimate, Machine, NodeLimits, estimate, refuse
from geopipe.plan.plan import Plan
from geopipe.plan.work import HIGH, STARTUP

GIB = 1 << 30

ROOMY = Machine(1, 1, 1 << 60, 1 << 60, 1 << 60, cluster="KubeRay")
"""One processor with all memory: a plan for it says how much work there is."""

LEAST_CPUS = 2
"""Processors of a pod, if so many are allowed: in a pod of one, reading waits for writing."""

LEAST_STORE = GIB
WAVES_IN_STORE = 0.5
"""Most of the object stores for a wave with its points; a plan with more than 0.7 is refused."""

MARGIN = 1.1
"""Memory of the workers of a pod, in what the plan predicts."""

RAY_BYTES = 2 * GIB
"""Memory of Ray's own processes of a pod."""

SHM_MARGIN = GIB
"""/dev/shm beyond the object store."""

LEAST_SPILL = 5 * GIB
OTHER_DISK = 10 * GIB
"""Disk of a pod beside the spill folder: /tmp, the home folder, logs."""

START_SECONDS = 1800
"""Until all pods run: an image is pulled, the cloud starts machines."""

LEAST_DEADLINE = 3600


@dataclass(frozen=True)
class Limits:
    """Wishes of the user: seconds of the run, most worker pods, and most CPUs of a pod."""

    within: float = 3600
    most: int = 16
    cpus: int = 7


@dataclass(frozen=True)
class Pods:
    """Equal worker pods; sizes in bytes. `memory` is that of tasks, `object_store` Ray's shared memory."""

    count: int
    cpus: int
    memory: int
    object_store: int

    @property
    def limit(self) -> int:
        """The memory limit of a pod."""
        return self.memory + self.object_store + RAY_BYTES

    @property
    def shm(self) -> int:
        """The size of /dev/shm."""
        return self.object_store + SHM_MARGIN

    @property
    def spill(self) -> int:
        """The size of the folder for objects that leave the object store."""
        return max(LEAST_SPILL, 2 * self.object_store)

    @property
    def disk(self) -> int:
        """The limit of ephemeral storage."""
        return self.spill + OTHER_DISK

    @property
    def workers(self) -> int:
        """Workers of all pods: one for each CPU."""
        return self.count * self.cpus

    @property
    def machine(self) -> Machine:
        """These pods as the plan of a run in them sees them."""
        node = NodeLimits(self.cpus, self.memory, self.object_store)
        return Machine(
            cpus=self.workers,
            workers=self.workers,
            memory=self.count * self.memory + DRIVER_BYTES,
            object_store=self.count * self.object_store,
            free_disk=ROOMY.free_disk,
            cluster=ROOMY.cluster,
            nodes=(node,) * self.count,
        )


def pods_by_hand(count: int, cpus: int, limit: int) -> Pods:
    """Pods of a memory limit in bytes: a quarter for objects, 2 GiB for Ray itself, the rest for tasks."""
    store = max(LEAST_STORE, limit // 4 // GIB * GIB)
    if limit < store + RAY_BYTES + GIB:
        raise PlanError(
            f"a worker pod of {limit / GIB:.3g} GiB has too little memory", "give --memory 4Gi or more, or no --memory"
        )
    return Pods(count, cpus, limit - store - RAY_BYTES, store)


def processor_seconds(plan: Plan) -> float:
    """The predicted work of a plan for one processor (`ROOMY`), in seconds."""
    return plan.seconds["ray"] - STARTUP["ray"]


def size_pods(plan: Plan, limits: Limits) -> Pods:
    """The worker pods for a plan: as few and as large as the limits allow.

    Processors: enough that the predicted work is done within the wished time, and no more than there are tasks.
    Object store: of a shuffle it holds a tile for each processor in every wave. Memory: a worker for each processor
    and the processes that merge, or the peak of the run, whichever is more.

    Args:
        plan: for one processor (`ROOMY`).

    Raises:
        PlanError: the run fits in no such pods.
    """
    seconds = processor_seconds(plan)
    wished = math.ceil(seconds / max(1.0, limits.within - STARTUP["ray"]))
    total = max(1, min(wished, plan.estimate.tasks))
    cpus = min(limits.cpus, max(LEAST_CPUS, total))
    count = min(limits.most, -(-total // cpus))
    tile = plan.estimate.wave_bytes / max(1, plan.estimate.wave_tiles)
    store = max(LEAST_STORE, _whole(cpus * tile / WAVE_SHARE))
    needs = _estimate(plan, Pods(count, cpus, ROOMY.memory, store).machine)
    store = max(store, _whole(needs.wave_bytes / WAVES_IN_STORE / count))  # every wave has all points
    needs = _estimate(plan, Pods(count, cpus, ROOMY.memory, store).machine)
    memory = _whole(MARGIN * max(cpus * needs.share_bytes, (needs.peak_bytes - DRIVER_BYTES) / count))
    pods = Pods(count, cpus, memory, store)
    refuse(_estimate(plan, pods.machine), pods.machine, plan.options.window_size)
    return pods


def predicted_seconds(plan: Plan, pods: Pods) -> float:
    """Seconds of the run in these pods."""
    return STARTUP["ray"] + processor_seconds(plan) / max(1, min(pods.workers, plan.estimate.tasks))


def deadline(plan: Plan, pods: Pods) -> int:
    """Seconds after which Kubernetes ends the job: to start pods, and twice the upper end of the predicted range."""
    busy = predicted_seconds(plan, pods) - STARTUP["ray"]
    return max(LEAST_DEADLINE, START_SECONDS + 60 * math.ceil(2 * (STARTUP["ray"] + HIGH * busy) / 60))


def _estimate(plan: Plan, machine: Machine) -> Estimate:
    return estimate(plan.spec, plan.layers, plan.options, machine, plan.mask, plan.strategy)


def _whole(count: float) -> int:
    """Bytes in whole GiB, rounded up."""
    return math.ceil(count / GIB) * GIB
