"""A run's compiled step on one and on many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.config import default_config, load_config
from resnet_jax.distributed.mesh import make_mesh, shard_batch
from resnet_jax.errors import UserError
from resnet_jax.inference import preview
from resnet_jax.training import jit_steps
from resnet_jax.training.experiment import build_experiment, options_of
from resnet_jax.training.images import Normalization, augmenter
from resnet_jax.training.jit_steps import init_run_state, jit_train_step, load_train_batch


def tiny_config(**fields):
    config = default_config()
    config.model = "resnet20"
    config.model_args.stage_sizes = (1,)
    config.model_args.num_filters = 4
    config.dataset = "digits"
    config.image_size = 8
    config.batch_size = 32
    config.num_steps = 20
    config.augment.crop_padding = 1
    config.augment.flip = True
    config.update_from_flattened_dict(fields)
    return config


def train_losses(config, num_devices, num_steps=20):
    experiment = build_experiment(options_of(config), jax.devices()[:num_devices])
    state = init_run_state(experiment)
    step = jit_train_step(experiment)
    losses = []
    for k in range(num_steps):
        batch = shard_batch(experiment.batches[k], experiment.mesh, config.accumulation_steps)
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.mark.slow
def test_losses_are_the_same_on_1_2_4_and_8_devices():
    with jax.enable_x64(True):
        config = tiny_config(dtype="float64")
        config.model_args.dropout = 0.2
        one, _ = train_losses(config, 1)
        assert np.ptp(one) > 0.01  # it does train: equality of constants would prove nothing
        for num_devices in (2, 4, 8):
            many, state = train_losses(config, num_devices)
            np.testing.assert_allclose(many, one, rtol=0, atol=1e-9)
            assert all(len(leaf.sharding.device_set) == num_devices for leaf in jax.tree.leaves(state))


def test_no_second_copy_of_the_state_remains_after_a_step():
    config = tiny_config()
    experiment = build_experiment(options_of(config), jax.devices()[:1])
    state = init_run_state(experiment)
    batch = shard_batch(experiment.batches[0], experiment.mesh)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    step = jit_train_step(experiment)
    # The program writes every byte of the new state into the old one's memory ...
    assert step.lower(state, batch).compile().memory_analysis().alias_size_in_bytes >= size
    new_state, _ = step(state, batch)
    # ... and the old one is gone.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new_state))


def test_pixel_normalisation_subtracts_the_training_images_mean():
    config = tiny_config(normalize="pixel", validation_fraction=0.1)
    experiment = build_experiment(options_of(config))
    images = experiment.batches.source.images
    assert len(images) == 1293
    np.testing.assert_allclose(experiment.normalization.mean, images.mean(0) / 255)
    restored = Normalization.from_json(experiment.normalization.to_json())
    np.testing.assert_array_equal(restored.mean, experiment.normalization.mean)


def test_learning_rate_metric_is_the_one_applied():
    config = tiny_config(schedule="step", decay_steps=(1,), learning_rate=0.5)
    experiment = build_experiment(options_of(config), jax.devices()[:1])
    state = init_run_state(experiment)
    step = jit_train_step(experiment)
    rates = []
    for k in range(2):
        state, metrics = step(state, shard_batch(experiment.batches[k], experiment.mesh))
        rates.append(float(metrics["learning_rate"]))
    assert rates == pytest.approx([0.5, 0.05])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 12}, "batch_size=12 must be positive and divisible by the 8 devices, for example 16"),
        ({"batch_size": 4000}, "batch_size=4000 must be from 1 to the 1437 training images"),
        ({"num_classes": 7}, "config.num_classes=7 must be 10, the classes of digits"),
        ({"model": "resnet21"}, "model='resnet21' is not known"),
        ({"dataset": "cifar11"}, "dataset='cifar11' must be one of .*did you mean 'cifar10"),
        ({"dataset": "folder"}, "dataset='folder' needs data_dir"),
        ({"augment.crop_padding": 8, "augment.crop_padding_mode": "reflect"}, "must be less than the image size, 8"),
        ({"augment.policy": "randaugmnt"}, "config.augment: policy='randaugmnt' must be one of .* 'randaugment'"),
        ({"augment.color_jitter": (0.0, 0.0, 0.0, 0.7)}, "hue=0.7 must be"),
        ({"augment.random_resized_crop": True, "augment.crop_scale": (0.5, 2.0)}, r"crop_scale=\(0.5, 2.0\) must be"),
        ({"decay_epochs": (1,), "decay_steps": (3,)}, "exclude each other"),
        ({"accumulation_steps": 3}, "by the 8 devices times config.accumulation_steps=3, for example 24"),
        ({"batch_norm": "ghost:5"}, "config.batch_norm='ghost:5' must divide the batch of 32 images"),
        (
            {"batch_norm": "ghost:16", "accumulation_steps": 4},
            "config.batch_norm='ghost:16' must divide a part of the batch of 8 images",
        ),
        ({"batch_norm": "folded"}, "config.batch_norm='folded' is for inference"),
        ({"schedule": "cosin"}, "config.schedule='cosin' must be one of .* did you mean 'cosine'"),
        ({"batch_norm": "frozen", "precise_bn_batches": 1}, "config.precise_bn_batches must be 0"),
        (
            {"model_args.norm_layer": "group", "model_args.num_filters": 32, "precise_bn_batches": 1},
            "config.precise_bn_batches must be 0 with norm_layer='group'",
        ),
        ({"learning_rate_factors.fc": "a"}, "config.learning_rate_factors.fc='a' must be a number"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build_experiment(options_of(tiny_config(**fields)))


def test_layers_that_do_not_exist_are_refused_before_the_run_begins():
    config = tiny_config(**{"learning_rate_factors.layer9": 0.1})
    experiment = build_experiment(options_of(config))
    with pytest.raises(ValueError, match="no layer 'layer9' is trained"):
        init_run_state(experiment)


def test_reserved_model_arguments_are_refused():
    config = tiny_config()
    config.model_args.num_classes = 5
    with pytest.raises(ValueError, match=r"config.model_args.num_classes is set by config.num_classes"):
        build_experiment(options_of(config))


def test_batches_are_split_over_the_devices():
    mesh = make_mesh()
    batch = shard_batch({"label": np.arange(16)}, mesh)
    assert [shard.data.tolist() for shard in batch["label"].addressable_shards][1] == [2, 3]
    np.testing.assert_array_equal(jnp.sort(batch["label"]), np.arange(16))


def test_parts_of_a_batch_train_as_the_batch_does_where_batch_norm_is_frozen():
    fields = {"dtype": "float64", "batch_norm": "frozen", "learning_rate": 1e-3}
    with jax.enable_x64(True):
        whole, _ = train_losses(tiny_config(**fields), 1, num_steps=5)
        for num_devices in (1, 2):
            parts, _ = train_losses(tiny_config(**fields, accumulation_steps=4), num_devices, num_steps=5)
            np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-9)


def test_mixed_images_are_the_same_on_one_and_on_8_devices():
    with jax.enable_x64(True):
        config = tiny_config(dtype="float64", **{"augment.mixup": 0.2, "augment.cutmix": 1.0})
        one, _ = train_losses(config, 1, num_steps=4)
        eight, _ = train_losses(config, 8, num_steps=4)
        np.testing.assert_allclose(eight, one, rtol=0, atol=1e-9)


def test_steps_of_a_schedule_may_lie_within_an_epoch():
    fields = {"schedule": "step", "num_steps": 0, "num_epochs": 2, "warmup_steps": 10, "learning_rate": 1.0}
    experiment = build_experiment(options_of(tiny_config(**fields, decay_epochs=(0.5, 1.5))), jax.devices()[:1])
    rates = [float(experiment.schedule(step)) for step in (10, 21, 22, 65, 66)]  # 44 steps an epoch
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("num_repeats", [1, 3, 4])
def test_images_are_mixed_with_others_than_their_own_repetitions(num_repeats):
    config = tiny_config(**{"repeated_augmentation": num_repeats, "augment.mixup": 5.0, "batch_size": 240})
    experiment = build_experiment(options_of(config), jax.devices()[:1])
    prepare = augmenter(
        experiment.options.augment, experiment.options.batches, experiment.normalization, 10, config.dtype
    )
    labels = prepare(experiment.batches[0], jnp.asarray(0))["label"]
    mixed = float(((labels > 0).sum(axis=1) == 2).mean())
    assert mixed == pytest.approx(0.9, abs=0.1)  # one in ten has a partner of its own class


def test_cadence_longer_than_an_epoch_is_warned_of_once_where_it_was_given(capfd):
    for words in (["--config.log_every_steps=5000"], ["--config.log_every_steps=5000"], ["--config.log_every_steps=2"]):
        build_experiment(options_of(load_config("digits", [*words, "--config.batch_size=64"])), jax.devices()[:1])
    config = load_config("digits", ["--config.batch_size=640"])
    config.log_every_steps = 5000  # as a file has it, for larger sets
    assert build_experiment(options_of(config), jax.devices()[:1]).log_every_steps == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "log_every_steps" in line]
    assert line.startswith("warning: config.log_every_steps=5000 is lowered to ")


def test_blocks_without_shortcuts_that_begin_at_zero_are_refused():
    words = ["--config.model=plain20", "--config.model_args.zero_init_residual=true"]
    with pytest.raises(UserError, match="zero_init_residual leaves blocks their shortcut alone"):
        build_experiment(options_of(load_config("digits", words)))


@pytest.mark.parametrize("num_parts", [1, 2])
def test_preview_shows_the_batch_that_training_mixes(tmp_path, monkeypatch, num_parts):
    config = tiny_config(accumulation_steps=num_parts)
    config.augment.mixup = 0.5
    experiment = build_experiment(options_of(config), jax.devices()[:1])
    batch, prepare = load_train_batch(experiment, 3), jit_steps._preparation(experiment)
    expected = np.concatenate([prepare(batch, 3, part)["label"] for part in range(num_parts)])
    shown = []
    monkeypatch.setattr(preview, "_caption", lambda label, *_, **__: shown.append(label) or "")
    preview.preview(options_of(config), tmp_path / "batch.png", step=3)
    np.testing.assert_allclose(np.stack(shown), expected, rtol=1e-6)
