"""Read STAC items as the files of a layer: one asset of each item, in the order that settles overlaps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geopipe.errors import SourceError
from geopipe.layers.access import Access, resolve
from geopipe.layers.uris import is_remote

Item = tuple[Mapping[str, Any], Path]
"""A STAC item and the folder of its relative addresses."""

DATA = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "application/x-hdf", "application/netcdf",
        "application/x-netcdf", "application/vnd+zarr", "application/vnd.zarr", "application/wmo-grib2")  # fmt: skip
"""Beginnings of the media types of rasters."""


def read(path: str, access: Access) -> list[Item]:
    """Read the items of a STAC item or an item collection. Empty if it is no STAC file.

    Raises:
        SourceError: it is JSON of another kind.
    """
    if is_remote(path) or not path.lower().endswith((".json", ".geojson")) or not os.path.isfile(path):
        return []
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise access.error(f"{path} cannot be read as JSON: {error}", "correct path =") from None
    kind = document.get("type") if isinstance(document, dict) else None
    features = document.get("features") if kind == "FeatureCollection" else [document] if kind == "Feature" else None
    features = features if isinstance(features, list) else None
    items = [f for f in features or [] if isinstance(f, dict) and isinstance(f.get("assets"), dict)]
    if not items or len(items) < len(features or []):
        counted = f", and {len(items)} of its {len(features)} features are items" if features else ""
        text = f"{path} is no STAC item or item collection: its type is {kind!r}{counted}"
        raise access.error(text, "give a file of items: each is a Feature with assets")
    return [(item, Path(path).resolve().parent) for item in items]


def files(items: Sequence[Item], asset: str | None, sort_by: str | None, access: Access) -> list[str]:
    """The address of one asset of each item, sorted. Relative addresses become absolute.

    Args:
        items: with the folder of each.
        asset: its key; None if each item has a single data asset.
        sort_by: "datetime" (oldest first) or "cloud_cover" (clearest first), with "-" in reverse; None keeps the order
            of the items. The order is stable.
        access: of the layer: where an address may lead, beside the folder of its item.

    Raises:
        SourceError: an item does not have the asset or the property, or its address leads elsewhere.
    """
    ordered = list(items)
    if sort_by is not None:
        key = _KEYS[sort_by.lstrip("-")]
        ordered.sort(key=lambda item: key(item[0], _named(item[0], access)), reverse=sort_by.startswith("-"))
    return [_address(item, folder, asset, _named(item, access)) for item, folder in ordered]


def _named(item: Mapping[str, Any], access: Access) -> Access:
    """The access of a layer; errors name the item."""
    return access.within(f"the STAC item {item.get('id')!r} ")


def _address(item: Mapping[str, Any], folder: Path, asset: str | None, access: Access) -> str:
    assets: Mapping[str, Any] = item["assets"]
    listed = ", ".join(assets) or "none"
    if asset is None:
        data = [key for key, value in assets.items() if _is_data(value)]
        if len(data) != 1:
            hint = f'choose one in the layer {access.layer}: asset = "{(data or list(assets) or ["..."])[0]}"'
            raise access.error(f"has {len(data)} data assets; all assets: {listed}", hint)
        asset = data[0]
    href = assets[asset].get("href") if isinstance(assets.get(asset), dict) else None
    if not isinstance(href, str):
        raise access.error(f"has no asset {asset!r}; it has {listed}", f"correct asset = of the layer {access.layer}")
    return resolve(href, str(folder), access)


def _is_data(asset: Any) -> bool:
    """Whether an asset is a raster of the item, by its role, else by its media type."""
    if not isinstance(asset, dict):
        return False
    roles = asset.get("roles")
    return "data" in roles if isinstance(roles, list) and roles else str(asset.get("type", "")).lower().startswith(DATA)


def _properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = item.get("properties")
    return properties if isinstance(properties, dict) else {}


def _datetime(item: Mapping[str, Any], access: Access) -> datetime:
    """The time of an item, else the start of its interval."""
    properties = _properties(item)
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise _missing("datetime", text, access) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _cloud_cover(item: Mapping[str, Any], access: Access) -> float:
    cover = _properties(item).get("eo:cloud_cover")
    if not isinstance(cover, int | float) or isinstance(cover, bool):
        raise _missing("eo:cloud_cover", cover, access)
    return float(cover)


_KEYS: Mapping[str, Callable[[Mapping[str, Any], Access], Any]] = {"datetime": _datetime, "cloud_cover": _cloud_cover}


def _missing(name: str, value: Any, access: Access) -> SourceError:
    hint = f"leave sort_by out of the layer {access.layer}, or leave the item out"
    return access.error(f"cannot be sorted: its {name} is {value!r}", hint)
