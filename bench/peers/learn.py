"""What scikit-learn, numpy, pandas and MiniSom take for an analysis of a table that fits into memory.

    python bench/peers/learn.py FOLDER OUTPUT CASE

FOLDER has `table`, a finished table. The rows are read as Arrow and become one array of float64, in which geopipe
computes, too. OUTPUT is a file for the result, as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

K = 8
"""Clusters; as many variables have the rows."""


def correlation(values: NDArray[np.float64], names: list[str]) -> Any:
    """Pearson's r of all rows, Spearman's of a sample, and variance inflation."""
    frame = pd.DataFrame(values, columns=names, copy=False)
    r = np.corrcoef(values, rowvar=False)
    ranks = frame.sample(min(100_000, len(frame)), random_state=0).corr("spearman")
    return {"r": r.tolist(), "spearman": ranks.to_numpy().tolist(), "vif": np.diagonal(np.linalg.inv(r)).tolist()}


def pca(values: NDArray[np.float64], names: list[str]) -> Any:
    """Components of the standardised variables."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler(copy=False).fit_transform(values)
    return PCA(copy=False, svd_solver="covariance_eigh").fit(scaled).explained_variance_ratio_.tolist()


def kmeans_step(values: NDArray[np.float64], names: list[str]) -> Any:
    """One step of Lloyd from rows of the table, and the labels."""
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler(copy=False).fit_transform(values)
    start = scaled[np.random.default_rng(0).choice(len(scaled), K, replace=False)]
    fitted = KMeans(K, init=start, n_init=1, max_iter=1, copy_x=False).fit(scaled)
    return {"inertia": float(fitted.inertia_), "sizes": np.bincount(fitted.labels_).tolist()}


def som(values: NDArray[np.float64], names: list[str]) -> Any:
    """An epoch of a map of 10 x 10 nodes, one row after the other."""
    from minisom import MiniSom
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler(copy=False).fit_transform(values)
    peer = MiniSom(10, 10, len(names), sigma=5, random_seed=0)
    peer.train_batch(scaled, len(scaled))
    return {"quantisation_error": float(peer.quantization_error(scaled[:10_000]))}


CASES = {"correlation": correlation, "pca": pca, "kmeans_step": kmeans_step, "som": som}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("case", choices=CASES)
    options = parser.parse_args()
    schema = pq.read_schema(next((options.folder / "table" / "parquet").glob("*.parquet")))
    names = [name for name in schema.names if name not in ("row", "col", "x", "y")]
    table = pq.read_table(options.folder / "table" / "parquet", columns=names)
    values = np.empty((len(table), len(names)))
    for i, name in enumerate(names):
        values[:, i] = table[name].to_numpy()
    del table
    options.output.write_text(json.dumps(CASES[options.case](values, names)), encoding="utf-8")


if __name__ == "__main__":
    main()
