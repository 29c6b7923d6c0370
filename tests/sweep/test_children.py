"""The processes of a sweep, stood in for by small programs: what they are given, and how they end."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from resnet_jax.sweep.children import Child, Outcomes, _Process, _take_in, last_line, run_children
from resnet_jax.sweep.shares import Share

WAITS = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('waits', flush=True); "
    "time.sleep(60)"
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot")


def child(folder, name, code):
    return Child("run 1 of 1", name, (sys.executable, "-c", code), folder / name, folder / f"{name}.log")


def wait_until(is_true):
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def says(log, word):
    return log.exists() and any(line.startswith(word) for line in log.read_text().splitlines())


def test_each_ends_in_its_way_and_no_failure_keeps_another_from_running(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("resnet_jax"), "propagate", True)
    caplog.set_level(logging.INFO)
    programs = {
        "failing": "print('working'); raise SystemExit('error: no such images')",
        "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "interrupted": "raise SystemExit(75)",
        "fine": "print('fine')",
    }
    children = [child(tmp_path, name, code) for name, code in programs.items()]
    outcomes = run_children(children, [Share()])
    assert [(failed.name, how) for failed, how in outcomes.failed] == [
        ("failing", "exit code 1"),
        ("killed", "ended by SIGKILL"),
    ]
    assert [interrupted.name for interrupted in outcomes.interrupted] == ["interrupted"]
    assert (outcomes.left, outcomes.stopped_by) == ([], "")
    assert last_line(children[0].log) == "no such images"
    assert last_line(children[1].log) == ""
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"run 1 of 1: failing (log: {tmp_path / 'failing.log'})"
    assert lines[-1].startswith("run 1 of 1: fine done in ")
    run_children(children[3:], [Share()])
    assert children[3].log.read_text().splitlines()[1::2] == ["fine", "fine"]  # between the commands


def test_a_process_that_ctrl_break_ends_on_windows_was_interrupted(tmp_path):
    ended = SimpleNamespace(returncode=0xC000013A)
    for received, how in (([signal.SIGINT], "interrupted"), ([], "failed")):
        outcomes = Outcomes()
        _take_in(_Process(child(tmp_path, "run", ""), Share(), ended, 0.0), received, outcomes)
        assert [bool(outcomes.interrupted), bool(outcomes.failed)] == [how == "interrupted", how == "failed"]


@linux
def test_each_has_its_own_variables_and_cores(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    code = "import os, time; time.sleep(0.5); print(os.environ['PLACE'], sorted(os.sched_getaffinity(0)))"
    children = [child(tmp_path, name, code) for name in ("a", "b")]
    run_children(children, [Share({"PLACE": "first"}, (cores[0],)), Share({"PLACE": "second"}, (cores[-1],))])
    assert last_line(children[0].log) == f"first [{cores[0]}]"
    assert last_line(children[1].log) == f"second [{cores[-1]}]"
    assert sorted(os.sched_getaffinity(0)) == cores


def test_a_signal_is_handed_on_and_nothing_begins_after_it(tmp_path):
    children = [child(tmp_path, name, WAITS) for name in ("a", "b", "c")]
    handler = signal.getsignal(signal.SIGTERM)

    def interrupt():
        wait_until(lambda: all(says(one.log, "waits") for one in children[:2]))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    outcomes = run_children(children, [Share(), Share()])
    thread.join()
    assert {one.name for one in outcomes.interrupted} == {"a", "b"}
    assert ([one.name for one in outcomes.left], outcomes.stopped_by) == (["c"], "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is handler


@linux
def test_none_outlives_a_sweep_that_is_killed(tmp_path):
    code = (
        "import sys; from pathlib import Path; from resnet_jax.sweep.children import Child, run_children; "
        "from resnet_jax.sweep.shares import Share; folder = Path(sys.argv[1]); "
        "run_children([Child('', '', (sys.executable, '-c', sys.argv[2]), folder, folder / 'log')], [Share()])"
    )
    program = WAITS.replace("sys.exit(75)", "print('asked to stop', flush=True) or sys.exit(75)")
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), program])
    try:
        wait_until(lambda: says(tmp_path / "log", "waits"))
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: says(tmp_path / "log", "asked to stop"))
