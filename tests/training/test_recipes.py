"""The configs against the published recipes, and each of them at work for three steps."""

import imagenet_archive
import jax
import numpy as np
import pytest

from resnet_jax.config import configs_dir, flatten, load_config
from resnet_jax.distributed.mesh import shard_batch
from resnet_jax.training.experiment import build_experiment, build_schedule, options_of
from resnet_jax.training.jit_steps import init_run_state, jit_train_step

IMAGENET = {
    "model": "resnet50", "dataset": "imagenet2012", "image_size": 224, "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225), "augment.random_resized_crop": True, "augment.crop_scale": (0.08, 1.0),
    "augment.crop_ratio": (3 / 4, 4 / 3), "augment.flip": True, "momentum": 0.9,
}  # fmt: skip
CIFAR = {"dataset": "cifar10", "augment.crop_padding": 4, "augment.flip": True, "optimizer": "sgd", "momentum": 0.9,
         "decay_norm_and_bias": True, "batch_size": 128}  # fmt: skip
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
FLAX = {
    **IMAGENET, "model_args.zero_init_residual": True, "optimizer": "sgd", "nesterov": True, "schedule": "cosine",
    "warmup_epochs": 5.0, "weight_decay": 1e-4, "decay_norm_and_bias": False, "decay_bias": False, "num_epochs": 100,
    "batch_size": 256, "learning_rate": 0.1, "interpolation": "bicubic", "resize": 256,
}  # fmt: skip
STRIKES_BACK = {
    **IMAGENET, "optimizer": "lamb", "batch_size": 2048, "loss": "sigmoid", "schedule": "cosine", "warmup_epochs": 5.0,
    "augment.cutmix": 1.0, "resize": 235, "augment.policy": "randaugment_increasing", "decay_norm_and_bias": False,
    "augment.policy_num_ops": 2, "target_threshold": 0.2, "interpolation": "bicubic",
    "model_args.zero_init_residual": True,
}  # fmt: skip
PREACT = {
    **CIFAR, "num_steps": 64_000, "learning_rate": 0.1, "schedule": "step", "decay_steps": (32_000, 48_000),
    "decay_factor": 0.1, "weight_decay": 1e-4, "nesterov": False,
}  # fmt: skip

RECIPES = {
    "cifar10": {**PREACT, "model": "resnet20", "model_args.kernel_init": "fan_in", "normalize": "pixel"},
    "cifar10_resnet18": {
        **CIFAR, "model": "cifar_resnet18", "num_epochs": 10, "learning_rate": 0.1, "schedule": "constant",
        "weight_decay": 5e-4, "mean": CIFAR_MEAN, "std": (0.2023, 0.1994, 0.2010),
    },
    "cifar10_quick": {
        **CIFAR, "model": "resnet20", "model_args.kernel_init": "fan_in", "num_epochs": 10, "learning_rate": 0.2,
        "schedule": "cosine", "schedule_by": "step", "warmup_epochs": 1.0, "warmup_start_factor": 0.0,
        "nesterov": True, "weight_decay": 5e-4, "mean": CIFAR_MEAN, "std": (0.2470, 0.2435, 0.2616),
        "augment.crop_padding_mode": "zeros",
    },
    "cifar10_wrn": {
        **CIFAR, "model": "wrn28_10", "num_epochs": 200, "learning_rate": 0.1, "schedule": "step",
        "decay_epochs": (60, 120, 160), "decay_factor": 0.2, "nesterov": True, "weight_decay": 5e-4,
        "augment.crop_padding_mode": "reflect",
    },
    "cifar10_preact1001": {
        **PREACT, "model": "preact_resnet1001", "warmup_steps": 400, "warmup_shape": "constant",
        "warmup_start_factor": 0.1,
    },
    "imagenet": {
        **IMAGENET, "optimizer": "sgd", "nesterov": False, "learning_rate": 0.1, "weight_decay": 1e-4,
        "decay_norm_and_bias": True, "batch_size": 256, "num_epochs": 90, "schedule": "step", "schedule_by": "epoch",
        "decay_epochs": (30, 60), "decay_factor": 0.1, "resize": 256, "interpolation": "bilinear",
        "augment.antialias": True,
    },
    "imagenet_v2": {
        **IMAGENET, "optimizer": "sgd", "nesterov": False, "batch_size": 1024, "learning_rate": 0.5, "num_epochs": 600,
        "schedule": "cosine", "warmup_epochs": 5.0, "warmup_start_factor": 0.01, "weight_decay": 2e-5,
        "decay_norm_and_bias": False, "decay_bias": True, "label_smoothing": 0.1, "augment.mixup": 0.2,
        "augment.cutmix": 1.0, "augment.policy": "trivialaugment", "augment.random_erasing": 0.1,
        "augment.crop_size": 176, "resize": 232, "repeated_augmentation": 4, "ema_decay": 0.998908,
        "ema_every_steps": 32, "ema_warmup_epochs": 5.0, "loss": "softmax", "schedule_by": "epoch",
    },
    "imagenet_flax": FLAX,
    "imagenet_rsb_a1": {
        **STRIKES_BACK, "num_epochs": 600, "learning_rate": 5e-3, "weight_decay": 0.01, "augment.mixup": 0.2,
        "augment.policy_magnitude": 7.0, "model_args.stochastic_depth": 0.05, "repeated_augmentation": 3,
        "label_smoothing": 0.1,
    },
    "imagenet_rsb_a2": {
        **STRIKES_BACK, "num_epochs": 300, "learning_rate": 5e-3, "weight_decay": 0.02, "augment.mixup": 0.1,
        "augment.policy_magnitude": 7.0, "model_args.stochastic_depth": 0.05, "repeated_augmentation": 3,
        "label_smoothing": 0.0,
    },
    "imagenet_rsb_a3": {
        **STRIKES_BACK, "num_epochs": 100, "learning_rate": 8e-3, "weight_decay": 0.02, "augment.mixup": 0.1,
        "augment.policy_magnitude": 6.0, "augment.crop_size": 160, "model_args.stochastic_depth": 0.0,
        "repeated_augmentation": 1, "label_smoothing": 0.0,
    },
    "imagenet_large_batch": {
        **IMAGENET, "optimizer": "lars", "batch_size": 8192, "learning_rate": 10.0, "num_epochs": 90,
        "schedule": "polynomial", "warmup_epochs": 5.0, "weight_decay": 1e-4, "decay_norm_and_bias": False,
        "trust_coefficient": 0.001, "label_smoothing": 0.1, "batch_norm": "ghost:64",
        "model_args.zero_init_residual": True,
    },
}  # fmt: skip
NOT_PUBLISHED = {"cifar10_fast", "default", "degradation", "digits", "finetune_folder", "folder"}


def test_every_config_is_a_published_recipe_or_ours():
    assert set(RECIPES) | NOT_PUBLISHED == {path.stem for path in configs_dir().glob("*.py")}


@pytest.mark.parametrize("name", RECIPES)
def test_resolved_config_is_the_published_recipe(name):
    resolved = flatten(load_config(name))
    assert {field: resolved[field] for field in RECIPES[name]} == RECIPES[name]


def test_second_recipe_of_torchvision_has_its_average():
    config = load_config("imagenet_v2")
    share = (1 - 0.99998) * config.batch_size * config.ema_every_steps / config.num_epochs
    assert config.ema_decay == pytest.approx(1 - share, abs=1e-6)


def rates(config, num_train, *epochs):
    """The learning rate at the first step of each epoch, of an epoch of num_train // batch_size steps."""
    steps = num_train // config.batch_size
    schedule = build_schedule(options_of(config), config.num_epochs * steps, steps)
    return [float(schedule(round(epoch * steps))) for epoch in epochs]


def test_learning_rates_of_the_recipes_by_epoch():
    num_train = 1_281_167
    v2 = rates(load_config("imagenet_v2"), num_train, 0, 1, 5, 5 + 238, 599)
    last = 0.5 * (1 - np.cos(np.pi / 595)) / 2
    assert v2 == pytest.approx([0.005, 0.104, 0.5, 0.25 * (1 + np.cos(0.4 * np.pi)), last], rel=1e-2)
    v1 = rates(load_config("imagenet"), num_train, 0, 29, 30, 59, 60, 89)
    assert v1 == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    # Those of torchvision change by epoch, as the others by step.
    within = rates(load_config("imagenet_v2"), num_train, 1, 1.5)
    assert within[0] == within[1]
    within = rates(load_config("imagenet_flax"), num_train, 1, 1.5)
    assert within == pytest.approx([0.02, 0.03], rel=1e-3)
    large = rates(load_config("imagenet_large_batch"), num_train, 0, 5, 47.5, 89)
    assert large == pytest.approx([0.0, 10.0, 2.5, 10 * (1 / 85) ** 2], abs=1e-2)
    wide = rates(load_config("cifar10_wrn"), 50_000, 59, 60, 120, 160)
    assert wide == pytest.approx([0.1, 0.02, 0.004, 0.0008])


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Forty small JPEGs of two classes."""
    folder = tmp_path_factory.mktemp("images")
    for i, data in enumerate(imagenet_archive.random_jpegs(40)):
        path = folder / "train" / f"class{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.slow
def test_recipe_runs_three_steps_on_tiny_images(name, image_folder):
    config = load_config(name)
    of_imagenet = config.dataset == "imagenet2012"
    config.dataset = "folder" if of_imagenet else "digits"
    config.data_dir = str(image_folder) if of_imagenet else ""
    config.image_size, config.resize = (32, 36) if of_imagenet else (0, 0)
    config.augment.crop_size = 24 if config.augment.crop_size else 0
    config.batch_size = 16
    config.batch_norm = config.batch_norm.replace("ghost:64", "ghost:4")
    config.num_epochs, config.num_steps, config.decay_epochs, config.decay_steps = 0, 40, (), (30,)
    config.warmup_epochs, config.warmup_steps = 0.0, min(config.warmup_steps, 20)
    config.model_args.stage_sizes, config.model_args.num_filters = (1,), 8  # the recipe's network, with one block
    experiment = build_experiment(options_of(config), jax.devices()[:1])
    state = init_run_state(experiment)
    before = jax.tree.map(np.asarray, state.params)
    step = jit_train_step(experiment)
    losses = []
    for k in range(3):
        state, metrics = step(state, shard_batch(experiment.batches[k], experiment.mesh))
        losses.append(float(metrics["loss"]))
    assert np.all(np.isfinite(losses))
    moved = [
        float(np.abs(a - b).max()) > 0
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True)
    ]
    assert np.mean(moved) > 0.9
