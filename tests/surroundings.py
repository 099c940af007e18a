"""The machine as tests find it, whatever shell, home or Ray is there: import this before anything of geopipe or Ray."""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEPT = {
    "GEOPIPE_TEST_DATA",
    "GEOPIPE_CRD_DIR",
    "GEOPIPE_TRIALS",
    "GEOPIPE_OUTAGE",
    "GEOPIPE_FUZZ",
    "GEOPIPE_PROMETHEUS_CACHE",
    "GEOPIPE_IMAGE",
}
"""Variables for the tests themselves; every other one that geopipe, Ray, GDAL or Postgres reads is taken away."""
FOREIGN = ("GEOPIPE_", "RAY_", "GDAL_", "CPL_", "VSI_", "PROJ_", "AWS_", "GS_", "GOOGLE_", "AZURE_", "PG")
TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE")

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests"
SERVERS = TESTS / "servers"
OUTSIDE = Path(os.environ.get("GEOPIPE_TEST_DATA") or REPOSITORY.parent / "shared").resolve()
"""Rasters and oracles of other projects, which are not in the repository."""
MISSING = f"the rasters of other projects are not in {OUTSIDE} (GEOPIPE_TEST_DATA names the folder)"


def folder() -> Path:
    """A folder of this test run. Under /tmp where there is one: Ray's sockets allow no more than some 40 characters."""
    short = "/tmp" if os.access("/tmp", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="geopipe-test-", dir=short))


def isolate(folder: Path) -> None:
    """Take the user's settings, clusters, credentials and signal dispositions out of this process and its children."""
    for name in list(os.environ):
        if (name.startswith(FOREIGN) and name not in KEPT) or name in TERMINAL:
            del os.environ[name]
    for name in ("home", "geopipe", "ray"):
        (folder / name).mkdir()
    (folder / "home" / ".ray").mkdir()
    (token := folder / "home" / ".ray" / "auth_token").touch(0o600)  # Ray itself would let everybody read it
    token.write_text(secrets.token_hex(32), encoding="ascii")
    os.environ |= {
        "HOME": str(folder / "home"),
        "GEOPIPE_HOME": str(folder / "geopipe"),
        "GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING": "false",  # tests of the monitor switch it on for themselves
        "RAY_TMPDIR": str(folder / "ray"),  # where `ray.init()` looks for a cluster that it could join
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "no_proxy": "127.0.0.1,localhost",
    }
    # A job in the background ignores SIGINT, one under nohup SIGHUP, and children inherit that. A handler of Python's
    # is the default again in a child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextmanager
def signals_as_they_were() -> Iterator[None]:
    """Around a command of geopipe in this process, which sets what signals do up to its end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
