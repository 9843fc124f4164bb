from __future__ import annotations

import hashlib

import pytest

from keras_transfer.base.threads import in_threads


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_stop_at_the_first_error(workers):
    done = []

    def work(i: int) -> None:
        if i == 40:
            raise KeyboardInterrupt
        done.append(hashlib.sha256(bytes(100_000)))

    with pytest.raises(KeyboardInterrupt):
        in_threads(work, 20_000, workers)
    assert len(done) < 10_000
