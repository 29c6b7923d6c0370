"""Training from Python: callbacks hear of each thing once, over kills and restarts; starts are written down."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pausing
import pytest
from processes import TINY, end, free_port, records

import resnet_jax
from resnet_jax.errors import UserError
from resnet_jax.training import metric_writer, run
from resnet_jax.training.callbacks import CALLBACKS_FILE, CallbackList
from resnet_jax.training.starts import STARTS_FILE, StartLog, read_starts

FIELDS = [word for word in TINY if word.startswith("--config.")]


def tiny(num_steps=60, **fields):
    words = [f"--config.{name}={value}" for name, value in {"num_steps": num_steps, **fields}.items()]
    return resnet_jax.load_config("digits", [*FIELDS, *words])


class Heard:
    """Keeps all it hears."""

    def __init__(self):
        self.starts, self.records, self.evaluations, self.checkpoints, self.ends = [], [], [], [], []

    def on_start(self, run):
        self.starts.append(run.id)

    def on_record(self, run, record):
        assert record in run.records
        self.records.append(record)

    def on_evaluation(self, run, split, metrics):
        self.evaluations.append((metrics["step"], split, metrics["accuracy"]))

    def on_checkpoint(self, run, step, path):
        assert path.is_dir()
        self.checkpoints.append((path.parent.name, step))

    def on_end(self, run, result):
        self.ends.append((result.step, result.interrupted_by))


def test_a_callback_hears_of_every_record_evaluation_and_checkpoint(tmp_path):
    heard = Heard()
    result = resnet_jax.train(tiny(), tmp_path / "run", [heard])
    assert heard.records == result.records
    assert len(heard.evaluations) == sum("val_loss" in record or "test_loss" in record for record in result.records)
    assert heard.evaluations[-1][:2] == (60, "test")
    assert [step for kind, step in heard.checkpoints if kind == "checkpoints"] == [25, 50, 60]
    assert heard.ends == [(60, "")]
    again = Heard()
    resnet_jax.train(tiny(), tmp_path / "run", (again,))  # finished, and nothing twice
    assert (again.records, again.checkpoints, again.ends) == ([], [], [(60, "")])
    assert again.starts == heard.starts


def test_train_gives_what_the_command_gives(tmp_path):
    of_call = resnet_jax.train(tiny(30), tmp_path / "call")
    words = [sys.executable, "-m", "resnet_jax", *TINY, "--config.num_steps=30", "--workdir", tmp_path / "command"]
    environment = {**os.environ, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
    printed = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    assert of_call.digest in printed
    assert records(tmp_path / "call") == records(tmp_path / "command")


KILLED_AT = (60, 130, 290)
PROGRAM = f"""
import json, sys
import resnet_jax
{pausing.PROGRAM.format(steps=set(KILLED_AT))}
class Log:
    def write(self, *entry):
        with open(sys.argv[2], "a") as file:
            file.write(json.dumps(entry) + "\\n")

    def on_record(self, run, record):
        record.pop("images_per_second", None)
        self.write("record", record)

    def on_evaluation(self, run, split, metrics):
        self.write("evaluation", split, metrics)

    def on_checkpoint(self, run, step, path):
        self.write("checkpoint", path.parent.name, step)

config = resnet_jax.load_config("digits", sys.argv[4:])
callbacks = [Log(), Pause()] if sys.argv[3] == "pause" else [Log()]
result = resnet_jax.train(config, sys.argv[1], callbacks)
sys.exit(75 if result.interrupted_by else 0)
"""


def start_program(folder, name, pause=""):
    words = [sys.executable, "-c", PROGRAM, folder / name, folder / f"{name}.log", pause, *FIELDS]
    words.append("--config.num_steps=400")
    return subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_continued_nothing_is_heard_twice_or_missed(tmp_path, number):
    assert start_program(tmp_path, "unbroken").wait(240) == 0
    for step in KILLED_AT:
        code = pausing.kill_at(start_program(tmp_path, "broken", "pause"), tmp_path / "broken", step, number)
        assert code == (75 if number == signal.SIGTERM else -number)
    assert start_program(tmp_path, "broken").wait(240) == 0

    def heard(name, *kinds):
        entries = map(json.loads, (tmp_path / f"{name}.log").read_text().splitlines())
        return [entry for entry in entries if entry[0] in kinds]

    assert heard("broken", "record", "evaluation") == heard("unbroken", "record", "evaluation")
    saved = [tuple(entry[1:]) for entry in heard("broken", "checkpoint")]
    assert len(saved) == len(set(saved))  # a kill may come before a checkpoint that the unbroken run has
    assert len(read_starts(tmp_path / "broken")) == 4


def test_what_raised_is_brought_again_and_what_is_new_catches_up(tmp_path):
    class Fails(Heard):
        def on_record(self, run, record):
            if record["step"] == 30:
                raise OSError("no network")
            super().on_record(run, record)

    failing = Fails()
    with pytest.raises(OSError, match="no network"):
        resnet_jax.train(tiny(), tmp_path / "run", [failing])
    missed = failing.records
    assert missed[-1]["step"] < 30
    failing = Heard()
    Heard.__qualname__, before = Fails.__qualname__, Heard.__qualname__  # the same class, mended
    try:
        result = resnet_jax.train(tiny(), tmp_path / "run", [failing])
    finally:
        Heard.__qualname__ = before
    steps = [(record["step"], "train_loss" in record) for record in (*missed, *failing.records)]
    assert steps == [(record["step"], "train_loss" in record) for record in result.records]
    new = Heard()
    resnet_jax.train(tiny(), tmp_path / "run", [failing, new])
    assert new.records == result.records


def test_an_evaluation_is_heard_once_however_often_the_log_is_written(tmp_path):
    class Evaluations:
        def __init__(self):
            self.heard = []

        def on_evaluation(self, run, split, metrics):
            self.heard.append((metrics["step"], split))

    def records(step, *kinds):
        return [
            {"step": step, "epoch": 1.0, **{f"{kind}_{name}": 0.5 for name in ("loss", "accuracy")}} for kind in kinds
        ]

    for name, killed, continued in (
        ("finer", ["val"], ["train", "val", "test"]),
        ("coarser", ["train", "val"], ["val", "test"]),
        ("tested first", ["train", "test"], ["train", "test", "val"]),
    ):
        callback, folder = Evaluations(), tmp_path / name
        folder.mkdir()
        for kinds in (killed, continued):
            calls = CallbackList([callback], folder)
            for record in records(390, *kinds):
                calls.record(record)
        assert sorted(callback.heard) == [(390, "test"), (390, "val")]


def test_a_run_that_was_killed_after_its_last_step_is_finished_by_the_next_start(tmp_path):
    resnet_jax.train(tiny(30), tmp_path / "run")
    path = tmp_path / "run" / STARTS_FILE
    path.write_text(path.read_text().replace('"finished": true', '"finished": false'))
    resnet_jax.train(tiny(30), tmp_path / "run")
    assert [start.finished for start in read_starts(tmp_path / "run")] == [False, True]


@pytest.mark.slow
def test_of_two_processes_the_first_alone_calls_and_its_stop_stops_both(tmp_path):
    code = """
import os, sys
import jax
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
import resnet_jax

class Stops:
    def on_record(self, run, record):
        print("record", record["step"], flush=True)
        if record["step"] == 10:
            run.stop("enough")
        if record["step"] == 20 and len(sys.argv) > 4 and sys.argv[4] == "fail":
            raise OSError("no network")

result = resnet_jax.train(resnet_jax.load_config("digits", sys.argv[5:]), sys.argv[3], [Stops()])
print("ended", result.step, result.interrupted_by, flush=True)
"""

    def ends(then):
        words = [sys.executable, "-c", code, free_port()]
        rest = [tmp_path / "run", then, *FIELDS, "--config.num_steps=60", "--config.log_every_steps=1"]
        processes = [
            subprocess.Popen(
                list(map(str, [*words, number, *rest])), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for number in range(2)
        ]
        return [end(process) for process in processes]

    (first, of_first, errors), (second, of_second, _) = ends("stop")
    assert (first, second) == (0, 0), errors
    assert "record 10\n" in of_first
    assert "record" not in of_second
    stopped = int(of_first.rpartition("ended ")[2].split()[0])
    assert 10 <= stopped <= 15  # some steps are under way when the other hears of it
    assert of_first.endswith(f"ended {stopped} enough\n")
    assert of_second.endswith(f"ended {stopped} a callback\n")
    (first, of_first, errors), (second, _, _) = ends("fail")
    assert first != 0
    assert second != 0
    assert "no network" in errors
    assert "record 21" not in of_first  # it would be past the one that failed
    (first, of_first, errors), _ = ends("go on")
    assert first == 0, errors
    assert re.findall(r"record (\d+)", of_first)[0] == "20"
    assert f"record {stopped}\n" not in of_first


def test_a_callback_stops_the_run_and_the_same_call_continues_it(tmp_path):
    unbroken = resnet_jax.train(tiny(), tmp_path / "unbroken")

    class Stops:
        def on_record(self, run, record):
            if record["step"] == 30:
                run.stop("good enough")

    result = resnet_jax.train(tiny(), tmp_path / "run", [Stops()])
    assert result.interrupted_by == "good enough"
    assert 30 <= result.step <= 32
    result = resnet_jax.train(tiny(), tmp_path / "run", [Stops()])  # it has heard of step 30
    assert (result.interrupted_by, result.digest) == ("", unbroken.digest)
    first, second = read_starts(tmp_path / "run")
    assert (first.from_step, first.finished, second.to_step, second.finished) == (0, False, 60, True)
    assert second.from_step == first.to_step


@pytest.mark.parametrize("stops", [False, True])
def test_all_is_on_disk_when_a_start_ends(tmp_path, monkeypatch, stops):
    class Looks:
        def on_record(self, run, record):
            if stops and record["step"] == 30:
                run.stop("enough")

        def on_end(self, run, result):
            self.there = {path.name for path in run.workdir.iterdir()}
            self.picture = (run.workdir / "curves.png").read_bytes()

    looks, drawn = Looks(), []
    draw = metric_writer.draw_curves
    monkeypatch.setattr(metric_writer, "draw_curves", lambda *words: drawn.append(words) or draw(*words))
    result = resnet_jax.train(tiny(), tmp_path / "run", [looks])
    assert result.interrupted_by == ("enough" if stops else "")
    assert {"config.json", "metrics.jsonl", "curves.png", "checkpoints", "starts.json"} <= looks.there
    assert len(drawn) == 1  # and not once more behind the callback


def test_a_callback_that_stops_a_run_at_its_end_leaves_nothing_undone(tmp_path):
    class Stops:
        def on_evaluation(self, run, split, metrics):
            if metrics["step"] == run.num_steps and split == "val":
                run.stop("no longer better")

    result = resnet_jax.train(tiny(), tmp_path / "run", [Stops()])
    assert (result.step, result.interrupted_by) == (60, "")
    assert "test_accuracy" in result.records[-1]


def test_what_is_no_callback_is_refused_in_one_line(tmp_path):
    class Keras:
        def on_epoch_end(self, epoch, logs):
            pass

    class Mistyped:
        def on_records(self, run, record):
            pass

    for callbacks, message in [
        ([Keras()], r"Keras.on_epoch_end is never called; did you mean .*; a callback has any of on_start, on_record"),
        ([Mistyped()], r"did you mean 'on_record'\?"),
        ([Heard], r"Heard is a class: give an object of it, Heard\(\)"),
        ([print], r"has nothing to call"),
        (Heard(), r"must be a list or tuple of callbacks"),
    ]:
        with pytest.raises(UserError, match=message):
            resnet_jax.train(tiny(), tmp_path / "run", callbacks)
    assert not (tmp_path / "run").exists()


def test_what_is_no_config_is_refused_in_one_line(tmp_path):
    changed = tiny()
    changed.learning_rate = -1.0
    for config, message in [
        (changed, r"config.learning_rate=-1.0"),
        ({"learning_rate": 0.1}, "config must be an ml_collections.ConfigDict or a config's name, not dict"),
        ("digit", "did you mean 'digits'"),
    ]:
        with pytest.raises(UserError, match=message):
            resnet_jax.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_of_callbacks_is_refused_and_one_of_starts_is_kept(tmp_path, caplog):
    resnet_jax.train(tiny(30), tmp_path / "run", [Heard()])
    (tmp_path / "run" / CALLBACKS_FILE).write_text("{")
    with pytest.raises(UserError, match=r"callbacks.json must say what the run's callbacks have heard: bring it back"):
        resnet_jax.train(tiny(30), tmp_path / "run", [Heard()])
    resnet_jax.train(tiny(30), tmp_path / "run")  # without callbacks nobody asks
    (tmp_path / "run" / STARTS_FILE).write_text('[{"began": 3}]')
    resnet_jax.train(tiny(40), tmp_path / "run")
    assert [start.to_step for start in read_starts(tmp_path / "run")] == [40]
    assert (tmp_path / "run" / "starts-damaged.json").read_text() == '[{"began": 3}]'


def test_starts_that_cannot_be_read_are_left_as_they_are(tmp_path, monkeypatch, caplog):
    (tmp_path / STARTS_FILE).write_text("[]")
    read_text = Path.read_text

    def fails(path, *words, **options):
        if path.name == STARTS_FILE:
            raise OSError(116, "Stale file handle")
        return read_text(path, *words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fails)
        log = StartLog(tmp_path, 0, time.time() - 7, is_over=False)
    log.finish(3, finished=True)
    assert (tmp_path / STARTS_FILE).read_text() == "[]"
    assert "starts.json cannot be read (Stale file handle): this start is not written there" in caplog.text


def test_the_seconds_of_a_start_do_not_follow_the_clock(tmp_path, monkeypatch):
    log = StartLog(tmp_path, 0, time.time() - 7, is_over=False)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # set back
    log.finish(3, finished=True)
    (start,) = read_starts(tmp_path)
    assert 7 <= start.seconds < 100


def test_ctrl_c_before_the_first_step_is_pythons_own(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run, "build_experiment", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted by SIGINT before the first step"):
        resnet_jax.train(tiny(), tmp_path / "run")


def test_a_thread_may_train(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(resnet_jax.train(tiny(30), tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].step == 30


def test_two_of_a_class_hear_each_for_themselves(tmp_path):
    heard = CallbackList([Heard(), Heard()], Path(tmp_path))
    assert heard._names == ["Heard", "Heard 2"]
