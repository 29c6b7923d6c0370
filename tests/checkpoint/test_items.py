"""Checks the messages of Orbax and asyncio besides the error that is raised."""

import asyncio
import gc
import logging

import pytest

from resnet_jax.checkpoint.serialization import _without_late_callbacks


def test_nothing_is_said_of_failed_arrays_after_the_error_of_one_has_been_raised(caplog):
    """Imitates arrays that are read at once: each future holds its error, and the error's frames hold the futures."""
    loop = asyncio.new_event_loop()

    def read():
        futures = [loop.create_future() for _ in range(3)]
        try:
            raise ValueError("damaged")
        except ValueError as error:
            for future in futures:
                future.set_exception(error)
            raise

    gc.collect()
    with caplog.at_level(logging.DEBUG, "asyncio"):
        try:
            with _without_late_callbacks():
                read()
        except ValueError as error:
            raised = error
        assert not [record for record in caplog.records if "never retrieved" in record.getMessage()]
        del raised
        gc.collect()
    loop.close()
    assert [record.getMessage() for record in caplog.records if "never retrieved" in record.getMessage()] == []


def test_the_error_itself_is_raised():
    with pytest.raises(ValueError, match="damaged"), _without_late_callbacks():
        raise ValueError("damaged")
