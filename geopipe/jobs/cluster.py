"""The cluster of geopipe on this machine: up, down, and what it does."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from geopipe.errors import MachineError, PlanError
from geopipe.jobs import local, scraping
from geopipe.jobs.head import client, cluster
from geopipe.jobs.local import LocalCluster, LocalNode, Size
from geopipe.monitoring.database import connections
from geopipe.text import count, listed


@dataclass(frozen=True)
class Database:
    """The database that records runs. `url` is without its password; `problem` says why it cannot be used."""

    url: str
    problem: str = ""


@dataclass(frozen=True)
class ClusterStatus:
    """The cluster and what it does.

    Attributes:
        jobs: ids of the jobs at work.
        scrapes: whether Prometheus answers.
    """

    cluster: LocalCluster
    nodes: list[LocalNode]
    jobs: list[str]
    scrapes: bool
    database: Database

    @property
    def is_whole(self) -> bool:
        """Whether all nodes that were started are alive."""
        return sum(node.is_alive for node in self.nodes) == 1 + self.cluster.workers


def up(size: Size) -> ClusterStatus:
    """Start the cluster and the database, unless they run already.

    Raises:
        PlanError: another cluster runs.
        MachineError: a port is in use, or a part does not start, or has died.
    """
    own = local.alive()
    if own is None:
        if size.dashboard_port and not local.is_free(size.dashboard_port):
            raise MachineError(f"port {size.dashboard_port} is in use", "give another --dashboard-port, or none")
        own = local.start(size)
    other_port = size.dashboard_port and not own.dashboard.endswith(f":{size.dashboard_port}")
    if (own.workers, own.cpus) != (size.workers, size.cpus_per_node) or other_port:
        raise PlanError(
            f"{own} is up already, its dashboard at {own.dashboard}",
            "end it first: `geopipe cluster down`, or use it as it is: `geopipe cluster status`",
        )
    with suppress(MachineError):  # runs work without it; the status has the reason
        connections.prepare_database()
    now = status()
    if now is None or not now.is_whole:
        raise MachineError(f"{own} has lost nodes", "start it anew: `geopipe cluster down`, then `geopipe cluster up`")
    return now


def status() -> ClusterStatus | None:
    """The cluster as it is now; None if there is none.

    Raises:
        MachineError: its head answers connections, but no questions.
    """
    own = local.alive()
    if own is None:
        return None
    cluster(own.address)  # sets the token
    return ClusterStatus(
        own,
        local.nodes(own.address),
        _jobs(own),
        bool(own.prometheus) and scraping.is_ready(own.prometheus),
        _database(),
    )


def down(force: bool) -> int:
    """End the cluster with all its processes, and no other Ray; return how many processes ended.

    The database stays: other commands use it, too.

    Args:
        force: end it even if jobs are at work.

    Raises:
        PlanError: jobs are at work.
    """
    own = local.recorded()
    if own is None:
        return 0
    if local.alive() and not force:
        with suppress(MachineError):  # a head that does not answer has no jobs that could be saved
            cluster(own.address)  # sets the token
            if jobs := _jobs(own):
                raise PlanError(
                    f"{count(len(jobs), 'job')} at work on the cluster at {own.address}: {listed(jobs, 3)}",
                    "wait, stop them with `geopipe jobs stop`, or give --force",
                )
    return local.stop(own)


def _jobs(own: LocalCluster) -> list[str]:
    """Ids of the jobs at work, with drivers that have joined the cluster without being submitted."""
    jobs = client(own.dashboard).list_jobs()
    return [str(job.submission_id or job.job_id) for job in jobs if not job.status.is_terminal()]


def _database() -> Database:
    try:
        dsn = connections.needed_dsn()
    except MachineError as error:
        return Database("", error.message)
    try:
        connections.connect(dsn, connect_timeout=3).close()
    except MachineError as error:
        return Database(connections.masked(dsn), error.message)
    return Database(connections.masked(dsn))
