"""Compile the kernels with numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call and keep the machine code beside the module (or in the user's cache).

    A compiled function may call only functions and use only constants of its own module: numba's cache looks at the
    caller's file alone, and would keep machine code with an old callee in it.
    """
    try:
        return cast(Function, njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no cache folder is writable
        return cast(Function, njit(nogil=True)(function))
