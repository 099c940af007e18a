"""Addresses of Ray clusters, the token that a cluster may require, and the job that this process is. Loads no Ray."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import socket
import sys
from collections.abc import MutableMapping
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from geopipe import machine
from geopipe.errors import MachineError

UNPICKLING = (
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
    "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE",
)
"""Environment variables that let Ray Data unpickle what is stored in a table: its author could run any program."""

AUTH_MODE = "RAY_AUTH_MODE"
"""Environment variable: "token" sends and requires a token, "disabled" does neither."""

TOKEN_HINT = "set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH, a file) as the cluster has it"
"""Hint where a token is missing or another one."""

IDLE_WORKERS = "RAY_num_workers_soft_limit"
"""Environment variable of a new node: processes up to this number stay when they have been idle for a second."""


def host_and_port(address: str) -> tuple[str, int | None]:
    """Split an address into host and port: ("", None) if it is not one."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def is_local(address: str) -> bool:
    """Whether an address belongs to this machine."""
    host = host_and_port(address)[0]
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def requested(address: str | None) -> str:
    """The address of the cluster to use: `address`, else RAY_ADDRESS, else "local"."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


def is_http(address: str) -> bool:
    """Whether an address is that of a dashboard, which takes jobs; a process joins a cluster at host:port."""
    return address.startswith(("http://", "https://"))


def existing(address: str | None) -> str:
    """What names the Ray cluster to join: a setting, RAY_ADDRESS, or the session of this process; "" without one."""
    if requested(address) != "local":
        return f"engine.address = {address!r}" if address else f"RAY_ADDRESS = {requested(address)!r}"
    ray = sys.modules.get("ray")  # this module must not load it
    return "the Ray session of this process" if ray and ray.is_initialized() else ""


def runs_on_one_machine(address: str | None) -> bool:
    """Whether a run at this address (else RAY_ADDRESS) uses this machine only; False if that is not certain."""
    return (target := requested(address)) in ("auto", "local") or is_local(target)


def unsafe() -> list[str]:
    """The variables of UNPICKLING that are switched on."""
    return [name for name in UNPICKLING if os.environ.get(name, "").lower() not in ("", "0", "false")]


def refuse_unsafe() -> None:
    """Refuse to work with Ray while it would unpickle what is stored.

    Raises:
        MachineError: names the variable.
    """
    for name in unsafe():
        raise MachineError(
            f"{name} is set: Ray Data would unpickle what is stored in tables, which can run any program",
            f"unset {name}",
        )


def token_file() -> Path:
    """The file with this user's token, there or not: of RAY_AUTH_TOKEN_PATH, else the one in the user's home."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named).expanduser() if named else _token_file()


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


def names_token() -> bool:
    """Whether the environment names a token."""
    return any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))


def has_token() -> bool:
    """Whether this user has a token."""
    return names_token() or _token_file().exists()


def use_token(address: str) -> None:
    """Set RAY_AUTH_MODE for a cluster, both ways: Ray's default differs from version to version.

    1. What the user has set stays.
    2. A cluster of our own ("local") is protected by a token.
    3. A cluster that exists is asked: a token where it requires one, none where it does not.
    4. Where it does not answer that, a token if this user has one.

    Raises:
        MachineError: the cluster needs a token, and there is none. Ray would end this process.
    """
    if not os.environ.get(AUTH_MODE):
        needed = True if address == "local" else requires_token(address)
        os.environ[AUTH_MODE] = "token" if (has_token() if needed is None else needed) else "disabled"
    if address != "local" and os.environ[AUTH_MODE].lower() == "token" and not has_token():
        raise MachineError(f"there is no token for the cluster at {address}", TOKEN_HINT)


def requires_token(address: str, seconds: float = 5.0) -> bool | None:
    """Ask a cluster whether it requires a token, without sending one; None if it does not say.

    Args:
        address: http(s)://host:port of its dashboard, or host:port of the head's GCS.
        seconds: to wait for the answer.
    """
    if is_http(address):
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import urlopen

        try:
            urlopen(f"{address.rstrip('/')}/api/version", timeout=seconds).close()
        except HTTPError as error:
            return True if error.code in (401, 403) else None
        except (OSError, ValueError, HTTPException):  # the last where a GCS answers
            return None
        return False
    return _gcs_refuses(address, "", seconds)


def _gcs_refuses(address: str, token: str, seconds: float) -> bool | None:
    """Whether the GCS at host:port refuses a token ("" for none); None if it does not say."""
    if host_and_port(address)[1] is None:
        return None
    import grpc

    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address.removeprefix("ray://"), [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            return True if error.code() is grpc.StatusCode.UNAUTHENTICATED else None
    return False


def check_token(address: str, seconds: float = 5.0) -> None:
    """Refuse a token that the GCS at host:port does not accept; Ray itself would try for half a minute.

    Raises:
        MachineError: it accepts another token, or requires one and none is sent.
    """
    if _gcs_refuses(address, _sent_token(), seconds):
        raise refused(address)


def refused(address: str) -> MachineError:
    """The error for a cluster that has not accepted what this process sends: a wrong token, or none."""
    mode = os.environ.get(AUTH_MODE, "")
    if mode.lower() != "token":
        return MachineError(
            f"the cluster at {address} requires a token, and none was sent: {AUTH_MODE} is {mode or 'not set'}",
            f"set {AUTH_MODE}=token, and {TOKEN_HINT}",
        )
    if not _sent_token():
        return MachineError(f"the cluster at {address} requires a token, and {token_file()} has none", TOKEN_HINT)
    return MachineError(f"the cluster at {address} accepts another token than ours", TOKEN_HINT)


def _sent_token() -> str:
    """The token that Ray sends, "" for none."""
    if os.environ.get(AUTH_MODE, "").lower() != "token":
        return ""
    with suppress(OSError, RuntimeError, ValueError):
        return os.environ.get("RAY_AUTH_TOKEN") or token_file().read_text(encoding="ascii").strip()
    return ""


def answers_http(address: str, seconds: float = 5.0) -> bool:
    """Whether a web server, such as a dashboard, answers at host:port. A GCS does not speak its version of HTTP."""
    from http.client import HTTPConnection, HTTPException

    host, port = host_and_port(address)
    with closing(HTTPConnection(host, port, timeout=seconds)) as connection:  # past a proxy, whose answer this would be
        try:
            connection.request("GET", "/api/version")
            connection.getresponse()
        except (OSError, HTTPException):
            return False
    return True


def create_token() -> None:
    """Create this user's token before a new head would: Ray writes it where every user can read it."""
    if os.environ.get(AUTH_MODE, "token") != "token" or has_token():
        return
    with suppress(OSError, RuntimeError):  # another process was faster; or Ray will report that there is no home
        _token_file().parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(_token_file(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))


def keep_workers(environment: MutableMapping[str, str]) -> None:
    """Let the idle workers of a new node live until its next wave of a shuffle.

    A shuffle has three kinds of workers, beside Ray's actors; by default Ray keeps one process for each processor.
    """
    environment.setdefault(IDLE_WORKERS, str(4 * machine.cpus() + 4))


def job_metadata() -> dict[str, str]:
    """Metadata of the Ray job that this process is, job_submission_id among them; empty if it is none."""
    with suppress(ValueError, KeyError, TypeError):
        return dict(json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"])
    return {}
