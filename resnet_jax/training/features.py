"""Pooled features instead of images: a run that trains the head alone, on unaugmented images, computes them once."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import jax
import numpy as np

from resnet_jax.data.bad_images import NO_GOOD_IMAGE
from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.source import Examples, Keys, Source, Transform
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.distributed.processes import log
from resnet_jax.errors import UserError
from resnet_jax.models.head_names import HEAD
from resnet_jax.models.shapes import variable_shapes
from resnet_jax.training.evaluation import batch_results
from resnet_jax.training.jit_steps import jit_features
from resnet_jax.training.train_state import TrainState

if TYPE_CHECKING:
    from resnet_jax.training.experiment import Experiment

# Features of more images are computed again in each epoch: they lie in the memory of every process.
MAX_BYTES = 2**32


@dataclass(frozen=True)
class FeatureSource:
    """The features of the images of `source`, at their indices, as a source.

    features (N, C) float, labels (N,) int32 or (N, K) uint8, valid (N,) bool: False for an image that is damaged.
    """

    source: Source
    features: np.ndarray
    labels: np.ndarray
    valid: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of labels 0, 1, ..., as of the images."""
        return self.source.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes, from their names."""
        return self.source.num_classes

    @property
    def multi_label(self) -> bool:
        """True if an image has any number of labels."""
        return self.source.multi_label

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C,)."""
        return self.features.shape[1:]

    def read(self, indices: np.ndarray, keys: Keys | None = None) -> Examples:
        """Does as `Source.read`: in training the next good image takes the place of one that is damaged."""
        if keys is not None and not self.valid.all():
            good = np.flatnonzero(self.valid)
            indices = good[np.searchsorted(good, indices) % len(good)]
        return Examples(self.features[indices], self.labels[indices], self.valid[indices])

    def take(self, indices: np.ndarray) -> Self:
        """Does as `Source.take`."""
        parts = self.features[indices], self.labels[indices], self.valid[indices]
        return type(self)(self.source.take(indices), *parts)

    def transformed(self, transform: Transform | None) -> Self:
        """Returns the same: nothing is left to transform."""
        del transform
        return self

    def digest(self) -> str:
        """Does as `Source.digest`, of the images."""
        return self.source.digest()


def has_fixed_features(experiment: "Experiment") -> bool:
    """Returns whether pooled features take the place of images: the head alone is trained, images are not augmented,
    and the features of all of them fit in memory.
    """
    options, num_images = experiment.options, sum(map(len, _sources(experiment)))
    features = variable_shapes(experiment.model)["params"][HEAD]["kernel"]  # (C, K)
    fits = num_images * features.shape[0] * features.dtype.itemsize <= MAX_BYTES
    return options.finetune.trainable == "head" and not options.augment.changes_images and fits


def with_features(experiment: "Experiment", state: TrainState, preemption: PreemptionGuard) -> "Experiment":
    """Returns the experiment with its images replaced by their pooled features, if it `has_fixed_features`; else
    itself.

    All processes call it. Raises the errors of reading an image, and Preempted.
    """
    if not has_fixed_features(experiment):
        return experiment
    batch_size, mesh = experiment.batches.part_size, experiment.mesh
    head = state.params[HEAD]["kernel"]
    began, num_images = time.monotonic(), sum(map(len, _sources(experiment)))
    log(f"the frozen network's features of {num_images:,} images are computed once, for all epochs")
    program = jit_features(experiment.model, experiment.normalization, experiment.model.dtype, mesh)
    watched = preemption.with_stop_flag(program, mesh)

    def features_of(source: Source) -> FeatureSource:
        batches = EvalBatches(source, batch_size, jax.process_index(), jax.process_count())
        features, end = np.empty((len(source), head.shape[0]), head.dtype), 0
        shape, dtype = ((source.num_classes,), np.uint8) if source.multi_label else ((), np.int32)
        labels, valid = np.empty((len(source), *shape), dtype), np.empty(len(source), bool)
        for result in batch_results(watched, state.variables, batches, mesh, preemption):
            start, end = end, min(end + batch_size, len(source))
            rows = slice(end - start)  # without those that fill up the last batch
            features[start:end], labels[start:end] = result["image"][rows], result["label"][rows]
            valid[start:end] = result["mask"][rows] > 0
        if not valid.any():
            raise UserError(NO_GOOD_IMAGE)
        # Of a damaged image nothing was read: its own label keeps the order of balanced sampling what it is on images.
        return FeatureSource(source, features, labels if source.labels is None else source.labels, valid)

    train = features_of(experiment.batches.source)
    validation, test = (source and features_of(source) for source in (experiment.validation, experiment.test))
    log(f"they took {time.monotonic() - began:.1f} s; the head is trained on them")
    batches = replace(experiment.batches, source=train)
    return replace(experiment, batches=batches, validation=validation, test=test, from_features=True)


def _sources(experiment: "Experiment") -> list[Source]:
    sources = (experiment.batches.source, experiment.validation, experiment.test)
    return [source for source in sources if source is not None]
