"""Follows a step's metrics into the log."""

import errno
import json
import subprocess
import sys

import jax.numpy as jnp
import pytest
from event_files import read_events
from tensorboardX.proto.event_pb2 import SessionLog

from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.errors import NonFiniteError, RunError
from resnet_jax.training import metric_writer as module
from resnet_jax.training.events import EventLog
from resnet_jax.training.metric_writer import MetricSums, MetricWriter


def metrics(loss):
    return {
        "loss": jnp.asarray(loss), "accuracy": jnp.asarray(0.5), "gradient_norm": jnp.asarray(1.0),
        "learning_rate": jnp.asarray(0.1),
    }  # fmt: skip


def make(workdir, **options):
    return MetricWriter(
        workdir, "run", num_steps=100, steps_per_epoch=10, batch_size=4, log_every_steps=3,
        preemption=PreemptionGuard(1), **{"step": 0, "sums": MetricSums(), **options},
    )  # fmt: skip


def test_events_are_written_without_torch_also_where_it_is_installed(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from resnet_jax.training.events import EventLog\n"
        "EventLog(Path(sys.argv[1]), 0).add_scalars(1, {'loss': 1.0})\n"
        "assert 'torch' not in sys.modules\n"
        "import torch"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == "RuntimeError: torch was imported"  # by the last line
    assert "EventLog" not in result.stderr
    assert [*tmp_path.glob("events.*")]


def test_loss_that_is_not_finite_stops_and_names_the_step(tmp_path):
    with make(tmp_path) as recorder:
        recorder.write_train(1, metrics(1.0))
        with pytest.raises(NonFiniteError, match=r"step 2: loss nan, gradient norm 1\.0"):
            recorder.write_train(2, metrics(float("nan")))


def test_skipped_updates_are_told_counted_and_left_out_of_the_means(tmp_path, capsys):
    with make(tmp_path, max_skipped=100) as recorder:
        for step, loss in enumerate((1.0, float("inf"), 2.0, 4.0, 4.0, 4.0), start=1):
            recorder.write_train(step, metrics(loss))
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["train_loss"], first["skipped_updates"]) == (1.5, 1)
    assert second["train_loss"] == 4.0
    assert "skipped_updates" not in second
    assert "warning: step 2: loss inf, gradient norm 1.0: the update is skipped" in capsys.readouterr().err


def test_record_of_nothing_but_skipped_updates_has_no_loss(tmp_path):
    with make(tmp_path, max_skipped=100) as recorder:
        for step in (1, 2, 3):
            recorder.write_train(step, metrics(float("nan")))
    (record,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert "train_loss" not in record
    assert record["skipped_updates"] == 3


def test_run_that_only_skips_stops(tmp_path):
    with make(tmp_path, max_skipped=3) as recorder:
        for step, loss in enumerate((float("nan"), float("nan"), 1.0, float("nan"), float("nan")), start=1):
            recorder.write_train(step, metrics(loss))
        sums = recorder.sums
    # A start that continues goes on counting.
    with (
        make(tmp_path, max_skipped=3, step=5, sums=sums) as recorder,
        pytest.raises(
            NonFiniteError, match=r"step 6: .* the 3 last updates were skipped \(config.max_skipped_updates\)"
        ),
    ):
        recorder.write_train(6, metrics(float("nan")))


def test_log_that_cannot_be_written_stops_the_run_with_the_reason(tmp_path):
    with make(tmp_path) as recorder:
        recorder.log.path.unlink()
        recorder.log.path.mkdir()
        recorder.write_train(1, metrics(1.0))
        recorder.write_train(2, metrics(1.0))
        with pytest.raises(RunError, match=r"metrics.jsonl could not be written: Is a directory"):
            recorder.write_train(3, metrics(1.0))


def test_damaged_lines_of_the_log_are_kept_under_another_name(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "epoch": 0.1}\nnonsense \xff\n{"step": 2, "epoch": 0.2}\n')
    text = path.read_bytes()
    with make(tmp_path, step=2):
        pass
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    assert (tmp_path / "metrics-1.jsonl").read_bytes() == text
    assert f"has damaged lines, and this start begins after step 2: it is kept as {tmp_path}/metrics-1.jsonl" in (
        capsys.readouterr().err
    )


def test_events_and_curves_that_cannot_be_written_stop_nothing(tmp_path, monkeypatch, capsys):
    def full(*words, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventLog, "add_scalars", full)
    monkeypatch.setattr(module, "draw_curves", full)
    with make(tmp_path) as recorder:
        for step in range(1, 10):
            recorder.write_train(step, metrics(1.0))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 2
    assert "TensorBoard's events could not be written: No space left on device; the run goes on without" in warnings[0]
    assert "curves.png could not be written: No space left on device" in warnings[1]


def test_a_picture_that_its_library_refuses_stops_nothing(tmp_path, monkeypatch, capsys):
    def refuse(*words, **options):
        raise ValueError("Expected end of text, found '$'\n$NAME_$")

    monkeypatch.setattr(module, "draw_curves", refuse)
    with make(tmp_path) as recorder:
        recorder.write_train(1, metrics(1.0))
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning"))
    assert "curves.png could not be written: Expected end of text" in warning


@pytest.mark.parametrize(("folder", "title"), [("run", "run"), ("second try", "second try (run)")])
def test_title_of_the_curves_has_the_workdirs_name(tmp_path, monkeypatch, folder, title):
    titles = []
    monkeypatch.setattr(module, "draw_curves", lambda records, path, title: titles.append(title))
    (tmp_path / folder).mkdir()
    with make(tmp_path / folder):
        pass
    assert titles == [title]


def events_in(workdir):
    """The events in the one file of them in `workdir`."""
    (path,) = workdir.glob("events.out.tfevents.*")
    return read_events(path)


def test_events_are_what_tensorboard_reads(tmp_path):
    with make(tmp_path) as recorder:
        for step in range(1, 7):
            recorder.write_train(step, metrics(float(step)))
        recorder.write_eval(6, "val", {"loss": 2.5, "accuracy": 0.25, "count": 4})
    events = events_in(tmp_path)
    assert events[0].file_version == "brain.Event:2"
    assert events[1].step == 1  # what an earlier start wrote of this step and later ones does not count
    assert events[1].session_log.status == SessionLog.START
    scalars = {(event.step, value.tag): value.simple_value for event in events[2:] for value in event.summary.value}
    assert scalars[3, "loss/train"] == 2.0
    assert scalars[6, "loss/train"] == 5.0
    assert scalars[6, "learning_rate"] == pytest.approx(0.1)
    assert scalars[6, "loss/val"] == 2.5


def test_tags_group_a_metrics_curves_or_are_its_names(tmp_path):
    result = {"loss": 2.5, "accuracy": 0.25, "ema_loss": 2.0, "ema_map": 0.5, "count": 4}
    for tags in ("grouped", "plain"):
        (tmp_path / tags).mkdir()
        with make(tmp_path / tags, tensorboard_tags=tags) as recorder:
            recorder.write_eval(6, "test", result)
    found = {tags: {value.tag for event in events_in(tmp_path / tags) for value in event.summary.value}
             for tags in ("grouped", "plain")}  # fmt: skip
    assert found["plain"] == {f"test_{name}" for name in result}
    assert found["grouped"] == {"loss/test", "accuracy/test", "loss/test_ema", "map/test_ema", "count/test"}
