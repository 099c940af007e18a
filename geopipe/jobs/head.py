"""The Ray cluster that takes jobs: one at an address, or one of our own on this machine."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from geopipe.engine import address as addresses
from geopipe.errors import MachineError, first_line
from geopipe.jobs import local


def cluster(address: str | None, start: bool = False) -> str:
    """The address of the cluster for jobs: `address`, else RAY_ADDRESS, else our own head on this machine.

    Args:
        address: the address that the user named.
        start: start a head on this machine if there is none.

    Raises:
        MachineError: there is no cluster, or it is on another machine and no token protects it.
    """
    target = addresses.requested(address)
    if target in ("auto", "local"):
        own = local.alive() or (local.start(local.Size()) if start else None)
        if own is None:
            raise MachineError(
                "no Ray head of geopipe runs on this machine (any more)", "name the job's cluster by --address"
            )
        target = own.address
    addresses.use_token(target)
    needs_token = os.environ.get("RAY_AUTH_MODE") == "token"
    if needs_token and not addresses.has_token():  # Ray would end this process
        raise MachineError(
            "RAY_AUTH_MODE is token, and there is no token",
            "set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as the cluster has it, or unset RAY_AUTH_MODE",
        )
    if not needs_token and not addresses.is_local(target):
        raise MachineError(
            f"the cluster at {target} is beyond this machine, and no token would protect what is submitted to it",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as the cluster has them",
        )
    return target


def client(address: str) -> Any:
    """Ray's client for jobs.

    Raises:
        MachineError: no cluster answers at the address.
    """
    from ray.job_submission import JobSubmissionClient  # loads half of Ray, which a look into the database must not

    try:
        host, port = addresses.host_and_port(address)
        if host and port:  # Ray itself would try for a minute
            socket.create_connection((host, port), timeout=10).close()
        connected = JobSubmissionClient(address)
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)  # users need not know how it packs and sends
        return connected
    except Exception as error:  # Ray raises RuntimeError, ConnectionError, AuthenticationError and others
        raise MachineError(
            f"no Ray cluster takes jobs at {address}: {first_line(error)}",
            "start one (`geopipe cluster up`, `ray start --head`), or correct --address or RAY_ADDRESS",
        ) from None
