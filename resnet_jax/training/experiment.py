"""The meaning of a config: its options, and the model, images, schedule and optimizer of a run."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax.config import check_effects, config_from_dict, default_config, given_fields, to_json
from resnet_jax.config.effects import KnownImages, fields_without_effect
from resnet_jax.data.bad_images import BadImages
from resnet_jax.data.batches import BatchOptions, TrainBatches
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.layout import SplitFolders
from resnet_jax.data.options import DatasetOptions, ImageOptions
from resnet_jax.data.source import Source
from resnet_jax.data.sources import Splits, load_splits
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.distributed.mesh import check_batch_size, make_mesh
from resnet_jax.distributed.processes import warn_once
from resnet_jax.errors import UserError, check_choice
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import ModelOptions, create_model
from resnet_jax.training.augment_options import AugmentOptions
from resnet_jax.training.finetuning import FinetuneOptions, check_finetune, finetune_arguments, learning_rate_factors
from resnet_jax.training.images import (
    Normalization,
    check_classes,
    check_labels,
    check_options,
    make_class_weights,
    make_normalization,
    make_transform,
)
from resnet_jax.training.optimizer import OptimizerOptions, make_optimizer
from resnet_jax.training.periods import TENSORBOARD_TAGS, PeriodOptions, Periods
from resnet_jax.training.schedule import SCHEDULES, Schedule, ScheduleOptions, make_schedule
from resnet_jax.training.train_state import StateOptions


@dataclass(frozen=True)
class Options:
    """A run's config, unpacked.

    Attributes:
      written: the config as JSON text, for the run's folder and its checkpoints.
      without_effect: the fields, by their dotted paths, that change nothing, as far as that is known before images
        are read;
      check_effects: what images that are there say of them, a line to warn with, or empty.
      has_given_logging: config.log_every_steps was given on the command line.
    """

    model: ModelOptions
    images: ImageOptions
    split_folders: SplitFolders
    table: TableOptions
    augment: AugmentOptions
    batches: BatchOptions
    optimizer: OptimizerOptions
    state: StateOptions
    schedule: ScheduleOptions
    periods: PeriodOptions
    finetune: FinetuneOptions
    written: str
    without_effect: frozenset[str]
    check_effects: Callable[[KnownImages], str]
    has_given_logging: bool

    def reading(self) -> DatasetOptions:
        """Returns how the run's images are read, with separate threads and a separate count of bad images."""
        return replace(self.images.reading(), split_folders=self.split_folders, table=self.table)


def options_of(config: ConfigDict) -> Options:
    """Returns the options of a config, field by field."""
    values = config.to_dict()
    return Options(
        model=_unpack(ModelOptions, values),
        images=_unpack(ImageOptions, values),
        split_folders=_unpack(SplitFolders, values["split_folders"]),
        table=_unpack(TableOptions, values["table"]),
        augment=_unpack(AugmentOptions, values["augment"]),
        batches=_unpack(BatchOptions, values),
        optimizer=_unpack(OptimizerOptions, values),
        state=_unpack(StateOptions, values),
        schedule=_unpack(ScheduleOptions, values),
        periods=_unpack(PeriodOptions, values),
        finetune=_unpack(FinetuneOptions, values["finetune"]),
        written=to_json(config),
        without_effect=frozenset(fields_without_effect(config, KnownImages.of_config(config))),
        check_effects=partial(check_effects, config),
        has_given_logging="log_every_steps" in given_fields(config),
    )


def _unpack(section: Any, values: dict[str, Any]) -> Any:
    return section(**{field.name: values[field.name] for field in dataclasses.fields(section)})


def stored_options(values: dict[str, Any]) -> Options:
    """Returns the options of a run by its config.json.

    Raises:
      UserError: if that holds no config.
    """
    return options_of(config_from_dict(values))


def default_fields() -> dict[str, Any]:
    """Returns every field of a config.json with its default."""
    return json.loads(to_json(default_config()))


@dataclass(frozen=True)
class Experiment:
    """Everything that a run is made of but its state and folder."""

    options: Options
    model: ResNet
    mesh: Mesh
    batches: TrainBatches
    validation: Source | None
    test: Source | None
    normalization: Normalization
    preprocess: Preprocess | None  # None: images in memory, as they are
    image_size: tuple[int, int]  # (height, width) of the images that evaluation sees
    schedule: Schedule
    tx: optax.GradientTransformation
    num_steps: int
    from_features: bool  # batches, validation and test hold pooled features instead of images
    bad_images: BadImages  # those that were skipped so far; images in memory are all good
    has_own_validation: bool = False  # the set brings its validation images, none are held out
    layout: dict[str, Any] = field(default_factory=dict)  # how a folder of images was understood
    class_weights: tuple[float, ...] = ()  # of the training loss; (): all classes weigh the same

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch: num_train // batch_size."""
        return self.batches.steps_per_epoch

    @property
    def log_every_steps(self) -> int:
        """Updates from one record of the training loss to the next: the config's, but at least one record an epoch."""
        return min(self.options.periods.log_every_steps, self.steps_per_epoch)

    @property
    def periods(self) -> Periods:
        """The steps after which something is due."""
        options, steps_per_epoch = self.options.periods, self.steps_per_epoch
        return Periods(
            num_steps=self.num_steps,
            validate_every=None if self.validation is None else options.eval_every_epochs * steps_per_epoch,
            test_every=None if self.test is None else options.test_every_epochs * steps_per_epoch,
            save_every=options.checkpoint_every_steps or steps_per_epoch,
            patience=0 if self.validation is None else options.early_stopping_patience,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of labels 0, 1, ..."""
        return self.batches.source.class_names

    @property
    def multi_label(self) -> bool:
        """True if an image may have several labels."""
        return self.batches.source.multi_label


def build_experiment(
    options: Options,
    devices: Sequence[jax.Device] | None = None,
    splits: Splits | None = None,
    num_steps: int | None = None,
    schedule: Schedule | None = None,
) -> Experiment:
    """Returns the experiment that `options` describe, on `devices` (all if None), with the images of `splits` if given.

    Args:
      num_steps: of the run, instead of the options'.
      schedule: of the learning rate, instead of the options', whose errors are raised all the same.

    Raises:
      UserError: if the options make none; cheap checks come before images are read.
    """
    mesh, batching = make_mesh(devices), options.batches
    check_batch_size(batching.batch_size, mesh, batching.accumulation_steps)
    check_without_images(options)  # before a data set is prepared for hours
    splits = load_images(options) if splits is None else splits
    check_labels(options.state.loss, splits)
    batches = TrainBatches(
        splits.train,
        batching.batch_size,
        batching.seed,
        jax.process_index(),
        jax.process_count(),
        batching.repeated_augmentation,
        batching.accumulation_steps,
        batching.sampling,
    )
    _warn_of_long_cadence(options, batches.steps_per_epoch)
    model = build_model(options, splits.train.num_classes)
    num_steps = num_steps or options.periods.run_length(batches.steps_per_epoch)
    own_schedule = build_schedule(options, num_steps, batches.steps_per_epoch)
    schedule = own_schedule if schedule is None else schedule
    return Experiment(
        options=options,
        model=model,
        mesh=mesh,
        batches=batches,
        validation=splits.validation,
        test=splits.test,
        normalization=make_normalization(options.images, splits.train),
        preprocess=options.images.preprocess() if isinstance(splits.train, EncodedSource) else None,
        image_size=(splits.train.image_shape[0], splits.train.image_shape[1]),
        schedule=schedule,
        tx=_build_optimizer(options, model, schedule),
        num_steps=num_steps,
        from_features=False,
        bad_images=splits.train.bad_images if isinstance(splits.train, EncodedSource) else BadImages(),
        has_own_validation=splits.has_own_validation,
        layout=splits.layout,
        class_weights=make_class_weights(options.state.class_weights, splits.train),
    )


def check_without_images(options: Options) -> None:
    """Raises UserError (a ValueError) for options that are wrong whatever the images are; asks JAX for no device."""
    model = build_model(options, options.images.num_classes or 1)
    _check_batch_norm(options, model)
    if model.shortcut == "none" and model.zero_init_residual:
        raise UserError(
            "config.model_args.zero_init_residual leaves blocks their shortcut alone: with shortcut='none' none trains"
        )
    if options.state.stem_init == "whitening" and model.stem.startswith("deep"):
        raise UserError(f"config.stem_init='whitening' needs a stem of one convolution, and {model.stem!r} has three")
    if options.state.stem_init == "whitening" and model.weight_standardization:
        raise UserError("config.stem_init='whitening' is undone by weight_standardization: leave one of them out")
    _check_schedule(options.schedule)
    check_choice("config.tensorboard_tags", options.periods.tensorboard_tags, TENSORBOARD_TAGS)
    check_finetune(options.finetune, options.optimizer, options.state.precise_bn_batches)
    _build_optimizer(options, model, optax.constant_schedule(options.optimizer.learning_rate))
    options.images.statistics()
    make_transform(options.augment, options.images)


def load_images(options: Options) -> Splits:
    """Returns the images, those for training augmented on the host as the options say; their classes as many as they
    say.

    Raises:
      UserError: for options that do not fit the data set.
    """
    images, augment = options.images, options.augment
    images.statistics()  # their own errors, before a data set is prepared for hours
    make_transform(augment, images)
    splits = load_splits(images.dataset, options.reading(), images.validation_fraction, images.validation_split)
    check_classes(images, splits.train)
    is_encoded = isinstance(splits.train, EncodedSource)
    known = KnownImages(
        encoded=is_encoded,
        has_own_validation=splits.has_own_validation,
        has_validation=splits.validation is not None,
        has_test=splits.test is not None,
    )
    ineffective = options.check_effects(known)
    check_options(augment, images, options.batches, splits.train)
    if ineffective:
        warn_once(ineffective)
    transform = make_transform(augment, images, images.preprocess() if is_encoded else None)
    return replace(splits, train=splits.train.transformed(transform))


def build_model(options: Options, num_classes: int) -> ResNet:
    """Returns the options' model for a data set of `num_classes` classes."""
    model = options.model
    setters = {**{name: name for name in ("num_classes", "dtype", "batch_norm")}, "trainable": "finetune.trainable"}
    for name, setter in setters.items():
        if name in model.model_args:
            raise UserError(f"config.model_args.{name} is set by config.{setter}")
    arguments = {"num_classes": num_classes, "dtype": model.dtype, "batch_norm": model.batch_norm}
    return create_model(model.model, **{**model.model_args, **arguments, **finetune_arguments(options.finetune, model)})


def _check_schedule(options: ScheduleOptions) -> None:
    """Raises UserError for faults of the schedule that do not depend on the length of the run and its epochs."""
    check_choice("config.schedule", options.schedule, SCHEDULES)
    if options.decay_epochs and options.decay_steps:
        raise UserError("config.decay_epochs and config.decay_steps exclude each other: set one")


def _warn_of_long_cadence(options: Options, steps_per_epoch: int) -> None:
    """Warns if config.log_every_steps was given on the command line and is more than an epoch, to which it is lowered.

    A config file may set it for data sets of any size.
    """
    if options.has_given_logging and options.periods.log_every_steps > steps_per_epoch:
        warn_once(
            f"config.log_every_steps={options.periods.log_every_steps} is lowered to {steps_per_epoch}, the steps of "
            "an epoch: the training loss is logged once an epoch at least"
        )


def _check_batch_norm(options: Options, model: ResNet) -> None:
    """Raises UserError unless the parts of the batch can be normalised as config.batch_norm says."""
    batch_norm, num_parts = options.model.batch_norm, options.batches.accumulation_steps
    if batch_norm == "folded":
        raise UserError("config.batch_norm='folded' is for inference: train with another, and fold the result")
    rows = options.batches.part_size
    if (ghost := model.ghost_rows) and rows % ghost:
        part = "a part of the batch" if num_parts > 1 else "the batch"
        raise UserError(f"config.batch_norm={batch_norm!r} must divide {part} of {rows} images")
    if options.state.precise_bn_batches and batch_norm == "frozen":
        raise UserError("config.precise_bn_batches must be 0 with config.batch_norm='frozen': its statistics stay")
    if options.state.precise_bn_batches and model.norm_layer != "batch":
        raise UserError(
            f"config.precise_bn_batches must be 0 with norm_layer={model.norm_layer!r}: it has no statistics"
        )


def _build_optimizer(options: Options, model: ResNet, schedule: Schedule) -> optax.GradientTransformation:
    factors = learning_rate_factors(options.finetune, options.optimizer, model)
    return make_optimizer(options.optimizer, schedule, factors)


def build_schedule(options: Options, num_steps: int, steps_per_epoch: int) -> Schedule:
    """Returns the learning rate by step, of a run of num_steps."""
    schedule = options.schedule
    return make_schedule(
        schedule.schedule,
        options.optimizer.learning_rate,
        num_steps,
        decay_steps=schedule.decay_steps or [round(epoch * steps_per_epoch) for epoch in schedule.decay_epochs],
        decay_factor=schedule.decay_factor,
        warmup_steps=schedule.num_warmup_steps(steps_per_epoch),
        warmup_start_factor=schedule.warmup_start_factor,
        warmup_shape=schedule.warmup_shape,
        hold_steps=steps_per_epoch if schedule.schedule_by == "epoch" else 1,
    )
