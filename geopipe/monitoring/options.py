"""The options of a run's monitoring, which travel to every process of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from geopipe.monitoring.home import spool_root

TARGETS = "GEOPIPE_PROMETHEUS_TARGETS"
"""Environment variable of a cluster whose Prometheus looks for runs in this folder of this machine."""


@dataclass(frozen=True)
class MonitoringOptions:
    """How a run is monitored. Holds no secret: Ray shows it to every user of a cluster.

    Attributes:
        output: folder whose free space is sampled.
        database: whether records go to Postgres.
        batch_size: records in a batch.
        flush_interval: seconds between two deliveries at most.
        metrics_interval: seconds between two samples of a node; None for no samples.
        spool_bytes: bytes of records on disk for each process.
        root: spool root; it holds a folder for each run.
        dsn_file: file with the DSN; None if each process takes it from its environment.
        problem: why records cannot reach Postgres at the start; the user has been warned.
        job: whether `geopipe jobs` started the run.
    """

    run_id: str
    attempt: int = 1
    output: Path = Path()
    database: bool = True
    batch_size: int = 100
    flush_interval: float = 1.0
    metrics_interval: float | None = None
    prometheus_port: int | None = None
    prometheus_host: str = "127.0.0.1"
    spool_bytes: int = 2**20
    root: Path = field(default_factory=spool_root)
    dsn_file: Path | None = None
    problem: str = ""
    job: bool = False

    @property
    def resume_command(self) -> str:
        """The command that resumes the run after an interruption."""
        return f"`geopipe jobs resume {self.run_id}`" if self.job else "`geopipe run --resume`"

    @property
    def folder(self) -> Path:
        """The spool folder of the run on this node."""
        return self.root / self.run_id
