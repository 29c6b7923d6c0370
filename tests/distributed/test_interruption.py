"""Checks the stops of a run: signals, its time, and a failure that all processes learn of at the same step."""

import os
import signal
import subprocess
import sys
import time

import pytest

from resnet_jax.distributed.preemption import FAILED, PreemptionGuard, catch_preemption
from resnet_jax.errors import NonFiniteError, Preempted

WAIT = """
import time
from resnet_jax.distributed.preemption import catch_preemption

with catch_preemption() as preemption:
    preemption.interrupt_immediately = False
    print("ready", flush=True)
    while not preemption.requested():
        time.sleep(0.01)
    print("requested", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def waiting():
    """A process whose step takes a minute after the first signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_second_ctrl_c_ends_at_once(waiting):
    waiting.send_signal(signal.SIGINT)
    assert waiting.stdout.readline() == "requested\n"
    assert waiting.stderr.readline() == "interrupted: this step ends and is saved; Ctrl-C again ends at once\n"
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(timeout=30) == -signal.SIGINT


def test_other_signals_may_come_again_and_again(waiting):
    """Batch systems send more than one before they kill; the save must not be broken off."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        waiting.send_signal(number)
        time.sleep(0.05)
    assert waiting.stdout.readline() == "requested\n"
    assert waiting.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_signal_is_named_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with catch_preemption() as preemption:
        preemption.interrupt_immediately = False
        assert not preemption.requested()
        os.kill(os.getpid(), number)
        assert preemption.requested()
        with pytest.raises(Preempted, match=number.name):
            preemption.stop_if_requested()
    assert signal.getsignal(number) is before


def test_time_that_is_up_stops_after_the_first_step(monkeypatch):
    preemption = PreemptionGuard(1, stop_after_minutes=2.0)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 125.0)
    assert not preemption.requested()
    preemption._has_progressed = True
    with pytest.raises(Preempted, match=r"config.stop_after_minutes=2$"):
        preemption.stop_if_requested()
    monkeypatch.setattr(time, "monotonic", lambda: now + 115.0)
    preemption = PreemptionGuard(1, stop_after_minutes=2.0)
    preemption._has_progressed = True
    assert not preemption.requested()


def test_failure_is_raised_at_once_by_a_process_that_is_alone():
    preemption = PreemptionGuard(1)
    with pytest.raises(KeyError):
        preemption.defer_errors(lambda: {}["x"])
    assert preemption.defer_errors(lambda: 3) == 3
    assert list(preemption.defer_errors_of(iter("abc"), 3)) == ["a", "b", "c"]


def test_failure_of_one_of_many_goes_on_with_the_last_item_until_all_know(monkeypatch):
    preemption = PreemptionGuard(2)
    monkeypatch.setattr("resnet_jax.distributed.preemption.sync_errors", lambda function: function())

    def items():
        yield "a"
        yield "b"
        raise OSError("no disk")

    assert list(preemption.defer_errors_of(items(), 5)) == ["a", "b", "b", "b", "b"]
    assert not preemption.requested()  # no step has carried it yet
    preemption._flags.extend([0, signal.SIGTERM, FAILED, 0])
    with pytest.raises(OSError, match="no disk"):
        preemption.requested()
    # What all find in the same numbers, all raise at once.
    with pytest.raises(NonFiniteError):
        PreemptionGuard(2).defer_errors(lambda: (_ for _ in ()).throw(NonFiniteError("step 3")))


def test_request_is_read_a_step_later_unless_all_steps_are_waited_for():
    preemption = PreemptionGuard(2)
    preemption._flags.extend([0, signal.SIGTERM])
    assert not preemption.requested()
    preemption.raise_deferred_errors()
    assert preemption.requested()
