import threading

import pytest

from keras_transfer.base.threads import prefetch


def test_batches_come_in_order_and_ahead_of_who_asks():
    made, third = [], threading.Event()

    def source():
        for number in range(6):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    ahead = prefetch(source(), depth=3)
    assert next(ahead) == 0
    assert third.wait(10)
    assert list(ahead) == made[1:] == [1, 2, 3, 4, 5]


def test_an_error_comes_where_the_batch_would_have():
    def source():
        yield 1
        raise ZeroDivisionError

    ahead = prefetch(source())
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError):
        next(ahead)


def test_who_stops_early_leaves_no_thread_behind():
    def endless():
        while True:
            yield 0

    before = threading.active_count()
    ahead = prefetch(endless())
    assert next(ahead) == 0
    ahead.close()
    assert threading.active_count() == before
