"""What a config means: the model, images, schedule and optimizer of a run, and its two compiled functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data.augment import augment, image_keys, normalize
from resnet_jax.data.batches import TrainBatches
from resnet_jax.data.sources import SOURCES, Source, hold_out, load_source
from resnet_jax.errors import UserError, choose
from resnet_jax.models import ResNet, create_model
from resnet_jax.training.mesh import check_batch_size, make_mesh, replicated, split_by_rows
from resnet_jax.training.optimizer import sgd
from resnet_jax.training.schedule import Schedule, make_schedule
from resnet_jax.training.steps import TrainState, create_train_state, eval_step, train_step

Array = jax.Array
TrainFn = Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]
EvalFn = Callable[[TrainState, dict[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class Normalization:
    """mean and std of the images in units of [0, 1], (C,) or (H, W, C) float64."""

    mean: np.ndarray
    std: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """As lists, for a checkpoint's position."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Normalization":
        """What `to_json` gave."""
        return cls(np.asarray(values["mean"]), np.asarray(values["std"]))


@dataclass(frozen=True)
class Experiment:
    """Everything that a run is made of but its state and folder."""

    config: ConfigDict
    model: ResNet
    mesh: Mesh
    batches: TrainBatches
    validation: Source | None
    test: Source
    normalization: Normalization
    schedule: Schedule
    tx: optax.GradientTransformation
    num_steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch: num_train // batch_size."""
        return self.batches.steps_per_epoch

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of labels 0, 1, ..."""
        return self.test.class_names


def build_experiment(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Experiment:
    """The experiment that `config` describes, on `devices` (all if None).

    Raises UserError (a ValueError) for a config that makes none; what is cheap is checked before images are read.
    """
    mesh = make_mesh(devices)
    check_batch_size(config.batch_size, mesh)
    choose("dataset", config.dataset, SOURCES)
    build_model(config, config.num_classes or 1)

    train, validation = hold_out(load_split(config, "train"), config.validation_fraction)
    test = load_split(config, "test")
    batches = TrainBatches(train, config.batch_size, config.seed, jax.process_index(), jax.process_count())
    if config.augment.crop_padding_mode == "reflect" and config.augment.crop_padding >= train.images.shape[1]:
        raise UserError(f"config.augment.crop_padding={config.augment.crop_padding} must be less than the image size")
    num_steps = config.num_steps or config.num_epochs * batches.steps_per_epoch
    schedule = _build_schedule(config, num_steps, batches.steps_per_epoch)
    tx = sgd(schedule, config.momentum, config.nesterov, config.weight_decay, config.decay_norm_and_bias)
    return Experiment(
        config=config,
        model=build_model(config, train.num_classes),
        mesh=mesh,
        batches=batches,
        validation=validation,
        test=test,
        normalization=_build_normalization(config, train),
        schedule=schedule,
        tx=tx,
        num_steps=num_steps,
    )


def build_model(config: ConfigDict, num_classes: int) -> ResNet:
    """The config's model for a data set of `num_classes` classes."""
    reserved = [name for name in ("num_classes", "dtype", "batch_norm") if name in config.model_args]
    if reserved:
        raise UserError(f"config.model_args.{reserved[0]} is set by config.{reserved[0]}")
    return create_model(
        config.model,
        num_classes=num_classes,
        dtype=config.dtype,
        batch_norm=config.batch_norm,
        **config.model_args.to_dict(),
    )


def load_split(config: ConfigDict, split: str) -> Source:
    """The config's "train" or "test" images; their classes must be as many as the config says."""
    source = load_source(config.dataset, split, data_dir=config.data_dir, image_size=config.image_size)
    if config.num_classes not in (0, source.num_classes):
        raise UserError(
            f"config.num_classes={config.num_classes} must be {source.num_classes}, the classes of "
            f"{config.dataset}, or 0 to take them from there"
        )
    return source


def initial_state(model: ResNet, tx: optax.GradientTransformation, config: ConfigDict, mesh: Mesh) -> TrainState:
    """The train state at step 0, drawn from config.seed and replicated on the mesh."""

    def create(key: Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)
        return create_train_state(model, variables, tx, label_smoothing=config.label_smoothing, seed=config.seed)

    # It runs once: optimised fully, each kernel's random numbers would take seconds to compile and nothing to draw.
    options = {"xla_backend_optimization_level": 1}
    compiled = jax.jit(create, out_shardings=replicated(mesh), compiler_options=options)
    return compiled(jax.random.key(config.seed))


def compile_train_fn(experiment: Experiment) -> TrainFn:
    """(state, batch of `TrainBatches` on the mesh) -> (state, metrics): augmentation and update in one program.

    The state is donated: its buffers are the new state's. Metrics are `train_step`'s and "learning_rate".
    """
    config = experiment.config
    options = config.augment.to_dict()
    preprocess = _normalizer(experiment.normalization, config.dtype)

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        keys = image_keys(config.seed, batch["epoch"], batch["index"])
        images = preprocess(augment(keys, batch["image"], **options))
        new_state, metrics = train_step(state, {"image": images, "label": batch["label"]})
        return new_state, {**metrics, "learning_rate": jnp.asarray(experiment.schedule(state.step))}

    whole, rows = replicated(experiment.mesh), split_by_rows(experiment.mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(whole, rows), out_shardings=(whole, whole))


def compile_eval_fn(normalization: Normalization, dtype: str, mesh: Mesh) -> EvalFn:
    """(state, batch of `eval_batches` on the mesh) -> sums: normalisation and `eval_step` in one program."""
    preprocess = _normalizer(normalization, dtype)

    def step(state: TrainState, batch: dict[str, Array]) -> dict[str, Array]:
        return eval_step(state, {**batch, "image": preprocess(batch["image"])})

    whole, rows = replicated(mesh), split_by_rows(mesh)
    return jax.jit(step, in_shardings=(whole, rows), out_shardings=whole)


def _normalizer(normalization: Normalization, dtype: str) -> Callable[[Array], Array]:
    """Images are float64 for a float64 model and float32 for the others, which cast by themselves."""
    image_dtype = "float64" if dtype == "float64" else "float32"
    return lambda images: normalize(images, normalization.mean, normalization.std, image_dtype)


def _build_normalization(config: ConfigDict, train: Source) -> Normalization:
    std = np.asarray(config.std)
    if config.normalize == "pixel":
        return Normalization(train.images.mean(axis=0, dtype=np.float64) / 255.0, std)
    return Normalization(np.asarray(config.mean), std)


def _build_schedule(config: ConfigDict, num_steps: int, steps_per_epoch: int) -> Schedule:
    if config.decay_epochs and config.decay_steps:
        raise UserError("config.decay_epochs and config.decay_steps exclude each other: set one")
    return make_schedule(
        config.schedule,
        config.learning_rate,
        num_steps,
        decay_steps=config.decay_steps or [round(epoch * steps_per_epoch) for epoch in config.decay_epochs],
        decay_factor=config.decay_factor,
        warmup_steps=config.warmup_steps or round(config.warmup_epochs * steps_per_epoch),
        warmup_start_factor=config.warmup_start_factor,
        warmup_shape=config.warmup_shape,
        hold_steps=steps_per_epoch if config.schedule_by == "epoch" else 1,
    )
