"""What becomes of a step's metrics."""

import json

import jax.numpy as jnp
import pytest

from resnet_jax.errors import NonFiniteError
from resnet_jax.training import recorder as module
from resnet_jax.training.recorder import MetricSums, Recorder


def metrics(loss):
    return {
        "loss": jnp.asarray(loss), "accuracy": jnp.asarray(0.5), "gradient_norm": jnp.asarray(1.0),
        "learning_rate": jnp.asarray(0.1),
    }  # fmt: skip


def make(workdir, **options):
    return Recorder(
        workdir, "run", step=0, sums=MetricSums(), num_steps=100, steps_per_epoch=10, batch_size=4, log_every_steps=3,
        **options,
    )  # fmt: skip


def test_loss_that_is_not_finite_stops_and_names_the_step(tmp_path):
    with make(tmp_path) as recorder:
        recorder.take_step(1, metrics(1.0))
        with pytest.raises(NonFiniteError, match=r"step 2: loss nan, gradient norm 1\.0"):
            recorder.take_step(2, metrics(float("nan")))


def test_skipped_updates_are_told_counted_and_left_out_of_the_means(tmp_path, capsys):
    with make(tmp_path, skips_nonfinite=True) as recorder:
        for step, loss in enumerate((1.0, float("inf"), 2.0, 4.0, 4.0, 4.0), start=1):
            recorder.take_step(step, metrics(loss))
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["train_loss"], first["skipped_updates"]) == (1.5, 1)
    assert second["train_loss"] == 4.0
    assert "skipped_updates" not in second
    assert "warning: step 2: loss inf, gradient norm 1.0: the update is skipped" in capsys.readouterr().err


def test_record_of_nothing_but_skipped_updates_has_no_loss(tmp_path):
    with make(tmp_path, skips_nonfinite=True) as recorder:
        for step in (1, 2, 3):
            recorder.take_step(step, metrics(float("nan")))
    (record,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert "train_loss" not in record
    assert record["skipped_updates"] == 3


def test_run_that_only_skips_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SKIPPED_IN_SUCCESSION", 3)
    with make(tmp_path, skips_nonfinite=True) as recorder:
        for step, loss in enumerate((float("nan"), float("nan"), 1.0, float("nan"), float("nan")), start=1):
            recorder.take_step(step, metrics(loss))
        with pytest.raises(NonFiniteError, match=r"step 6: .* the 3 last updates were skipped"):
            recorder.take_step(6, metrics(float("nan")))
