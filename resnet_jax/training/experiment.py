"""What a config means: the model, images, schedule and optimizer of a run, and its two compiled functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data.batches import TrainBatches
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.source import Source
from resnet_jax.data.transforms import Preprocess
from resnet_jax.errors import UserError
from resnet_jax.models import ResNet, create_model
from resnet_jax.training.images import (
    Normalization,
    augmenter,
    encoded_preprocess,
    load_images,
    make_normalization,
    normalizer,
)
from resnet_jax.training.mesh import check_batch_size, make_mesh, replicated, split_by_rows
from resnet_jax.training.optimizer import sgd
from resnet_jax.training.schedule import Schedule, make_schedule
from resnet_jax.training.steps import TrainState, create_train_state, eval_step, train_step

Array = jax.Array
LONG = 2**31  # steps, more than any run has
TrainFn = Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]
EvalFn = Callable[[TrainState, dict[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class Experiment:
    """Everything that a run is made of but its state and folder."""

    config: ConfigDict
    model: ResNet
    mesh: Mesh
    batches: TrainBatches
    validation: Source | None
    test: Source | None
    normalization: Normalization
    preprocess: Preprocess | None  # None: images in memory, as they are
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
        return self.batches.source.class_names


def build_experiment(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Experiment:
    """The experiment that `config` describes, on `devices` (all if None).

    Raises UserError (a ValueError) for a config that makes none; what is cheap is checked before images are read.
    """
    mesh = make_mesh(devices)
    check_batch_size(config.batch_size, mesh)
    build_model(config, config.num_classes or 1)
    _build_schedule(config, LONG, 1)  # its own errors, before a data set is prepared for hours
    splits = load_images(config)
    batches = TrainBatches(
        splits.train,
        config.batch_size,
        config.seed,
        jax.process_index(),
        jax.process_count(),
        config.repeated_augmentation,
    )
    num_steps = config.num_steps or config.num_epochs * batches.steps_per_epoch
    schedule = _build_schedule(config, num_steps, batches.steps_per_epoch)
    tx = sgd(schedule, config.momentum, config.nesterov, config.weight_decay, config.decay_norm_and_bias)
    return Experiment(
        config=config,
        model=build_model(config, splits.train.num_classes),
        mesh=mesh,
        batches=batches,
        validation=splits.validation,
        test=splits.test,
        normalization=make_normalization(config, splits.train),
        preprocess=encoded_preprocess(config) if isinstance(splits.train, EncodedSource) else None,
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
    prepare = augmenter(experiment.config, experiment.normalization, len(experiment.class_names))

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        new_state, metrics = train_step(state, prepare(batch, state.step))
        return new_state, {**metrics, "learning_rate": jnp.asarray(experiment.schedule(state.step))}

    whole, rows = replicated(experiment.mesh), split_by_rows(experiment.mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(whole, rows), out_shardings=(whole, whole))


def compile_eval_fn(normalization: Normalization, dtype: str, mesh: Mesh) -> EvalFn:
    """(state, batch of `EvalBatches` on the mesh) -> sums: normalisation and `eval_step` in one program."""
    normalized = normalizer(normalization, dtype)

    def step(state: TrainState, batch: dict[str, Array]) -> dict[str, Array]:
        return eval_step(state, {**batch, "image": normalized(batch["image"])})

    whole, rows = replicated(mesh), split_by_rows(mesh)
    return jax.jit(step, in_shardings=(whole, rows), out_shardings=whole)


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
