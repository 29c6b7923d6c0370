"""The commands: what they print, and bad input told in one line with exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from commands import refused

from resnet_jax.cli import main as command_line
from resnet_jax.cli.main import main
from resnet_jax.cli.parser import make_parser
from resnet_jax.cli.usage import ANY_FIELD
from resnet_jax.models import list_models

COMMANDS = make_parser().commands


def test_list_prints_every_model_by_families(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and not line.startswith("# ")] == list_models()
    assert main(["list", "--json"]) == 0
    families = json.loads(capsys.readouterr().out)
    assert [name for names in families.values() for name in names] == list_models()
    assert "# " + next(iter(families)) == lines[0]
    assert lines.index("resnetrs50") == lines.index("# ResNet-RS (arXiv:2103.07579)") + 1


def test_summary_prints_a_table_or_one_object(capsys):
    assert main(["summary", "--model", "resnet20"]) == 0
    table = capsys.readouterr().out
    assert "269,722" in table
    assert main(["summary", "--model", "resnet20", "--image_size", "16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["parameters"] == 269_722
    assert main(["summary", "--model", "resnet20", "--image_size", "16x32", "--json"]) == 0
    wide = json.loads(capsys.readouterr().out)
    assert (wide["shapes"]["stem"][:2], wide["image_size"]) == ([16, 32], [16, 32])
    assert list(result["shapes"]) == ["stem", "stage1", "stage2", "stage3", "pooled", "logits"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["summary", "--model", "resnet5"], "model='resnet5' is not known; did you mean"),
        (["summary", "--model", "resnet50", "--image_size", "big"], "invalid image_size value: 'big'"),
        (["summary"], "the following arguments are required: --model"),
        (["sumary"], "invalid choice: 'sumary'"),
        (["trian"], "did you mean 'train'?"),
        ([], "the following arguments are required: COMMAND, one of train, evaluate, predict, export, "),
        (["--config", "digits"], "the command before --config is missing: train or "),
        (["--workdir=x"], "the command before --workdir is missing: train or "),
        (["--verbose"], "'--verbose' is no option of python -m resnet_jax"),
        (["list", "--all"], "'--all' is no option of list"),
        (["predict", "-dash.png"], "'-dash.png' is no option of predict; a file of that name is given as ./-dash.png"),
        (["predict", "--foo"], "'--foo' is no option of predict\n"),
        (["list", "models"], "'models' is no option of list"),
        (["evaluate", "runs/x"], "'runs/x' stands without an option of evaluate; did you mean --workdir runs/x?"),
        (["evaluate", "w.pth", "--data", "x"], "did you mean --weights w.pth?"),
        (["evaluate", "--workdir", "runs/x", "more"], "'more' is no option of evaluate"),
        (["summary", "resnet20"], "'resnet20' stands without an option of summary; did you mean --model resnet20?"),
        (["train", "digits"], "did you mean --config digits?"),
        (["train", "runs/x"], "did you mean --workdir runs/x?"),
        (["train", "resnet20"], "did you mean --config.model=resnet20?"),
        (["train", "--config", "digits", "runs/x"], "option of train; did you mean --workdir runs/x?"),
        (["train", "--config", "digits", "--config.seed", "1", "resnet20"], "did you mean --config.model=resnet20?"),
        (["train", "--config", "digits", "--workdir", "a", "runs/x"], "'runs/x' is no option of train"),
        (["convert", "resnet18.pth", "--to", "x"], "did you mean --from resnet18.pth?"),
        (["train", "--config", "digits", "--lr", "0.1"], "did you mean '--config.learning_rate'?"),
        (["train", "--config", "digits", "--epochs=3"], "did you mean '--config.num_epochs'?"),
        (["train", "--config", "digits", "--weight-decay=0"], "did you mean '--config.weight_decay'?"),
        (
            ["train", "--config", "digits", "--config.lr=0.1"],
            "config.lr is no field of the config; did you mean '",
        ),
        (["train", "--config", "digits", "--config.epochs=3"], "did you mean 'num_epochs'?"),
        (["evaluate", "--checkpoint", "bst"], "(choose from newest, best); did you mean 'best'?"),
        (["train", "--confg", "digits"], "'--confg' is no option of train; did you mean '--config'?"),
        (["train", "--config", "digits", "--batchsize=64"], "no option of train; did you mean '--config.batch_size'?"),
        (["train", "--config", "digits", "--conf.crop_padding", "2"], "did you mean '--config.augment.crop_padding'?"),
        (["train", "--config", "digits", "--config.crop_padding=2"], "did you mean 'augment.crop_padding'"),
        (["train"], "the following arguments are required: --config"),
        (["train", "--config", "digit"], "neither a file nor one of"),
        (
            ["train", "--config", "digits", "--workdr", "x"],
            "'--workdr' is no option of train; did you mean '--workdir'",
        ),
        (["train", "--config", "digits", "--config.learning_rat=1"], "did you mean 'learning_rate'"),
        (["train", "--config", "digits", "--config.batch_size=-8"], "config.batch_size=-8 must be positive"),
        (["train", "--config", "digits", "--config.batch_size=12"], "batch_size=12 must be positive and divisible by"),
        (["train", "--config", "digits", "--config.model=resnet21"], "model='resnet21' is not known"),
        (["train", "--config", "digits", "--config.dataset=digit"], "dataset='digit' must be one of"),
        (["train", "--config", "digits", "--config.model_args.shortct=B"], "did you mean 'shortcut'"),
        (["train", "--config", "digits", "--config.image_size=20"], "image_size=20 must be a multiple of 8"),
        (["train", "--config", "digits", "--config.dtype=float64"], "JAX_ENABLE_X64=1"),
        (["train", "--config", "digits", "--config.optimizer=sdg"], "did you mean 'sgd'?"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_folder_without_an_option_is_taken_for_a_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "digits"):
        (tmp_path / name).mkdir()
    for command in ("train", "doctor"):
        assert "did you mean --workdir mine?" in refused(capsys, command, "mine")
        assert "did you mean --config digits?" in refused(capsys, command, "digits")  # a config of that name, first


def test_evaluate_refuses_what_is_no_run(capsys, tmp_path):
    assert "holds no run" in refused(capsys, "evaluate", "--workdir", tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    assert "is not readable as JSON" in refused(capsys, "evaluate", "--workdir", tmp_path)


def test_workdir_of_another_run_is_refused_before_anything_is_read(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 5}))
    before = (tmp_path / "config.json").read_bytes()
    message = refused(capsys, "train", "--config", "cifar10", "--workdir", tmp_path)
    assert "holds another run" in message
    assert (tmp_path / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_screen_and_has_an_example(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_info:
        main([*command.split(), "--help"])
    assert exit_info.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert f"example: python -m resnet_jax {command}" in " ".join("\n".join(lines).split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_with_a_letter_missing_is_suggested(capsys, command):
    options = [option for option in COMMANDS[command].options if option.startswith("--") and option != ANY_FIELD]
    for option in options:
        mistyped = option[:4] + option[5:]
        wanted = f"{mistyped!r} is no option of {command}; did you mean {option!r}?"
        assert mistyped in options or wanted in refused(capsys, command, f"{mistyped}=x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_output_that_cannot_be_written_is_one_line():
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "resnet_jax", "list"],
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=100,
        )  # fmt: skip
    assert process.returncode == 1
    assert process.stderr == "error: No space left on device\n"


@pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), MemoryError()]
)
def test_out_of_memory_is_one_line(monkeypatch, capsys, error):
    def fail(argv):
        raise error

    monkeypatch.setattr(command_line, "_run_command", fail)
    assert command_line.main([]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: out of memory: take a smaller batch_size")
    assert errors.count("\n") == 1


def test_other_errors_of_jax_stay_as_they_are(monkeypatch):
    def fail(argv):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(command_line, "_run_command", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        command_line.main([])
