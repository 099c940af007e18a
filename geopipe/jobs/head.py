"""The Ray cluster that takes jobs: one at an address, or one of our own on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
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
    is_near = addresses.is_local(target)
    if is_near or os.environ.get(addresses.AUTH_MODE) or addresses.names_token():  # else no other machine is asked
        addresses.use_token(target)
        if not addresses.is_http(target):  # a dashboard is asked by `client`
            addresses.check_token(target)
    if not is_near and os.environ.get(addresses.AUTH_MODE) != "token":
        raise MachineError(
            f"the cluster at {target} is beyond this machine, and no token would protect what is submitted to it",
            f"start it with RAY_AUTH_MODE=token, and {addresses.TOKEN_HINT}",
        )
    return target


def client(address: str) -> Any:
    """Ray's client for jobs.

    Raises:
        MachineError: no cluster answers at the address, or it does not accept the token.
    """
    import ray  # half of it, which a look into the database must not load
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    from geopipe.engine import internals

    if not ray.is_initialized():
        internals.read_environment()
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)  # users need not know how it packs and sends
    try:
        host, port = addresses.host_and_port(address)
        if host and port:  # Ray itself would try for a minute
            socket.create_connection((host, port), timeout=10).close()
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # they would replace the address
            return JobSubmissionClient(address)
    except AuthenticationError:
        raise addresses.refused(address) from None
    except Exception as error:  # Ray raises RuntimeError, ConnectionError and others
        raise MachineError(
            f"no Ray cluster takes jobs at {address}: {first_line(error)}",
            "start one (`geopipe cluster up`, `ray start --head`), or correct --address or RAY_ADDRESS",
        ) from None


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Take variables out of the environment inside."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
