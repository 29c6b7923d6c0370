"""Which process cannot be reached is said in time, by the others, and only where it is so."""

import logging
import signal
import threading
import time

import pytest
from processes import TINY, end, start_many, wait_for_step

from resnet_jax.distributed.signs_of_life import SignsOfLife

HEARTBEAT = 1.0


class Service:
    """The coordination service's keys; it does not answer while `is_cut`."""

    def __init__(self):
        self.values, self.is_cut, self.ends = {}, False, threading.Event()

    def key_value_set(self, key, value, *, allow_overwrite):
        assert allow_overwrite
        while self.is_cut and not self.ends.is_set():
            time.sleep(0.01)
        self.values[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.values.items() if name.startswith(key)]


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("resnet_jax"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if "sign of life" in record.getMessage()]


def test_a_silent_process_is_named_once_by_process_0(said):
    service = Service()
    signs = [SignsOfLife(service, number, "h1:8476", HEARTBEAT) for number in range(3)]
    time.sleep(2 * HEARTBEAT)
    assert said() == []
    signs[2].stop()
    time.sleep(2 * HEARTBEAT)
    for one in signs:
        one.stop()
    (line,) = said()
    assert line.startswith("process 0: process 2 has given no sign of life for 1 s: unless it comes back")


def test_a_service_that_does_not_answer_is_named_by_the_others(said):
    service = Service()
    signs = SignsOfLife(service, 1, "h1:8476", HEARTBEAT)
    time.sleep(HEARTBEAT / 2)
    service.is_cut = True
    time.sleep(2 * HEARTBEAT)
    signs.stop()
    service.ends.set()
    (line,) = said()
    assert line.startswith("process 1: process 0, at h1:8476, has given no sign of life")


@pytest.mark.slow
@pytest.mark.parametrize("paused", [0, 1])
def test_a_paused_process_is_named_before_the_others_end(tmp_path, paused):
    words = [*TINY, "--config.num_steps=100000", "--config.eval_every_epochs=1000", "--workdir", tmp_path / "run"]
    processes = start_many(2, *words, environment={"RESNET_JAX_HEARTBEAT_SECONDS": "8"})
    try:
        wait_for_step(processes[0], tmp_path / "run", 20)
        processes[paused].send_signal(signal.SIGSTOP)
        code, _, errors = end(processes[1 - paused])
    finally:
        processes[paused].kill()
    end(processes[paused])
    assert code in (1, 134, -6)
    assert f"process {paused}{', at localhost' if paused == 0 else ''}" in errors
    assert "has given no sign of life" in errors
