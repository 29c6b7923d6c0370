"""Transfer learning: what is frozen stays bit for bit and costs nothing, and torch gives the same numbers."""

import json
import shutil
from functools import partial

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.interpreters import partial_eval
from processes import TINY, records
from state_dicts import plausible_variables

import resnet_jax
from resnet_jax.cli.main import main
from resnet_jax.config import load_config
from resnet_jax.distributed.mesh import make_mesh, shard_batch
from resnet_jax.inference.evaluate import evaluate_run
from resnet_jax.inference.predictor import restore_run
from resnet_jax.models import ResNet
from resnet_jax.models.summary import count_macs
from resnet_jax.training import (
    create_train_state,
    experiment,
    features,
    make_schedule,
    precise_batch_stats,
    sgd,
    train_step,
)
from resnet_jax.training.experiment import options_of
from resnet_jax.training.finetuning import learning_rate_factors
from resnet_jax.training.init_weights import load_initial
from resnet_jax.training.jit_steps import init_run_state, jit_train_step
from resnet_jax.training.optimizer import scale_by_layer
from resnet_jax.training.run import train
from resnet_jax.weights.class_names import imagenet_names, imagenet_wordnet_ids
from resnet_jax.weights.info import WeightsInfo

ARGUMENTS = {"stage_sizes": (1, 1), "num_filters": 4}
WORDS = [
    *TINY,
    "--config.model_args.stage_sizes=(1,1)",
    "--config.augment.crop_padding=0",
    "--config.warmup_epochs=0",
    "--config.num_steps=30",
    "--config.checkpoint_every_steps=10",
]
BATCH = {
    "image": jax.random.normal(jax.random.key(1), (6, 8, 8, 3)),
    "label": jnp.array([0, 1, 2, 0, 1, 2]),
}


def tiny(**arguments):
    return ResNet(**{**ARGUMENTS, "stem": "cifar", "shortcut": "A", "num_classes": 3, **arguments})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network for five classes that tell what they are of."""
    path = tmp_path_factory.mktemp("weights") / "five.safetensors"
    arguments = {"stage_sizes": (1, 1), "num_filters": 4, "num_classes": 5}
    model = resnet_jax.create_model("resnet20", **arguments)
    info = WeightsInfo("resnet20", arguments, tuple("abcde"))
    resnet_jax.save_weights(path, model, plausible_variables(model, 7), info=info)
    return path


def config_of(weights, *words):
    return load_config("digits", [*(word for word in WORDS if word.startswith("--config.")),
                                  f"--config.finetune.weights={weights}", *words])  # fmt: skip


def leaves(variables):
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(dict(variables)).items()}


@pytest.mark.parametrize("name", ["finetune-stage", "finetune-top"])
def test_losses_weights_and_statistics_of_partial_training_equal_torchs(name):
    with jax.enable_x64(True):
        facts, arrays = golden_files.load(name)
        arguments = {key: facts[key] for key in ("num_classes", "trainable", "base_classes") if key in facts}
        model = resnet_jax.create_model(facts["model"], dtype="float64", **arguments)
        shapes = resnet_jax.weights.names.torch_shapes(resnet_jax.models.variable_shapes(model))
        start = golden_files.variables({key: shape for key, (_, shape) in shapes.items()}, "float64")
        schedule = make_schedule(
            "step", facts["learning_rate"], facts["steps"], decay_steps=facts["lr_divided_by_10_after_steps"]
        )
        factor = facts["head_learning_rate"] / facts["learning_rate"]
        tx = optax.chain(
            sgd(schedule, facts["momentum"], facts["nesterov"], facts["weight_decay"]),
            scale_by_layer({model.head_layers[-1][0]: factor}),
        )
        state = create_train_state(model, start, tx)
        step, losses = jax.jit(train_step), []
        for t in range(facts["steps"]):
            labels = np.random.RandomState(facts["seed"] + t).randint(0, facts["num_classes"], facts["batch"])
            images = golden_files.images(facts, "float64", seed=facts["seed"] + t)
            state, metrics = step(state, {"image": images, "label": jnp.asarray(labels)})
            losses.append(float(metrics["loss"]))
        np.testing.assert_allclose(losses, arrays.pop("losses"), rtol=0, atol=1e-9)
        for torch_name, torch_array in arrays.items():
            collection, path, array = golden_files.to_jax(torch_name, torch_array)
            np.testing.assert_allclose(
                golden_files.at(state.variables[collection], path), array, rtol=0, atol=1e-9, err_msg=torch_name
            )


@pytest.mark.parametrize(
    ("arguments", "frozen", "moving"),
    [
        ({"trainable": "stage1"}, {"conv1", "bn1"}, {"layer1", "layer2", "fc"}),
        ({"trainable": "stage2"}, {"conv1", "bn1", "layer1"}, {"layer2", "fc"}),
        ({"trainable": "head"}, {"conv1", "bn1", "layer1", "layer2"}, {"fc"}),
        ({"trainable": "head", "base_classes": 5}, {"conv1", "bn1", "layer1", "layer2", "fc"}, {"top"}),
        ({"trainable": "stage2", "block_cls": "preact_basic", "shortcut": "B"}, {"conv1", "layer1"},
         {"layer2", "norm", "fc"}),
        ({"trainable": "head", "block_cls": "preact_basic", "shortcut": "B"}, {"conv1", "layer1", "layer2", "norm"},
         {"fc"}),
    ],
)  # fmt: skip
def test_frozen_layers_stay_bit_for_bit_in_weights_statistics_and_averages(arguments, frozen, moving):
    model = tiny(stochastic_depth=0.2, dropout=0.1, **arguments)
    start = plausible_variables(model)
    state = create_train_state(model, start, sgd(0.1, 0.9, True, weight_decay=0.1), ema_decay=0.97)
    step = jax.jit(train_step)
    for _ in range(4):
        state, metrics = step(state, BATCH)
    assert float(metrics["gradient_norm"]) > 0
    assert set(model.frozen_layers) == frozen
    assert set(state.params) == frozen | moving
    for variables in (state.variables, state.averaged().variables):
        for path, leaf in leaves(variables).items():
            same = np.array_equal(leaf, leaves(start)[path])
            assert same == (path.split("/")[1] in frozen), path
    # The optimizer keeps nothing of what it does not move.
    kept = {next(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
            for path, leaf in jax.tree.leaves_with_path(state.opt_state) if leaf.ndim}  # fmt: skip
    assert kept == moving
    statistics = precise_batch_stats(model, state.variables, [BATCH["image"]] * 3)
    for path, leaf in leaves({"batch_stats": statistics}).items():
        if path.split("/")[1] in frozen:
            np.testing.assert_array_equal(leaf, leaves(start)[path], err_msg=path)


def work_of_step(model):
    """Multiply-accumulates of a training step, of what its results need."""
    state = create_train_state(model, plausible_variables(model), sgd(0.1))
    traced = jax.make_jaxpr(train_step)(state, BATCH)
    needed, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return count_macs(lambda *leaves: jax.core.eval_jaxpr(needed, traced.consts, *leaves),
                      *(var.aval for var in needed.invars))  # fmt: skip


def test_no_gradients_are_computed_for_what_is_frozen():
    whole, num_classes, width, images = tiny(), 3, 8, len(BATCH["label"])
    forward = count_macs(partial(whole.apply, train=False), plausible_variables(whole), BATCH["image"])
    # Of the head its kernel's gradient alone.
    assert work_of_step(tiny(trainable="head")) == forward + images * width * num_classes
    # Stage 2 at 4x4 pixels: of its first convolution, 4 -> 8 channels, the input's gradient is not needed.
    first, second, head = images * 16 * 9 * 4 * 8, images * 16 * 9 * 8 * 8, images * width * num_classes
    assert work_of_step(tiny(trainable="stage2")) == forward + first + 2 * second + 2 * head
    assert work_of_step(whole) > work_of_step(tiny(trainable="stage2"))


def test_frozen_stages_compute_in_training_as_in_evaluation():
    model = tiny(trainable="head", stochastic_depth=0.5)
    start = plausible_variables(model)
    trained, updated = model.apply(
        start, BATCH["image"], train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
    )
    np.testing.assert_array_equal(trained, model.apply(start, BATCH["image"], train=False))
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], start["batch_stats"])


def test_pooled_features_give_the_logits_of_their_images():
    model = tiny(base_classes=5)
    start = plausible_variables(model)
    outputs = model.apply(start, BATCH["image"], train=False, features=True)
    logits = model.apply(start, BATCH["image"], train=False)
    np.testing.assert_array_equal(model.apply(start, outputs["pooled"], train=False), logits)
    base = tiny(num_classes=5).apply(start, BATCH["image"], train=False)
    expected = base @ start["params"]["top"]["kernel"] + start["params"]["top"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_run_begins_from_the_weights_and_draws_the_new_head_by_its_seed(weights, tmp_path):
    model = resnet_jax.create_model("resnet20", **ARGUMENTS, num_classes=5)
    given = leaves(resnet_jax.load_weights(weights, model))
    heads = []
    for seed in (0, 1):
        words = ["--config.finetune.trainable=head", "--config.learning_rate=0", f"--config.seed={seed}"]
        train(options_of(config_of(weights, *words)), tmp_path / str(seed), "run")
        variables = leaves(restore_run(tmp_path / str(seed)).state.variables)
        heads.append(variables.pop("params/fc/kernel"))
        assert variables.pop("params/fc/bias").shape == (10,)
        for path, leaf in variables.items():
            np.testing.assert_array_equal(leaf, given[path], err_msg=path)
    assert heads[0].shape == heads[1].shape == (8, 10)
    assert not np.array_equal(*heads)


@pytest.mark.slow
def test_head_is_trained_on_features_as_on_the_images_that_they_are_of(weights, tmp_path, monkeypatch, capfd):
    words = ["--config.finetune.trainable=head", "--config.ema_decay=0.9", "--config.log_every_steps=5"]
    train(options_of(config_of(weights, *words)), tmp_path / "features", "run")
    assert "features of 1,797 images are computed once" in capfd.readouterr().err
    monkeypatch.setattr(features, "MAX_BYTES", 1000)
    train(options_of(config_of(weights, *words)), tmp_path / "images", "run")
    assert "features of" not in capfd.readouterr().err
    logs = [records(tmp_path / name) for name in ("features", "images")]
    assert [record["step"] for record in logs[0]] == [record["step"] for record in logs[1]]
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    # What is kept is a whole network, which anything that reads a run can use.
    assert evaluate_run(tmp_path / "features")["accuracy"] == pytest.approx(logs[0][-1]["test_ema_accuracy"], abs=0.003)


@pytest.mark.parametrize("words", [["--config.augment.flip=True"], ["--config.finetune.trainable=stage2"]])
def test_images_that_change_or_pass_through_trained_stages_are_no_features(weights, tmp_path, capfd, words):
    config = config_of(weights, "--config.finetune.trainable=head", "--config.num_steps=2", *words)
    train(options_of(config), tmp_path / "run", "run")
    assert "features of" not in capfd.readouterr().err


def test_damaged_image_is_replaced_among_features_as_among_images():
    class Two:
        class_names, num_classes = ("a", "b"), 2

    source = features.FeatureSource(
        Two(), np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1], np.int32), np.array([True, False, True, False])
    )
    keys = resnet_jax.data.source.Keys(0, 0, np.arange(4))
    trained = source.read(np.array([0, 1, 2, 3]), keys)
    np.testing.assert_array_equal(trained.label, [0, 0, 0, 0])
    np.testing.assert_array_equal(trained.image[:, 0], [0, 4, 4, 0])  # the next good one, after the last the first
    assert trained.valid.all()
    np.testing.assert_array_equal(source.read(np.array([2, 3])).valid, [True, False])


@pytest.mark.parametrize(
    "words",
    [
        ["--config.finetune.trainable=head", "--config.finetune.head_learning_rate=0.05"],
        ["--config.finetune.trainable=stage2", "--config.ema_decay=0.9", "--config.accumulation_steps=2",
         "--config.augment.flip=True"],
    ],
)  # fmt: skip
@pytest.mark.slow
def test_broken_off_finetuning_continues_bit_for_bit_without_the_weights(weights, tmp_path, capfd, words):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    words = [*WORDS, *words, "--config.schedule=constant", f"--config.finetune.weights={copy}"]

    def run(*more):
        code = main([*words, *map(str, more)])
        return code, *capfd.readouterr()

    code, unbroken, errors = run("--workdir", tmp_path / "unbroken")
    assert code == 0, errors
    code, _, errors = run("--config.num_steps=10", "--workdir", tmp_path / "broken")
    assert code == 0, errors
    # As if it had been killed after step 10: what a run does at its end is taken back.
    log = tmp_path / "broken" / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(
        "".join(line for line in lines if not ('"step": 10,' in line and ("val_" in line or "test_" in line)))
    )
    shutil.rmtree(tmp_path / "broken" / "best")
    copy.unlink()
    code, output, errors = run("--workdir", tmp_path / "broken")
    assert code == 0, errors
    assert "continuing" in errors
    assert records(tmp_path / "broken") == records(tmp_path / "unbroken")
    assert digest_in(output) == digest_in(unbroken)
    code, _, errors = run("--workdir", tmp_path / "new")
    assert code == 2
    assert "copy.safetensors does not exist" in errors
    assert not (tmp_path / "new").exists()
    code, _, errors = run("--config.momentum=0.5", "--workdir", tmp_path / "broken")
    assert code == 2
    assert "config.momentum is 0.9 there and 0.5 here" in errors


def digest_in(output):
    return next(line for line in output.splitlines() if "sha256" in line)


@pytest.mark.parametrize(
    "words",
    [
        ["--config.finetune.trainable=stage2", "--config.batch_norm=local", "--config.ema_decay=0.9"],
        ["--config.finetune.trainable=stage2", "--config.batch_norm=local", "--config.accumulation_steps=2"],
        ["--config.finetune.trainable=head", "--config.augment.flip=True"],
        ["--config.finetune.trainable=stage2", "--config.batch_norm=ghost:12", "--config.optimizer=lars",
         "--config.l1=1e-4", "--config.clip_gradient_norm=1.0", "--config.model_args.remat=True"],
        ["--config.finetune.trainable=stage1", "--config.optimizer=lamb", "--config.nesterov=False",
         "--config.dtype=bfloat16", "--config.on_nonfinite=skip", "--config.precise_bn_batches=2"],
    ],
)  # fmt: skip
@pytest.mark.slow
def test_frozen_layers_of_a_run_are_the_weights_own_whatever_else_it_does(weights, tmp_path, monkeypatch, words):
    # Three devices: a mean of three equal numbers is another one in its last bit.
    monkeypatch.setattr(experiment, "make_mesh", lambda devices=None: make_mesh(jax.devices()[:3]))
    config = config_of(weights, *words, "--config.batch_size=48", "--config.num_steps=4")
    train(options_of(config), tmp_path / "run", "run")
    trained = restore_run(tmp_path / "run")
    given = leaves(resnet_jax.load_weights(weights, resnet_jax.create_model("resnet20", **ARGUMENTS, num_classes=5)))
    moved = {path: not np.array_equal(leaf, given[path]) for path, leaf in leaves(trained.state.variables).items()
             if path.split("/")[1] != "fc"}  # fmt: skip
    assert {path.split("/")[1] for path, has_moved in moved.items() if not has_moved} == set(
        trained.model.frozen_layers
    )
    assert not any(has_moved for path, has_moved in moved.items() if path.split("/")[1] in trained.model.frozen_layers)


@pytest.mark.slow
def test_rates_of_the_config_reach_the_layers(weights):
    def first_update(*words):
        words = ["--config.schedule=constant", "--config.weight_decay=0", *words]
        made = experiment.build_experiment(options_of(config_of(weights, *words)), jax.devices()[:1])
        start = load_initial(made.options, made.model, made.class_names)
        state = init_run_state(made, begin_with=start)
        before = jax.tree.map(np.array, state.params)  # the state is donated
        after, _ = jit_train_step(made)(state, shard_batch(made.batches[0], made.mesh))
        return jax.tree.map(lambda new, old: np.asarray(new) - old, dict(after.params), before)

    plain = first_update("--config.learning_rate=0.1")
    rated = first_update(
        "--config.learning_rate=0.1", "--config.finetune.layer_decay=0.5", "--config.finetune.head_learning_rate=0.3"
    )
    for layer, factor in {"conv1": 0.125, "layer1": 0.25, "layer2": 0.5, "fc": 3.0}.items():
        for one, other in zip(jax.tree.leaves(rated[layer]), jax.tree.leaves(plain[layer]), strict=True):
            np.testing.assert_allclose(one, factor * other, rtol=1e-3, atol=1e-6, err_msg=layer)


@pytest.mark.slow
def test_new_layer_on_top_of_the_old_head_is_what_is_trained(weights, tmp_path):
    words = ["--config.finetune.head=add", "--config.model_args.base_classes=5", "--config.finetune.trainable=head"]
    train(options_of(config_of(weights, *words)), tmp_path / "run", "run")
    trained = restore_run(tmp_path / "run")
    given = resnet_jax.load_weights(weights, resnet_jax.create_model("resnet20", **ARGUMENTS, num_classes=5))
    np.testing.assert_array_equal(trained.state.params["fc"]["kernel"], given["params"]["fc"]["kernel"])
    assert trained.state.params["top"]["kernel"].shape == (5, 10)
    # The run's folder tells what it is of; from there on it can be brought elsewhere, or trained further.
    assert main(["convert", "--from", str(tmp_path / "run"), "--to", str(tmp_path / "w")]) == 0
    variables = resnet_jax.load_weights(tmp_path / "w", resnet_jax.weights.read_info(tmp_path / "w").create_model())
    jax.tree.map(np.testing.assert_array_equal, variables["params"], dict(trained.state.params))
    config = config_of(tmp_path / "run", "--config.finetune.trainable=stage2", "--config.num_steps=2")
    train(options_of(config), tmp_path / "again", "run")
    assert set(restore_run(tmp_path / "again").state.params) == {"conv1", "bn1", "layer1", "layer2", "fc"}
    # The second phase: both layers go on, with all that is below them.
    both = [
        "--config.finetune.head=keep",
        "--config.num_steps=1",
        "--config.learning_rate=0",
        "--config.batch_norm=frozen",
    ]
    with pytest.raises(ValueError, match="top of 5"):
        train(options_of(config_of(tmp_path / "run", *both)), tmp_path / "both", "run")
    train(
        options_of(config_of(tmp_path / "run", *both, "--config.model_args.base_classes=5")), tmp_path / "both", "run"
    )
    assert records(tmp_path / "both")[-1]["test_accuracy"] == records(tmp_path / "run")[-1]["test_accuracy"]
    with pytest.raises(ValueError, match="has a layer on top of its head already"):
        train(options_of(config_of(tmp_path / "run", "--config.finetune.head=add")), tmp_path / "third", "run")


def test_head_of_imagenet_is_kept_whichever_way_its_classes_are_named(tmp_path):
    model = resnet_jax.create_model("resnet20", **ARGUMENTS, num_classes=1000)
    info = WeightsInfo("resnet20", {**ARGUMENTS, "num_classes": 1000}, imagenet_names())
    resnet_jax.save_weights(tmp_path / "w.safetensors", model, plausible_variables(model), info=info)
    config = config_of(tmp_path / "w.safetensors", "--config.finetune.head=keep")
    for names in (imagenet_names(), imagenet_wordnet_ids()):
        kept = load_initial(options_of(config), model, names)["params"]["fc"]["kernel"]
        np.testing.assert_array_equal(kept, plausible_variables(model)["params"]["fc"]["kernel"])
    with pytest.raises(ValueError, match=r"needs the classes of .* in its order"):
        load_initial(options_of(config), model, imagenet_names()[::-1])


@pytest.mark.slow
def test_head_that_is_kept_begins_where_the_other_run_ended(weights, tmp_path):
    train(options_of(config_of(weights, "--config.num_steps=20")), tmp_path / "first", "run")
    accuracy = records(tmp_path / "first")[-1]["test_accuracy"]
    words = [
        "--config.finetune.head=keep",
        "--config.learning_rate=0",
        "--config.num_steps=1",
        "--config.batch_norm=frozen",
    ]
    train(options_of(config_of(tmp_path / "first", *words)), tmp_path / "second", "run")
    assert records(tmp_path / "second")[-1]["test_accuracy"] == accuracy


def factors_of(words, model):
    options = options_of(load_config("digits", words))
    return learning_rate_factors(options.finetune, options.optimizer, model)


def test_rates_fall_from_the_head_to_the_stem_and_the_heads_own_counts():
    words = ["--config.learning_rate=0.1", "--config.finetune.layer_decay=0.5"]
    model = tiny()
    assert factors_of(words, model) == {
        "conv1": 0.125, "bn1": 0.125, "layer1": 0.25, "layer2": 0.5, "fc": 1.0
    }  # fmt: skip
    words += ["--config.finetune.head_learning_rate=0.3", "--config.learning_rate_factors.layer2=0.0"]
    factors = factors_of(words, tiny(trainable="stage2"))
    assert factors == {"layer2": 0.0, "fc": pytest.approx(3.0)}
    assert factors_of([], model) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.finetune.trainable=stage3"], "trainable='stage3' must be one of all, stage1, stage2, head"),
        (["--config.finetune.head=none"], "config.finetune.head='none' must be one of replace, add, keep"),
        (["--config.finetune.layer_decay=0"], "config.finetune.layer_decay=0.0 must be in (0, 1]"),
        (["--config.finetune.trainable=head", "--config.finetune.weights="], "needs config.finetune.weights"),
        (["--config.finetune.weights=nothing.pth"], "nothing.pth does not exist"),
        (["--config.model=resnet32"], "is of the model 'resnet20', not of 'resnet32' as asked for"),
        (
            ["--config.model_args.num_filters=8"],
            "of another network than the config's: set --config.model_args.num_filters=4",
        ),
        (["--config.model_args.conv_bias=True"], "set --config.model_args.conv_bias=False"),
        (["--config.finetune.head=keep"], "needs weights of 10 classes, as the images have, and"),
        (["--config.finetune.head=add"], "set --config.model_args.base_classes=5"),
        (["--config.model_args.base_classes=5"], "needs config.finetune.head='add'"),
        (["--config.finetune.weights=nan.safetensors"], "layer1.0.conv1.weight is not finite"),
        (["--config.model_args.trainable=head"], "config.model_args.trainable is set by config.finetune.trainable"),
        (["--config.finetune.trainable=head", "--config.precise_bn_batches=2"], "precise_bn_batches must be 0"),
        (
            ["--config.finetune.trainable=head", "--config.learning_rate_factors.layer1=0.1"],
            "no layer 'layer1' is trained",
        ),
    ],
)
def test_what_cannot_be_finetuned_is_told_before_anything_is_written(weights, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    if "nan.safetensors" in words[0]:
        model = resnet_jax.create_model("resnet20", **ARGUMENTS, num_classes=5)
        variables = resnet_jax.load_weights(weights, model)
        kernel = variables["params"]["layer1"]["0"]["conv1"]["kernel"]
        variables["params"]["layer1"]["0"]["conv1"]["kernel"] = kernel.at[0, 0, 0, 0].set(jnp.nan)
        resnet_jax.save_weights("nan.safetensors", model, variables)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        train(options_of(config_of(weights, *words)), tmp_path / "run", "run")
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_normalisation_than_that_of_the_weights_is_told(tmp_path, capfd):
    from resnet_jax.data.transforms.preprocess import PREPROCESS

    model = resnet_jax.create_model("resnet20", **ARGUMENTS)
    info = WeightsInfo("resnet20", dict(ARGUMENTS), (), PREPROCESS["CIFAR"])
    resnet_jax.save_weights(tmp_path / "w.safetensors", model, plausible_variables(model), info=info)
    config = config_of(tmp_path / "w.safetensors", "--config.num_steps=1")
    train(options_of(config), tmp_path / "run", "run")
    assert "those of this run with config.normalize=" in capfd.readouterr().err
    mean, std = PREPROCESS["CIFAR"].mean, PREPROCESS["CIFAR"].std
    config = config_of(
        tmp_path / "w.safetensors", "--config.num_steps=1", f"--config.mean={mean}", f"--config.std={std}"
    )
    train(options_of(config), tmp_path / "same", "run")
    assert "were normalised with" not in capfd.readouterr().err


def test_config_of_a_run_before_transfer_learning_is_complete():
    from resnet_jax.config import config_from_dict, default_config

    values = json.loads(json.dumps(default_config().to_dict()))
    del values["finetune"]
    assert config_from_dict(values).finetune.trainable == "all"


def test_weights_of_the_flax_example_say_their_padding(tmp_path):
    """A layout's networks share a padding that no tensor shows; it is compared as if the weights stated it."""
    flat = {
        ("params", "conv_init", "kernel"): np.zeros((3, 3, 3, 4), np.float32),
        ("params", "ResNetBlock_0", "Conv_0", "kernel"): np.zeros((3, 3, 4, 4), np.float32),
    }
    path = tmp_path / "checkpoint_1"
    path.write_bytes(serialization.msgpack_serialize(unflatten_dict(flat)))
    with pytest.raises(ValueError, match=r"set --config\.model_args\.stride_padding='same'"):
        load_initial(options_of(config_of(path)), tiny(), ())
