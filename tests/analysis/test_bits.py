"""The results of each method are the same bits on any engine, with any number of workers, from Parquet and from CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

import geopipe as gp
from geopipe.analysis import results
from geopipe.analysis.contract import Method, Nulls, Subject
from geopipe.analysis.drive import analyze
from geopipe.analysis.methods.correlation import Correlation
from geopipe.analysis.methods.kmeans import Kmeans
from geopipe.analysis.methods.pca import Pca
from geopipe.engine.passes import passes

COLUMNS = ("height", "warmth", "rain", "cover")


@pytest.mark.parametrize(
    ("method", "nulls"),
    [(Correlation(sample=3000), "drop"), (Pca(), "mean"), (Kmeans(k=4, sample=3000), "drop")],
    ids=["correlation", "pca", "kmeans"],
)
def test_bits_do_not_depend_on_engine_workers_and_format(
    ray_session: None, table: gp.Table, csv_table: gp.Table, tmp_path: Path, method: Method, nulls: Nulls
) -> None:
    outcomes = []
    for kind, workers, source in (
        ("local", 1, table),
        ("local", 2, csv_table),
        ("ray", 1, csv_table),
        ("ray", 2, table),
    ):
        with passes(kind, workers=workers) as engine:
            analysis = analyze(method, Subject(source, COLUMNS, nulls), engine, tmp_path / f"{kind}{workers}")
        files = [path for path in sorted(analysis.folder.rglob("*.parquet")) if path.name != results.RESULT]
        outcomes.append((analysis.values, analysis.findings, [(path.name, path.read_bytes()) for path in files]))
    assert outcomes[0][2]
    assert all(one == outcomes[0] for one in outcomes)
