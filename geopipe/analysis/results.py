"""Results of analyses beside their table: staged, committed as a whole, and read again.

OUTPUT/analysis/METHOD/result.json        values and findings, with what they are of; written last
                       NAME.parquet       small tables
                       NAME/tile-*.parquet  a value for each cell, with row and col
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geopipe.analysis.contract import Method, Result, Subject
from geopipe.durable import replacing, sync_folder, write_error
from geopipe.errors import PlanError

RESULT = "result.json"
FOLDER = "analysis"
STAGED, ASIDE = ".staged", ".old"
"""Ends of the names of folders that are not complete yet, or not any more."""


@dataclass(frozen=True)
class Analysis:
    """The committed results of a method.

    Attributes:
        values: by name; numbers, texts, lists, mappings.
        findings: sentences for people.
        about: what it is of: `run_id` and `plan_hash` of the table, columns, options, nulls, seed.
    """

    method: str
    folder: Path
    values: Mapping[str, Any]
    findings: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def table(self, name: str) -> pa.Table:
        """A small table of the results.

        Raises:
            PlanError: there is none of this name.
        """
        try:
            return pq.read_table(self.folder / f"{name}.parquet")
        except FileNotFoundError:
            names = ", ".join(sorted(path.stem for path in self.folder.glob("*.parquet")))
            raise PlanError(f"{self.method} has no table {name!r}", f"tables: {names or 'none'}") from None

    def cells(self, name: str) -> list[Path]:
        """The files that have a value for each cell, in the order of the tiles."""
        return sorted((self.folder / name).glob("tile-*.parquet"))


class Staged:
    """Results that are being written. `folder` is theirs until they are committed."""

    def __init__(self, about: Mapping[str, Any], folder: Path, final: Path) -> None:
        self.about, self.folder, self.final = about, folder, final

    def finish(self, result: Result) -> Analysis:
        """Write the results, and put them into their place."""
        for name, table in result.tables.items():
            pq.write_table(table, self.folder / f"{name}.parquet", compression="zstd")
        contents = {"method": self.final.name, "findings": list(result.findings), "values": result.values}
        text = json.dumps(contents | {"about": self.about}, indent=1, allow_nan=False)
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with open(Path(folder, name), "rb") as file:
                    os.fsync(file.fileno())
            sync_folder(Path(folder))
        with replacing(self.folder / RESULT) as file:
            file.write(text.encode())
        aside = self.final.with_name(self.final.name + ASIDE)
        if self.final.exists():
            os.replace(self.final, aside)
        os.replace(self.folder, self.final)
        sync_folder(self.final.parent)
        shutil.rmtree(aside, ignore_errors=True)
        return read(self.final)


@contextmanager
def committed(method: Method, subject: Subject, folder: Path) -> Iterator[Staged]:
    """Stage the results of a method; what is not finished inside is removed."""
    final = folder / method.name
    staged = folder / (method.name + STAGED)
    try:
        for leftover in (staged, folder / (method.name + ASIDE)):
            shutil.rmtree(leftover, ignore_errors=True)
        staged.mkdir(parents=True)
        yield Staged(about(method, subject), staged, final)
    except OSError as error:
        raise write_error(error, final) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def about(method: Method, subject: Subject) -> dict[str, Any]:
    """What the results of a method are of, and by which options."""
    options: dict[str, Any] = asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}
    success = subject.table.success
    table = {name: success.get(name) for name in ("run_id", "plan_hash", "rows")}
    return table | {
        "columns": list(subject.columns),
        "nulls": subject.nulls,
        "seed": subject.seed,
        "options": options,
    }


def read(folder: Path) -> Analysis:
    """The committed results in a folder.

    Raises:
        PlanError: there are none, or they are damaged.
    """
    try:
        data = json.loads((folder / RESULT).read_bytes())
        return Analysis(str(data["method"]), folder, data["values"], tuple(data["findings"]), data["about"])
    except FileNotFoundError:
        raise PlanError(f"{folder} has no results of an analysis", "make them: geopipe analyze OUTPUT") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlanError(f"{folder / RESULT} is damaged: {error}", "make it again: geopipe analyze OUTPUT") from None


def listed(folder: Path, run_id: str | None = None) -> list[Analysis]:
    """All committed results below a folder; with `run_id` those of this run's table alone."""
    analyses = [
        read(path.parent) for path in sorted(folder.glob(f"*/{RESULT}")) if not path.parent.name.endswith(STAGED)
    ]
    return [a for a in analyses if run_id is None or a.about.get("run_id") == run_id]
