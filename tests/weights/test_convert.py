"""The convert command: what it writes, what it tells, and that nothing is written when it refuses."""

import json
import shutil

import jax
import numpy as np
import pytest
from processes import TINY
from state_dicts import SMALL, assert_equal, random_variables, small, state_dict

from resnet_jax import create_model, load_preprocess, load_weights
from resnet_jax.cli.main import main
from resnet_jax.data.transforms.preprocess import PREPROCESS
from resnet_jax.errors import UserError
from resnet_jax.training.experiment import options_of
from resnet_jax.weights.class_names import imagenet_names, imagenet_wordnet_ids
from resnet_jax.weights.convert import convert
from resnet_jax.weights.model_folder import is_model_folder
from resnet_jax.weights.read_info import read_info
from resnet_jax.weights.safetensors_file import open_safetensors, write_safetensors


@pytest.fixture
def source(tmp_path):
    """A file of the small resnet18's weights, by torchvision's names."""
    write_safetensors(tmp_path / "source.safetensors", state_dict(small()), {})
    return tmp_path / "source.safetensors"


def run(*words):
    return main(["convert", *map(str, words)])


ARGUMENTS = [f"{name}={value}" for name, value in SMALL.items() if name != "num_classes"]


def test_there_and_back_is_the_identity_and_tells_its_model(source, tmp_path):
    folder, back = tmp_path / "converted", tmp_path / "back.safetensors"
    convert(source, folder, model_name="resnet18", model_args=SMALL, preprocess="IMAGENET1K_V1")
    assert_equal(load_weights(folder, small()), random_variables(small()))
    info = read_info(folder)
    assert (info.model, info.source) == ("resnet18", "source.safetensors")
    convert(folder, back)  # the folder tells the model
    assert_equal(load_weights(back, small()), random_variables(small()))
    assert load_preprocess(folder) == load_preprocess(back) == PREPROCESS["IMAGENET1K_V1"]
    assert info.create_model() == small()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.safetensors", "converted", "source.safetensors"]


def test_the_command_prints_a_report_or_one_object(source, tmp_path, capsys):
    words = ["--model", "resnet18", "--num_classes", 3, "--from", source, "--to", tmp_path / "out", "--head", "reset"]
    assert run(*words, "--model_args", *ARGUMENTS) == 0
    table = capsys.readouterr().out
    for part in ("safetensors, names of torchvision", "loaded", "reset       ", "2: fc.bias 3, fc.weight 3x16"):
        assert part in " ".join(table.split()) or part in table
    assert run(*words, "--model_args", *ARGUMENTS, "--json") == 0  # what it wrote itself, it replaces
    report = json.loads(capsys.readouterr().out)
    assert report["reset"] == {"fc.kernel": [3]} or report["reset"] == {"fc.bias": [3], "fc.weight": [3, 16]}
    assert report["loaded"]["conv1.weight"] == [8, 3, 7, 7]
    assert report["missing"] == report["unexpected"] == report["misshapen"] == {}


def test_biased_convolutions_are_seen_in_the_file(tmp_path):
    model = small(conv_bias=True)
    write_safetensors(tmp_path / "biased.safetensors", state_dict(model), {})
    convert(tmp_path / "biased.safetensors", tmp_path / "out", model_name="resnet18", model_args=SMALL)
    assert read_info(tmp_path / "out").model_args["conv_bias"] is True
    assert_equal(load_weights(tmp_path / "out", model), random_variables(model))


@pytest.mark.parametrize(
    ("preprocess", "num_classes", "names"),
    [("CIFAR", 10, ("airplane", "truck")), ("IMAGENET1K_V2", 1000, ("tench", "toilet tissue")), ("CIFAR", 5, None)],
)
def test_recipes_bring_their_class_names_where_there_are_as_many_classes(tmp_path, preprocess, num_classes, names):
    arguments = {**SMALL, "num_classes": num_classes}
    write_safetensors(tmp_path / "source.safetensors", state_dict(small(**arguments)), {})
    convert(
        tmp_path / "source.safetensors", tmp_path / "out", model_name="resnet18", model_args=arguments,
        preprocess=preprocess,
    )  # fmt: skip
    info = read_info(tmp_path / "out")
    assert info.preprocess == PREPROCESS[preprocess]
    assert ((info.class_names[0], info.class_names[-1]) if info.class_names else None) == names


def test_imagenets_classes_are_in_the_order_of_their_wordnet_ids():
    assert len(set(imagenet_names())) == len(imagenet_wordnet_ids()) == 1000
    assert list(imagenet_wordnet_ids()) == sorted(imagenet_wordnet_ids())
    assert imagenet_names()[imagenet_wordnet_ids().index("n02123045")] == "tabby"


def test_a_published_name_brings_preprocessing_and_class_names(tmp_path):
    arguments = {**SMALL, "num_classes": 1000}
    source = tmp_path / "resnet50-11ad3fa6.pth"  # told by its name; the content is recognised by itself
    write_safetensors(source, state_dict(small("resnet50", **arguments)), {})
    convert(source, tmp_path / "out", model_args=arguments)
    assert load_preprocess(tmp_path / "out") == PREPROCESS["IMAGENET1K_V2"]
    assert read_info(tmp_path / "out").class_names == imagenet_names()


def test_exports_take_the_layouts_names(source, tmp_path):
    target = tmp_path / "new" / "folder" / "out.safetensors"
    convert(source, target, model_name="resnet18", model_args=SMALL, layout="akamaster")
    names = open_safetensors(target)[0]
    assert {"linear.weight", "layer2.0.shortcut.0.weight", "bn1.num_batches_tracked"} <= set(names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "resnet50", "--from", "{source}"], "it looks like create_model('resnet18'"),
        (["--from", "{source}"], "does not tell which model it is of: name it with --model"),
        (["--model", "resnet18"], "give either --from"),
        (["--model", "resnet18", "--from", "{source}", "--pretrained", "IMAGENET1K_V1"], "give either --from"),
        (["--model", "resnet18", "--from", "{source}", "--mean", "0.5,0.5,0.5"], "--mean and --std belong together"),
        (["--model", "resnet18", "--from", "{source}", "--mean", "a"], "must be numbers, one for each channel"),
        (["--model", "resnet18", "--from", "{source}", "--preprocess", "V3"], "preprocess='V3' must be one of"),
        (["--model", "resnet18", "--from", "{source}", "--layout", "keras"], "layout='keras' must be one of"),
        (["--model", "resnet18", "--from", "{source}", "--model_args", "stride_in"], "must be NAME=VALUE"),
        (["--model", "resnet18", "--from", "{source}", "--model_args", "stride=2"], "'stride' is no argument"),
        (["--model", "resnet18", "--from", "{source}.none"], "does not exist"),
        (["--model", "resnet18", "--from", "~nosuchuser/x"], "home directory"),
        (["--model", "resnet18", "--from", ""], "a path is empty"),
        (["--from", "{source}", "--model_args", "groups=1", "--model_args", "groups=2"], "gives groups twice"),
        (["--from", "{source}", "--model_args", "num_classes=1", "--num_classes", "2"], "num_classes is given twice"),
        (["--model", "resnet18", "--from", "{source}", "--model_args", "name=x"], "'name' is no argument of resnet18"),
        (["--model", "resnet99", "--from", "{source}"], "model='resnet99' is not known"),
        (["--model", "resnet99", "--pretrained", "IMAGENET1K_V1"], "'resnet99' has no published weights"),
        # Refused before anything is downloaded, and so before the model is looked up.
        (["--model", "resnet99", "--pretrained", "IMAGENET1K_V1", "--no_average"], "leave them out with --pretrained"),
        (
            ["--model", "resnet99", "--pretrained", "IMAGENET1K_V1", "--checkpoint", "best"],
            "leave them out with --pretrained",
        ),
    ],
)
def test_bad_usage_is_one_line_and_nothing_is_written(source, tmp_path, capsys, words, message):
    words = [word.format(source=source) for word in words]
    assert run(*words, "--to", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("out.h5", "must end in one of .safetensors"),
        ("out.SAFETENSORS", "must end in one of .safetensors"),
        ("w" * 300, "File name too long"),
        ("taken", "holds 'file', no converted weights"),
        ("taken/file", "is a file"),
        ("taken/file/out.safetensors", "is a file"),
        ("taken/file/out", "is a file"),
    ],
)
def test_a_target_that_is_something_else_stays_as_it_is(source, tmp_path, capsys, target, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    assert run("--model", "resnet18", "--from", source, "--to", tmp_path / target, "--model_args", *ARGUMENTS) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "taken" / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.safetensors", "taken"]


def test_a_full_disk_leaves_the_old_weights(source, tmp_path, monkeypatch):
    target = tmp_path / "out.safetensors"
    convert(source, target, model_name="resnet18", model_args=SMALL)
    before = target.read_bytes()

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        convert(source, target, model_name="resnet18", model_args=SMALL, preprocess="CIFAR")
    assert target.read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_model_that_contradicts_what_the_weights_tell_is_refused(source, tmp_path):
    convert(source, tmp_path / "out", model_name="resnet18", model_args=SMALL)
    with pytest.raises(UserError, match="is of the model 'resnet18', not of 'plain18'"):
        convert(tmp_path / "out", tmp_path / "again", model_name="plain18")


def test_preprocessing_is_refused_where_it_cannot_be_kept(source, tmp_path):
    with pytest.raises(UserError, match="holds weights alone"):
        convert(source, tmp_path / "out.pth", model_name="resnet18", model_args=SMALL, preprocess="CIFAR")


def test_a_folder_with_anything_of_the_users_is_not_replaced(source, tmp_path):
    convert(source, tmp_path / "out", model_name="resnet18", model_args=SMALL)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "out.old").mkdir()
    with pytest.raises(UserError, match=r"holds 'mine.txt', no converted weights"):
        convert(source, tmp_path / "out", model_name="resnet18", model_args=SMALL)
    (tmp_path / "out" / "mine.txt").unlink()
    convert(source, tmp_path / "out", model_name="resnet18", model_args=SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.old", "source.safetensors"]


def test_a_link_to_converted_weights_stays_a_link(source, tmp_path):
    convert(source, tmp_path / "out", model_name="resnet18", model_args=SMALL)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    convert(source, tmp_path / "link", model_name="resnet18", model_args=SMALL, preprocess="CIFAR")
    assert (tmp_path / "link").is_symlink()
    assert load_preprocess(tmp_path / "out") == PREPROCESS["CIFAR"]


DIGITS = [str(digit) for digit in range(10)]


def store_run(workdir, ema_decay=None, *, has_best=False):
    """A run's folder with a checkpoint of step 7 and, if asked for, a best one of step 3; returns its train state."""
    import jax.numpy as jnp
    import optax

    from resnet_jax.checkpoint.background_writer import BackgroundWriter
    from resnet_jax.checkpoint.folder import open_best, open_latest
    from resnet_jax.config import load_config, to_json
    from resnet_jax.training.checkpointer import save_state
    from resnet_jax.training.train_state import create_train_state

    config = load_config("digits", ["--config.model_args.stage_sizes=(1,1)", "--config.model_args.num_filters=8"])
    workdir.mkdir()
    (workdir / "config.json").write_text(to_json(config))
    model = small("resnet20", stage_sizes=(1, 1), num_classes=10)
    state = create_train_state(model, random_variables(model), optax.identity(), ema_decay=ema_decay)
    if ema_decay is not None:
        state = state.replace(ema_params=jax.tree.map(lambda leaf: 2 * leaf, state.params))
    position = {
        "normalization": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]},
        "class_names": DIGITS,
        "preprocess": None,
    }
    arguments = {"stage_sizes": (1, 1), "num_filters": 8}
    content = {"position": position, "model": {"name": "resnet20", "arguments": arguments}}
    with BackgroundWriter() as saves:
        save_state(open_latest(workdir), saves, state.replace(step=jnp.asarray(7)), content)
        if has_best:
            best = state.replace(step=jnp.asarray(3), params=jax.tree.map(lambda leaf: 3 * leaf, state.params))
            save_state(open_best(workdir), saves, best, content)
    return state


@pytest.mark.parametrize(
    ("options", "factor", "line"),
    [
        ([], 2, "newest checkpoint, step 7, the moving average of the weights"),
        (["--no_average"], 1, "newest checkpoint, step 7, the weights themselves"),
        (["--checkpoint", "best", "--no_average"], 3, "best checkpoint, step 3, the weights themselves"),
    ],
)
def test_of_a_run_it_says_which_checkpoint_it_takes_and_takes_that(tmp_path, capsys, options, factor, line):
    state = store_run(tmp_path / "run", 0.5, has_best=True)
    target = tmp_path / "out.safetensors"
    assert main(["convert", "--from", str(tmp_path / "run"), "--to", str(target), *options]) == 0
    assert ["checkpoint", *line.split()] in [row.split() for row in capsys.readouterr().out.splitlines()]
    weights = load_weights(target, read_info(target).create_model())
    np.testing.assert_array_equal(
        weights["params"]["conv1"]["kernel"], factor * np.asarray(state.params["conv1"]["kernel"])
    )


def test_of_a_step_that_is_named_itself_it_says_the_step_alone(tmp_path, capsys):
    store_run(tmp_path / "run", has_best=True)
    for folder, step in (("checkpoints/7", 7), ("best/3", 3)):
        words = ["--from", tmp_path / "run" / folder, "--to", tmp_path / f"{step}.safetensors"]
        assert run(*words, "--model", "resnet20", "--model_args", "stage_sizes=(1,1)") == 0
        rows = [row.split() for row in capsys.readouterr().out.splitlines()]
        assert ["checkpoint", *f"step {step}, the weights themselves".split()] in rows


def test_finetuning_says_which_checkpoint_of_a_run_it_begins_from(tmp_path, capsys):
    from resnet_jax.config import load_config
    from resnet_jax.training.init_weights import load_initial

    store_run(tmp_path / "run", 0.5, has_best=True)
    model = small("resnet20", stage_sizes=(1, 1), num_classes=10)
    words = ["--config.model_args.stage_sizes=(1,1)", "--config.model_args.num_filters=8"]
    for path, checkpoint in (("run", "newest checkpoint, step 7"), ("run/best", "best checkpoint, step 3")):
        config = load_config("digits", [*words, f"--config.finetune.weights={tmp_path / path}"])
        load_initial(options_of(config), model, tuple(DIGITS))
        line = f"beginning from {tmp_path / path}: {checkpoint}, the moving average of the weights"
        assert line in capsys.readouterr().err.splitlines()


def test_checkpoints_and_averages_that_there_are_not_are_refused(tmp_path, capsys):
    store_run(tmp_path / "run")
    run, target = str(tmp_path / "run"), str(tmp_path / "out.safetensors")
    assert main(["convert", "--from", run, "--to", target, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["checkpoint"], result["step"], result["average"]) == ("newest", 7, False)
    for source, option, message in (
        (run, ["--no_average"], "keeps no moving average: leave out --no_average"),
        (run, ["--checkpoint", "best"], "has no best/: leave it out"),
        (target, ["--no_average"], "--checkpoint and --no_average belong to a run's folder"),
    ):
        assert main(["convert", "--from", source, "--to", str(tmp_path / "never"), *option]) == 2
        assert message in capsys.readouterr().err


def test_a_run_tells_its_model_class_names_and_normalisation(tmp_path):
    store_run(tmp_path / "run")
    model, names = small("resnet20", stage_sizes=(1, 1), num_classes=10), DIGITS
    convert(tmp_path / "run", tmp_path / "out.safetensors")
    info = read_info(tmp_path / "out.safetensors")
    assert (info.model, info.class_names) == ("resnet20", tuple(names))
    assert info.preprocess is not None
    assert info.preprocess.mean == (0.1, 0.2, 0.3)
    assert_equal(load_weights(tmp_path / "out.safetensors", info.create_model()), random_variables(model))


@pytest.mark.parametrize(
    "command", ["convert --from", "evaluate --data x --weights", "predict x --weights", "export --weights"]
)
def test_weights_that_do_not_say_their_model_are_answered_with_the_likely_one(tmp_path, capsys, command):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, state_dict(create_model("resnet20", shortcut="B")), {})
    (tmp_path / "x").mkdir()
    to = ["--to", str(tmp_path / "out.stablehlo")] if "export" in command else []
    to = ["--to", str(tmp_path / "out")] if "convert" in command else to
    assert main([*command.split(), str(path), *to]) == 2
    wanted = "name it with --model; it looks like --model resnet20 --model_args shortcut=B"
    assert capsys.readouterr().err.splitlines() == [f"error: {path} does not tell which model it is of: {wanted}"]


def test_half_precision_is_widened(tmp_path):
    tensors = {name: array.astype(np.float16) for name, array in state_dict(small()).items()}
    write_safetensors(tmp_path / "half.safetensors", tensors, {})
    convert(tmp_path / "half.safetensors", tmp_path / "whole.safetensors", model_name="resnet18", model_args=SMALL)
    widened = open_safetensors(tmp_path / "whole.safetensors")[0]["conv1.weight"]
    assert widened.dtype == np.float32
    np.testing.assert_array_equal(widened.read(), tensors["conv1.weight"].astype(np.float32))


def test_a_link_to_a_file_of_weights_stays_a_link(source, tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "large" / "w.safetensors")
    for preprocess in ("CIFAR", "IMAGENET1K_V1"):
        convert(source, tmp_path / "link.safetensors", model_name="resnet18", model_args=SMALL, preprocess=preprocess)
        assert (tmp_path / "link.safetensors").is_symlink()
        assert load_preprocess(tmp_path / "large" / "w.safetensors") == PREPROCESS[preprocess]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet20", {"stem_filters": 32}),
        ("resnet50_gn", {"width_per_group": 40}),
    ],
)
def test_arguments_that_make_no_network_are_one_line(source, tmp_path, capsys, name, arguments):
    words = [f"{key}={value}" for key, value in arguments.items()]
    assert run("--model", name, "--from", source, "--to", tmp_path / "out", "--model_args", *words) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: no network can be made of these arguments: ")
    assert errors.count("\n") == 1


def test_a_runs_folder_is_a_run_whatever_file_lies_in_it(tmp_path):
    words = [*TINY, "--config.num_steps=2", "--config.warmup_epochs=0", "--config.batch_size=1288"]
    assert main([*words, "--workdir", str(tmp_path / "run")]) == 0
    convert(tmp_path / "run", tmp_path / "run" / "model.safetensors")
    assert not is_model_folder(tmp_path / "run")
    for which in ("newest", "best"):
        report = convert(tmp_path / "run", tmp_path / which, which=which)
        assert report["format"] == "checkpoint"
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    convert(tmp_path / "run", tmp_path / "again", which="best")
    assert read_info(tmp_path / "again").class_names == tuple("0123456789")
