"""Clusters as executors of ``concurrent.futures``, by what their addresses begin with.

    tcp://HOST:PORT       a Dask scheduler (the same with tls)
    ray, ray://HOST:PORT  Ray: the cluster that this machine is part of, or one that is elsewhere; with ?gpus=1 behind
                          it, each task has a GPU

Others come by an entry point in the group ``hqp_onnx.workers``, named as their addresses begin, or as
``FILE.py:name``: a function of the whole address that returns an Executor. Where that has an attribute ``workers``, it
is their number, and ``threads`` what each of them may use.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from hqp_onnx.errors import MissingRuntimeError, UsageError
from hqp_onnx.registry import Registry

_SECONDS = 10  # to connect in
_RETRIES = 3  # of an item whose worker died

CLUSTERS: Registry[Callable[[str], Executor]] = Registry(
    "kind of workers", "hqp_onnx.workers", also=("a number of processes",)
)


@CLUSTERS.register("tcp", "tls")
def dask(address: str) -> Executor:
    """The workers of a Dask scheduler.

    Raises:
        MissingRuntimeError: Dask is not installed.
        OSError: no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as e:
        raise MissingRuntimeError("Dask is not installed: pip install 'hqp-onnx[dask]'") from e
    client = Client(address, timeout=_SECONDS, set_as_default=False)
    return _OfDask(client)


class _OfDask(Executor):
    def __init__(self, client: Any) -> None:
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)  # a model goes to each worker once
        logging.getLogger("tornado.application").setLevel(logging.CRITICAL)  # a result of what was cancelled
        self._client, self._executor = client, client.get_executor(pure=False, retries=_RETRIES)
        threads = [worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
        self.workers, self.threads = max(1, len(threads)), min(threads, default=1)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = self._executor.submit(function, *arguments, **options)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._executor.shutdown(wait=wait)
        self._client.close()


@CLUSTERS.register("ray")
def ray(address: str) -> Executor:
    """The cluster that this machine is part of, or the one at ``ray://HOST:PORT``; else a cluster of this machine.

    Raises:
        UsageError: what follows ``?`` is not the GPUs of a task.
        MissingRuntimeError: Ray is not installed.
        ConnectionError: nobody answers at the address.
    """
    place, asks, words = address.partition("?")
    gpus = re.fullmatch(r"gpus=(\d*\.?\d+)", words)
    if asks and (gpus is None or not float(gpus[1])):
        raise UsageError(f"{{--workers}} {address}: expected nothing behind '?' but gpus=1, the GPUs of a task")
    try:
        import ray as engine
    except ImportError as e:
        raise MissingRuntimeError("Ray is not installed: pip install 'hqp-onnx[ray]'") from e
    engine.init(place if "://" in place else None, log_to_driver=False, logging_level="ERROR")
    return OfRay(engine, float(gpus[1]) if gpus else 0.0)


class OfRay(Executor):
    """Tasks of Ray.

    Args:
        engine: the module ``ray``, connected.
        gpus: that a task has; 0 for one core and no GPU.
    """

    threads = 1  # of a task, as Ray counts them

    def __init__(self, engine: Any, gpus: float = 0.0) -> None:
        self._ray, has = engine, engine.cluster_resources()
        self._needs = {"num_gpus": gpus} if gpus else {}
        self.workers = max(1, int(has.get("GPU", 0) / gpus if gpus else has.get("CPU", 1)))

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """See ``Executor``."""
        remote = self._ray.remote(max_retries=_RETRIES, **self._needs)(function)
        future: Future[Any] = remote.remote(*arguments, **options).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster."""
        self._ray.shutdown()
