"""The folders of geopipe on this machine: its home, and the spools in which records wait."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from geopipe.durable import replacing
from geopipe.errors import MachineError
from geopipe.processes import unique_name

HOME = "GEOPIPE_HOME"


def home() -> Path:
    """The folder of GEOPIPE_HOME, or `geopipe` in the user's data folder; it need not exist.

    Raises:
        MachineError: the user has no home folder, and no variable names one.
    """
    if folder := os.environ.get(HOME):
        return Path(folder).expanduser().absolute()
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data) / "geopipe"
    try:
        return Path.home() / ".local" / "share" / "geopipe"
    except RuntimeError:
        raise MachineError(f"user {os.geteuid()} has no home folder", f"set {HOME} to a folder for geopipe") from None


def job_dsn_file(run_id: str) -> Path:
    """The file with the DSN of a job on this machine; the job deletes it at its end."""
    return home() / f"job-{run_id}.dsn"


def spool_root() -> Path:
    """The folder that holds a spool folder for each run; in the temporary folder if the home cannot be written."""
    with suppress(OSError, MachineError):
        folder = home() / "spool"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    return _temporary() / "spool"


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"geopipe-{os.geteuid()}"


def claim(root: Path) -> None:
    """Make a spool root in the temporary folder, where any user could have made it, private to this user.

    Raises:
        OSError: the folder cannot be made, or belongs to another user, who could read and forge records.
    """
    if root.parent != _temporary():
        return
    for folder in (root.parent, root):
        folder.mkdir(mode=0o700, exist_ok=True)
        if (owner := folder.lstat().st_uid) != os.geteuid():
            raise PermissionError(f"{folder} belongs to user {owner}; set {HOME} to a folder of your own")
        folder.chmod(0o700)


def try_lock(file: int) -> bool:
    """Lock an open file, if it is free, until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_private(path: Path, text: str | bytes, sync: bool = True) -> None:
    """Replace a file atomically by one that only its owner can read, from its first moment on.

    Args:
        sync: whether to flush the file to the disk before it gets its name.
    """
    with replacing(path, path.with_name(f"{path.name}.{unique_name()}.tmp"), 0o600, sync) as file:
        file.write(text.encode() if isinstance(text, str) else text)
