"""What a config means: the model, images, schedule and optimizer of a run, and its two compiled functions."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.data.batches import TrainBatches
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.prefetch import prefetch
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
from resnet_jax.training.mesh import check_batch_size, make_mesh, replicated, shard_batch, split_by_rows
from resnet_jax.training.optimizer import add_l1, clip_gradient_norm, lamb, lars, scale_by_layer, sgd
from resnet_jax.training.schedule import Schedule, make_schedule
from resnet_jax.training.statistics import precise_batch_stats
from resnet_jax.training.steps import (
    Accumulated,
    TrainState,
    accumulate,
    begin_accumulation,
    create_train_state,
    eval_step,
    finish_accumulation,
    train_step,
)

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
    check_batch_size(config.batch_size, mesh, config.accumulation_steps)
    # Their own errors, before a data set is prepared for hours.
    _check_batch_norm(config, build_model(config, config.num_classes or 1), mesh)
    _build_optimizer(config, build_schedule(config, LONG, 1))
    splits = load_images(config)
    batches = TrainBatches(
        splits.train,
        config.batch_size,
        config.seed,
        jax.process_index(),
        jax.process_count(),
        config.repeated_augmentation,
        config.accumulation_steps,
    )
    num_steps = config.num_steps or config.num_epochs * batches.steps_per_epoch
    schedule = build_schedule(config, num_steps, batches.steps_per_epoch)
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
        tx=_build_optimizer(config, schedule),
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


def initial_state(
    model: ResNet, tx: optax.GradientTransformation, config: ConfigDict, mesh: Mesh, steps_per_epoch: int = 1
) -> TrainState:
    """The train state at step 0, drawn from config.seed and replicated on the mesh.

    steps_per_epoch: where it is to be trained.
    """

    def create(key: Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)
        return create_train_state(
            model,
            variables,
            tx,
            label_smoothing=config.label_smoothing,
            loss=config.loss,
            target_threshold=config.target_threshold,
            ema_decay=config.ema_decay or None,
            ema_every_steps=config.ema_every_steps,
            ema_warmup_steps=round(config.ema_warmup_epochs * steps_per_epoch),
            on_nonfinite=config.on_nonfinite,
            seed=config.seed,
        )

    # It runs once: optimised fully, each kernel's random numbers would take seconds to compile and nothing to draw.
    options = {"xla_backend_optimization_level": 1}
    compiled = jax.jit(create, out_shardings=replicated(mesh), compiler_options=options)
    return compiled(jax.random.key(config.seed))


def compile_train_fn(experiment: Experiment) -> TrainFn:
    """(state, batch of `TrainBatches` on the mesh) -> (state, metrics): augmentation and update in one program.

    The state is donated: its buffers are the new state's. Metrics are `train_step`'s and "learning_rate". With
    config.accumulation_steps > 1 three programs, of which one runs for each part of the batch.
    """
    prepare = augmenter(experiment.config, experiment.normalization, len(experiment.class_names))
    num_parts = experiment.config.accumulation_steps
    whole, rows = replicated(experiment.mesh), split_by_rows(experiment.mesh, num_parts)

    def with_learning_rate(
        state: TrainState, result: tuple[TrainState, dict[str, Array]]
    ) -> tuple[TrainState, dict[str, Array]]:
        new_state, metrics = result
        return new_state, {**metrics, "learning_rate": jnp.asarray(experiment.schedule(state.step))}

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        return with_learning_rate(state, train_step(state, prepare(batch, state.step)))

    def add(state: TrainState, accumulated: Accumulated, batch: dict[str, Array]) -> Accumulated:
        part = {name: parts[accumulated.num_parts] for name, parts in batch.items()}
        draw = state.step * num_parts + accumulated.num_parts  # of what is chosen once a part: how it is mixed
        return accumulate(state, accumulated, prepare(part, draw))

    def finish(state: TrainState, accumulated: Accumulated) -> tuple[TrainState, dict[str, Array]]:
        return with_learning_rate(state, finish_accumulation(state, accumulated))

    if num_parts == 1:
        return jax.jit(step, donate_argnums=0, in_shardings=(whole, rows), out_shardings=(whole, whole))
    begin_fn = jax.jit(begin_accumulation, out_shardings=whole)
    add_fn = jax.jit(add, donate_argnums=1, in_shardings=(whole, whole, rows), out_shardings=whole)
    finish_fn = jax.jit(finish, donate_argnums=(0, 1), out_shardings=(whole, whole))

    def step_by_parts(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        accumulated = begin_fn(state)
        for _ in range(num_parts):
            accumulated = add_fn(state, accumulated, batch)
        return finish_fn(state, accumulated)

    return step_by_parts


def compile_judged_fn(experiment: Experiment) -> Callable[[TrainState], TrainState]:
    """(state) -> the state by which the model is judged: with config.precise_bn_batches its statistics, and those of
    the moving average, are computed anew over the training batches that come next; else it is the state itself.
    """
    config, mesh, batches = experiment.config, experiment.mesh, experiment.batches
    if not config.precise_bn_batches:
        return lambda state: state
    one_part = replace(batches, num_parts=1)
    prepare = jax.jit(augmenter(config, experiment.normalization, len(experiment.class_names)))

    def judged(state: TrainState) -> TrainState:
        def recomputed(variables: dict[str, Any]) -> Any:
            first = int(state.step)
            places = range(first, first + config.precise_bn_batches)
            with closing(prefetch(lambda k: shard_batch(one_part[k], mesh), places)) as sharded:
                images = (prepare(batch, jnp.asarray(k))["image"] for k, batch in zip(places, sharded, strict=True))
                return precise_batch_stats(experiment.model, variables, images, config.seed)

        state = state.replace(batch_stats=recomputed(state.variables))
        if state.averaging is None:
            return state
        return state.replace(ema_batch_stats=recomputed(state.averaged().variables))

    return judged


def compile_eval_fn(normalization: Normalization, dtype: str, mesh: Mesh) -> EvalFn:
    """(state, batch of `EvalBatches` on the mesh) -> sums: normalisation and `eval_step` in one program."""
    normalized = normalizer(normalization, dtype)

    def step(state: TrainState, batch: dict[str, Array]) -> dict[str, Array]:
        return eval_step(state, {**batch, "image": normalized(batch["image"])})

    whole, rows = replicated(mesh), split_by_rows(mesh)
    return jax.jit(step, in_shardings=(whole, rows), out_shardings=whole)


def _check_batch_norm(config: ConfigDict, model: ResNet, mesh: Mesh) -> None:
    """Raise UserError unless the parts of the batch can be normalised as config.batch_norm says."""
    rows = config.batch_size // config.accumulation_steps
    if (ghost := model.ghost_rows) and rows % ghost:
        part = "a part of the batch" if config.accumulation_steps > 1 else "the batch"
        raise UserError(f"config.batch_norm={config.batch_norm!r} must divide {part} of {rows} images")
    if config.precise_bn_batches and config.batch_norm == "frozen":
        raise UserError("config.precise_bn_batches must be 0 with config.batch_norm='frozen': its statistics stay")


def _build_optimizer(config: ConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    exempt = {"decay_norm_and_bias": config.decay_norm_and_bias, "decay_bias": config.decay_bias}
    options = {"momentum": config.momentum, "weight_decay": config.weight_decay, **exempt}
    if config.optimizer == "lamb":
        if config.nesterov:
            raise UserError("config.nesterov=True belongs to the optimizers 'sgd' and 'lars'")
        tx = lamb(schedule, **options)
    elif config.optimizer == "lars":
        tx = lars(schedule, nesterov=config.nesterov, trust_coefficient=config.trust_coefficient, **options)
    else:
        tx = sgd(schedule, nesterov=config.nesterov, **options)
    before = [add_l1(config.l1, **exempt)] if config.l1 else []
    if config.clip_gradient_norm:
        before.append(clip_gradient_norm(config.clip_gradient_norm))
    after = [scale_by_layer(_learning_rate_factors(config))] if config.learning_rate_factors else []
    return optax.chain(*before, tx, *after)


def _learning_rate_factors(config: ConfigDict) -> dict[str, float]:
    for layer, factor in config.learning_rate_factors.items():
        if type(factor) not in (int, float):
            raise UserError(f"config.learning_rate_factors.{layer}={factor!r} must be a number")
    return config.learning_rate_factors.to_dict()


def build_schedule(config: ConfigDict, num_steps: int, steps_per_epoch: int) -> Schedule:
    """The config's learning rate by step, of a run of num_steps."""
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
