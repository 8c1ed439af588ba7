"""Results in order, worked out ahead by threads while who asks for them is busy with those before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], work: Callable[[T], R], threads: int) -> Iterator[R]:
    """``work(item)`` for each item, in order; up to ``threads`` are in work beside the one that was asked for.

    What ``work`` raises is raised where its result is asked for. With 0 threads nothing is done ahead.
    """
    count = min(threads, os.cpu_count() or 1)
    if not count:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(count, "hqp-ahead")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
