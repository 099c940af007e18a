"""The way of a run, from settings to a committed table, in one place.

settings -> headers -> plan -> Ray Dataset of reads -> block rows -> merge_tile -> write_tile -> commit (-> send)
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyproj

from geopipe import checks, commit, events, machine, objects, points, raster, stac, vectors
from geopipe.baseline import old_way
from geopipe.commit import Staging
from geopipe.errors import GeopipeError, PlanError, RunError, SettingsError, SourceError
from geopipe.estimate import Machine
from geopipe.grid import Grid
from geopipe.layer import Header, Kind, Layer, check_files
from geopipe.layerplan import MASK, LayerPlan
from geopipe.ledger import finisher
from geopipe.local import Engine, Keys, plain_loop
from geopipe.objects import Store
from geopipe.plan import Plan, make_plan
from geopipe.polygons import Shapes
from geopipe.relation import TableHeader
from geopipe.settings import Settings
from geopipe.target import resolve_grid

log = logging.getLogger(__name__)

OBJECT_STORE = 640 * 2**20
"""Bytes of Ray's shared memory, unless the settings say more: once touched, all of it stays in memory."""

Watch = Callable[["Snapshot"], None]


@dataclass(frozen=True)
class Snapshot:
    """How far a run is: work done by stage, and the units that each stage has in all."""

    stages: Mapping[str, events.Progress]
    totals: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class Summary:
    """What a finished run has made. `seconds` is wall time by step; `stages` the workers' own time by stage.

    `output` is the folder of the table, or the URI of the object store that has it.
    """

    run_id: str
    plan: Plan
    output: Path | str
    rows: int
    files: int
    bytes: int
    seconds: Mapping[str, float]
    stages: Mapping[str, events.Progress] = field(default_factory=dict)
    warnings: tuple[checks.Finding, ...] = ()

    @property
    def skipped(self) -> dict[str, str]:
        """Reason by name of each layer that was skipped."""
        return self.plan.skipped

    @property
    def exit_code(self) -> int:
        return 4 if self.skipped else 0


def new_run_id() -> str:
    """A UUIDv7: sorts by time, and two starts in one millisecond differ."""
    stamp = time.time_ns() // 1_000_000
    value = stamp << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def this_machine(settings: Settings) -> Machine:
    """What this machine offers, as far as the settings allow: four fifths of the free memory unless they say more."""
    available = machine.available_memory()
    memory = settings.engine.memory or int(available * 0.8)
    cpus = machine.cpus()
    return Machine(
        cpus=cpus,
        workers=settings.engine.workers or cpus,
        memory=memory,
        object_store=settings.engine.object_store_memory or min(OBJECT_STORE, memory // 4),
        free_disk=commit.free_bytes(settings.run.folder),
    )


def versions() -> dict[str, str]:
    """Versions of everything that makes the bytes of the output."""
    names = ("geopipe", "numpy", "pyarrow", "pyproj", "ray")
    return {name: version(name) for name in names} | {"proj": pyproj.proj_version_str} | raster.versions()


def draft(settings: Settings, here: Machine | None = None, skipped: Mapping[str, str] | None = None) -> Plan:
    """The plan of the settings: reads headers, writes nothing.

    Args:
        here: what to run on; None for this machine.
        skipped: reason by layer name, for layers already found broken.
    """
    reasons = dict(skipped or {})
    layers: list[tuple[Layer, list[Header] | list[TableHeader]]] = []
    for layer in settings.layer_values():
        try:
            layers.append((layer, points.headers(layer) or _headers(layer)))
        except SourceError as error:
            if layer.on_error != "skip":
                raise
            reasons.setdefault(layer.name, error.message)
            layers.append((layer, []))
    asked = settings.grid
    like = raster.inspect(asked.like) if asked.like else None
    # tables do not say where their points lie, and have no part in a union
    rasters = {layer.name: [h for h in headers if isinstance(h, Header)] for layer, headers in layers}
    sound = {name: headers for name, headers in rasters.items() if headers and name not in reasons}
    grid = resolve_grid(
        asked.crs,
        asked.resolution,
        asked.bounds,
        like,
        asked.snap,
        sound,
        {layer.name: layer.crs for layer, _ in layers},
    )
    here, mask = here or this_machine(settings), _mask(settings)
    layers = [(layer, _measured(settings, layer, headers, grid, reasons)) for layer, headers in layers]
    while True:
        try:
            plan = make_plan(settings.run.name, grid, layers, settings.options(), here, versions(), reasons, mask)
            wanted = {p.layer.name: classes for p in plan.layers if (classes := _classes(plan, p)) is not None}
            if not wanted:
                return plan
            layers = [(replace(y, fractions=wanted.get(y.name, y.fractions)), headers) for y, headers in layers]
        except SourceError as error:
            reasons |= _skippable(settings, error, reasons)


def _mask(settings: Settings) -> Shapes | tuple[Layer, Header] | None:
    """The polygons of grid.mask, or its raster as a layer: it is a raster if GDAL can open it as one."""
    asked = settings.grid
    if asked.mask is None:
        return None
    layer = Layer(MASK, (asked.mask,), kind=Kind.CATEGORICAL, resampling=("nearest",), crs=asked.mask_crs)
    if vectors.missing(asked.mask):
        raise SourceError(
            f"grid.mask: there is no file {asked.mask}", "correct grid.mask (relative to the settings file)"
        )
    header = None
    if asked.mask_layer is None:
        with suppress(SourceError):  # what GDAL's vector side says of it tells more
            header = raster.inspect(asked.mask, MASK)
    if header is not None and header.bands:
        if header.crs is None and asked.mask_crs is None:
            raise SourceError(f"grid.mask = {asked.mask} has no CRS", 'say which it is: grid.mask_crs = "EPSG:..."')
        check_files(layer, [header])
        return layer, header
    return vectors.read(asked.mask, asked.mask_layer, asked.mask_crs)


def _classes(plan: Plan, layer: LayerPlan) -> tuple[int, ...] | None:
    """The classes whose fractions the layer asks for without naming them: its pixels must be read for that."""
    if layer.layer.fractions is not True or layer.skipped:
        return None
    if layer.kind is not Kind.CATEGORICAL:
        raise SettingsError(
            f"layer {layer.layer.name}: fractions = true makes no sense for kind = {layer.kind.value!r}",
            'give it kind = "categorical", or leave fractions out',
        )
    return raster.classes(plan, layer)


def _files(layer: Layer) -> list[str]:
    """The files of a layer: what its paths mean, or what the STAC items there point to."""
    files = [file for path in layer.paths for file in raster.expand(path)]
    if not files:
        raise SourceError(
            f"layer {layer.name}: no file matches {', '.join(layer.paths)}",
            "correct path = (it is relative to the settings file)",
            layer.name,
        )
    found = [stac.read(file, layer.name) for file in files]
    if all(found):
        return stac.files([item for items in found for item in items], layer.asset, layer.sort_by, layer.name)
    if any(found) or layer.asset or layer.sort_by:
        raise SourceError(
            f"layer {layer.name}: {files[[bool(items) for items in found].index(False)]} holds no STAC items",
            "give STAC files only; or leave asset and sort_by out and give rasters only",
            layer.name,
        )
    return files


def _headers(layer: Layer) -> list[Header]:
    files = _files(layer)
    headers = [raster.inspect(file, layer.name, layer.variable) for file in files]
    if layer.georeference is not None:
        headers = [raster.georeferenced(header, layer.georeference, layer.name) for header in headers]
    check_files(layer, headers)
    return headers


def _measured(
    settings: Settings,
    layer: Layer,
    headers: list[Header] | list[TableHeader],
    grid: Grid,
    reasons: dict[str, str],
) -> list[Header] | list[TableHeader]:
    """The headers of a layer, of tables of cells with their offsets; adds to `reasons` what may be skipped."""
    tables = [h for h in headers if isinstance(h, TableHeader)]
    if not tables or layer.name in reasons:
        return headers
    try:
        return points.measured(layer, tables, grid)
    except SourceError as error:
        reasons |= _skippable(settings, error, reasons)
        return headers


def _skippable(settings: Settings, error: SourceError, reasons: Mapping[str, str]) -> dict[str, str]:
    """The layer that failed and may be skipped, with its reason; any other error is raised again."""
    for layer in settings.layers:
        if layer.name == error.layer and layer.on_error == "skip" and layer.name not in reasons:
            log.warning("layer %s is skipped: %s", layer.name, error.message)
            return {layer.name: error.message}
    raise error


def run(
    settings: Settings,
    *,
    overwrite: bool = False,
    resume: bool = False,
    local: bool = False,
    watch: Watch | None = None,
) -> Summary:
    """Run the settings to a committed output.

    Args:
        overwrite: replace a finished run in the output folder.
        resume: go on with a run that was cut short; tiles whose files are whole are not done again, and a table that
            is finished but for its way to the object store is only sent.
        local: use the plain loop instead of Ray.
        watch: called a few times a second with how far the run is.

    Raises:
        GeopipeError: and nothing that was there before is lost.
    """
    run_id, clock, folder = new_run_id(), _Clock(), settings.run.folder
    store = objects.connect(settings.run.store) if settings.run.store else None
    with events.context(run_id=run_id):
        if not resume:
            _check(folder, store, overwrite)
        with events.log_stage(log, "plan"):
            plan = _resumed(settings, _finished(folder, store)) if resume else draft(settings)
        if resume:
            commit.refuse_resume(folder, plan)
        clock.lap("plan")
        with commit.locked(folder, run_id):
            commit.recover(folder)
            done = _finished(folder, store)
            if resume and done is not None and done["plan_hash"] == plan.hash:
                log.warning("run %s is finished already", done["run_id"])
                made, output = done["run_id"], settings.run.store or folder
                summary = Summary(made, plan, output, done["rows"], done["files"], done["bytes"], clock.laps)
            else:
                _check(folder, store, overwrite)
                with _engine(plan, settings, local) as engine:
                    clock.lap("start")
                    summary = _attempts(settings, plan, engine, run_id, resume, clock, watch)
                clock.lap("stop")
            if store is not None and commit.finished(folder) is not None:
                _send(store, folder, overwrite)
                clock.lap("send")
        events.log_performance(log, "run", sum(clock.laps.values()), summary.rows, summary.bytes)
        return summary


def _check(folder: Path, store: Store | None, overwrite: bool) -> None:
    """Refuse an output, and the folder where the run works, before anything is done."""
    if store is not None:
        objects.check(store, overwrite)
        if commit.finished(folder) is not None and not overwrite:
            raise PlanError(
                f"run.staging = {folder} holds a finished run that was not sent to the end",
                "send it with --resume, replace it with --overwrite, or choose another run.staging",
            )
    commit.check_output(folder, overwrite)


def _finished(folder: Path, store: Store | None) -> dict[str, Any] | None:
    """What the `_SUCCESS` of a finished run says: one that is to be sent, else one that is in the output."""
    done = commit.finished(folder)
    return objects.finished(store) if done is None and store is not None else done


def _resumed(settings: Settings, done: Mapping[str, Any] | None) -> Plan:
    """The plan of a run to go on with, without the layers that it has skipped; `done` is one that is finished."""
    if done is not None and done.get("skipped"):
        plan = draft(settings, skipped=done["skipped"])
        if plan.hash == done["plan_hash"]:
            return plan
    return draft(settings, skipped=commit.skipped_before(settings.run.folder))


def _send(store: Store, folder: Path, overwrite: bool) -> None:
    """Send the finished run in the folder to the store, and remove it from the folder."""
    try:
        with events.log_stage(log, "send"):
            objects.publish(store, folder, overwrite)
    except BaseException:
        log.warning("the table is whole in %s: `geopipe run --resume` sends it", folder)
        raise
    commit.remove(folder)


def _attempts(
    settings: Settings, plan: Plan, engine: Engine, run_id: str, resume: bool, clock: _Clock, watch: Watch | None
) -> Summary:
    """Run a plan to its commit; where a bad source may be skipped, start over without it."""
    folder, output = settings.run.folder, settings.run.store or settings.run.folder
    if engine.machine is not None:
        plan = draft(settings, engine.machine, plan.skipped)
    while True:
        staging = Staging(folder, plan, settings.to_toml())
        keys = staging.begin(resume)
        if len(keys) < len(plan.keys):
            log.warning("%s of %s tiles are there already", len(plan.keys) - len(keys), len(plan.keys))
        try:
            with events.log_stage(log, "run"), _watching(plan, keys, engine, watch):
                for _ in engine.run(plan, keys, finisher(plan, staging.folder, settings.export.rows_at_once), run_id):
                    pass
            clock.lap("run")
            report = {"run_id": run_id, "name": plan.name, "skipped": plan.skipped}
            checked, warnings = _checked(plan, staging, settings.merge.enable_validation)
            with events.log_stage(log, "commit"):
                totals = staging.commit(report | checked)
            clock.lap("commit")
            return Summary(
                run_id, plan, output, **totals, seconds=clock.laps, stages=engine.stages(), warnings=warnings
            )
        except BaseException as error:
            # with another source, or another version of geopipe, nothing of it could be used again
            if isinstance(error, SourceError | RunError):
                staging.discard()
            else:
                _leave(staging)
            if not isinstance(error, SourceError):
                raise _as_ours(error) from error
            reasons = plan.skipped | _skippable(settings, error, plan.skipped)
        plan = draft(settings, engine.machine, reasons)


def _leave(staging: Staging) -> None:
    """Leave what a failed run has done, and say how to go on."""
    done = staging.leave()
    if done:
        log.warning("%s of %s tiles are done: `geopipe run --resume` goes on", done, len(staging.plan.keys))


def _checked(plan: Plan, staging: Staging, enabled: bool) -> tuple[dict[str, object], tuple[checks.Finding, ...]]:
    """What `_SUCCESS` says of the table and its warnings, and the warnings.

    Raises:
        RunError: the table is not what was planned.
    """
    facts = checks.facts_of(plan)
    if not enabled:
        return {"table": facts.describe()}, ()
    with events.log_stage(log, "validate"):
        findings = checks.check_receipts(facts, staging.ledger().receipts())
    errors = [f"{f.check}: {f.message}" for f in findings if f.level == "error"]
    if errors:
        raise RunError(
            f"the table is not what was planned, {len(errors):,} checks failed; it is not published. "
            + "; ".join(errors[:3] + ["..."] * (len(errors) > 3)),
            "report it with the log: this is a defect of geopipe or of a library. merge.enable_validation = false "
            "publishes the table all the same",
        )
    for finding in findings:
        log.warning("%s: %s", finding.check, finding.message)
    told = [{"check": f.check, "message": f.message} for f in findings]
    return {"table": facts.describe(), "warnings": told}, tuple(findings)


def _engine(plan: Plan, settings: Settings, local: bool) -> AbstractContextManager[Engine]:
    if settings.resampling.old_way:
        return old_way()
    if local:
        return plain_loop()
    from geopipe.engine import ray_engine  # planning and the plain loop must not load Ray

    return ray_engine(settings.engine.address, plan.machine)


@contextmanager
def _watching(plan: Plan, keys: Keys, engine: Engine, watch: Watch | None) -> Iterator[None]:
    """Call `watch` from a thread of its own while the run goes on, and once at its end."""
    if watch is None:
        yield
        return
    totals = {"read": plan.reads(keys), "merge": len(keys), "write": len(keys)}
    start, ended = time.perf_counter(), threading.Event()

    def snapshot() -> Snapshot:
        return Snapshot(engine.stages(), totals, time.perf_counter() - start)

    def tick() -> None:
        while not ended.wait(0.25):
            watch(snapshot())

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
        watch(snapshot())
    finally:
        ended.set()
        thread.join()


class _Clock:
    """Wall seconds by step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


def _as_ours(error: BaseException) -> BaseException:
    """The error to raise for `error`: one of ours, or itself where it is a signal."""
    if isinstance(error, GeopipeError) or not isinstance(error, Exception):
        return error
    return RunError(f"the run failed: {type(error).__name__}: {error}", "see the log; nothing was published")
