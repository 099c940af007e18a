"""Compile the kernels with numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

KERNELS: list[Any] = []
"""All compiled functions of the modules that are loaded."""


def compiled(function: Function) -> Function:
    """Compile at the first call and keep the machine code beside the module (or in the user's cache).

    A compiled function may call only functions and use only constants of its own module: numba's cache looks at the
    caller's file alone, and would keep machine code with an old callee in it.
    """
    try:
        kernel = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no cache folder is writable
        kernel = njit(nogil=True)(function)
    KERNELS.append(kernel)
    return cast(Function, kernel)


def cached() -> int:
    """The number of KERNELS whose machine code is in numba's cache for their present source."""
    files = (getattr(_cache(kernel), "_cache_file", None) for kernel in KERNELS)  # None without a cache folder
    return sum(bool(file and file._load_index()) for file in files)


def folder() -> str:
    """The folder of numba's cache; "" if none is writable, so that each process compiles anew."""
    return str(getattr(_cache(KERNELS[0]), "cache_path", "")) if KERNELS else ""


def _cache(kernel: Any) -> Any:
    """The cache of a kernel; None under NUMBA_DISABLE_JIT, where kernels are plain functions."""
    return getattr(kernel, "_cache", None)
