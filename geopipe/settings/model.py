"""The settings of a run as one value, and what the plan takes from them."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields

import tomli_w
from pydantic import BaseModel, Field, model_validator

from geopipe.layers.layer import Layer
from geopipe.plan.options import Layout, Options
from geopipe.redaction import redacted
from geopipe.settings.analysis import AnalysisSettings
from geopipe.settings.fields import Section
from geopipe.settings.sections import (
    EngineSettings,
    ExportSettings,
    GridSettings,
    LayerSettings,
    MergeSettings,
    MonitoringSettings,
    ReportSettings,
    ResamplingSettings,
    Run,
)

_WHOLE = "it reads rasters whole, in one process; use resampling.window_size instead"
_TILES = (
    "tables are merged tile by tile; resampling.window_size is the edge of a tile, and merge.wave_tiles how many are "
    "exchanged at a time"
)
DEPRECATED = {
    "resampling.use_legacy_resampling": _WHOLE,
    "resampling.use_legacy_passthrough": _WHOLE,
    "resampling.enable_memory_aware_processing": _WHOLE,
    "resampling.window_overlap": "each window is read as far around as its method reaches",
    "merge.enable_chunked_processing": _TILES,
    "merge.chunk_size": _TILES,
    "export.enable_streaming": "it formats a whole tile at once; set export.chunk_size",
}
"""Keys of the old system, each with what replaced it; their defaults are the new way."""


class Settings(Section):
    """The settings of a run."""

    run: Run = Run()
    grid: GridSettings = GridSettings()
    layers: tuple[LayerSettings, ...] = Field(min_length=1)
    resampling: ResamplingSettings = ResamplingSettings()
    merge: MergeSettings = MergeSettings()
    export: ExportSettings = ExportSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    report: ReportSettings = ReportSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    engine: EngineSettings = EngineSettings()

    @model_validator(mode="after")
    def _warn_of_deprecated_keys(self) -> Settings:
        for key, reason in DEPRECATED.items():
            section, name = key.split(".")
            value, default = getattr(getattr(self, section), name), SECTIONS[section].model_fields[name].default
            if value != default:
                text = key if default is None else f"{key} = {json.dumps(value)}"
                warnings.warn(f"{text} is deprecated: {reason}", DeprecationWarning, stacklevel=2)
        return self

    def layer_values(self) -> tuple[Layer, ...]:
        """The layers as values for the plan."""
        return tuple(
            Layer(paths=s.path, **{name: getattr(s, name) for name in LayerSettings.model_fields if name != "path"})
            for s in self.layers
        )

    def options(self) -> Options:
        """Everything of the plan beside grid and layers."""
        same = vars(self.engine) | vars(self.merge) | vars(self.resampling)
        return Options(
            **{f.name: same[f.name] for f in fields(Options) if f.name in same},
            whole=self.resampling.old_way,
            passthrough=self.resampling.skip_data_loading_for_passthrough,
            formats=tuple(dict.fromkeys(self.export.formats)),
            compress=self.export.compression,
            engine=self.engine.kind,
            layout=Layout(**{f.name: getattr(self.export, f.name) for f in fields(Layout)}),
        )

    def to_toml(self) -> str:
        """The effective settings as TOML, with absolute paths and without secrets."""
        return tomli_w.dumps(redacted(self.model_dump(mode="json", exclude_none=True)))


SECTIONS: dict[str, type[BaseModel]] = {
    name: LayerSettings if name == "layers" else field.annotation  # type: ignore[misc]
    for name, field in Settings.model_fields.items()
}
"""The model of each section; of `layers` the model of one layer."""
