"""Compile the kernels with numba."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator

Function = TypeVar("Function", bound=Callable[..., Any])

KERNELS: list[Any] = []
"""All compiled functions of the modules that are loaded."""


class _ImageLocator(UserProvidedCacheLocator):
    """The folder NUMBA_CACHE_DIR also where it is read-only, as in a container image that holds the machine code."""

    def ensure_cache_path(self) -> None:
        if not os.path.isdir(self._cache_path):
            super().ensure_cache_path()  # type: ignore[no-untyped-call]


class _Files(CompileResultCacheImpl):
    _locator_classes = [_ImageLocator, *CompileResultCacheImpl._locator_classes]  # noqa: RUF012


class _KernelCache(FunctionCache):
    """numba's cache. Machine code that cannot be written, in an image or on a full disk, stays in the process."""

    _impl_class = _Files

    def save_overload(self, *overload: Any) -> None:
        with suppress(OSError):
            super().save_overload(*overload)  # type: ignore[no-untyped-call]


def compiled(function: Function) -> Function:
    """Compile at the first call and keep the machine code beside the module (or in the user's cache).

    A compiled function may call only functions and use only constants of its own module: numba's cache looks at the
    caller's file alone, and would keep machine code with an old callee in it.
    """
    kernel: Any = njit(nogil=True)(function)
    if kernel is not function:  # as it is under NUMBA_DISABLE_JIT
        with suppress(RuntimeError):  # no folder of the cache is writable
            kernel._cache = _KernelCache(function)  # type: ignore[no-untyped-call]
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
