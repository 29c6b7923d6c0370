"""What a config means: the model, images, schedule and optimizer of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.config import given_fields
from resnet_jax.data.batches import TrainBatches
from resnet_jax.data.encoded import BadImages, EncodedSource
from resnet_jax.data.source import Source
from resnet_jax.data.sources import Splits
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.distributed.mesh import check_batch_size, make_mesh
from resnet_jax.distributed.processes import warn_once
from resnet_jax.errors import UserError, check_choice
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import create_model
from resnet_jax.training.finetuning import check_finetune, finetune_arguments, learning_rate_factors
from resnet_jax.training.images import Normalization, encoded_preprocess, load_images, make_normalization
from resnet_jax.training.optimizer import add_l1, clip_gradient_norm, lamb, lars, scale_by_layer, sgd
from resnet_jax.training.schedule import SCHEDULES, Schedule, make_schedule

Array = jax.Array


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
    from_features: bool  # batches, validation and test hold pooled features instead of images
    bad_images: BadImages  # those that were skipped so far; images in memory are all good
    has_own_validation: bool = False  # the set brings its validation images, none are held out

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch: num_train // batch_size."""
        return self.batches.steps_per_epoch

    @property
    def log_every_steps(self) -> int:
        """Updates from one record of the training loss to the next: the config's, but at least one record an epoch."""
        return min(self.config.log_every_steps, self.steps_per_epoch)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of labels 0, 1, ..."""
        return self.batches.source.class_names


def build_experiment(
    config: ConfigDict, devices: Sequence[jax.Device] | None = None, splits: Splits | None = None
) -> Experiment:
    """The experiment that `config` describes, on `devices` (all if None), with the images of `splits` if given.

    Raises UserError (a ValueError) for a config that makes none; what is cheap is checked before images are read.
    """
    mesh = make_mesh(devices)
    check_batch_size(config.batch_size, mesh, config.accumulation_steps)
    # Their own errors, before a data set is prepared for hours.
    model = build_model(config, config.num_classes or 1)
    _check_batch_norm(config, model)
    _check_schedule(config)
    check_finetune(config, model)
    _build_optimizer(config, model, optax.constant_schedule(config.learning_rate))
    splits = load_images(config) if splits is None else splits
    batches = TrainBatches(
        splits.train,
        config.batch_size,
        config.seed,
        jax.process_index(),
        jax.process_count(),
        config.repeated_augmentation,
        config.accumulation_steps,
    )
    _warn_of_long_cadence(config, batches.steps_per_epoch)
    model = build_model(config, splits.train.num_classes)
    num_steps = config.num_steps or config.num_epochs * batches.steps_per_epoch
    schedule = build_schedule(config, num_steps, batches.steps_per_epoch)
    return Experiment(
        config=config,
        model=model,
        mesh=mesh,
        batches=batches,
        validation=splits.validation,
        test=splits.test,
        normalization=make_normalization(config, splits.train),
        preprocess=encoded_preprocess(config) if isinstance(splits.train, EncodedSource) else None,
        schedule=schedule,
        tx=_build_optimizer(config, model, schedule),
        num_steps=num_steps,
        from_features=False,
        bad_images=splits.train.bad_images if isinstance(splits.train, EncodedSource) else BadImages(),
        has_own_validation=splits.has_own_validation,
    )


def build_model(config: ConfigDict, num_classes: int) -> ResNet:
    """The config's model for a data set of `num_classes` classes."""
    setters = {**{name: name for name in ("num_classes", "dtype", "batch_norm")}, "trainable": "finetune.trainable"}
    for name, setter in setters.items():
        if name in config.model_args:
            raise UserError(f"config.model_args.{name} is set by config.{setter}")
    arguments = {"num_classes": num_classes, "dtype": config.dtype, "batch_norm": config.batch_norm}
    return create_model(config.model, **{**config.model_args.to_dict(), **arguments, **finetune_arguments(config)})


def _check_schedule(config: ConfigDict) -> None:
    """Raise UserError for what is wrong with the schedule however long the run and its epochs are."""
    check_choice("config.schedule", config.schedule, SCHEDULES)
    if config.decay_epochs and config.decay_steps:
        raise UserError("config.decay_epochs and config.decay_steps exclude each other: set one")


def _warn_of_long_cadence(config: ConfigDict, steps_per_epoch: int) -> None:
    """Warn if config.log_every_steps was given on the command line and is more than an epoch, to which it is lowered.

    A config file may set it for data sets of any size.
    """
    if "log_every_steps" in given_fields(config) and config.log_every_steps > steps_per_epoch:
        warn_once(
            f"config.log_every_steps={config.log_every_steps} is lowered to {steps_per_epoch}, the steps of an epoch: "
            "the training loss is logged once an epoch at least"
        )


def _check_batch_norm(config: ConfigDict, model: ResNet) -> None:
    """Raise UserError unless the parts of the batch can be normalised as config.batch_norm says."""
    if config.batch_norm == "folded":
        raise UserError("config.batch_norm='folded' is for inference: train with another, and fold the result")
    rows = config.batch_size // config.accumulation_steps
    if (ghost := model.ghost_rows) and rows % ghost:
        part = "a part of the batch" if config.accumulation_steps > 1 else "the batch"
        raise UserError(f"config.batch_norm={config.batch_norm!r} must divide {part} of {rows} images")
    if config.precise_bn_batches and config.batch_norm == "frozen":
        raise UserError("config.precise_bn_batches must be 0 with config.batch_norm='frozen': its statistics stay")


def _build_optimizer(config: ConfigDict, model: ResNet, schedule: Schedule) -> optax.GradientTransformation:
    exempt = {"decay_norm_and_bias": config.decay_norm_and_bias, "decay_bias": config.decay_bias}
    options = {"momentum": config.momentum, "weight_decay": config.weight_decay, **exempt}
    if config.optimizer == "lamb":
        tx = lamb(schedule, **options)
    elif config.optimizer == "lars":
        tx = lars(schedule, nesterov=config.nesterov, trust_coefficient=config.trust_coefficient, **options)
    else:
        tx = sgd(schedule, nesterov=config.nesterov, **options)
    before = [add_l1(config.l1, **exempt)] if config.l1 else []
    if config.clip_gradient_norm:
        before.append(clip_gradient_norm(config.clip_gradient_norm))
    factors = learning_rate_factors(config, model)
    after = [scale_by_layer(factors)] if factors else []
    return optax.chain(*before, tx, *after) if before or after else tx


def build_schedule(config: ConfigDict, num_steps: int, steps_per_epoch: int) -> Schedule:
    """The config's learning rate by step, of a run of num_steps."""
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
