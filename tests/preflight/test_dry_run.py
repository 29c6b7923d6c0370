"""The dry run: what it tells, that it writes nothing, and that it ends where train would."""

import json
import shutil

import pytest
from commands import refused

from resnet_jax.cli.main import main
from resnet_jax.formatting import format_duration
from resnet_jax.training.periods import Periods
from resnet_jax.training.workdir import lock_workdir

WORDS = [
    "train", "--config", "digits", "--config.model_args.stage_sizes=(1,)", "--config.model_args.num_filters=4",
    "--config.num_steps=4", "--config.warmup_epochs=0", "--config.checkpoint_every_steps=2", "--config.image_size=8",
    "--config.augment.crop_padding=0", "--config.log_every_steps=2", "--config.schedule=constant",
]  # fmt: skip


def content(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def told(capsys, *words):
    assert main([*WORDS, "--dry_run", "--json", *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def run_of_four_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    assert main([*WORDS, "--workdir", str(workdir)]) == 0
    return workdir


def test_dry_run_tells_what_a_run_takes_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = told(capsys, "--config.num_steps=50")
    assert result["parameters"] == result["trainable"] == 470  # by hand in test_memory.py
    assert result["shapes"] == {"stem": [8, 8, 4], "stage1": [8, 8, 4], "pooled": [4], "logits": [10]}
    assert result["macs"] == 8 * 8 * 4 * (27 + 36 + 36) + 40
    assert result["images"] == {"train": 1293, "validation": 144, "test": 360}
    assert (result["num_classes"], result["steps_per_epoch"], result["num_steps"]) == (10, 20, 50)
    assert result["due"] == {"validation": 3, "test": 1, "checkpoint": 25}
    assert result["every"] == {"validation": 20, "test": 0, "checkpoint": 2}
    assert result["continues_after"] == 0
    assert not result["on_features"]
    assert result["memory"]["checkpoint"] == 3864
    # on each of 8 devices: the state, and of 64 images their eighth, with labels, samples and epochs
    assert result["memory"]["program"]["argument"] == pytest.approx(3864 + 8 * (8 * 8 * 3 + 12), abs=64)
    assert result["num_timed"] == 10
    seconds = result["seconds"]
    evaluations = 3 * seconds["evaluation"]["validation"] + seconds["evaluation"]["test"]
    assert seconds["rest"] == pytest.approx(50 * seconds["step"] + evaluations)
    assert content(tmp_path) == {}


def test_dry_run_prints_a_table_and_accumulates_as_train(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, "--dry_run", "--config.accumulation_steps=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["parameters", "470"] for line in lines)
    assert any(line.startswith("steps ") and "4: 0.2 epochs of 20" in line for line in lines)
    assert not any("compiled" in line for line in lines)  # a step is three programs then
    assert content(tmp_path) == {}


def test_dry_run_tells_where_a_run_goes_on_and_leaves_it_as_it_is(capsys, run_of_four_steps):
    before = content(run_of_four_steps)
    longer = told(capsys, "--workdir", run_of_four_steps, "--config.num_steps=10")
    assert longer["continues_after"] == 4
    assert longer["due"] == {"validation": 1, "test": 1, "checkpoint": 3}
    finished = told(capsys, "--workdir", run_of_four_steps)
    assert finished["due"] == {"validation": 0, "test": 0, "checkpoint": 0}
    assert finished["seconds"]["rest"] == 0
    past = refused(capsys, *WORDS, "--dry_run", "--workdir", run_of_four_steps, "--config.num_steps=3")
    assert "is at step 4, past the config's 3" in past
    other = refused(capsys, *WORDS, "--dry_run", "--workdir", run_of_four_steps, "--config.seed=3")
    assert "holds another run: config.seed is 0 there and 3 here" in other
    with lock_workdir(run_of_four_steps):
        assert "is in use by another run (process " in refused(
            capsys, *WORDS, "--dry_run", "--workdir", run_of_four_steps
        )
    assert {**content(run_of_four_steps), run_of_four_steps / ".lock": None} == {
        **before, run_of_four_steps / ".lock": None,
    }  # fmt: skip


def test_dry_run_goes_on_from_the_step_before_a_damaged_one(capsys, tmp_path, run_of_four_steps):
    workdir = tmp_path / "run"
    shutil.copytree(run_of_four_steps, workdir)
    for step, expected in ((4, 2), (2, None)):
        for path in (workdir / "checkpoints" / str(step)).rglob("d/*"):
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
        before = content(workdir)
        if expected is not None:
            assert told(capsys, "--workdir", workdir)["continues_after"] == expected
        else:
            shutil.rmtree(workdir / "best")
            before = content(workdir)
            assert "no other in" in refused(capsys, *WORDS, "--dry_run", "--workdir", workdir)
        assert content(workdir) == before


def test_run_of_the_head_alone_is_one_pass_over_all_images(capsys, tmp_path, monkeypatch, run_of_four_steps):
    monkeypatch.chdir(tmp_path)
    weights = f"--config.finetune.weights={run_of_four_steps}"
    result = told(capsys, weights, "--config.finetune.trainable=head")
    assert result["on_features"]
    assert (result["parameters"], result["trainable"]) == (470, 50)
    seconds = result["seconds"]
    assert seconds["rest"] == pytest.approx((21 + 3 + 6) * seconds["evaluation_batch"])  # batches of 64 images
    assert content(tmp_path) == {}


def test_set_that_is_not_prepared_is_told_in_a_line_after_the_configs_own_faults(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--config", "cifar10_quick", "--dry_run", f"--config.data_dir={tmp_path / 'data'}"]
    message = refused(capsys, *words)
    assert "config.dataset='cifar10' is not prepared in" in message
    assert f"put cifar-10-binary.tar.gz into {tmp_path / 'data' / 'downloads' / 'manual'}" in message
    assert "divisible by the 8 devices" in refused(capsys, *words, "--config.batch_size=63")
    assert "did you mean 'resnet20'" in refused(capsys, *words, "--config.model=resnt20")
    assert "did you mean 'cifar10'" in refused(capsys, *words, "--config.dataset=cifar-10")
    assert content(tmp_path) == {}


def test_published_weights_are_not_downloaded(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESNET_JAX_COMPILATION_CACHE", "0")
    monkeypatch.setenv("RESNET_JAX_PRETRAINED_URL", "http://127.0.0.1:9")  # where nobody answers
    words = ["--config", "digits", "--config.model=resnet18", "--config.finetune.weights=IMAGENET1K_V1"]
    place = f"put resnet18-f37072fd.pth into {tmp_path / 'home/pretrained'}"
    message = refused(capsys, "train", *words, "--dry_run")
    assert "'IMAGENET1K_V1' is not downloaded, which a dry run leaves to train" in message
    assert place in message
    assert main(["doctor", *words]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if " weights " in line)
    assert line.startswith("warning")
    assert line.endswith(place)
    assert content(tmp_path) == {}


def test_json_is_of_the_dry_run_alone(capsys):
    assert "--json belongs to --dry_run" in refused(capsys, *WORDS, "--json")


@pytest.mark.parametrize("every", [None, 0, 3, 5, 30])
@pytest.mark.parametrize("after", [0, 3, 4, 10])
def test_number_due_is_that_of_the_steps_that_are(every, after):
    periods = Periods(num_steps=10, validate_every=every, test_every=None, save_every=1)
    due = [step for step in range(after + 1, 11) if periods.validates(step)]
    assert periods.num_due(every, after) == len(due)


def test_durations_are_told_in_units_that_people_use():
    durations = (0.44, 75, 754, 12_000, 200_000)
    assert [format_duration(seconds) for seconds in durations] == ["0.4 s", "75 s", "13 min", "3 h 20 min", "2 d 7 h"]
