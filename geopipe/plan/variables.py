"""The columns of a layer: kind, names and types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geopipe.errors import SettingsError
from geopipe.layers.bands import columns
from geopipe.layers.header import Band
from geopipe.layers.layer import Kind, Layer, Variable
from geopipe.merge.spec import RESERVED
from geopipe.resample.methods import FRACTION, VALID, requested_methods


def variables_of(
    layer: Layer, kind: Kind, files: Sequence[Sequence[Band]], copied: set[str], picked: set[str]
) -> tuple[Variable, ...]:
    """The columns of a layer: for each band one for each requested method.

    Args:
        files: the bands of each file.
        copied: the methods whose values are copied from the source.
        picked: the methods whose values are each one of the source's.
    """
    methods = requested_methods(layer)
    statistics = [method for method in methods if method not in (FRACTION, VALID)]
    bases = columns(layer, files[0])
    variables = []
    for index, band in enumerate(files[0]):
        named = kind is Kind.CATEGORICAL and band.bits is None  # else the column's values are not the named classes
        for method in methods:
            if method == VALID and index > 0:
                continue  # a column per layer
            own_band = band if named and method in statistics else replace(band, categories=())
            common: dict[str, Any] = {"layer": layer.name, "band": own_band, "index": index, "requested_method": method}
            if method == FRACTION:
                for part in layer.fractions if isinstance(layer.fractions, tuple) else ():
                    name = f"{bases[index]}_{_class_name(part, band)}"
                    variables.append(Variable(name, "float32", part=part, **common))
            elif method == VALID:
                variables.append(Variable(f"{layer.name}_valid", "float32", **common))
            else:
                types = [dtype_of(kind, own[index], method in copied, method in picked) for own in files]
                name = f"{bases[index]}_{method}" if len(statistics) > 1 else bases[index]
                variables.append(Variable(name, str(np.result_type(*types)), unit=band.unit, **common))
    return tuple(variables)


def _class_name(value: float, band: Band) -> str:
    """A class in the name of a column, of letters, digits and _ alone: -2 is minus2, 0.5 is 0_5."""
    own = np.dtype(band.dtype)
    stored = own.kind == "f" and band.scale == 1.0 and band.offset == 0.0
    text = str(own.type(value) if stored else value).removesuffix(".0")  # as few digits as the type needs
    return text.replace("-", "minus").replace("+", "").replace(".", "_")


def kind_of(layer: Layer, bands: Sequence[Band]) -> tuple[Kind, str]:
    """The kind of a raster layer, and its reason.

    Raises:
        SettingsError: `reduce` makes no sense for the kind.
    """
    kind, why = declared_kind(layer, bands)
    fitting = {Kind.CATEGORICAL: (None, "min", "max"), Kind.CIRCULAR: (None,)}.get(kind)
    if fitting and layer.reduce not in fitting:
        raise SettingsError(
            f"layer {layer.name}: reduce = {layer.reduce!r} makes no sense for kind = {kind.value!r} ({why})",
            f"leave reduce out{', choose min or max,' if len(fitting) > 1 else ''} or give the layer another kind",
        )
    return kind, why


def declared_kind(layer: Layer, bands: Sequence[Band]) -> tuple[Kind, str]:
    """The kind by the settings or the file, and its reason."""
    if layer.kind is not None:
        return layer.kind, "as the settings say"
    if layer.bits is not None:
        return Kind.CATEGORICAL, "bits are taken out of it"
    if bands and all(b.paletted for b in bands):
        return Kind.CATEGORICAL, "the file has a colour table"
    return Kind.CONTINUOUS, "the default"


def dtype_of(kind: Kind, band: Band, untouched: bool, picked: bool = False) -> str:
    """The column's type: the source's own where its values are kept as they are, else the float that holds them.

    Where each value is one of the source's (`picked`), whole numbers of 64 bits stay so: no float holds them.
    """
    own = np.dtype(band.dtype)
    if own.kind == "i" and band.bits == (0, 8 * own.itemsize - 1):
        own = np.dtype(f"u{own.itemsize}")  # all bits, as a number without a sign
    if kind is Kind.CIRCULAR and own == np.int8:
        own = np.dtype(np.int16)  # -10 degrees are 350
    untouched = untouched or (picked and kind is Kind.CONTINUOUS and own.kind in "iu" and own.itemsize == 8)
    untouched = untouched and band.reduce not in ("mean", "sum")
    addends = 1 + len(band.more) if band.reduce == "sum" else 1
    packed = band.scale != 1.0 or band.offset != 0.0
    if not packed and (kind is Kind.CATEGORICAL or untouched):
        return str(own)
    if own == np.float16:
        return "float32"
    if packed and own.kind in "iu" and own.itemsize <= 2:
        # float32 has 24 bits: enough while each packed step still changes the unpacked number
        steps = abs(band.offset / band.scale) if band.scale else np.inf
        levels = steps + max(abs(np.iinfo(own).min), np.iinfo(own).max)
        return "float32" if addends * levels < 2**22 else "float64"
    if kind is Kind.CIRCULAR and not untouched:
        return "float32"
    wide = own.itemsize == 8 or (own.kind in "iu" and own.itemsize == 4) or (packed and own.itemsize == 4)
    wide = wide or (own.kind in "iu" and addends * 2.0 ** (8 * own.itemsize) > 2**24)
    return "float64" if wide else "float32"


def check_names(variables: Sequence[Variable]) -> None:
    """Refuse names of columns that are reserved, or not unique."""
    seen: dict[str, str] = {}
    for v in variables:
        if v.name in RESERVED:
            raise SettingsError(f"layer {v.layer}: the column name {v.name!r} is reserved", "name the layer otherwise")
        if v.name in seen:
            raise SettingsError(
                f"two columns would be named {v.name!r}: of layer {seen[v.name]} and of layer {v.layer}",
                "rename one of the layers",
            )
        seen[v.name] = v.layer
