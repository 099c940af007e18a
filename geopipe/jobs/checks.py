"""Checks of a job: what may be submitted, and what must hold where it runs. Loads no Ray."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping

from geopipe import __version__
from geopipe.engine import address as addresses
from geopipe.errors import MachineError, SettingsError
from geopipe.redaction import HIDDEN, redacted
from geopipe.settings.model import Settings
from geopipe.settings.raw import places

VERSIONS = "client_versions"
"""Key of a job's metadata: the versions of the machine that submitted it, as JSON."""


def refuse_secrets(settings: Settings) -> None:
    """Refuse settings of a job with a secret in them: everybody who sees the cluster can read them.

    Raises:
        SettingsError: names the key.
    """
    for keys, value in places(settings.model_dump(mode="json")):
        if redacted(value) != value or HIDDEN in str(value):
            layer = f"{settings.layers[keys[1]].name}." if isinstance(keys[1], int) else ""
            raise SettingsError(
                f"there is a secret in {keys[0]}.{layer}{keys[-1]}; who sees a cluster can read the settings of jobs",
                "let the environment of its nodes have it (AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_SAS_TOKEN, "
                "GDAL_HTTP_HEADER_FILE), or keep the settings there: ray job submit -- geopipe run FILE",
            )


def versions() -> dict[str, str]:
    """Versions that must be the same where a run is submitted and where it runs, for the same bytes.

    Of Python the patch does not matter. Ray's is known before a job is submitted.
    """
    from geopipe.load import raster

    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "geopipe": __version__, "GDAL": raster.versions()["gdal"]}


def check_versions() -> None:
    """Refuse to run as a job that a machine with other versions has submitted.

    The job compares, and not a job before it, which would take some seconds of each run.

    Raises:
        MachineError: names the versions on both sides.
    """
    if text := addresses.job_metadata().get(VERSIONS):
        client, cluster = json.loads(text), versions()
        refuse_mismatch({name: (str(client.get(name)), own) for name, own in cluster.items()})


def refuse_mismatch(pairs: Mapping[str, tuple[str, str]]) -> None:
    """Refuse versions that differ.

    Args:
        pairs: versions of the client and of the cluster, by name.

    Raises:
        MachineError: names those that differ.
    """
    different = [
        f"{name} {one} at the client and {other} in the cluster" for name, (one, other) in pairs.items() if one != other
    ]
    if different:
        raise MachineError(
            f"client and cluster have different versions: {', '.join(different)}",
            "install the same on both, or let the cluster alone decide: ray job submit -- geopipe run FILE",
        )


def check_output(settings: Settings) -> None:
    """Refuse an output in a job's copy of its working folder, which Ray deletes.

    Raises:
        SettingsError: names the folder.
    """
    if "/runtime_resources/working_dir_files/" in str(settings.run.folder):
        raise SettingsError(
            f"{settings.run.folder} is in the job's copy of its working folder, which Ray deletes",
            "give run.output, and the paths of layers, from the root of a disk that all nodes share",
        )
