"""Where files are computed: threads, processes, or a cluster of dask."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from surgery.errors import MissingExtraError, RecipeError

_WANTED = "threads:N, processes:N or dask:ADDRESS"


@contextmanager
def executor_of(text: str | None) -> Iterator[Executor | None]:
    """Give the executor of a description, and shut it down at the end.

    Args:
        text: such as ``processes:4`` or ``dask:tcp://10.0.0.1:8786``; None for the threads of
            this process, as many as it has cores.

    Raises:
        RecipeError: the description is none.
        MissingExtraError: dask is not installed.
    """
    if text is None:
        yield None
        return
    kind, _, rest = text.partition(":")
    if kind == "dask" and rest:
        with _dask(rest) as executor:
            yield executor
    elif kind in ("threads", "processes") and rest.isdigit() and int(rest) > 0:
        with _pool(kind, int(rest)) as executor:
            yield executor
    else:
        raise RecipeError("--executor", _WANTED, repr(text))


def _pool(kind: str, count: int) -> Executor:
    if kind == "threads":
        return ThreadPoolExecutor(count)
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"))


@contextmanager
def _dask(address: str) -> Iterator[Any]:
    """Connect to a running cluster; its workers must see the same files under the same paths."""
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise MissingExtraError("--executor", "distributed", "cluster") from None
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except OSError as error:
        line = " ".join(str(error).split())[:200]
        raise RecipeError(
            "--executor", "the address of a running scheduler", f"{address} ({line})"
        ) from None
    with client:
        yield client.get_executor(pure=False)
