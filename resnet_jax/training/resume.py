"""Finds the state that a run continues from: the last intact one, if config and images are the same as at its start."""

import contextlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from resnet_jax.checkpoint.fallback import read_latest
from resnet_jax.checkpoint.folder import CheckpointFolder, open_best, open_latest
from resnet_jax.checkpoint.manifest import read_manifest
from resnet_jax.distributed.processes import warn
from resnet_jax.distributed.sync import broadcast_from_process_0
from resnet_jax.errors import DamagedCheckpointError, UserError
from resnet_jax.filesystem import write_text
from resnet_jax.runtime import versions
from resnet_jax.training.checkpointer import items_of, restore_state
from resnet_jax.training.experiment import Experiment, Options, build_schedule, default_fields, stored_options
from resnet_jax.training.jit_steps import init_run_state
from resnet_jax.training.train_state import TrainState
from resnet_jax.training.validation_score import is_over
from resnet_jax.training.workdir import (
    CONFIG_FILE,
    METRICS_FILE,
    check_workdir,
    last_record,
    read_config,
    read_records,
)

# A continued run may differ from its beginning in these: how long, how often, where the data lies, and how much memory
# it takes.
MAY_CHANGE = (
    "num_epochs", "num_steps", "early_stopping_patience", "log_every_steps", "eval_every_epochs", "test_every_epochs",
    "checkpoint_every_steps", "tensorboard_tags", "stop_after_minutes", "data_dir", "decode_threads", "max_bad_images",
    "max_skipped_updates", "model_args.remat",
)  # fmt: skip


EVAL_EVERY = "eval_every_epochs"  # decides which of a run's states is the best

# The share of its peak by which the learning rate may be another than was planned, without a word.
NOTABLE_CHANGE = 0.02


def restore_last(
    template: TrainState, latest: CheckpointFolder, best: CheckpointFolder, experiment: Experiment
) -> tuple[TrainState, dict[str, Any]] | None:
    """Returns the last intact state, and its manifest; None if none has been saved yet.

    Damaged steps are reported and quarantined. If all the latest are damaged, the best may serve, unless its statistics
    differ from the ones that training goes on with.

    Raises:
      UserError: if nothing is left, or a step is of another model or format.
    """
    quarantined = latest.quarantined()  # by an earlier start, which found nothing whole: this one may not begin anew
    restored = read_latest(
        folders_to_continue(latest, best, experiment),
        partial(_restore_with_manifest, template),
        partial(_quarantine, quarantined),
        is_damaged=bool(quarantined),
    )
    if restored is None and quarantined:
        raise UserError(
            f"no checkpoint of this run is whole: they are in {quarantined[-1].parent}; bring one back from a copy, "
            f"choose another --workdir, or remove {quarantined[-1].parent.parent} to begin anew"
        )
    return restored


def folders_to_continue(
    latest: CheckpointFolder, best: CheckpointFolder, experiment: Experiment
) -> list[CheckpointFolder]:
    """Returns the folders that a run may go on from, in the order in which they are tried."""
    return [latest] if experiment.options.state.precise_bn_batches else [latest, best]


def _restore_with_manifest(
    template: TrainState, folder: CheckpointFolder, step: int
) -> tuple[TrainState, dict[str, Any]]:
    return restore_state(folder, template, step), folder.manifest(step)


def _quarantine(quarantined: list[Path], folder: CheckpointFolder, step: int, error: DamagedCheckpointError) -> None:
    quarantined.append(folder.quarantine(step))
    warn(f"{error}; moved to {quarantined[-1]}; the step before is taken")


def continues_after(experiment: Experiment, workdir: Path) -> int:
    """Returns the step of the last whole checkpoint in `workdir`, from which a run would go on; 0 if there is none.

    Raises:
      UserError: as train does: if it is of other images or another model, or past the experiment's end, or if none is
        whole of those there, or of those that an earlier start has set aside.
    """
    step = _last_whole_step(experiment, workdir)
    check_step(workdir, step, experiment.num_steps)
    return step


def check_step(workdir: Path, step: int, num_steps: int) -> None:
    """Raises UserError (a ValueError) if a run is further than its config says."""
    if step > num_steps:
        raise UserError(
            f"workdir {workdir} is at step {step}, past the config's {num_steps}: set config.num_epochs or "
            "config.num_steps higher, or choose another --workdir"
        )


def write_config(experiment: Experiment, workdir: Path, step: int) -> bool:
    """Writes the experiment's config into the run's folder; returns whether nothing is left to be done.

    Of a run that was over already, and is so still, how often its best was chosen stays as it was.

    Args:
      step: the one that the run has come to.
    """
    records = read_records(workdir)
    ends = is_over(records, step, experiment.num_steps, experiment.periods.patience)
    text = experiment.options.written
    if ends and (workdir / CONFIG_FILE).exists():
        saved = read_config(workdir)
        before = stored_options(saved).periods
        num_steps = before.run_length(experiment.steps_per_epoch)
        if is_over(records, step, num_steps, before.early_stopping_patience) and EVAL_EVERY in saved:
            text = json.dumps({**json.loads(text), EVAL_EVERY: saved[EVAL_EVERY]}, indent=2) + "\n"
    write_text(workdir / CONFIG_FILE, text)
    return ends


def _last_whole_step(experiment: Experiment, workdir: Path) -> int:
    latest, best = open_latest(workdir), open_best(workdir)
    quarantined = latest.quarantined()
    templates = items_of(init_run_state(experiment, shapes_only=True))
    errors: list[DamagedCheckpointError] = []

    def read(folder: CheckpointFolder, step: int) -> int:
        folder.check(step, templates)
        check_images(experiment, experiment.batches.source.digest(), folder.position(step), workdir)
        return step

    folders = folders_to_continue(latest, best, experiment)
    step = read_latest(folders, read, lambda *told: errors.append(told[-1]), is_damaged=bool(quarantined))
    if step is not None:
        return step
    if errors or quarantined:
        what = f"{errors[-1]}, and no other in {workdir} is whole" if errors else f"no checkpoint in {workdir} is whole"
        raise UserError(
            f"{what}, and train would end: bring one back from a copy, choose another --workdir, or remove {workdir} "
            "to begin anew"
        )
    return 0


def best_score_of(best: CheckpointFolder, template: TrainState, name: str) -> float:
    """Returns the number by which the best checkpoint was chosen; -1.0 if there is none, as where it is damaged and set
    aside.

    Args:
      name: the number's, of `score_name`.
    """
    step = best.latest_step()
    if step is None:
        if (lost := broadcast_from_process_0(best.lost_step)) is not None:
            warn(f"{best.directory} has lost step {lost}, the best of this run; the next validation is the best")
        return -1.0
    try:
        best.check(step, items_of(template))
        return best.position(step)[name]
    except DamagedCheckpointError as error:
        warn(f"{error}; moved to {best.quarantine(step)}; the next validation is the best")
        return -1.0


def check_images(experiment: Experiment, train_digest: str, position: dict[str, Any], workdir: Path) -> None:
    """Raises UserError unless the training images are those with which the run began."""
    source = experiment.batches.source
    if train_digest != position["train_digest"]:
        then, now = (position["num_train"], len(position["class_names"])), (len(source), source.num_classes)
        known = f"now there are {now[0]} of {now[1]}" if now != then else "now as many others, or with other labels"
        raise UserError(
            f"the run in {workdir} began with other training images, {then[0]} of {then[1]} classes; {known}: bring "
            "them back as they were, or choose another --workdir"
        )


def digests_of(experiment: Experiment) -> dict[str, str]:
    """Returns the digests of the experiment's images for a checkpoint: "train_digest", "val_digest", "test_digest"; ""
    of images that it does not have.
    """
    sources = {"train": experiment.batches.source, "val": experiment.validation, "test": experiment.test}
    return {f"{split}_digest": "" if source is None else source.digest() for split, source in sources.items()}


def other_images(digests: dict[str, str], position: dict[str, Any]) -> list[str]:
    """Returns a line for the validation and for the test images if they are not those by which the run was judged
    before.

    Args:
      position: a checkpoint's; an older one does not say it.
    """
    lines = []
    for split, name in (("val", "validation"), ("test", "test")):
        then, now = position.get(f"{split}_digest", ""), digests[f"{split}_digest"]
        if then and then != now:
            change = "are others than before, or have other labels" if now else "of earlier starts are gone"
            more = ", and the best and the patience go by both" if split == "val" else ""
            lines.append(f"the {name} images {change}: their numbers before and after do not compare{more}")
    return lines


def other_shares(experiment: Experiment, position: dict[str, Any]) -> list[str]:
    """Returns a line if each device's share of the batch, by which config.batch_norm='local' normalises, has another
    size than before.
    """
    then, now = position.get("num_devices", 0), experiment.mesh.devices.size
    if experiment.model.batch_norm != "local" or then in (0, now):
        return []
    rows = experiment.batches.part_size
    return [
        f"config.batch_norm='local' now normalises {rows // now} images at a time, on {now} devices, and "
        f"{rows // then} before, on {then}: go on with {then} devices for the same training"
    ]


def check_same_run(workdir: Path, options: Options) -> None:
    """Raises UserError (a ValueError) unless `workdir` is new, empty, or holds the run that `options` describe.

    Fields without effect, in the run as it is there and as it would be, make no other run.
    """
    seed = options.batches.seed
    if seed >= 2**32 and not (workdir / CONFIG_FILE).exists():  # older runs with such a seed go on
        raise UserError(f"config.seed={seed} must be below 2**32: of a larger one JAX takes the low 32 bits alone")
    without_effect = options.without_effect
    with contextlib.suppress(UserError):  # no run, or a file whose fault `check_workdir` reports
        without_effect &= stored_options(read_config(workdir)).without_effect
    may_change = (*MAY_CHANGE, *without_effect)
    check_workdir(workdir, json.loads(options.written), may_change, default_fields())


def check_run(workdir: Path, options: Options) -> None:
    """Raises UserError as `check_same_run`, and for a run whose checkpoints were moved or removed: it would begin
    anew.
    """
    check_same_run(workdir, options)
    latest, best = open_latest(workdir), open_best(workdir)
    lost = latest.lost_step()
    if lost is None:
        saved = _trace_of_checkpoint(workdir, best) if latest.is_bare() else ""
    else:
        saved = "" if latest.list_steps() else f"saved step {lost}"
    if saved:
        state = "is empty" if latest.directory.is_dir() else "is gone"
        # As where all newest steps are damaged: see `restore_last`.
        steps = [] if options.state.precise_bn_batches else best.list_steps()
        from_best = f", or copy {best.directory / str(steps[-1])} into it" if steps else ""
        raise UserError(
            f"{latest.directory} {state}, where this run {saved}: bring it back{from_best}, choose another --workdir, "
            f"or remove {workdir} to begin anew"
        )


def _trace_of_checkpoint(workdir: Path, best: CheckpointFolder) -> str:
    """Returns the proof, after "this run", that a run without `checkpoints.json` has saved a checkpoint; empty without
    one.

    A run that was killed before its first checkpoint gives none. Saves are written one after the other, so a best step
    beyond the first checkpoint is written after it; and the loop waits for the first where it saves the second, so no
    record is of a later step than that while the first is not written.
    """
    for step in best.list_steps():
        with contextlib.suppress(UserError, KeyError):  # damaged, or of another format: it proves nothing
            manifest = read_manifest(best.directory / str(step))
            saved = manifest["config"]  # of the start that saved it; a later one may save more often
            steps_per_epoch = manifest["position"]["num_train"] // saved["batch_size"]
            if step > (saved["checkpoint_every_steps"] or steps_per_epoch):
                return f"saved checkpoints before step {step}, which is in {best.directory}"
    last = last_record(workdir)
    if last is not None:
        every = stored_options(read_config(workdir)).periods.checkpoint_every_steps
        if last["step"] > 2 * every if every else last["epoch"] > 2:
            return f"saved checkpoints before step {last['step']}, the last in {METRICS_FILE}"
    return ""


def warn_of_another_schedule(saved: dict[str, Any], experiment: Experiment, step: int) -> None:
    """Warns if the run's new length gives the update after `step` another learning rate than it would have had.

    Args:
      saved: the config with which the checkpoint was written. A schedule that follows the run's length, such as a
        cosine, goes on where a run of the new length would be.
    """
    before, steps_per_epoch = stored_options(saved), experiment.steps_per_epoch
    num_steps = before.periods.run_length(steps_per_epoch)
    if num_steps == experiment.num_steps or step >= experiment.num_steps:
        return
    earlier = build_schedule(before, num_steps, steps_per_epoch)
    planned, following = float(earlier(step)), float(experiment.schedule(step))
    if abs(following - planned) > NOTABLE_CHANGE * before.optimizer.learning_rate:
        warn(
            f"the {before.schedule.schedule} schedule follows the run's length, which was {num_steps} steps and is now "
            f"{experiment.num_steps}: the learning rate was {float(earlier(max(step - 1, 0))):.3g} in step {step} and "
            f"is {following:.3g} in the next"
        )


def other_versions(saved: dict[str, str]) -> str:
    """Returns what to say of a checkpoint that other versions than today's have written; empty if there is nothing
    to say.
    """
    changed = [f"{name} {saved.get(name)} -> {now}" for name, now in versions().items() if saved.get(name) != now]
    return f" ({', '.join(changed)}: no longer bit for bit what the unbroken run gives)" if changed else ""
