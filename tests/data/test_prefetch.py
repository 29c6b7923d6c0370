"""Batches made ahead: in order, no further ahead than said, errors where they belong, and nothing left running."""

import threading
import time

import pytest

from resnet_jax.data.prefetch import prefetch


def test_results_come_in_order_however_long_each_takes():
    def make(position):
        time.sleep(0.01 * (position % 3 == 0))
        return position

    assert list(prefetch(make, range(3, 20), depth=4)) == list(range(3, 20))
    assert list(prefetch(make, [])) == []


def test_no_more_are_made_than_the_depth_ahead():
    made = []
    items = prefetch(lambda position: made.append(position) or position, range(100), depth=2)
    for expected in range(5):
        assert next(items) == expected
        items_made = len(made)
        assert items_made <= expected + 1 + 2
    items.close()
    assert len(made) <= 7


def test_next_ones_are_made_while_one_is_used():
    second = threading.Event()

    def make(position):
        if position == 1:
            second.set()
        return position

    items = prefetch(make, range(3))
    assert next(items) == 0
    assert second.wait(10)  # though nobody has asked for it
    items.close()


def test_error_is_raised_where_its_result_would_have_come():
    def make(position):
        if position == 2:
            raise ValueError("batch 2")
        return position

    items = prefetch(make, range(5))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="batch 2"):
        next(items)


def test_closing_leaves_no_thread():
    before = threading.active_count()
    items = prefetch(lambda position: position, range(1000), depth=3)
    next(items)
    assert threading.active_count() > before
    items.close()
    assert threading.active_count() == before
