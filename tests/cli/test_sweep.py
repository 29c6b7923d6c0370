"""Sweeps: what is refused before anything begins, the commands, and runs that fail, are interrupted and go on."""

import json
import re
import shlex
import signal
import subprocess
import sys

import jax._src.xla_bridge
import pytest
from commands import refused
from processes import TINY, end, records, start, wait_for_step
from run_folders import write_run

from resnet_jax.cli.main import main
from resnet_jax.config import load_config, to_json
from resnet_jax.runtime import num_cores
from resnet_jax.sweep.children import is_finished
from resnet_jax.training.workdir import lock_workdir

FIELDS = [word for word in TINY if word.startswith("--config.")]
SWEEP = ["sweep", "--config", "digits", *FIELDS, "--config.warmup_epochs=0"]


@pytest.fixture
def no_devices(monkeypatch):
    """Fails where JAX is asked for devices, which would take a GPU's memory."""

    def fail():
        raise AssertionError("JAX was asked for its devices")

    monkeypatch.setattr(jax._src.xla_bridge, "backends", fail)


@pytest.fixture
def one_device(monkeypatch):
    """Has the runs compute on one device each, as people start them."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0,1", "--config.seed=0"], "--seeds and --config.seed are the same: give one of them"),
        (["--seeds", "0-4"], "--seeds 0-4 must be whole numbers with commas between, for example 0,1,2"),
        (["--seeds", "0,1,0"], "config.seed='0,1,0' has 0 twice"),
        (["--config.learning_rate=0.1,0.10"], "config.learning_rate='0.1,0.10' has 0.10 twice"),
        (["--config.learning_rate=0.1,"], "'0.1,' has an empty value between its commas"),
        (["--config.learning_rate=0.1,fast"], "config.learning_rate='fast' must be a number"),
        (["--config.batch_size=64,-8"], "batch_size=-8,seed=0: config.batch_size=-8 must be positive"),
        (["--config.momentum=0.9", "--config.momentum=0.8"], "config.momentum is given twice: give its values at once"),
        (
            ["--config.schedule=step", "--config.decay_epochs=10,20"],
            "config.decay_epochs='10,20' needs brackets around each value, which holds several numbers itself: "
            "--config.decay_epochs=(10,20) for one, or (…),(…)",
        ),
        (["--config.image_size=16,24"], "config.image_size='16,24' needs brackets around each value"),
        (["--config.class_weights=1.0,2.0"], "config.class_weights='1.0,2.0' needs brackets around each value"),
        (
            ["--config.num_epochs=1,2", "--config.num_steps=5"],
            "config.num_epochs and config.num_steps exclude each other in a sweep: give one of them",
        ),
        (["--config.model=resnet20,resnet21"], "model=resnet21,seed=0: model='resnet21' is not known"),
        (["--config.augment.policy=none,randaug"], "did you mean 'randaugment'?"),
        (["--config.schedule=cosine,step", "--config.decay_factor=0.5"], "config.decay_factor=0.5 has no effect"),
        (["--config.lr=0.1,0.2"], "config.lr is no field of the config; did you mean 'learning_rate'?"),
        (["--config.learning_rate"], "--config.learning_rate needs a value"),
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--jobs", "1000"], "--jobs 1000 must be at most"),
        (["--print", "--jobs", "2"], "--print excludes --json and --jobs"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_begins(capsys, tmp_path, monkeypatch, no_devices, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "sweep", "--config", "digits", *words)
    assert list(tmp_path.iterdir()) == []


def printed(capsys, *words):
    assert main(["sweep", "--print", *map(str, words)]) == 0
    return capsys.readouterr().out.splitlines()


def test_commands_are_those_of_every_combination_and_nothing_is_written(capsys, tmp_path, monkeypatch, no_devices):
    monkeypatch.chdir(tmp_path)
    words = ["--config.learning_rate", "0.05,0.1", "--config.augment.crop_padding=1", "--config.class_weights=balanced"]
    lines = printed(capsys, "--config", "digits", *words, "--seeds", "0,1")
    assert lines[1] == shlex.join(
        [
            sys.executable, "-m", "resnet_jax", "train", "--config", "digits", "--workdir",
            "runs/digits_sweep/learning_rate=0.05,seed=1", "--config.learning_rate=0.05",
            "--config.augment.crop_padding=1", "--config.class_weights=balanced", "--config.seed=1",
        ]
    )  # fmt: skip
    names = [shlex.split(line)[7].rpartition("/")[2] for line in lines]
    assert names == [f"learning_rate={rate},seed={seed}" for rate in (0.05, 0.1) for seed in (0, 1)]
    (line,) = printed(capsys, "--config", "digits", "--config.mean=(0.4,0.5,0.6)", "--workdir", "here")
    assert "--workdir here/seed=0 '--config.mean=(0.4,0.5,0.6)' --config.seed=0" in line
    steps = printed(capsys, "--config", "digits", "--config.schedule=step", "--config.decay_steps=(1,2),(3,)")
    assert "decay_steps=(3),seed=0" in steps[1]
    assert list(tmp_path.iterdir()) == []


def test_sizes_in_brackets_are_one_run_each(capsys, tmp_path):
    lines = printed(capsys, "--config", "digits", "--config.image_size=(16),(24)", "--workdir", tmp_path)
    assert [shlex.split(line)[8] for line in lines] == ["--config.image_size=(16)", "--config.image_size=(24)"]
    assert len(printed(capsys, "--config", "digits", "--config.image_size=8,16,24", "--workdir", tmp_path)) == 3


def test_a_run_is_finished_at_its_length_on_its_images(tmp_path):
    workdir = write_run(tmp_path / "run", (0.5,) * 3, data_dir="one")
    fields = json.loads((workdir / "config.json").read_text())
    assert is_finished(workdir, fields)
    assert not is_finished(workdir, {**fields, "num_epochs": 4})
    assert not is_finished(workdir, {**fields, "data_dir": "other"})
    assert not is_finished(tmp_path / "absent", fields)


def test_a_finished_run_needs_no_checkpoints_any_more(capsys, tmp_path):
    workdir = write_run(tmp_path / "seed=0", (0.5,) * 3)
    (workdir / "config.json").write_text(to_json(load_config("digits", ["--config.num_epochs=3"])))
    (workdir / "checkpoints.json").write_text('{"step": 30}')  # whose folder was removed
    words = ["--config", "digits", "--workdir", str(tmp_path), "--config.num_epochs=3"]
    assert len(printed(capsys, *words)) == 1
    (workdir / "metrics.jsonl").write_text("")
    assert "checkpoints is gone, where this run saved step 30" in refused(capsys, "sweep", *words, "--print")


def test_fields_that_are_swept_part_the_runs_that_are_compared(capsys, tmp_path):
    for every in (1, 3):
        workdir = tmp_path / f"log_every_steps={every},seed=0"
        write_run(workdir, (0.5,) * 3)
        config = load_config("digits", ["--config.num_epochs=3", f"--config.log_every_steps={every}"])
        (workdir / "config.json").write_text(to_json(config))
    words = ["sweep", "--config", "digits", "--workdir", str(tmp_path), "--config.num_epochs=3", "--json"]
    assert main([*words, "--config.log_every_steps=1,3"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [group["differs"] for group in groups] == [{"log_every_steps": 1}, {"log_every_steps": 3}]


def test_folder_of_another_run_is_refused(capsys, tmp_path):
    folder = tmp_path / "learning_rate=0.2,seed=0"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"momentum": 0.5}))
    words = ["--config", "digits", "--workdir", tmp_path, "--config.learning_rate=0.1,0.2"]
    assert "holds another run: config.augment.crop_padding is 0 there and 2 here" in refused(capsys, "sweep", *words)


def test_the_process_is_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert "this is one of many processes" in refused(capsys, *SWEEP, "--workdir", tmp_path)


@pytest.mark.slow
def test_finished_runs_are_skipped_and_one_that_fails_keeps_none_from_running(capsys, tmp_path, one_device, no_devices):
    words = [*SWEEP, "--config.num_steps=10", "--workdir", str(tmp_path), "--config.learning_rate=0.1,1e30,0.2,0.3"]
    first = shlex.split(printed(capsys, *words[1:])[0])
    subprocess.run(first, check=True, capture_output=True)
    before = (tmp_path / "learning_rate=0.1,seed=0" / "metrics.jsonl").read_bytes()
    jobs = ["--jobs", "2"] if num_cores() >= 2 else []
    with lock_workdir(tmp_path / "learning_rate=0.3,seed=0"):  # as one that an earlier sweep has left behind
        assert main([*words, "--json", *jobs]) == 1
    output, errors = capsys.readouterr()
    lines = errors.splitlines()
    assert lines[0] == "1 of 4 runs is finished"
    assert lines[1] == f"run 2 of 4: learning_rate=1e+30,seed=0 (log: {tmp_path / 'learning_rate=1e+30,seed=0.log'})"
    done = r"run 3 of 4: learning_rate=0.2,seed=0 done in .*, best validation [\d.]+ %, test [\d.]+ %"
    assert any(re.fullmatch(done, line) for line in lines)
    assert lines[-1].startswith("error: learning_rate=0.3,seed=0 failed, exit code 2: workdir ")
    assert " is in use by another run (process " in lines[-1]
    assert lines[-2].startswith("error: learning_rate=1e+30,seed=0 failed, exit code 1: step 2: loss ")
    assert lines[-2].endswith(f"(log: {tmp_path / 'learning_rate=1e+30,seed=0.log'})")
    result = json.loads(output)
    found = {group["differs"]["learning_rate"]: group["runs"][0]["finished"] for group in result["groups"]}
    assert found == {0.1: True, 0.2: True, 1e30: False}
    assert result["picture"] == str(tmp_path / "compare.png")
    assert (tmp_path / "compare.png").exists()
    assert (tmp_path / "learning_rate=0.1,seed=0" / "metrics.jsonl").read_bytes() == before
    fields = json.loads((tmp_path / "learning_rate=0.1,seed=0" / "config.json").read_text())
    assert is_finished(tmp_path / "learning_rate=0.1,seed=0", fields)
    assert not is_finished(tmp_path / "learning_rate=0.1,seed=0", {**fields, "num_steps": 20})


@pytest.mark.slow
def test_an_interrupted_sweep_ends_as_one_that_was_not(capsys, tmp_path, one_device, no_devices):
    words = [*SWEEP, "--config.num_steps=1000", "--seeds", "0,1", "--workdir"]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = start(*words, broken)
    wait_for_step(process, broken / "seed=0", 5)
    process.send_signal(signal.SIGTERM)
    code, output, errors = end(process)
    assert (code, output) == (75, "")
    assert errors.endswith("interrupted by SIGTERM; the same command continues\n")
    assert "SIGTERM: waiting for 1 run to save\nrun 1 of 2: seed=0 interrupted after " in errors
    assert not (broken / "seed=1").exists()
    assert "interrupted by SIGTERM: saved step" in (broken / "seed=0.log").read_text()
    assert main([*words, str(broken)]) == 0
    unbroken = [*SWEEP, "--config.num_steps=1000", "--workdir", str(whole)]
    assert main(unbroken) == 0
    assert "continuing" in (broken / "seed=0.log").read_text()
    digests = [re.findall("sha256  (.*)", (folder / "seed=0.log").read_text()) for folder in (broken, whole)]
    assert len(digests[0]) == 1
    assert digests[0] == digests[1]
    assert records(broken / "seed=0") == records(whole / "seed=0")
    capsys.readouterr()
    assert main([*words, str(broken)]) == 0  # a third time there is nothing to do
    output, errors = capsys.readouterr()
    assert errors == "2 of 2 runs are finished\n"
    assert "seed=0 +1  2" in output
