"""The settings of a run as its pods read them: paths in the volume, and no secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geopipe.errors import SettingsError
from geopipe.redaction import redacted
from geopipe.settings.model import Settings
from geopipe.settings.raw import Keys, places
from geopipe.text import count

DATA = "/data"
"""Where pods mount the volume with sources and output."""

NETWORK = re.compile(r"(?!(?:zip|tar|gzip)://)\w+://|/vsi(?:curl|s3|gs|az)")
"""The beginning of an address that pods reach without the volume."""

IN_VOLUME = re.compile(rf"""(?:^|[/":]){DATA}/""")
"""The volume in a path, an archive (/vsizip//data/a.zip) or a variable of a file (NETCDF:"/data/a.nc":t)."""

METRICS_PORT = 9490
"""The port that Prometheus scrapes (k8s/base/rayjob.yaml)."""

MOST_BYTES = 1_000_000
"""A ConfigMap may have 1 MiB."""

VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GS_OAUTH2_REFRESH_TOKEN",
    "az": "AZURE_STORAGE_CONNECTION_STRING",
    "postgresql": "GEOPIPE_POSTGRES_DSN",
}
"""Variables that replace a secret in an address, by its scheme."""


def settings_for_pods(settings: Settings, folder: Path | None, most_workers: int | None) -> str:
    """The settings as TOML for a ConfigMap. What is about one machine goes: the cluster decides it.

    Args:
        folder: here, which pods see as /data; None if the settings name paths of pods already.
        most_workers: of a cluster that grows; None for one that does not.

    Raises:
        SettingsError: a secret is in them, or a local path that pods do not see.
    """
    engine = settings.engine.model_copy(
        update={
            "kind": "ray",
            "address": None,
            "workers": None,
            "max_workers": most_workers,
            "memory": None,
            "object_store_memory": None,
        }
    )
    monitoring = settings.monitoring.model_copy(update={"log_format": "json", "prometheus_port": METRICS_PORT})
    settings = settings.model_copy(update={"engine": engine, "monitoring": monitoring})
    _refuse_secrets(settings)
    text = _moved(settings, folder).to_toml()
    if len(text.encode()) > MOST_BYTES:
        raise SettingsError(
            f"the settings have {len(text.encode()):,} bytes; a ConfigMap holds 1 MiB",
            "name the files of a layer by a pattern (path = '/data/tiles/*.tif')",
        )
    return text


def _refuse_secrets(settings: Settings) -> None:
    for keys, value in places(settings.model_dump(mode="json", exclude_none=True)):
        if redacted(value) != value:
            scheme = str(value[0] if isinstance(value, list) and value else value).partition("://")[0].lower()
            variable = VARIABLES.get(scheme, "GDAL_HTTP_USERPWD or GDAL_HTTP_HEADERS")
            raise SettingsError(
                f"{_name(settings, keys)} holds a secret, which a ConfigMap would show to everybody in the namespace",
                f"leave it out, and add {variable} to the Secret geopipe-database: pods get its keys as environment",
            )


def _moved(settings: Settings, folder: Path | None) -> Settings:
    """The settings with paths of pods; refuses local ones outside of the volume."""
    before = f"{str(folder.resolve()).rstrip('/')}/" if folder else f"{DATA}/"
    mistakes = []

    def moved(path: str, key: str) -> str:
        if NETWORK.match(path):
            return path
        path = path.replace(before, f"{DATA}/", 1)
        if not IN_VOLUME.search(path):
            mistakes.append(f"{key} = {path}")
        return path

    run, grid = settings.run, settings.grid
    layers = tuple(
        layer.model_copy(
            update={
                key: tuple(moved(path, f"layers.{layer.name}.{key}") for path in getattr(layer, key))
                for key in ("path", "allow")
            }
        )
        for layer in settings.layers
    )
    ends = {key: moved(path, f"run.{key}") for key in ("output", "staging") if (path := getattr(run, key)) is not None}
    files = {key: moved(path, f"grid.{key}") for key in ("like", "mask") if (path := getattr(grid, key)) is not None}
    allow = tuple(moved(path, "grid.allow") for path in grid.allow)
    if mistakes:
        others = f" (and {count(len(mistakes) - 1, 'other path')})" if len(mistakes) > 1 else ""
        hint = f"name the folder of this machine that is {DATA} in the pods: --data FOLDER (or use paths below {DATA})"
        if folder:
            hint = f"--data {folder}, which is {DATA} in the pods, must be a folder with all of them"
        raise SettingsError(f"{mistakes[0]}{others}: pods see only the volume at {DATA}", hint)
    return settings.model_copy(
        update={
            "layers": layers,
            "run": run.model_copy(update=ends),
            "grid": grid.model_copy(update=files | {"allow": allow}),
        }
    )


def _name(settings: Settings, keys: Keys) -> str:
    """The name of a setting in messages."""
    parts: Iterator[Any] = iter(keys)
    section = next(parts)
    if section == "layers":
        return f"layers.{settings.layers[int(next(parts))].name}.{'.'.join(map(str, parts))}"
    return ".".join([str(section), *map(str, parts)])
