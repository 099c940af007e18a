"""Models that predict rows: from a joblib file, from a function of a module, or an object. A joblib file is code."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from geopipe import proposals
from geopipe.errors import GeopipeError, MachineError, SettingsError, first_line

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""A function of a module: package.module:function."""

PREDICTION, PROBABILITY = "prediction", "probability"
"""Names of columns that a model does not name."""


@dataclass(frozen=True)
class Model:
    """A model by name, which each worker loads once.

    Attributes:
        sha256: of the file that it is in: the joblib file, or the source of its module; "" for an object in memory.
        load: returns the estimator or function; may be called on any node.
        is_file: whether it is unpickled from a file, which is code.
    """

    name: str
    sha256: str
    load: Callable[[], Any] = field(repr=False)
    is_file: bool = False


def model_of(model: str | os.PathLike[str] | Any) -> Model:
    """A model by the path of a joblib file, by "module:function", or as it is.

    A module is also looked for in the working folder.

    Raises:
        SettingsError: there is no such file or function.
        MachineError: the file cannot be loaded here.
    """
    if isinstance(model, Model):
        return model
    if not isinstance(model, str | os.PathLike):
        return Model(type(model).__name__ if hasattr(model, "predict") else _name(model), "", partial(_itself, model))
    text = os.fspath(model)
    path = Path(text).expanduser().absolute()
    if path.is_file():
        digest = _sha256(path)
        return Model(text, digest, partial(_from_file, path, digest), is_file=True)
    if not FUNCTION.fullmatch(text):
        hint = "a function is package.module:function" if ":" in text else proposals.path(str(path), "MODEL")
        raise SettingsError(f"there is no file {text}", hint)
    module, _, name = text.partition(":")
    load = partial(_from_module, str(Path.cwd()), module, name)
    load()
    source = getattr(sys.modules[module], "__file__", None)
    return Model(text, _sha256(Path(source)) if source else "", load)


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"


def _itself(model: Any) -> Any:
    return model


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=2)
def _from_file(path: Path, digest: str) -> Any:
    """Unpickle a model, once in a process."""
    try:
        import joblib
    except ImportError:
        raise MachineError(
            f"{path} is a joblib file, and joblib is not installed", "install it: pip install scikit-learn"
        ) from None
    try:
        if _sha256(path) != digest:
            raise MachineError(f"{path} has changed since the predictions began", "start again")
        return joblib.load(path)
    except GeopipeError:
        raise
    except FileNotFoundError:
        hint = "put it in a folder that all nodes see, or give --engine local"
        raise MachineError(f"there is no {path} on this node", hint) from None
    except Exception as error:  # a pickle runs any code
        raise MachineError(
            f"{path} cannot be loaded: {type(error).__name__}: {first_line(error)}",
            "install the packages, and their versions, that it was made with",
        ) from error


def _from_module(folder: str, module: str, name: str) -> Any:
    """A function of a module, which may be in a folder."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except AttributeError:
        public = [key for key, item in vars(sys.modules[module]).items() if callable(item) and not key.startswith("_")]
        meant = proposals.near(name, public)
        hint = f"did you mean {module}:{meant}?" if meant else f"it has {', '.join(public[:10]) or 'no functions'}"
        raise SettingsError(f"module {module} has no {name}", hint) from None
    except Exception as error:  # importing runs any code
        raise SettingsError(
            f"module {module} cannot be imported: {type(error).__name__}: {first_line(error)}",
            f"run geopipe in the folder of {module.partition('.')[0]}.py, or install it",
        ) from error
    if not callable(value) and not hasattr(value, "predict"):
        kind = "module" if isinstance(value, ModuleType) else type(value).__name__
        raise SettingsError(f"{module}:{name} is a {kind}", "name a function, or a model with `predict`")
    return value


def features(model: Any, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of a model in the order in which it takes them.

    Args:
        columns: names; none for those that the model was fitted with.

    Raises:
        SettingsError: they are not those that the model was fitted with.
    """
    fitted = tuple(map(str, getattr(model, "feature_names_in_", ())))
    if not columns and not fitted:
        raise SettingsError("no columns are named, and the model does not name its own", "name them: --columns a,b,c")
    if fitted and columns and set(fitted) != set(columns):
        lacking, extra = sorted(set(fitted) - set(columns)), sorted(set(columns) - set(fitted))
        differences = [f"without {', '.join(lacking)}"] * bool(lacking) + [f"with {', '.join(extra)}"] * bool(extra)
        raise SettingsError(
            f"the columns are {' and '.join(differences)}, but the model was fitted with {', '.join(fitted)}",
            "leave out --columns: the model names its columns",
        )
    names = fitted or tuple(columns)
    count = getattr(model, "n_features_in_", len(names))
    if count != len(names):
        text = f"the model was fitted with {count} columns, and {len(names)} are named: {', '.join(names)}"
        raise SettingsError(text, "name the same columns in the same order")
    return names


def predictions(model: Any, rows: pa.Table, proba: bool) -> dict[str, pa.Array]:
    """What a model says of rows without nulls, by name: a value for each row; NaN is null.

    An estimator (with `predict`) gets a frame of pandas with its names if it was fitted with one, else a matrix
    (rows, columns) float64. A function gets a dict of arrays (rows,) by column, in the types of the table.

    Raises:
        ValueError: it does not answer with a value for each row.
    """
    arrays = {name: rows[name].to_numpy() for name in rows.column_names}
    labels: Sequence[Any] = ()
    if not hasattr(model, "predict"):
        answer = model(arrays)
    else:
        values: Any = np.column_stack([array.astype(np.float64) for array in arrays.values()])
        if hasattr(model, "feature_names_in_"):
            import pandas as pd

            values = pd.DataFrame(arrays)
        answer = model.predict_proba(values) if proba else model.predict(values)
        labels = getattr(model, "classes_", ()) if proba else ()
    named = _named(answer, PROBABILITY if proba else PREDICTION, labels)
    for name, column in named.items():
        if column.shape != (len(rows),):
            raise ValueError(f"{name} has the shape {column.shape} for {len(rows):,} rows")
    return {name: pa.array(column, from_pandas=True) for name, column in named.items()}


def _named(answer: Any, name: str, labels: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of an answer: a dict, a frame, or an array (rows,) or (rows, columns)."""
    if hasattr(answer, "items") and not hasattr(answer, "to_numpy"):
        return {str(key): np.asarray(column) for key, column in answer.items()}
    if hasattr(answer, "columns"):
        return {str(key): answer[key].to_numpy() for key in answer.columns}
    array = np.asarray(answer)
    if array.ndim == 2 and array.shape[1] > 1:
        ends = [str(label) for label in labels] if len(labels) == array.shape[1] else map(str, range(array.shape[1]))
        return {f"{name}_{end}": column for end, column in zip(ends, array.T, strict=True)}
    return {name: array[:, 0] if array.ndim == 2 else array}
