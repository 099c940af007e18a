"""Methods on real rasters around Zion National Park, against scikit-learn and numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zion
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import geopipe as gp
from geopipe.analysis.results import Analysis

NUMBERS = ["elevation", "tmax", "bio_bio5", "bio_bio8", "bio_bio12", "bio_bio16"]
"""Those of which none is a sum of others here, as bio7 is of bio5 and bio6."""


@pytest.fixture(scope="module")
def output(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table of 120 x 100 cells, with steps of temperature that are as coarse as their source."""
    folder = tmp_path_factory.mktemp("zion")
    window = {"grid.bounds": [303_000, 4_122_000, 330_000, 4_144_500], "grid.resolution": 225}
    file = zion.write_settings(folder, shared_data)
    return str(gp.run(file, window | {"export.formats": ["parquet"]}, engine="local", progress=False).output)


@pytest.fixture(scope="module")
def frame(output: str) -> pd.DataFrame:
    """The rows that have all numbers."""
    return gp.open(output).pandas(NUMBERS).astype(float).dropna()


def analyzed(output: str, method: str, **options: object) -> Analysis:
    (analysis,) = gp.analyze(output, [method], columns=[*NUMBERS, "landcover", "nlcd2011"], engine="local", **options)
    return analysis


def test_correlations_and_inflation_are_those_of_numpy(output: str, frame: pd.DataFrame) -> None:
    values = analyzed(output, "correlation").values
    r = np.corrcoef(frame.to_numpy().T)
    assert np.allclose(values["pearson"], r, rtol=0, atol=1e-9)
    assert np.allclose(list(values["vif"].values()), np.diagonal(np.linalg.inv(r)), rtol=1e-6)
    assert np.allclose(values["spearman"], frame.corr("spearman"), rtol=0, atol=1e-9), "the sample has all rows"
    assert values["cramers_v"][0]["v"] > 0.9, "land cover of two years"


def test_components_are_those_of_scikit_learn(output: str, frame: pd.DataFrame) -> None:
    analysis = analyzed(output, "pca")
    oracle = PCA().fit(StandardScaler().fit_transform(frame))
    loadings = analysis.table("loadings").select([f"pc{i + 1}" for i in range(len(NUMBERS))]).to_pandas().to_numpy().T
    signs = np.sign((loadings * oracle.components_).sum(axis=1, keepdims=True))
    assert np.allclose(loadings * signs, oracle.components_, rtol=0, atol=1e-6)


def test_clusters_have_the_inertia_of_scikit_learn(output: str, frame: pd.DataFrame) -> None:
    analysis = analyzed(output, "kmeans", kmeans_k=6, kmeans_sample=1000)
    prepared = StandardScaler().fit_transform(frame)
    table = analysis.table("seeds").drop(["variable"]).to_pandas().to_numpy().T
    seeds = (table - frame.mean().to_numpy()) / frame.std(ddof=0).to_numpy()
    same = KMeans(6, init=seeds, n_init=1).fit(prepared)
    assert analysis.values["inertia"] == pytest.approx(same.inertia_, rel=0.01)
    anew = KMeans(6, n_init=10, random_state=0).fit(prepared)
    assert analysis.values["inertia"] < 1.05 * anew.inertia_
