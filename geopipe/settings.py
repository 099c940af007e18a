"""Settings: one TOML file, `GEOPIPE_SECTION__KEY` in the environment, and `--set section.key=value`.

Flags win over the environment, the environment over the file, the file over the defaults below. Every error names the
place, the value and the nearest valid key.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import warnings
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from geopipe import uris
from geopipe.errors import SettingsError
from geopipe.grid import BLOCK
from geopipe.layer import Kind, Layer, Overlap
from geopipe.layerplan import Layout, Options
from geopipe.lines import line_of, line_of_value

ENV_PREFIX, ENV_NESTED = "GEOPIPE_", "__"


class Section(BaseModel):
    """A table of the settings: unknown keys are errors, text is not turned into numbers behind the user's back."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _pair(value: Any) -> Any:
    return [value, value] if isinstance(value, int | float) and not isinstance(value, bool) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int) else value


def _texts(value: Any) -> Any:
    """Dates, numbers and texts as texts; one of them may stand alone."""
    values = value if isinstance(value, list | tuple) else [value]
    return [v.isoformat() if isinstance(v, date) else str(v) if isinstance(v, int | float) else v for v in values]


class Run(Section):
    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
    output: str = "output"
    staging: str | None = Field(None, min_length=1, validate_default=True)

    @field_validator("output")
    @classmethod
    def _output_is_a_folder_or_a_store(cls, value: str) -> str:
        if uris.is_store(value) and (problem := uris.store_problem(value)):
            raise ValueError(problem)
        return value

    @field_validator("staging")
    @classmethod
    def _staging_is_for_a_store(cls, value: str | None, info: ValidationInfo) -> str | None:
        store = uris.is_store(info.data.get("output", ""))
        if store and value is None:
            raise PydanticCustomError(
                "staging",
                "run.output is an object store, which has no rename; a run needs a folder to work in",
                {"cure": 'add staging = "<a folder>", on a file system that all nodes share'},
            )
        if value is not None and uris.is_store(value):
            raise ValueError("it must be a folder: a run works there and renames its files")
        if value is not None and not store:
            raise ValueError("run.output is a folder, and a run works there: leave staging out")
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
    crs: str | None = None
    resolution: Annotated[tuple[float, float] | None, BeforeValidator(_pair)] = None
    bounds: Literal["union", "intersection"] | tuple[float, float, float, float] | None = None
    like: str | None = None
    snap: bool | None = None
    mask: str | None = Field(None, min_length=1)
    mask_layer: str | None = Field(None, min_length=1)
    mask_crs: str | None = None

    @model_validator(mode="after")
    def _mask_is_there(self) -> GridSettings:
        if self.mask is None and (self.mask_layer or self.mask_crs):
            raise ValueError("mask_layer and mask_crs say something of a mask, but there is no mask")
        return self


class LayerSettings(Section):
    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    path: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(min_length=1)
    asset: str | None = Field(None, min_length=1)
    sort_by: Literal["datetime", "-datetime", "cloud_cover", "-cloud_cover"] | None = None
    variable: str | None = Field(None, min_length=1)
    bands: Annotated[tuple[int | str, ...], BeforeValidator(_listed)] = ()
    time: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    level: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    reduce: Literal["mean", "min", "max", "sum"] | None = None
    kind: Kind | None = None
    resampling: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(("auto",), min_length=1)
    nodata: int | float | None = None
    crs: str | None = None
    scale: float | None = None
    offset: float | None = None
    unit: str | None = None
    unpack: bool = True
    georeference: Literal["gcps", "rpcs"] | None = None
    bits: tuple[int, int] | None = None
    fractions: bool | tuple[int, ...] = False
    valid_fraction: bool = False
    min_valid: float = Field(0.0, ge=0, le=1)
    overlap: Overlap = Overlap.FIRST
    on_error: Literal["fail", "skip"] = "fail"
    table: str | None = Field(None, min_length=1)
    query: str | None = Field(None, min_length=1)
    key: str | None = Field(None, min_length=1)
    x: str | None = Field(None, min_length=1)
    y: str | None = Field(None, min_length=1)
    values: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    weight: str | None = Field(None, min_length=1)
    aggregate: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(("auto",), min_length=1)
    cells: Literal["centres", "corners", "index"] | None = None
    on_misaligned: Literal["fail", "aggregate"] = "fail"

    @field_validator("scale")
    @classmethod
    def _scale_is_not_zero(cls, value: float | None) -> float | None:
        if value == 0:
            raise ValueError("a scale of 0 would make every value the same")
        return value

    @field_validator("path")
    @classmethod
    def _path_has_no_password(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(map(uris.has_password, value)):
            raise ValueError(
                "there is a password in it; settings are copied to the output. Give it in GEOPIPE_POSTGRES_DSN, "
                "PGPASSWORD or a password file"
            )
        return value


class ResamplingSettings(Section):
    window_size: int = Field(2048, ge=BLOCK, multiple_of=BLOCK)
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
            text = f"resampling.{key} is deprecated: it reads rasters whole, in one process; use window_size instead"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        return self

    @property
    def old_way(self) -> bool:
        """Whether rasters are to be read whole, in one process."""
        return self.use_legacy_resampling or self.use_legacy_passthrough or not self.enable_memory_aware_processing


class MergeSettings(Section):
    how: Literal["outer", "inner", "grid"] = "outer"
    drop: Literal["any", "all"] | tuple[str, ...] = ()
    strategy: Literal["auto", "aligned", "groupby"] = "auto"
    wave_tiles: int | None = Field(None, ge=1)
    alignment_tolerance: float = Field(0.01, ge=0, lt=0.5)
    enable_validation: bool = True


class ExportSettings(Section):
    formats: Annotated[tuple[Literal["parquet", "csv"], ...], BeforeValidator(_listed)] = Field(
        ("parquet",), min_length=1
    )
    compress: bool | Literal["gzip", "zstd"] = True
    enable_streaming: bool = True
    chunk_size: int = Field(100_000, ge=1)
    csv_files: Literal["tiles", "one"] = "tiles"
    partition_by: str | None = Field(None, min_length=1)
    geometry: Literal["point"] | None = None
    lonlat: bool = False
    h3: int | None = Field(None, ge=0, le=15)
    encoding: Literal["auto", "plain"] = "auto"

    @field_validator("enable_streaming")
    @classmethod
    def _streaming_is_the_way(cls, value: bool) -> bool:
        if not value:
            text = (
                "export.enable_streaming = false is deprecated: it formats a whole tile at once; set export.chunk_size"
            )
            warnings.warn(text, DeprecationWarning, stacklevel=2)
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
    prometheus_port: int | None = Field(None, ge=1, le=65_535)
    spool_bytes: int = Field(64 * 2**20, ge=2**20)


class EngineSettings(Section):
    address: str | None = None
    workers: int | None = Field(None, ge=1)
    memory: int | None = Field(None, ge=1)
    object_store_memory: int | None = Field(None, ge=80 * 2**20)


class Settings(BaseSettings):
    """All that a run is told. `where` has the origin of each value that is not a default, by dotted key."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_NESTED, case_sensitive=False
    )

    run: Run = Run()
    grid: GridSettings = GridSettings()
    layers: tuple[LayerSettings, ...] = Field(min_length=1)
    resampling: ResamplingSettings = ResamplingSettings()
    merge: MergeSettings = MergeSettings()
    export: ExportSettings = ExportSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    engine: EngineSettings = EngineSettings()

    toml_file: ClassVar[Path | None] = None

    @model_validator(mode="after")
    def _layer_names_differ(self) -> Settings:
        names = [layer.name for layer in self.layers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two layers are named {name!r}; give each layer a name of its own")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, cls.toml_file)

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
            layout=Layout(**{f.name: getattr(self.export, f.name) for f in fields(Layout)}),
        )

    def to_toml(self) -> str:
        """The effective settings as a TOML file that gives the same run from any folder."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load(path: Path, flags: tuple[str, ...] = ()) -> Settings:
    """Read settings; relative paths in them are taken from the folder of the file.

    Args:
        flags: "section.key=value", the value as TOML (bare words are text).

    Raises:
        SettingsError: names file, line, key, value and cure.
    """
    text = _read(path)
    given = _flag_values(flags)

    class Sourced(Settings):
        toml_file = path

    try:
        settings = Sourced(**given)
    except ValidationError as error:
        raise _explain(error, path, text, given) from None
    return _absolute(settings, path.resolve().parent)


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"the settings file {path} cannot be read: {error.strerror}", "name a TOML file; geopipe demo writes one"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"the settings file {path} is no UTF-8 text", "name a TOML file") from None
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path}:{line[1]}" if line else str(path)
        if "overwrite" in str(error) or "twice" in str(error):
            raise SettingsError(f"{where}: a key or table is there twice ({error})", "keep one of the two") from None
        raise SettingsError(f"{where}: no valid TOML: {error}", "correct that line") from None
    return text


def _flag_values(flags: tuple[str, ...]) -> dict[str, Any]:
    """Nested values of "section.key=value" flags. `layers.NAME.key` is not one: layers are in the file."""
    given: dict[str, Any] = {}
    for flag in flags:
        key, equals, value = flag.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and name) or section == "layers":
            raise SettingsError(f"--set {flag!r} is not section.key=value", "for example --set grid.resolution=90")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value.strip()
        given.setdefault(section, {})[name] = parsed
    return given


def _absolute(settings: Settings, folder: Path) -> Settings:
    """The same settings with local relative paths made absolute."""

    def full(path: str) -> str:
        return uris.absolute(path, folder)

    layers = tuple(s.model_copy(update={"path": tuple(full(p) for p in s.path)}) for s in settings.layers)
    folders = {key: full(path) for key in ("output", "staging") if (path := getattr(settings.run, key)) is not None}
    run = settings.run.model_copy(update=folders)
    grid = settings.grid
    named = {key: full(path) for key in ("like", "mask") if (path := getattr(grid, key)) is not None}
    grid = grid.model_copy(update=named)
    return settings.model_copy(update={"layers": layers, "run": run, "grid": grid})


def _explain(error: ValidationError, path: Path, text: str, given: dict[str, Any]) -> SettingsError:
    """The first problem that pydantic found, as one message with file, line and cure."""
    first = error.errors()[0]
    keys = _keys(first["loc"])
    dotted = re.sub(r"^layers\.(\d+)", r"layers[\1]", ".".join(str(k) for k in keys))
    section, name = (str(keys[0]) if keys else ""), str(keys[-1]) if keys else ""
    if len(keys) >= 2 and keys[1] in given.get(section, {}):
        where = f"--set {dotted}"
    elif len(keys) >= 2 and f"{ENV_PREFIX}{section}{ENV_NESTED}{keys[1]}".upper() in map(str.upper, os.environ):
        where = f"{ENV_PREFIX}{section}{ENV_NESTED}{keys[1]}".upper()
    else:
        where = f"{path}:{line_of(text, tuple(keys))}"
    if first["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        cure = f"did you mean {near[0]!r}? " if near else ""
        return SettingsError(f"{where}: unknown key {dotted!r}", f"{cure}valid keys: {', '.join(known)}")
    if first["type"] == "missing":
        if name == "layers":
            return SettingsError(f"{path}: there is no [[layers]]", "add at least one, with name and path")
        return SettingsError(f"{where}: {dotted} is missing", f"add {name} = ...")
    message = first["msg"].removeprefix("Value error, ")
    plain = keys and not isinstance(first["input"], dict | list | Settings | None) and "password" not in message
    shown = f" = {first['input']!r}" if plain else ""
    if not keys:
        twice = re.search(r"named '(\w+)'", message)
        line = line_of_value(text, "name", twice[1]) if twice else 1
        return SettingsError(f"{path}:{line}: {message}", "rename one of the two")
    # a value may be of one of several types: say all that would do
    alike = [e["msg"] for e in error.errors() if _keys(e["loc"]) == keys]
    cure = first.get("ctx", {}).get("cure", f"correct {dotted}")
    return SettingsError(f"{where}: {dotted}{shown}: {' or '.join(dict.fromkeys([message, *alike[1:]]))}", cure)


def _keys(loc: tuple[int | str, ...]) -> list[int | str]:
    """The place of an error as keys of the file: section and key, or layers, index and key; pydantic adds types."""
    return list(loc[: 3 if loc and loc[0] == "layers" else 2])


def _known_keys(loc: list[Any]) -> list[str]:
    """Valid keys of the table at `loc`."""
    model: type[BaseModel] = Settings
    if loc:
        field = Settings.model_fields[str(loc[0])].annotation
        model = LayerSettings if loc[0] == "layers" else field  # type: ignore[assignment]
    return list(model.model_fields)


def origins(settings: Settings, path: Path, flags: tuple[str, ...]) -> list[tuple[str, Any, str]]:
    """Every effective value with where it comes from: a flag, the environment, file and line, or the default."""
    text = _read(path)
    file, given = tomllib.loads(text), _flag_values(flags)
    environment = EnvSettingsSource(Settings)()
    rows = []
    for section, values in settings.model_dump(mode="json").items():
        tables = enumerate(values) if isinstance(values, list) else [(None, values)]
        for index, table in tables:
            for key, value in table.items():
                dotted = f"{section}.{key}" if index is None else f"{section}[{index}].{key}"
                told = file.get(section, {}) if index is None else file[section][index]
                if key in given.get(section, {}):
                    origin = "--set"
                elif index is None and key in environment.get(section, {}):
                    origin = f"{ENV_PREFIX}{section}{ENV_NESTED}{key}".upper()
                elif key in told:
                    keys = (section, key) if index is None else (section, index, key)
                    origin = f"{path}:{line_of(text, keys)}"
                else:
                    origin = "default"
                rows.append((dotted, value, origin))
    return rows
