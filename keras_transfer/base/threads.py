"""Work beside the main thread: batches prepared ahead."""

from __future__ import annotations

import collections
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def prefetch(source: Iterator[Any], depth: int = 3) -> Generator[Any]:
    """Prepares the next ``depth`` batches in a thread while the step computes on the present one.

    What ``source`` raises is raised where the batch would have come.
    """
    end, pool = object(), ThreadPoolExecutor(1)
    ahead = collections.deque(pool.submit(next, source, end) for _ in range(depth))
    try:
        while (batch := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, source, end))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
