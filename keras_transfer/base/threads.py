"""Work beside the main thread: batches prepared ahead, many small calls at once."""

import collections
import os
from collections.abc import Callable, Generator, Iterator
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


def in_threads(function: Callable[[int], None], count: int, workers: int = 0) -> None:
    """Calls ``function`` with 0 to ``count - 1``, and gives up at the first error.

    Worth it where the work releases Python's lock, as decoding, hashing and reading do.

    Args:
        function: what is called.
        count: how often.
        workers: the number of threads; one for each core by default.
    """
    workers = workers or cores()
    if workers == 1 or count <= 2:
        for i in range(count):
            function(i)
        return
    # Enough calls a task to hide what a task costs; with fifty tasks a thread, the last ones do not
    # keep the other threads waiting for long.
    chunk = max(2, min(16, count // (50 * workers)))

    def several(start: int) -> None:
        for i in range(start, min(start + chunk, count)):
            function(i)

    # Freeing a large block teaches glibc to keep memory, rather than to give the buffers of every
    # image back to the system and meet a page fault for each 4 KiB of the next one.
    del bytearray(2**24)[:]
    pool = ThreadPoolExecutor(workers)
    try:
        for _ in pool.map(several, range(0, count, chunk)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all that is queued


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
