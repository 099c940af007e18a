"""Runs as jobs of a Ray cluster, by Ray's Jobs API alone: submit one, follow its output, end it. Needs no database."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from geopipe import __version__
from geopipe.engine import address as addresses
from geopipe.errors import MachineError, Terminated, first_line
from geopipe.jobs.checks import VERSIONS, refuse_mismatch, refuse_secrets, versions
from geopipe.jobs.head import client
from geopipe.settings.model import Settings

log = logging.getLogger(__name__)

AGENT_SECONDS = 60.0
"""Seconds that a head which has just started may take until it accepts jobs."""

LOST_SECONDS = 120.0
"""Seconds without an answer of the cluster after which nobody follows a job any more; the job goes on."""

SILENT_SECONDS = 60.0
"""Seconds without output after which it is asked for anew: a connection that broke without a message looks the same."""

UNKNOWN = "correct --address; `geopipe monitor logs` has the records of a run whose cluster is gone"
"""Hint where a cluster says nothing of a job."""

STOP_SECONDS = 20.0
"""Seconds that Ray may take to end a job: it sends SIGTERM, and SIGKILL 3 s later."""


NOT_FOUND = 127
"""Exit code of a shell that does not find a program."""


def job_id(run_id: str) -> str:
    """The name of a run's job in Ray."""
    return f"geopipe-{run_id}"


class RayJob:
    """A job of a cluster.

    Args:
        address: of the cluster.
        name: its submission id in Ray.

    Raises:
        MachineError: no cluster answers at the address.
    """

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name = address, name
        self._client, self._shown = client(address), 0

    def details(self) -> Any:
        """Ray's JobDetails.

        Raises:
            MachineError: the cluster does not know the job (any more).
        """
        with reported(f"the cluster at {self.address} says nothing of job {self.name}", UNKNOWN):
            return self._client.get_job_info(self.name)

    def printed(self) -> str:
        """The output of the job until now."""
        with reported(f"the cluster at {self.address} has no output of job {self.name}", UNKNOWN):
            return str(self._client.get_job_logs(self.name))

    def follow(self) -> Iterator[str]:
        """Yield the output of the job as it grows, until the job ends.

        A connection that is lost is made anew for a while. Called again, it goes on after what it has yielded.

        Raises:
            MachineError: the cluster does not know the job (any more), or does not answer for a while.
        """
        heard, is_lost = time.monotonic(), False
        while True:
            try:
                for text in self._tail():
                    heard, is_lost = time.monotonic(), False
                    yield text
                self._client = client(self.address)  # which waits for an answer, but not for ever
                if self._client.get_job_info(self.name).status.is_terminal():
                    return
                heard, is_lost = time.monotonic(), False
            except Exception as error:  # as in `head.client`
                if "does not exist" in str(error):
                    raise MachineError(
                        f"the cluster at {self.address} knows no job {self.name} (any more)", UNKNOWN
                    ) from None
                if time.monotonic() - heard > LOST_SECONDS:
                    raise MachineError(
                        f"the cluster at {self.address} has not answered for {LOST_SECONDS:.0f} s: {first_line(error)}",
                        f"job {self.name} goes on if its cluster does; {self.advice}",
                    ) from None
                if not is_lost:
                    log.warning("the connection to %s is lost; trying again", self.address)
                is_lost = True
                time.sleep(2)

    def _tail(self) -> Iterator[str]:
        """Yield what the job has printed and was not yielded yet, until the job ends or is silent for a while."""
        length, stream = 0, self._client.tail_job_logs(self.name)

        async def following() -> str:
            return str(await asyncio.wait_for(anext(stream, ""), SILENT_SECONDS))

        with asyncio.Runner() as runner:
            while text := _within(runner, following()):
                length += len(text)
                if length > self._shown:
                    text, self._shown = text[-(length - self._shown) :], length
                    yield text

    @property
    def advice(self) -> str:
        """How to follow and to end the job, wherever Ray is installed. Ray's commands do not ask for the mode."""
        ray = "RAY_AUTH_MODE=token ray" if os.environ.get(addresses.AUTH_MODE) == "token" else "ray"
        target = f"--address {self.address} {self.name}"
        return f"follow it: {ray} job logs --follow {target}; stop it: {ray} job stop {target}"

    def exit_code(self) -> int:
        """The exit code of the job's process; 143 if it was stopped.

        Raises:
            MachineError: its process has not begun, or its shell has not found geopipe.
        """
        details = self.details()
        if details.driver_exit_code is not None:
            code = int(details.driver_exit_code)
            if code == NOT_FOUND:
                raise MachineError(
                    f"there is no geopipe in the environment of the cluster at {self.address}",
                    f"install geopipe {__version__} on its nodes, or have its folder in PATH when Ray is started there",
                )
            return code if code >= 0 else 128 - code
        if details.status == "STOPPED":
            return Terminated().exit_code
        raise MachineError(
            f"job {self.name} ended before its run began: {first_line(Exception(details.message or details.status))}",
            "see Ray's dashboard",
        )

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after some seconds; return when the process is gone."""
        with reported(f"Ray cannot end job {self.name}", "see Ray's dashboard"):
            try:
                self._client.stop_job(self.name)
                end = time.monotonic() + STOP_SECONDS
                while not self._client.get_job_info(self.name).status.is_terminal() and time.monotonic() < end:
                    time.sleep(0.3)
            except Exception as error:
                if "does not exist" not in str(error):
                    raise

    @cached_property
    def is_here(self) -> bool:
        """Whether the head of the cluster is on this machine: an address of the loopback may lead to a container."""
        from geopipe.engine import internals

        with reported(f"the cluster at {self.address} does not list its nodes", "see Ray's dashboard"):
            session = internals.session_of_head(self._client)
        return bool(session) and Path(session).is_dir()

    def submit(self, settings: Settings, command: list[str], variables: Mapping[str, str]) -> None:
        """Submit `geopipe run` with some settings as this job.

        Args:
            settings: of the run.
            command: arguments of `geopipe run` after the settings.
            variables: environment variables of the job, which everybody sees who sees the cluster.

        Raises:
            SettingsError: a secret is in the settings.
            MachineError: the cluster has another version of Ray, or does not take the job.
        """
        import ray

        from geopipe.engine import internals

        refuse_secrets(settings)
        refuse_mismatch({"Ray": (ray.__version__, internals.ray_of_cluster(self._client))})
        program = [sys.executable, "-m", "geopipe"] if self.is_here else ["geopipe"]
        engine = settings.engine.model_copy(update={"address": None})  # a job is in its cluster already
        with tempfile.TemporaryDirectory() as folder:
            text = settings.model_copy(update={"engine": engine}).to_toml()
            (Path(folder) / "settings.toml").write_text(text, encoding="utf-8")
            try:
                self._take(
                    entrypoint=shlex.join([*program, "run", "settings.toml", *command]),
                    submission_id=self.name,
                    runtime_env={"working_dir": folder, "env_vars": dict(variables)},
                    metadata={"name": settings.run.name, VERSIONS: json.dumps(versions())},
                )
            except Exception as error:  # as in `head.client`
                raise MachineError(
                    f"the cluster at {self.address} did not take the job: {first_line(error)}",
                    "see the log of Ray's dashboard agent",
                ) from None

    def _take(self, **job: Any) -> None:
        """Have the cluster take a job; try again while a head that has just started has no agent for jobs."""
        end = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                self._client.submit_job(**job)
                return
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(1)


def _within(runner: asyncio.Runner, text: Any) -> str:
    """The next text of a job; "" at its end, or if there is none for a while."""
    try:
        return str(runner.run(text))
    except TimeoutError:
        return ""


@contextmanager
def reported(message: str, hint: str) -> Iterator[None]:
    """Raise MachineError for whatever Ray raises: RuntimeError, ConnectionError, AuthenticationError and others."""
    try:
        yield
    except Exception as error:
        raise MachineError(f"{message}: {first_line(error)}", hint) from None
