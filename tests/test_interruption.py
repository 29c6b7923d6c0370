"""What stops a run: signals, its time, and a failure that all processes learn of at the same step."""

import os
import signal
import subprocess
import sys
import time

import pytest

from resnet_jax.distributed.preemption import FAILED, Interruption, catch_interruptions
from resnet_jax.errors import InterruptedRunError, NonFiniteError

WAIT = """
import time
from resnet_jax.distributed.preemption import catch_interruptions

with catch_interruptions() as interruption:
    interruption.at_once = False
    print("ready", flush=True)
    while not interruption.requested():
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
    with catch_interruptions() as interruption:
        interruption.at_once = False
        assert not interruption.requested()
        os.kill(os.getpid(), number)
        assert interruption.requested()
        with pytest.raises(InterruptedRunError, match=number.name):
            interruption.raise_if_requested()
    assert signal.getsignal(number) is before


def test_time_that_is_up_stops_after_the_first_step(monkeypatch):
    interruption = Interruption(1, stop_after_minutes=2.0)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 125.0)
    assert not interruption.requested()
    interruption.has_progressed = True
    with pytest.raises(InterruptedRunError, match=r"config.stop_after_minutes=2$"):
        interruption.raise_if_requested()
    monkeypatch.setattr(time, "monotonic", lambda: now + 115.0)
    interruption = Interruption(1, stop_after_minutes=2.0)
    interruption.has_progressed = True
    assert not interruption.requested()


def test_failure_is_raised_at_once_by_a_process_that_is_alone():
    interruption = Interruption(1)
    with pytest.raises(KeyError):
        interruption.attempt(lambda: {}["x"])
    assert interruption.attempt(lambda: 3) == 3
    assert list(interruption.attempt_each(iter("abc"), 3)) == ["a", "b", "c"]


def test_failure_of_one_of_many_goes_on_with_the_last_item_until_all_know(monkeypatch):
    interruption = Interruption(2)
    monkeypatch.setattr("resnet_jax.distributed.preemption.together", lambda function: function())

    def items():
        yield "a"
        yield "b"
        raise OSError("no disk")

    assert list(interruption.attempt_each(items(), 5)) == ["a", "b", "b", "b", "b"]
    assert not interruption.requested()  # no step has carried it yet
    interruption._maxima.extend([0, signal.SIGTERM, FAILED, 0])
    with pytest.raises(OSError, match="no disk"):
        interruption.requested()
    # What all find in the same numbers, all raise at once.
    with pytest.raises(NonFiniteError):
        Interruption(2).attempt(lambda: (_ for _ in ()).throw(NonFiniteError("step 3")))


def test_request_is_read_a_step_later_unless_all_steps_are_waited_for():
    interruption = Interruption(2)
    interruption._maxima.extend([0, signal.SIGTERM])
    assert not interruption.requested()
    interruption.raise_if_failed()
    assert interruption.requested()
