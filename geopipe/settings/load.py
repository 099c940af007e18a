"""Settings: one TOML file, `GEOPIPE_SECTION__KEY` in the environment, and `--set section.key=value`.

Flags win over the environment, the environment over the file, the file over the defaults below. Every error names the
place, the value, what may be there instead, and an example; all errors are told at once.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from geopipe.errors import SettingsError
from geopipe.grid.grid import BLOCK
from geopipe.layers import uris
from geopipe.layers.layer import Kind, Layer, Overlap
from geopipe.plan.options import Layout, Options
from geopipe.redaction import redacted
from geopipe.settings.fields import (
    CRS_RULE,
    Crs,
    Method,
    PathText,
    Statistic,
    as_list,
    cell_sizes,
    describe,
    in_order,
    pair,
    texts,
)
from geopipe.settings.mistakes import Explainer, Keys, refusal, united
from geopipe.settings.toml_lines import line_of, read, value_of

ENV_PREFIX, ENV_NESTED = "GEOPIPE_", "__"


class Section(BaseModel):
    """A table of the settings: unknown keys are errors, text is not turned into numbers behind the user's back."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Run(Section):
    name: str = describe(
        "run",
        "a label of letters, digits, . _ - that begins with a letter or digit",
        "soils-2024",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$",
    )
    output: PathText = "output"
    staging: PathText | None = describe(
        None, "the path of a folder in quotes", "work", min_length=1, validate_default=True
    )

    @field_validator("output")
    @classmethod
    def _output_is_a_folder_or_a_store(cls, value: str) -> str:
        if uris.is_store(value) and (problem := uris.store_problem(value)):
            raise refusal(problem, "correct run.output")
        return value

    @field_validator("staging")
    @classmethod
    def _staging_is_for_a_store(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "output" not in info.data:  # it is refused itself
            return value
        store = uris.is_store(info.data["output"])
        if store and value is None:
            raise refusal(
                "run.output is an object store, which has no rename; a run needs a folder to work in",
                'add staging = "<a folder>", on a file system that all nodes share',
            )
        if value is not None and uris.is_store(value):
            raise refusal(
                "it must be a folder: a run works there and renames its files", 'for example staging = "work"'
            )
        if value is not None and not store:
            raise refusal("run.output is a folder, and a run works there", "leave staging out")
        return value

    @property
    def store(self) -> str | None:
        """The URI of the object store that the finished table is sent to; None where the output is a folder."""
        return self.output if uris.is_store(self.output) else None

    @property
    def folder(self) -> Path:
        """Where the run works: the output, or `staging` where that is an object store."""
        return Path(self.staging or self.output)


class GridSettings(Section):
    crs: Crs | None = describe(None, CRS_RULE, "EPSG:32612")
    resolution: Annotated[tuple[float, float] | None, BeforeValidator(pair), AfterValidator(cell_sizes)] = describe(
        None, "a number, or [width, height]", 90, "it counts in units of grid.crs, without a name of the unit"
    )
    bounds: Annotated[
        Literal["union", "intersection"] | tuple[float, float, float, float] | None, AfterValidator(in_order)
    ] = describe(
        None,
        '"union", "intersection" or four numbers',
        [600000, 5130000, 650000, 5170000],
        "they are xmin, ymin, xmax, ymax in units of grid.crs",
    )
    like: PathText | None = describe(None, "the path of a raster in quotes", "dem.tif")
    allow: Annotated[tuple[PathText, ...], BeforeValidator(as_list)] = describe(
        (), "folders and beginnings of addresses in quotes", ["/data/tiles", "https://host/"]
    )
    snap: bool | None = None
    mask: PathText | None = describe(None, "the path of a vector file or raster in quotes", "park.gpkg", min_length=1)
    mask_layer: str | None = describe(None, "the name of a layer of grid.mask in quotes", "core_zone", min_length=1)
    mask_crs: Crs | None = describe(None, CRS_RULE, "EPSG:4326")

    @field_validator("mask_layer", "mask_crs")
    @classmethod
    def _mask_is_there(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("mask", "") is None:
            raise refusal("it says something of a mask, but there is no grid.mask", "add mask =, or leave it out")
        return value


class LayerSettings(Section):
    name: str = describe(
        ...,
        "a name for the column: letters, digits and _, no digit first",
        "elevation",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$",
    )
    path: Annotated[tuple[PathText, ...], BeforeValidator(as_list)] = describe(
        ..., "a file, folder, pattern or URI in quotes, or a list of them", "dem.tif", min_length=1
    )
    driver: str | None = describe(None, "the name of a driver of GDAL in quotes", "SAGA", min_length=1)
    allow: Annotated[tuple[PathText, ...], BeforeValidator(as_list)] = describe(
        (), "folders and beginnings of addresses in quotes", ["/data/tiles", "https://host/"]
    )
    asset: str | None = describe(None, "the name of an asset in quotes", "B04", min_length=1)
    sort_by: Literal["datetime", "-datetime", "cloud_cover", "-cloud_cover"] | None = None
    variable: str | None = describe(None, "the name of a variable in quotes", "tas", min_length=1)
    bands: Annotated[tuple[int | str, ...], BeforeValidator(as_list)] = describe(
        (), "numbers of bands from 1 on, or words of their descriptions", [1, 2]
    )
    time: Annotated[tuple[str, ...], BeforeValidator(texts)] = describe(
        (), "a day, month, year, or a range of them, or a list of such", "1999-03/1999-05"
    )
    level: Annotated[tuple[str, ...], BeforeValidator(texts)] = describe(
        (), "a level, a range of them, or a list of such", 850
    )
    reduce: Literal["mean", "min", "max", "sum"] | None = None
    kind: Kind | None = None
    resampling: Annotated[tuple[Method, ...], BeforeValidator(as_list)] = Field(("auto",), min_length=1)
    nodata: int | float | None = describe(
        None, "a number", -9999, "leave it out where the file says it, or where there is none"
    )
    crs: Crs | None = describe(None, CRS_RULE, "EPSG:32612")
    scale: float | None = describe(None, "a number", 0.1)
    offset: float | None = describe(None, "a number", -273.15)
    unit: str | None = describe(None, "text in quotes", "m")
    unpack: bool = True
    georeference: Literal["gcps", "rpcs"] | None = None
    bits: tuple[int, int] | None = describe(None, "the first and the last bit", [3, 4])
    fractions: bool | tuple[int, ...] = describe(False, "true, false or a list of classes", [10, 20])
    valid_fraction: bool = False
    min_valid: float = describe(0.0, "a share from 0 to 1", 0.5, ge=0, le=1)
    overlap: Overlap = Overlap.FIRST
    on_error: Literal["fail", "skip"] = "fail"
    table: str | None = describe(None, "the name of a table in quotes", "public.wells", min_length=1)
    query: str | None = describe(None, "a query in quotes", "select * from wells where depth > 10", min_length=1)
    key: str | None = describe(None, "the name of a column of whole numbers in quotes", "id", min_length=1)
    x: str | None = describe(None, "the name of a column in quotes", "lon", min_length=1)
    y: str | None = describe(None, "the name of a column in quotes", "lat", min_length=1)
    values: Annotated[tuple[str, ...], BeforeValidator(as_list)] = describe(
        (), "names of columns in quotes", ["depth", "yield"]
    )
    weight: str | None = describe(None, "the name of a column in quotes", "area", min_length=1)
    aggregate: Annotated[tuple[Statistic, ...], BeforeValidator(as_list)] = Field(("auto",), min_length=1)
    cells: Literal["centres", "corners", "index"] | None = None
    on_misaligned: Literal["fail", "aggregate"] = "fail"

    @field_validator("scale")
    @classmethod
    def _scale_is_not_zero(cls, value: float | None) -> float | None:
        if value == 0:
            raise refusal("a scale of 0 would make every value the same", "leave scale out, or give another number")
        return value

    @field_validator("path")
    @classmethod
    def _path_has_no_password(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(map(uris.has_password, value)):
            raise refusal(
                "there is a password in it, and settings are copied to the output",
                "give it in GEOPIPE_POSTGRES_DSN, PGPASSWORD or a password file",
            )
        return value


def _deprecate(key: str, why: str) -> None:
    warnings.warn(f"{key} is deprecated: {why}", DeprecationWarning, stacklevel=2)


class ResamplingSettings(Section):
    window_size: int = Field(2048, ge=BLOCK, le=128 * BLOCK, multiple_of=BLOCK)
    window_overlap: int | None = Field(None, ge=0)
    tolerance: Literal["auto", "exact"] | Annotated[float, Field(gt=0, le=1)] = "auto"
    skip_data_loading_for_passthrough: bool = True
    allow_ballpark: bool = False
    enable_memory_aware_processing: bool = True
    use_legacy_resampling: bool = False
    use_legacy_passthrough: bool = False

    @model_validator(mode="after")
    def _old_way_is_deprecated(self) -> ResamplingSettings:
        named = [f"{key} = true" for key in ("use_legacy_resampling", "use_legacy_passthrough") if getattr(self, key)]
        named += [] if self.enable_memory_aware_processing else ["enable_memory_aware_processing = false"]
        for key in named:
            _deprecate(
                f"resampling.{key}", "it reads rasters whole, in one process; use resampling.window_size instead"
            )
        if self.window_overlap is not None:
            _deprecate("resampling.window_overlap", "each window is read as far around as its method reaches")
        return self

    @property
    def old_way(self) -> bool:
        """Whether rasters are to be read whole, in one process."""
        return self.use_legacy_resampling or self.use_legacy_passthrough or not self.enable_memory_aware_processing


class MergeSettings(Section):
    how: Literal["outer", "inner", "grid"] = "outer"
    drop: Literal["any", "all"] | tuple[str, ...] = ()
    strategy: Literal["auto", "aligned", "groupby"] = "auto"
    wave_tiles: int | None = describe(None, "a whole number of at least 1", 16, ge=1)
    alignment_tolerance: float = Field(0.01, ge=0, lt=0.5)
    enable_validation: bool = True
    enable_chunked_processing: bool | None = None
    chunk_size: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _tiles_are_the_chunks(self) -> MergeSettings:
        instead = "tables are merged tile by tile; resampling.window_size is the edge of a tile, and merge.wave_tiles"
        for key in ("enable_chunked_processing", "chunk_size"):
            if getattr(self, key) is not None:
                _deprecate(f"merge.{key}", f"{instead} how many are exchanged at a time")
        return self


class ExportSettings(Section):
    formats: Annotated[tuple[Literal["parquet", "csv"], ...], BeforeValidator(as_list)] = describe(
        ("parquet",),
        '"parquet" or "csv", or a list of them',
        ["parquet", "csv"],
        "the output is a table, not a raster",
        min_length=1,
    )
    compress: bool | Literal["gzip", "zstd"] = True
    enable_streaming: bool = True
    chunk_size: int = Field(100_000, ge=1)
    csv_files: Literal["tiles", "one"] = "tiles"
    partition_by: str | None = describe(None, 'the name of a variable of classes, or "tile"', "landcover", min_length=1)
    geometry: Literal["point"] | None = None
    lonlat: bool = False
    h3: int | None = describe(None, "a resolution of H3 from 0 to 15", 9, ge=0, le=15)
    encoding: Literal["auto", "plain"] = "auto"

    @field_validator("enable_streaming")
    @classmethod
    def _streaming_is_the_way(cls, value: bool) -> bool:
        if not value:
            _deprecate("export.enable_streaming = false", "it formats a whole tile at once; set export.chunk_size")
        return value

    @property
    def rows_at_once(self) -> int:
        """Rows of CSV that are formatted at a time; a tile has fewer than the number for all of them."""
        return self.chunk_size if self.enable_streaming else 2**62

    @property
    def compression(self) -> str:
        """How CSV is compressed: "gzip", "zstd" or "none"."""
        return self.compress if isinstance(self.compress, str) else "gzip" if self.compress else "none"


class MonitoringSettings(Section):
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    log_format: Literal["text", "json"] = "text"
    progress_interval: float = Field(5.0, gt=0)
    enable_database_logging: bool = True
    log_batch_size: int = Field(100, ge=1, le=10_000)
    log_flush_interval: float = Field(5.0, gt=0)
    enable_metrics: bool = True
    metrics_interval: float = Field(10.0, gt=0)
    prometheus_port: int | None = describe(None, "a port from 1 to 65535", 9490, ge=1, le=65_535)
    prometheus_host: str | None = describe(None, "an address of this machine in quotes", "0.0.0.0", min_length=1)
    spool_bytes: int = Field(64 * 2**20, ge=2**20)


class EngineSettings(Section):
    address: str | None = describe(None, "the address of a Ray cluster in quotes", "auto")
    workers: int | None = describe(None, "a whole number of at least 1", 4, ge=1)
    memory: int | None = describe(None, "a number of bytes, without a name of the unit", 8_000_000_000, ge=1)
    object_store_memory: int | None = describe(
        None, f"a number of bytes of at least {80 * 2**20:,}", 500_000_000, ge=80 * 2**20
    )
    max_pixels: int | None = describe(None, "a whole number of at least 1", 100_000_000_000, ge=1)


class Settings(Section):
    """All that a run is told."""

    run: Run = Run()
    grid: GridSettings = GridSettings()
    layers: tuple[LayerSettings, ...] = Field(min_length=1)
    resampling: ResamplingSettings = ResamplingSettings()
    merge: MergeSettings = MergeSettings()
    export: ExportSettings = ExportSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    engine: EngineSettings = EngineSettings()

    def layer_values(self) -> tuple[Layer, ...]:
        """The layers as the core knows them."""
        return tuple(
            Layer(paths=s.path, **{key: getattr(s, key) for key in LayerSettings.model_fields if key != "path"})
            for s in self.layers
        )

    def options(self) -> Options:
        """What the plan needs to know beside grid and layers."""
        return Options(
            window_size=self.resampling.window_size,
            tolerance=self.resampling.tolerance,
            whole=self.resampling.old_way,
            passthrough=self.resampling.skip_data_loading_for_passthrough,
            allow_ballpark=self.resampling.allow_ballpark,
            how=self.merge.how,
            drop=self.merge.drop,
            strategy=self.merge.strategy,
            wave_tiles=self.merge.wave_tiles,
            alignment_tolerance=self.merge.alignment_tolerance,
            formats=tuple(dict.fromkeys(self.export.formats)),
            compress=self.export.compression,
            max_pixels=self.engine.max_pixels,
            layout=Layout(**{f.name: getattr(self.export, f.name) for f in fields(Layout)}),
        )

    def to_toml(self, secrets: bool = False) -> str:
        """The effective settings as a TOML file that gives the same run from any folder. It has no secret.

        Args:
            secrets: leave those of addresses, for whoever runs it.
        """
        values = self.model_dump(mode="json", exclude_none=True)
        return tomli_w.dumps(values if secrets else redacted(values))


SECTIONS: dict[str, type[BaseModel]] = {
    name: LayerSettings if name == "layers" else field.annotation  # type: ignore[misc]
    for name, field in Settings.model_fields.items()
}


class _Given:
    """What a file, the environment and flags give together, and where each value of it comes from."""

    def __init__(self, path: Path, flags: tuple[str, ...]) -> None:
        self.path = path
        self.text, self.values = read(path)
        self.sections = set(self.values)
        self.origins: dict[Keys, str] = {}
        self.explainer = Explainer(SECTIONS, self.where, self.line, self.values)
        for variable, value in sorted(os.environ.items()):
            section, nested, key = variable.removeprefix(ENV_PREFIX).lower().partition(ENV_NESTED)
            if variable.startswith(ENV_PREFIX) and nested:
                if section == "layers":
                    raise SettingsError(
                        f"{variable}: layers are not set in the environment", "use --set layers.NAME.key=value"
                    )
                self._set([section, key], value, variable)
        for flag in flags:
            key, equals, value = flag.partition("=")
            parts = key.strip().split(".")
            if not equals or len(parts) != (3 if parts[0] == "layers" else 2) or not all(parts):
                raise SettingsError(
                    f"--set {flag!r} is neither section.key=value nor layers.NAME.key=value",
                    "for example --set grid.resolution=90, or --set layers.elevation.kind=continuous",
                )
            self._set(parts, value, f"--set {key.strip()}")

    def _set(self, parts: list[str], text: str, origin: str) -> None:
        """Put a value in; of a layer, into the one of that name."""
        value = value_of(text, self.explainer.is_list(parts[0], parts[-1]))
        table, keys = self._table(parts, origin)
        table[parts[-1]] = value
        self.origins[keys] = origin

    def _table(self, parts: list[str], origin: str) -> tuple[dict[str, Any], Keys]:
        """The table that a value goes into, and the value's place."""
        section, key = parts[0], parts[-1]
        if section != "layers":
            table = self.values.setdefault(section, {})
            # what is no table is refused with the rest of the file
            return table if isinstance(table, dict) else {}, (section, key)
        layers = self.values.get("layers")
        layers = [y for y in layers if isinstance(y, dict)] if isinstance(layers, list) else []
        names = [str(y.get("name")) for y in layers]
        if len(parts) < 3 or parts[1] not in names:
            raise SettingsError(
                f"{origin}: there is no layer {parts[1]!r}",
                f"the layers are {', '.join(names) or 'none'}; say layers.NAME.key (a layer is added in the file)",
            )
        index = names.index(parts[1])
        return layers[index], ("layers", index, key)

    def where(self, keys: Keys) -> str:
        """Where a value is: a flag, a variable of the environment, or a line."""
        if len(keys) == 1 and keys[0] not in self.sections and self.origins:  # what only a flag or variable has
            for place, origin in self.origins.items():
                if place[0] == keys[0]:
                    return origin
        return self.origins.get(keys) or f"{self.path}:{line_of(self.text, keys)}"

    def line(self, keys: Keys) -> int:
        """The line of a value; 0 for what is not of the file."""
        return 0 if keys in self.origins else line_of(self.text, keys)

    def wide_numbers(self) -> list[SettingsError]:
        """An error for each whole number that TOML does not have: more than 64 bits."""
        places: list[tuple[Keys, Any]] = []
        for section, table in self.values.items():
            tables = enumerate(table) if isinstance(table, list) else [(None, table)]
            for index, one in tables:
                own: Keys = (section,) if index is None else (section, index)
                places += [((*own, key), value) for key, value in one.items()] if isinstance(one, dict) else []
        found = []
        for keys, value in places:
            numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)]
            if any(not -(2**63) <= v < 2**63 for v in numbers):
                name = self.explainer.name(keys)
                found.append(
                    SettingsError(f"{self.where(keys)}: {name} has more than 64 bits", "give a smaller number")
                )
        return found

    def same_names(self) -> list[SettingsError]:
        """An error for each layer that has the name of one before it."""
        layers, seen, found = self.values.get("layers"), set[str](), []
        for index, layer in enumerate(layers if isinstance(layers, list) else []):
            name = layer.get("name") if isinstance(layer, dict) else None
            if isinstance(name, str) and name in seen:
                where = self.where(("layers", index, "name"))
                found.append(SettingsError(f"{where}: two layers are named {name!r}", "rename one of the two"))
            seen |= {name} if isinstance(name, str) else set()
        return found


def load(path: Path, flags: tuple[str, ...] = ()) -> Settings:
    """Read settings; relative paths in them are taken from the folder of the file.

    Args:
        flags: "section.key=value" or "layers.NAME.key=value", the value as TOML (bare words are text).

    Raises:
        SettingsError: every mistake with file, line, key, value, and what to write instead.
    """
    given = _Given(path, flags)
    mistakes = given.wide_numbers()
    if mistakes:
        raise united(mistakes)
    mistakes = given.same_names()
    try:
        settings = Settings(**given.values)
    except ValidationError as error:
        mistakes = given.explainer.explain(error) + mistakes
    if mistakes:
        raise united(mistakes)
    return _absolute(settings, path.resolve().parent)


def _absolute(settings: Settings, folder: Path) -> Settings:
    """The same settings with local relative paths made absolute."""

    def full(path: str) -> str:
        return uris.absolute(path, folder)

    def fully(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(full(path) for path in paths)

    layers = tuple(s.model_copy(update={"path": fully(s.path), "allow": fully(s.allow)}) for s in settings.layers)
    folders = {key: full(path) for key in ("output", "staging") if (path := getattr(settings.run, key)) is not None}
    run = settings.run.model_copy(update=folders)
    grid = settings.grid
    named = {key: full(path) for key in ("like", "mask") if (path := getattr(grid, key)) is not None}
    grid = grid.model_copy(update=named | {"allow": fully(grid.allow)})
    return settings.model_copy(update={"layers": layers, "run": run, "grid": grid})


def origins(settings: Settings, path: Path, flags: tuple[str, ...]) -> list[tuple[str, Any, str]]:
    """Every effective value with where it comes from: a flag, the environment, file and line, or the default."""
    given = _Given(path, flags)
    rows = []
    for section, values in settings.model_dump(mode="json").items():
        tables = enumerate(values) if isinstance(values, list) else [(None, values)]
        for index, table in tables:
            own = given.values.get(section, {}) if index is None else given.values[section][index]
            for key, value in table.items():
                keys: Keys = (section, key) if index is None else (section, index, key)
                rows.append((given.explainer.name(keys), value, given.where(keys) if key in own else "default"))
    return rows
