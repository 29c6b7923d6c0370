"""The lr_find command: what it prints, draws and refuses, and that it leaves nothing else behind."""

import json

import numpy as np
import pytest
from commands import refused
from PIL import Image

from resnet_jax.cli.main import main

TINY = ["--config.model_args.stage_sizes=(1,)", "--config.image_size=8", "--config.augment.crop_padding=1"]
WORDS = ["lr_find", "--config", "digits", *TINY, "--steps", "100", "--from", "1e-3"]


def found(capsys, *words):
    assert main([*WORDS, "--json", *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out)


def test_rate_is_proposed_and_nothing_is_written_but_the_picture(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(WORDS) == 0
    lines = capsys.readouterr().out.splitlines()
    labels = ["learning rate", "lowest loss", "diverged", "steps", "picture", "take it with"]
    assert [line.split("  ")[0] for line in lines] == labels
    rate = float(lines[0].split()[2])
    assert 0.01 < rate < 5.0
    assert lines[0].endswith("(the config has 0.1)")
    assert lines[-1].split()[-1] == f"--config.learning_rate={rate:g}"
    assert [path.name for path in tmp_path.iterdir()] == ["lr_find.png"]
    assert Image.open(tmp_path / "lr_find.png").width > 600


def test_same_seed_proposes_the_same_and_json_has_the_curve(capsys, tmp_path):
    result = found(capsys, "--to", tmp_path / "new" / "a.png")
    assert found(capsys, "--to", tmp_path / "b.png") == {**result, "picture": str(tmp_path / "b.png")}
    assert (tmp_path / "new" / "a.png").exists()
    curve = result["curve"]
    assert len(curve["learning_rate"]) == len(curve["loss"]) == len(curve["average_loss"]) == result["steps"] <= 100
    np.testing.assert_allclose(curve["learning_rate"], 1e-3 * 1e4 ** (np.arange(result["steps"]) / 99), rtol=1e-5)
    assert result["overrides"] == [f"--config.learning_rate={result['learning_rate']:g}"]
    assert result["lowest_rate"] in curve["learning_rate"]


def test_heads_own_rate_keeps_its_ratio(capsys, tmp_path):
    result = found(capsys, "--config.finetune.head_learning_rate=0.3", "--to", tmp_path / "p.png")
    rate, head = (float(word.partition("=")[2]) for word in result["overrides"])
    assert result["overrides"][1].startswith("--config.finetune.head_learning_rate=")
    assert head == pytest.approx(3 * rate, rel=0.06)  # two digits


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config.learning_rate=0.2"],
            "config.learning_rate is what lr_find looks for: leave out --config.learning_rate; the rates that it tries "
            "are set by --from and --to_rate",
        ),
        (["--from", "1", "--to_rate", "1"], "--from 1 must be less than --to_rate 1: the rate grows"),
        (["--from", "20"], "--from 20 must be less than --to_rate 10: the rate grows"),
        (["--from", "0"], "--from 0 must be a learning rate above 0"),
        (["--to_rate", "nan"], "--to_rate nan must be a learning rate above 0"),
        (["--steps", "49"], "--steps 49 must be at least 50: fewer losses make no curve"),
        (["--to", "curve.svg"], "--to curve.svg must be a .png file"),
        (["--workdir", "runs"], "'--workdir' is no option of lr_find"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_refused_before_anything_is_trained(capsys, words, message):
    assert refused(capsys, *WORDS, *words) == f"error: {message}\n"


def test_loss_that_does_not_fall_is_said_in_a_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    too_low = ["--from", "1e-9", "--to_rate", "1e-8", "--steps", "50"]
    assert main([*WORDS, *too_low]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.splitlines()[-1] == (
        "error: the loss did not fall up to a rate of 1e-08: end with a higher one (--to_rate), or take more steps "
        "(--steps); lr_find.png shows the loss"
    )
    assert Image.open(tmp_path / "lr_find.png").width > 600  # shows what to change


@pytest.mark.slow
def test_run_with_the_proposed_rate_is_within_a_point_of_the_best_of_a_sweep(capsys, tmp_path):
    network = ["--config", "digits", "--config.model_args.num_filters=8"]  # narrow: it takes minutes
    assert main(["lr_find", *network, "--json", "--to", str(tmp_path / "p.png")]) == 0
    proposed = json.loads(capsys.readouterr().out)["learning_rate"]
    accuracies = {}
    for rate in (proposed, 0.025, 0.1, 0.4):
        words = ["--config.num_epochs=10", f"--config.learning_rate={rate}", "--workdir", str(tmp_path / f"{rate}")]
        assert main(["train", *network, *words]) == 0
        printed = capsys.readouterr().out
        accuracies[rate] = float(printed.partition("test accuracy")[2].split()[0])
    assert accuracies[proposed] >= max(accuracies.values()) - 1.0, accuracies
