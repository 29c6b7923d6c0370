"""Runs from start to end: broken off and continued, they end exactly as the unbroken one does."""

import errno
import json
import os
import shutil
import signal
import socket
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from processes import TINY, records, run, start, wait_for_step

from resnet_jax.checkpoint.folder import CheckpointFolder, digest, open_best, open_latest
from resnet_jax.cli.main import main
from resnet_jax.config import config_from_dict, load_config
from resnet_jax.data.batches import EvalBatches, epoch_order
from resnet_jax.errors import Preempted, RunError, UserError
from resnet_jax.inference import evaluate as evaluating
from resnet_jax.inference.evaluate import evaluate_run
from resnet_jax.inference.predictor import restore_run
from resnet_jax.training import evaluator, loop
from resnet_jax.training import run as starting
from resnet_jax.training.checkpointer import restore_state
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.experiment import build_experiment, options_of
from resnet_jax.training.jit_steps import init_run_state
from resnet_jax.training.resume import check_run, other_shares
from resnet_jax.training.run import train
from resnet_jax.training.workdir import lock_workdir, read_config
from resnet_jax.weights.load import load_weights

NUM_STEPS = 300
WORDS = [*TINY, f"--config.num_steps={NUM_STEPS}", "--config.model_args.dropout=0.1"]


def run_here(capfd, *words):
    """(exit code, standard output, standard error) of the command in this process, on its simulated devices."""
    code = main(list(map(str, words)))
    return code, *capfd.readouterr()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    code, output, errors = run(*WORDS, "--workdir", workdir)
    assert code == 0, errors
    return workdir, output, errors


def saved_states(workdir):
    """Step and digest of the whole state in each checkpoint folder."""
    config = config_from_dict(json.loads((workdir / "config.json").read_text()))
    experiment = build_experiment(options_of(config), jax.devices()[:1])
    template = init_run_state(experiment)
    result = {}
    for open_checkpoints in (open_latest, open_best):
        checkpoints = open_checkpoints(workdir)
        step = checkpoints.latest_step()
        state = restore_state(checkpoints, template, step)
        result[open_checkpoints.__name__] = step, digest([state.variables, state.opt_state])
    return result


def assert_same_end(workdir, unbroken):
    assert records(workdir) == records(unbroken[0])
    assert saved_states(workdir) == saved_states(unbroken[0])


def test_run_leaves_what_the_readme_promises(unbroken):
    workdir, output, errors = unbroken
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "metrics.jsonl", "curves.png", "checkpoints", "best"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == [str(NUM_STEPS - 25), str(NUM_STEPS)]
    log = records(workdir)
    assert {"step", "epoch", "train_loss", "train_accuracy", "learning_rate"} == set(log[0])
    steps = [record["step"] for record in log if "train_loss" in record]
    assert steps == list(range(5, NUM_STEPS + 1, 5))
    validations = {record["step"]: record for record in log if "val_accuracy" in record}
    assert list(validations) == list(range(20, NUM_STEPS + 1, 20))
    assert {record["val_count"] for record in validations.values()} == {144}
    assert [(record["step"], record["test_count"]) for record in log if "test_accuracy" in record] == [(NUM_STEPS, 360)]
    # The best is the earliest of the highest validation accuracy.
    best = max(record["val_accuracy"] for record in validations.values())
    first = min(step for step, record in validations.items() if record["val_accuracy"] == best)
    assert [path.name for path in (workdir / "best").iterdir()] == [str(first)]
    assert open_best(workdir).position(first)["val_accuracy"] == best
    assert "test accuracy" in output
    assert f"step {NUM_STEPS}/{NUM_STEPS}" in errors


@pytest.mark.slow
def test_killed_and_interrupted_run_saves_exits_75_and_continues_bit_for_bit(unbroken, tmp_path):
    workdir = tmp_path / "run"
    # At moments that fall as they will: before the first checkpoint, after some, and after that of a signal.
    killed, terminated, interrupted = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
    for step, number in ((15, killed), (40, terminated), (80, killed), (110, interrupted)):
        process = start(*WORDS, "--workdir", workdir)
        wait_for_step(process, workdir, step)
        process.send_signal(number)
        _, errors = process.communicate()
        if number == killed:
            assert process.returncode == -killed
            continue
        assert process.returncode == 75, errors
        assert f"interrupted by {number.name}: saved step" in errors
        saved = int(errors.split("saved step ")[1].split()[0])
        assert str(saved) in {path.name for path in (workdir / "checkpoints").iterdir()}
        assert max(record["step"] for record in records(workdir)) <= saved
    code, _, errors = run(*WORDS, "--workdir", workdir)
    assert code == 0, errors
    assert "continuing" in errors
    assert_same_end(workdir, unbroken)


def test_finished_run_exits_0_and_can_be_prolonged(tmp_path, capfd):
    workdir = tmp_path / "run"
    words = [capfd, *TINY, "--config.schedule=constant", "--config.warmup_epochs=0", "--workdir", workdir]
    assert run_here(*words, "--config.num_steps=20")[0] == 0
    before = records(workdir)
    code, output, errors = run_here(*words, "--config.num_steps=20")
    assert code == 0, errors
    assert "test accuracy" in output
    assert records(workdir) == before
    ended = read_config(workdir)
    more = ("--config.eval_every_epochs=3", "--config.tensorboard_tags=plain")
    assert run_here(*words, "--config.num_steps=20", *more)[0] == 0  # its best was chosen as it was
    assert read_config(workdir) == {**ended, "tensorboard_tags": "plain"}
    code, _, errors = run_here(*words, "--config.num_steps=22")
    assert code == 0, errors
    log = records(workdir)
    assert log[: len(before)] == before
    assert [record["step"] for record in log if "test_accuracy" in record] == [20, 22]
    code, _, errors = run_here(*words, "--config.num_steps=21")
    assert code == 2
    assert "is at step 22, past the config's 21" in errors


@pytest.mark.slow
def test_prolonged_cosine_says_how_the_learning_rate_jumps(tmp_path, capfd):
    words = [capfd, *TINY, "--config.warmup_epochs=0", "--workdir", tmp_path / "run"]
    assert run_here(*words, "--config.num_steps=4")[0] == 0
    code, _, errors = run_here(*words, "--config.num_steps=8")
    assert code == 0, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("warning")]
    assert line == (
        "warning: the cosine schedule follows the run's length, which was 4 steps and is now 8: the learning rate was "
        "0.0146 in step 4 and is 0.05 in the next"
    )
    code, _, errors = run_here(*words, "--config.num_steps=8")
    assert (code, [line for line in errors.splitlines() if "warning" in line]) == (0, [])


def tiny_config(**fields):
    """A run of two epochs of one step on the simulated devices of this process."""
    config = load_config("digits", [word for word in TINY if word.startswith("--config.")])
    for name, value in {"num_steps": 2, "batch_size": 1288, "schedule": "constant", **fields}.items():
        config[name] = value
    config.warmup_epochs = 0.0
    return config


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.slow
def test_run_interrupted_in_its_last_evaluation_is_not_finished(tmp_path, monkeypatch, split):
    num_images = {"val": 144, "test": 360}[split]

    def interrupted_evaluate(eval_fn, state, batches, *rest):
        batches = list(batches)
        if int(state.step) == 2 and sum(int(batch["mask"].sum()) for batch in batches) == num_images:
            raise Preempted("SIGTERM")
        return evaluate(eval_fn, state, batches, *rest)

    monkeypatch.setattr(evaluator, "evaluate", interrupted_evaluate)
    result = train(options_of(tiny_config()), tmp_path / "run", "run")
    assert (result.step, result.interrupted_by) == (2, "SIGTERM")
    assert (tmp_path / "run" / "checkpoints" / "2").exists()
    monkeypatch.undo()
    result = train(options_of(tiny_config()), tmp_path / "run", "run")
    assert (result.step, result.interrupted_by) == (2, "")
    done = [
        (record["step"], name) for record in result.records for name in ("val_count", "test_count") if name in record
    ]
    assert done == [(1, "val_count"), (2, "val_count"), (2, "test_count")]


def test_best_is_written_before_a_checkpoint_that_says_that_its_validation_is_done(tmp_path, monkeypatch):
    written = []
    write = CheckpointFolder._write

    def spy(self, step, *rest):
        write(self, step, *rest)
        written.append((self.directory.name, step))

    monkeypatch.setattr(CheckpointFolder, "_write", spy)
    train(options_of(tiny_config(num_steps=1)), tmp_path / "run", "run")
    assert written == [("best", 1), ("checkpoints", 1)]


def damage(folder):
    """Alter one bit of a checkpoint's parameters."""
    file = next((folder / "variables" / "d").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.slow
def test_damaged_steps_are_named_and_set_aside_and_the_run_goes_on_from_the_step_before(tmp_path, capfd):
    config = tiny_config(num_steps=4, checkpoint_every_steps=1)
    config.validation_fraction = 0.0
    unbroken = train(options_of(config), tmp_path / "unbroken", "run")
    workdir = tmp_path / "run"
    config.num_steps = 3
    train(options_of(config), workdir, "run")
    damage(workdir / "checkpoints" / "3")
    config.num_steps = 4
    capfd.readouterr()
    result = train(options_of(config), workdir, "run")
    assert result.digest == unbroken.digest
    errors = capfd.readouterr().err
    warning = next(line for line in errors.splitlines() if line.startswith("warning: "))
    assert f"{workdir}/checkpoints/3/variables is damaged" in warning
    assert f"moved to {workdir}/damaged/checkpoints-3; the step before is taken" in warning
    assert "after step 2" in errors
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["3", "4"]
    # The evaluation takes the step before as well, and leaves all as it is.
    damage(workdir / "checkpoints" / "4")
    assert evaluate_run(workdir)["step"] == 3
    assert f"{workdir}/checkpoints/4/variables is damaged" in capfd.readouterr().err
    damage(workdir / "checkpoints" / "3")
    with pytest.raises(ValueError, match=r"checkpoints/3/variables is damaged"):
        evaluate_run(workdir)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["3", "4"]
    log = records(workdir)
    for _ in range(2):  # nor does the next start begin anew
        with pytest.raises(ValueError, match=r"no checkpoint of this run is whole: they are in .*/run/damaged"):
            train(options_of(config), workdir, "run")
    assert records(workdir) == log
    assert sorted(path.name for path in (workdir / "damaged").iterdir()) == ["checkpoints-3", "checkpoints-4"]
    shutil.rmtree(workdir / "damaged")
    with pytest.raises(ValueError, match=r"checkpoints is empty, where this run saved step 4"):
        train(options_of(config), workdir, "run")
    assert records(workdir) == log


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.slow
def test_log_beyond_a_damaged_step_is_kept(tmp_path, capfd, monkeypatch, killed):
    config, workdir = tiny_config(num_steps=3, checkpoint_every_steps=1, log_every_steps=1), tmp_path / "run"
    config.validation_fraction = 0.0
    train(options_of(config), workdir, "run")
    log = (workdir / "metrics.jsonl").read_bytes()
    damage(workdir / "checkpoints" / "3")
    config.num_steps = 2
    if killed:  # after the step was set aside, and before the log was cut
        monkeypatch.setattr(starting, "MetricWriter", lambda *words, **options: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            train(options_of(config), workdir, "run")
        monkeypatch.undo()
    train(options_of(config), workdir, "run")
    assert max(record["step"] for record in records(workdir)) == 2
    assert (workdir / "metrics-1.jsonl").read_bytes() == log
    assert f"begins after step 2: it is kept as {workdir}/metrics-1.jsonl" in capfd.readouterr().err


@pytest.mark.slow
def test_best_serves_where_all_newest_checkpoints_are_damaged(tmp_path, capfd, monkeypatch):
    config = tiny_config(num_steps=4, checkpoint_every_steps=1)
    unbroken = train(options_of(config), tmp_path / "unbroken", "run")
    workdir = tmp_path / "run"
    config.num_steps = 3
    train(options_of(config), workdir, "run")
    (best,) = (workdir / "best").iterdir()
    for path in (workdir / "checkpoints").iterdir():
        damage(path)
    config.num_steps = 4
    capfd.readouterr()
    monkeypatch.setattr(evaluator, "evaluate", lambda *words: pytest.fail("killed"))
    monkeypatch.setattr(loop.Periods, "saves", lambda *words: False)
    with pytest.raises(pytest.fail.Exception):  # before the run has saved anything new
        train(options_of(config), workdir, "run")
    assert f"after step {best.name}" in capfd.readouterr().err
    monkeypatch.undo()
    assert train(options_of(config), workdir, "run").digest == unbroken.digest
    assert f"after step {best.name}" in capfd.readouterr().err


@pytest.mark.parametrize("lost", ["removed", "emptied"])
@pytest.mark.slow
def test_run_whose_checkpoints_are_gone_is_refused_and_loses_nothing(tmp_path, capfd, lost):
    workdir = tmp_path / "run"
    words = [*TINY, "--config.batch_size=1288", "--config.num_steps=2", "--config.warmup_epochs=0"]
    assert run_here(capfd, *words, "--workdir", workdir)[0] == 0
    latest = workdir / "checkpoints"
    shutil.rmtree(latest)
    if lost == "emptied":
        latest.mkdir()
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.name != ".lock"}
    state = "is empty" if lost == "emptied" else "is gone"
    (best,) = (workdir / "best").iterdir()
    advice = f"bring it back, or copy {best} into it, choose another --workdir, or remove {workdir} to begin anew"
    for command in ([*words], [*words, "--dry_run"], ["doctor", *words[1:]]):
        code, output, errors = run_here(capfd, *command, "--workdir", workdir)
        assert code == 2
        assert f"{latest} {state}, where this run saved step 2" in output + errors
        assert advice in output + errors
        assert "Traceback" not in errors
    code, _, errors = run_here(capfd, "evaluate", "--workdir", workdir)
    assert code == 2
    where = f"{latest} holds no checkpoint, where this run saved step 2"
    assert f"{where}: bring it back, or give --checkpoint best" in errors
    assert run_here(capfd, "evaluate", "--workdir", workdir, "--checkpoint", "best")[0] == 0
    assert before == {path: path.read_bytes() for path in before}
    # The advice is good: the run goes on to the same end.
    latest.mkdir(exist_ok=True)
    shutil.copytree(best, latest / best.name)
    log = records(workdir)
    assert run_here(capfd, *words, "--workdir", workdir)[0] == 0
    assert records(workdir) == log


def killed_write(name):
    """CheckpointFolder._write of a process that is killed while it writes to the folder `name`."""
    write = CheckpointFolder._write

    def written(self, step, *rest):
        if self.directory.name == name:
            raise OSError(errno.EIO, "killed")
        write(self, step, *rest)

    return written


@pytest.mark.parametrize(
    ("every", "validation_fraction", "where"),
    [
        (1, 0.1, "which is in .*/best"),
        pytest.param(1, 0.0, "the last in metrics.jsonl", marks=pytest.mark.slow),
        pytest.param(0, 0.0, "the last in metrics.jsonl", marks=pytest.mark.slow),
    ],
)
def test_run_of_an_older_version_whose_checkpoints_are_gone_is_refused(
    tmp_path, monkeypatch, every, validation_fraction, where
):
    def ever_better(eval_fn, state, batches, *rest):
        return {**evaluate(eval_fn, state, batches, *rest), "accuracy": int(state.step) / 10}

    monkeypatch.setattr(evaluator, "evaluate", ever_better)
    config, workdir = tiny_config(num_steps=3, log_every_steps=1, checkpoint_every_steps=every), tmp_path / "run"
    config.validation_fraction = validation_fraction
    train(options_of(config), workdir, "run")
    if validation_fraction:
        (workdir / "metrics.jsonl").unlink()
    for name in ("checkpoints.json", "best.json"):
        (workdir / name).unlink(missing_ok=True)
    latest = workdir / "checkpoints"
    latest.rename(workdir.parent / "moved")
    config.checkpoint_every_steps = 50
    before = sorted(workdir.rglob("*"))
    line = rf"checkpoints is gone, where this run saved checkpoints before step [23], {where}"
    with pytest.raises(ValueError, match=line):
        train(options_of(config), workdir, "run")
    assert sorted(workdir.rglob("*")) == before
    (workdir.parent / "moved").rename(latest)
    assert train(options_of(config), workdir, "run").step == 3


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.slow
def test_run_killed_before_its_first_checkpoint_begins_anew_and_may_save_more_often(tmp_path, monkeypatch, noted):
    config, workdir = tiny_config(num_steps=4, log_every_steps=1, checkpoint_every_steps=4), tmp_path / "run"
    unbroken = train(options_of(config), tmp_path / "unbroken", "run")
    monkeypatch.setattr(CheckpointFolder, "_write", killed_write("checkpoints"))
    with pytest.raises(RunError, match="could not be written"):
        train(options_of(config), workdir, "run")
    assert open_best(workdir).list_steps()
    if not noted:  # killed between the step and its note
        (workdir / "best.json").unlink()
    config.checkpoint_every_steps = 1
    monkeypatch.setattr(starting, "MetricWriter", lambda *words, **options: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):  # after the config was written
        train(options_of(config), workdir, "run")
    monkeypatch.undo()
    assert train(options_of(config), workdir, "run").digest == unbroken.digest


@pytest.mark.slow
def test_log_of_a_start_that_was_killed_before_its_first_checkpoint_is_kept(tmp_path, monkeypatch, capfd):
    def killed(self, step, *rest):
        raise OSError(errno.EIO, "killed")

    config, workdir = tiny_config(num_steps=2, log_every_steps=1, checkpoint_every_steps=2), tmp_path / "run"
    unbroken = train(options_of(config), tmp_path / "unbroken", "run")
    monkeypatch.setattr(CheckpointFolder, "_write", killed)
    with pytest.raises(RunError, match="could not be written"):
        train(options_of(config), workdir, "run")
    monkeypatch.undo()
    log = (workdir / "metrics.jsonl").read_bytes()
    assert log
    assert train(options_of(config), workdir, "run").digest == unbroken.digest
    assert records(workdir) == records(tmp_path / "unbroken")
    assert (workdir / "metrics-1.jsonl").read_bytes() == log
    assert f"this start begins after step 0: it is kept as {workdir}/metrics-1.jsonl" in capfd.readouterr().err


@pytest.mark.slow
def test_steps_that_are_gone_are_named_and_the_log_beyond_is_kept(tmp_path, capfd):
    config, workdir = tiny_config(checkpoint_every_steps=1, log_every_steps=1), tmp_path / "run"
    train(options_of(config), workdir, "run")
    log, text = records(workdir), (workdir / "metrics.jsonl").read_bytes()
    shutil.rmtree(workdir / "checkpoints" / "2")
    shutil.rmtree(workdir / "best")
    capfd.readouterr()
    train(options_of(config), workdir, "run")
    errors = capfd.readouterr().err
    assert f"warning: {workdir}/checkpoints has lost step 2, which this run saved" in errors
    assert f"warning: {workdir}/best has lost step " in errors
    assert "the next validation is the best" in errors
    assert records(workdir) == log
    assert (workdir / "metrics-1.jsonl").read_bytes() == text


@pytest.mark.slow
def test_best_that_a_killed_run_has_recorded_and_not_saved_is_saved_by_the_next_start(tmp_path, monkeypatch):
    def interrupted(*words):
        raise Preempted("SIGTERM")

    def killed(self, step, *rest):
        raise OSError(errno.EIO, "killed")

    config = tiny_config(num_steps=1)
    unbroken = train(options_of(config), tmp_path / "unbroken", "run")
    monkeypatch.setattr(evaluator, "evaluate", interrupted)  # so the checkpoint is there before the validation
    assert train(options_of(config), tmp_path / "run", "run").interrupted_by == "SIGTERM"
    monkeypatch.undo()
    monkeypatch.setattr(CheckpointFolder, "_write", killed)
    with pytest.raises(RunError, match=r"best/1 could not be written"):
        train(options_of(config), tmp_path / "run", "run")
    monkeypatch.undo()
    assert [record["step"] for record in records(tmp_path / "run") if "val_accuracy" in record] == [1]
    assert open_best(tmp_path / "run").steps() == []
    assert train(options_of(config), tmp_path / "run", "run").digest == unbroken.digest
    one, other = (open_best(tmp_path / name) for name in ("run", "unbroken"))
    assert one.position(1) == other.position(1)


def test_best_that_is_damaged_is_told_and_replaced(tmp_path, capfd):
    config = tiny_config(num_steps=1)
    train(options_of(config), tmp_path / "run", "run")
    damage(tmp_path / "run" / "best" / "1")
    config.num_steps = 2
    train(options_of(config), tmp_path / "run", "run")
    assert "best/1/variables is damaged" in capfd.readouterr().err
    assert (tmp_path / "run" / "damaged" / "best-1").is_dir()
    log = records(tmp_path / "run")
    accuracies = {record["step"]: record["val_accuracy"] for record in log if "val_accuracy" in record}
    (best,) = open_best(tmp_path / "run").steps()
    assert accuracies[best] == max(accuracies.values())


@pytest.mark.slow
def test_precise_statistics_are_saved_by_the_start_after_an_interrupted_one(tmp_path, monkeypatch):
    config = tiny_config(num_steps=1)
    config.precise_bn_batches = 1
    unbroken = train(options_of(config), tmp_path / "unbroken", "run")

    def interrupted(*words):
        raise Preempted("SIGTERM")

    monkeypatch.setattr(evaluator, "evaluate", interrupted)
    assert train(options_of(config), tmp_path / "run", "run").interrupted_by == "SIGTERM"
    monkeypatch.undo()
    assert not open_latest(tmp_path / "run").is_saved(1, item="judged")
    assert train(options_of(config), tmp_path / "run", "run").digest == unbroken.digest
    manifests = [open_latest(tmp_path / name).manifest(1) for name in ("run", "unbroken")]
    assert manifests[0] == manifests[1]
    assert "judged" in manifests[0]["leaves"]


def test_more_bad_images_than_allowed_do_not_keep_good_steps_from_being_saved(tmp_path):
    numbers = np.random.default_rng(0)
    for i in range(32):
        folder = tmp_path / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(folder / f"{i:02}.png")
    config = tiny_config(num_steps=4, batch_size=8, checkpoint_every_steps=1)
    config.validation_fraction = 0.0
    config.dataset, config.data_dir = "folder", str(tmp_path / "images")
    config.max_bad_images = 1
    batches = build_experiment(options_of(config)).batches
    for index in epoch_order(config.seed, 0, 32)[24:26]:  # in the fourth batch
        Path(batches.source.name(int(index))).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2 images cannot be read, more than config.max_bad_images=1; the last: /"):
        train(options_of(config), tmp_path / "run", "run")
    assert open_latest(tmp_path / "run").steps() == [2, 3]


@pytest.mark.slow
def test_loss_is_logged_once_an_epoch_at_least_and_the_same_after_a_break(tmp_path, monkeypatch):
    config = tiny_config(num_steps=5, batch_size=640, log_every_steps=50)  # two steps an epoch
    train(options_of(config), tmp_path / "unbroken", "run")
    log = records(tmp_path / "unbroken")
    assert [record["step"] for record in log if "train_loss" in record] == [2, 4, 5]

    def batches(make, steps):
        for step in steps:
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield make(step)

    monkeypatch.setattr(loop, "prefetch", batches)
    assert train(options_of(config), tmp_path / "run", "run").step == 3
    monkeypatch.undo()
    train(options_of(config), tmp_path / "run", "run")
    assert records(tmp_path / "run") == log


def test_class_without_a_validation_image_is_named(tmp_path, capfd):
    train(options_of(tiny_config(num_steps=1, validation_fraction=0.002)), tmp_path / "run", "run")
    errors = capfd.readouterr().err
    (line,) = (line for line in errors.splitlines() if line.startswith("warning: "))
    assert "no validation image of " in line
    assert "of the 10 classes" in line


def test_metric_that_is_not_a_number_is_never_the_best(tmp_path, monkeypatch):
    def nan_at_step_2(eval_fn, state, batches, *rest):
        result = evaluate(eval_fn, state, batches, *rest)
        return {**result, "loss": float("nan"), "accuracy": 1.0} if int(state.step) == 2 else result

    monkeypatch.setattr(evaluator, "evaluate", nan_at_step_2)
    train(options_of(tiny_config(num_steps=3)), tmp_path / "run", "run")
    (best,) = (tmp_path / "run" / "best").iterdir()
    assert best.name != "2"


def test_failed_save_stops_the_run_with_its_reason(tmp_path, monkeypatch):
    def full(self, step, *rest):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CheckpointFolder, "_write", full)
    config = tiny_config(num_steps=500, checkpoint_every_steps=1)
    config.validation_fraction = 0.0
    with pytest.raises(RunError, match=r"checkpoint .*/checkpoints/1 could not be written: .*No space left on device"):
        train(options_of(config), tmp_path / "run", "run")
    assert not any((tmp_path / "run" / "checkpoints").iterdir())
    assert max(record["step"] for record in records(tmp_path / "run")) < 5
    monkeypatch.undo()
    config.num_steps = 2
    assert train(options_of(config), tmp_path / "run", "run").step == 2


def test_run_stops_after_its_minutes_and_continues_without_them(tmp_path):
    config = tiny_config(num_steps=3)
    config.stop_after_minutes = 1e-9
    result = train(options_of(config), tmp_path / "run", "run")
    assert (result.step, result.interrupted_by) == (1, "config.stop_after_minutes=1e-09")
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()
    config.stop_after_minutes = 0.0
    assert train(options_of(config), tmp_path / "run", "run").step == 3


def test_run_begun_before_a_field_was_there_has_its_default(tmp_path):
    config = tiny_config(num_steps=1)
    train(options_of(config), tmp_path / "run", "run")
    path = tmp_path / "run" / "config.json"
    values = json.loads(path.read_text())
    del values["max_skipped_updates"], values["augment"]["mixup"]
    path.write_text(json.dumps(values))
    assert evaluate_run(tmp_path / "run")["step"] == 1
    config.num_steps = 2
    assert train(options_of(config), tmp_path / "run", "run").step == 2
    del values["augment"]["cutout_size"]
    path.write_text(json.dumps(values))
    config.augment.cutout_size = 2
    with pytest.raises(ValueError, match=r"config.augment.cutout_size is 0 there and 2 here"):
        train(options_of(config), tmp_path / "run", "run")


def test_evaluate_gives_the_runs_own_figures(unbroken, capfd):
    workdir = unbroken[0]
    log = records(workdir)
    expected = next(record for record in log if "test_accuracy" in record)
    code, output, errors = run_here(capfd, "evaluate", "--workdir", workdir, "--json")
    assert code == 0, errors
    result = json.loads(output)
    assert result["count"] == 360
    assert result["accuracy"] == expected["test_accuracy"]
    assert result["loss"] == pytest.approx(expected["test_loss"], rel=1e-6)
    words = ["--checkpoint", "best", "--data", "digits:train", "--json"]
    code, output, _ = run_here(capfd, "evaluate", "--workdir", workdir, *words)
    assert code == 0
    best = json.loads(output)
    assert best["count"] == 1437
    assert str(best["step"]) in {path.name for path in (workdir / "best").iterdir()}


def test_diverging_run_stops_and_saves_nothing_of_it(tmp_path, capfd):
    workdir = tmp_path / "run"
    words = [*TINY, "--config.learning_rate=1e30", "--config.warmup_epochs=0"]
    code, _, errors = run_here(capfd, *words, "--workdir", workdir)
    assert code == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: step ")
    assert "lower config.learning_rate" in last
    step = int(last.split()[2].rstrip(":"))
    assert step < 10
    assert all(int(path.name) < step for path in (workdir / "checkpoints").iterdir())


def test_run_of_8_devices_trains_like_one(unbroken, tmp_path, capfd):
    assert jax.device_count() == 8
    code, _, errors = run_here(capfd, *WORDS, "--workdir", tmp_path / "run", "--config.num_steps=20")
    assert code == 0, errors
    first = next(record for record in records(unbroken[0]) if record["step"] == 5)
    assert records(tmp_path / "run")[0]["train_loss"] == pytest.approx(first["train_loss"], rel=1e-3)


def test_second_run_on_a_workdir_is_refused(unbroken, capfd):
    workdir = unbroken[0]
    with lock_workdir(workdir):
        code, _, errors = run_here(capfd, *WORDS, "--workdir", workdir)
    assert code == 2
    assert errors.strip().splitlines()[-1] == (
        f"error: workdir {workdir} is in use by another run (process {os.getpid()} on {socket.gethostname()}): wait "
        "for it or choose another"
    )


def test_a_continued_run_may_take_less_memory(tmp_path):
    train(options_of(tiny_config()), tmp_path, "run")
    check_run(tmp_path, options_of(tiny_config(model_args={**tiny_config().model_args, "remat": True})))
    with pytest.raises(UserError, match=r"config\.model_args\.dropout is None there and 0\.5 here"):
        check_run(tmp_path, options_of(tiny_config(model_args={**tiny_config().model_args, "dropout": 0.5})))


def test_other_shares_of_local_batch_norm_are_said():
    experiment = build_experiment(options_of(tiny_config(batch_norm="local")), jax.devices()[:4])
    (line,) = other_shares(experiment, {"num_devices": 8})
    assert "now normalises 322 images at a time, on 4 devices, and 161 before, on 8" in line
    assert other_shares(experiment, {"num_devices": 4}) == other_shares(experiment, {}) == []
    experiment = build_experiment(options_of(tiny_config()), jax.devices()[:4])
    assert other_shares(experiment, {"num_devices": 8}) == []


def test_evaluations_take_as_many_images_at_once_as_a_step(tmp_path, monkeypatch):
    sizes = []
    for module in (evaluator, evaluating):
        monkeypatch.setattr(
            module, "EvalBatches", lambda source, size, *rest: sizes.append(size) or EvalBatches(source, size, *rest)
        )
    train(options_of(tiny_config(batch_size=96, num_steps=1, accumulation_steps=2)), tmp_path, "run")
    evaluate_run(tmp_path)
    assert sizes == [48, 48, 48]  # of validation and test images as it trains, and of the command


@pytest.mark.slow
def test_averages_parts_and_precise_statistics_are_resumed_judged_and_evaluated(tmp_path):
    more = {
        "batch_size": 80, "num_steps": 6, "accumulation_steps": 2, "ema_decay": 0.5, "precise_bn_batches": 2,
        "batch_norm": "local",
    }  # fmt: skip
    unbroken = train(options_of(tiny_config(**more)), tmp_path / "unbroken", "run")
    train(options_of(tiny_config(**{**more, "num_steps": 3})), tmp_path / "run", "run")
    continued = train(options_of(tiny_config(**more)), tmp_path / "run", "run")
    assert continued.digest == unbroken.digest
    at_the_end = [
        {name: value for record in result.records if record["step"] == 6 for name, value in record.items()}
        for result in (unbroken, continued)
    ]
    for record in at_the_end:
        record.pop("images_per_second", None)
        record.pop("train_loss", None)  # since the last record, which the continued run has of step 3
        record.pop("train_accuracy", None)
    assert at_the_end[0] == at_the_end[1]
    final = at_the_end[0]
    assert final["test_ema_loss"] != final["test_loss"]
    for average, name in ((True, "test_ema"), (False, "test")):
        result = evaluate_run(tmp_path / "run", average=average)
        assert result["average"] is average
        assert result["loss"] == pytest.approx(final[f"{name}_loss"], rel=1e-6)
        assert result["accuracy"] == final[f"{name}_accuracy"]
    # The best is the one whose average is, and holds the statistics by which it was judged.
    best = open_best(tmp_path / "unbroken")
    position = best.position(best.latest_step())
    assert position["val_accuracy"] == final["val_ema_accuracy"]
    # Weights are taken from the run's folder as they were judged: averaged, with the statistics computed anew.
    run = restore_run(tmp_path / "run")
    loaded = load_weights(tmp_path / "run", run.model)
    assert digest(loaded) == digest(run.state.averaged().variables)
    assert digest(loaded) != digest(run.state.variables)


def test_wrong_config_leaves_nothing_and_the_right_one_begins(tmp_path):
    config = tiny_config(num_steps=1)
    config.learning_rate_factors.layer9 = 0.1
    with pytest.raises(ValueError, match="no layer 'layer9' is trained"):
        train(options_of(config), tmp_path / "run", "run")
    assert not (tmp_path / "run").exists()
    config = tiny_config(num_steps=1)
    config.learning_rate_factors.layer1 = 0.1
    assert train(options_of(config), tmp_path / "run", "run").step == 1
    with pytest.raises(ValueError, match="keeps no moving average"):
        evaluate_run(tmp_path / "run", average=False)


def test_run_of_weighted_balanced_classes_goes_on_to_the_same_end(tmp_path):
    words = ("sampling=balanced", "class_weights=balanced", "validation_split=stratified", "batch_size=512",
             "schedule=constant", "warmup_epochs=0", "augment.crop_padding=1")  # fmt: skip
    fields = [word for word in TINY if word.startswith("--config.")] + [f"--config.{word}" for word in words]

    def end(workdir, num_steps):
        return train(options_of(load_config("digits", [*fields, f"--config.num_steps={num_steps}"])), workdir, "run")

    unbroken = end(tmp_path / "unbroken", 7)  # two steps an epoch
    end(tmp_path / "broken", 3)
    continued = end(tmp_path / "broken", 7)
    assert continued.digest == unbroken.digest
    losses = [[r["train_loss"] for r in one.records if "train_loss" in r][-1] for one in (unbroken, continued)]
    assert losses[0] == losses[1]


def test_run_without_a_better_validation_stops_early_and_stays_stopped(tmp_path, capfd, monkeypatch):
    workdir = tmp_path / "run"
    # Nothing is learned at such a rate: the first validation stays the best.
    words = [capfd, *TINY, "--config.learning_rate=1e-30", "--config.num_epochs=9", "--config.validation_fraction=0.1"]
    words += ["--config.weight_decay=0", "--config.schedule=constant", "--config.warmup_epochs=0", "--workdir", workdir]
    code, output, errors = run_here(*words, "--config.early_stopping_patience=2")
    assert code == 0, errors
    log = records(workdir)
    validated = [record for record in log if "val_accuracy" in record]
    assert [record["epoch"] for record in validated][-1] < 9
    scores = [record["val_accuracy"] for record in validated]
    best = scores.index(max(scores))
    assert len(scores) - 1 - best == 2
    assert "(best so far)" in errors
    assert f"(best so far {max(scores):.4f} at epoch {validated[best]['epoch']:g})" in errors
    last = validated[-1]["step"]
    assert [record["step"] for record in log if "test_accuracy" in record] == [last]
    assert open_latest(workdir).latest_step() == last
    assert "stopped early" in output
    with monkeypatch.context() as patch:
        patch.setattr(starting, "with_features", lambda *_: pytest.fail("no image is to pass the network again"))
        assert run_here(*words, "--config.early_stopping_patience=2")[0] == 0
    assert records(workdir) == log
    code, output, _ = run_here(*words, "--config.early_stopping_patience=2", "--dry_run", "--json")
    estimate = json.loads(output)
    assert (code, estimate["has_stopped_early"], estimate["continues_after"]) == (0, True, last)
    assert {*estimate["due"].values(), estimate["seconds"]["rest"]} == {0}
    more_rarely = [
        f"--config.eval_every_epochs={int(validated[-1]['epoch']) + 1}",
        "--config.early_stopping_patience=2",
    ]
    assert run_here(*words, *more_rarely)[0] == 0
    assert records(workdir) == log
    assert read_config(workdir)["eval_every_epochs"] == 1
    code, _, errors = run_here(*words, "--config.early_stopping_patience=3")  # it may go on with more
    assert code == 0, errors
    assert len([record for record in records(workdir) if "val_accuracy" in record]) > len(validated)
