"""A run's checkpoints: train states as items, the latest and the best of a run, written behind the loop's back."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from resnet_jax.checkpoint.background_writer import BackgroundWriter
from resnet_jax.checkpoint.folder import CheckpointFolder
from resnet_jax.checkpoint.items import AVERAGE, JUDGED, OPTIMIZER, VARIABLES
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.distributed.sync import allgather
from resnet_jax.training.finetuning import finetune_arguments
from resnet_jax.training.metric_writer import MetricWriter
from resnet_jax.training.train_state import TrainState

if TYPE_CHECKING:
    from resnet_jax.training.experiment import Experiment

# The fields of a train state by the checkpoint's item.
ITEMS = {
    VARIABLES: ("params", "batch_stats"),
    AVERAGE: ("ema_params", "ema_batch_stats"),
    OPTIMIZER: ("step", "opt_state"),
}
STATISTICS = ("batch_stats", "ema_batch_stats")


def score_name(experiment: "Experiment") -> str:
    """Returns the name of the number that chooses a run's best."""
    return "val_map" if experiment.multi_label else "val_accuracy"


def items_of(state: TrainState) -> dict[str, Any]:
    """Returns a train state, or one of shapes, as the items of its checkpoint."""
    names = [item for item in ITEMS if item != AVERAGE or state.averaging is not None]
    return {item: {field: getattr(state, field) for field in ITEMS[item]} for item in names}


def save_state(
    folder: CheckpointFolder,
    writer: BackgroundWriter,
    state: TrainState,
    content: dict[str, Any],
    eval_state: TrainState | None = None,
    announce: Callable[[Path], None] | None = None,
) -> None:
    """Writes a train state under its step; it may be donated when this returns.

    Args:
      folder: where to.
      writer: writes behind the caller's back.
      state: the state to save.
      content: of the manifest.
      eval_state: the same with statistics that were computed for evaluation, which are saved as well.
      announce: called with the checkpoint's path when it is on disk, by the thread that writes.
    """
    if jax.process_index():
        return
    items = items_of(writer.copy(state))
    if eval_state is not None:
        items[JUDGED] = jax.tree.map(np.array, _statistics(eval_state))
    step = int(state.step)
    folder.save(writer, step, items, content)
    if announce is not None:  # jobs are done in order, and none after one that fails
        path = folder.directory / str(step)
        writer.submit(f"{path} could not be announced", partial(announce, path))


def restore_state(folder: CheckpointFolder, template: TrainState, step: int) -> TrainState:
    """Returns the train state saved as `step`, placed as `template` is.

    Raises as the folder's `restore` does.
    """
    return _with_items(template, folder.restore(step, items_of(template)))


def restore_variables(folder: CheckpointFolder, template: TrainState, step: int) -> TrainState:
    """Returns `template` with the variables saved as `step`, and their moving averages if it has them.

    The statistics are those that the model was evaluated by. Whatever optimizer they were saved with is left alone.
    """
    templates = {item: tree for item, tree in items_of(template).items() if item != OPTIMIZER}
    if JUDGED in folder.items(step):
        templates[JUDGED] = _statistics(template)
    return _with_items(template, folder.restore(step, templates))


def _with_items(state: TrainState, items: dict[str, Any]) -> TrainState:
    fields: dict[str, Any] = {}
    for tree in items.values():
        fields |= tree
    return state.replace(**fields)


def _statistics(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in STATISTICS if getattr(state, name) is not None}


@dataclass(frozen=True)
class RunMetadata:
    """The metadata in a run's checkpoint beside its arrays, for continuing or evaluating the run."""

    experiment: "Experiment"
    digests: Mapping[str, str]  # of the images, "train_digest" ..., as `digests_of`
    versions: dict[str, str]  # of this start, not those that an update brings meanwhile

    def content(self, writer: MetricWriter, **more: Any) -> dict[str, Any]:
        """Returns the manifest's content; `more` joins its "position"."""
        experiment = self.experiment
        position = {
            "since_log": vars(writer.sums),
            "normalization": experiment.normalization.to_json(),
            "preprocess": experiment.preprocess.to_json() if experiment.preprocess else None,
            "image_size": list(experiment.image_size),
            "class_names": list(experiment.class_names),
            "num_train": len(experiment.batches.source),
            **self.digests,
            "bad_images": experiment.bad_images.known(),
            "num_devices": experiment.mesh.devices.size,
            **({"multi_label": True} if experiment.multi_label else {}),
            **more,
        }
        options = experiment.options
        model = options.model
        arguments = {**model.model_args, **finetune_arguments(options.finetune, model)}
        del arguments["trainable"]  # that is how it is trained
        return {
            "position": position,
            "model": {"name": model.model, "arguments": arguments},
            "seed": options.batches.seed,
            "config": json.loads(options.written),
            "versions": self.versions,
        }


class Checkpointer:
    """Saves the latest and the best of a run, in the background; a failure there stops the run at a later step.

    Attributes:
      best_score: the validation accuracy of the best so far, or of several labels an image its mean average precision;
        -1.0 before there is one.
    """

    def __init__(
        self,
        latest: CheckpointFolder,
        best: CheckpointFolder,
        background: BackgroundWriter,
        metadata: RunMetadata,
        writer: MetricWriter,
        preemption: PreemptionGuard,
        best_score: float,
        announce: Callable[[Path], None],
    ) -> None:
        """announce: called with each checkpoint that is on disk, in process 0, by the thread that writes them."""
        self._latest, self._best, self._background = latest, best, background
        self._metadata, self._writer, self._preemption = metadata, writer, preemption
        self.best_score, self._announce = best_score, announce
        preemption.check_each_step(background.raise_failure)

    def save(self, step: int, state: TrainState, eval_state: Callable[[], TrainState] | None = None) -> None:
        """Saves the latest state, unless `step` is there already.

        Args:
          eval_state: makes the state that is evaluated, where its statistics are others and are to be saved as well.
        """
        if not self._latest.is_saved(step, VARIABLES if eval_state is None else JUDGED):
            self._save(self._latest, state, eval_state() if eval_state else None)

    def save_best(self, state: TrainState, score: float) -> None:
        """Saves a state that is better than all before it.

        To be called before `save`, which says that it was.
        """
        self.best_score = score
        self._save(self._best, state, None, **{score_name(self._metadata.experiment): score})

    def wait(self) -> None:
        """Returns when all is on disk.

        Raises, in all processes, the error of a failed save.
        """
        self._preemption.defer_errors(self._background.wait)
        self._preemption.sync_deferred_errors()

    def _save(self, folder: CheckpointFolder, state: TrainState, eval_state: TrainState | None, **more: Any) -> None:
        self._preemption.sync_deferred_errors()  # a record that could not be written, for one: its step is not saved
        bad_images = self._metadata.experiment.bad_images
        bad_images.add(*allgather(bad_images.known()))
        content = self._metadata.content(self._writer, **more)
        arguments = (folder, self._background, state, content, eval_state, self._announce)
        self._preemption.defer_errors(save_state, *arguments)
        bad_images.raise_if_too_many()  # of all processes together
