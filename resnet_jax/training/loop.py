"""A run from its config to its result: train, evaluate, checkpoint, resume.

The loop keeps one step in flight: a step's metrics are fetched after the next one has been dispatched, so that the
device never waits for the host. Whatever a step number makes due (validation, then the checkpoint, then the test) is
decided from that number and the metrics log alone, so a resumed run does exactly what the unbroken one would have done.
"""

import json
import math
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from resnet_jax.checkpoint.arrays import load_orbax
from resnet_jax.checkpoint.background import BackgroundSaves
from resnet_jax.checkpoint.checkpointer import CheckpointFolder, digest, open_best, open_newest
from resnet_jax.config import to_json
from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.prefetch import prefetch
from resnet_jax.data.sources import Splits, missing_classes
from resnet_jax.distributed.mesh import shard_batch
from resnet_jax.distributed.preemption import Interruption, catch_interruptions
from resnet_jax.distributed.processes import warn
from resnet_jax.distributed.sync import check_same, from_first, gather, together
from resnet_jax.errors import InterruptedRunError, RunError, UserError
from resnet_jax.filesystem import write_text
from resnet_jax.runtime import versions
from resnet_jax.training import workdir as folder
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.experiment import Experiment, build_experiment
from resnet_jax.training.features import with_features
from resnet_jax.training.init_weights import Variables, load_initial
from resnet_jax.training.jit_steps import begin_state, compile_eval_fn, compile_judged_fn, compile_train_fn
from resnet_jax.training.metric_writer import MetricSums, Recorder, begin_log
from resnet_jax.training.periods import Cadence
from resnet_jax.training.resume import (
    best_accuracy_of,
    check_images,
    check_run,
    other_versions,
    restore_last,
    warn_of_another_schedule,
)
from resnet_jax.training.train_state import TrainState


@dataclass(frozen=True)
class RunResult:
    """How a run ended: its last step, its metrics log, the SHA-256 of its parameters and statistics, and what
    interrupted it, if something did before everything was done; there is no digest then.
    """

    step: int
    num_steps: int
    records: list[folder.Record]
    digest: str
    interrupted_by: str


def train(config: ConfigDict, workdir: Path, name: str, splits: Splits | None = None) -> RunResult:
    """Train as `config` says in `workdir`, from where an earlier start got to.

    name: the run's, for the title of its curves. splits: images to train and evaluate on, instead of those of
    config.dataset. Raises UserError (a ValueError) for a config or folder that cannot be
    used, before anything is written; NonFiniteError when training diverges; InterruptedRunError if a signal comes
    before the first step, when there is nothing to save.
    """
    from_first(lambda: check_run(workdir, config))
    check_same("the config or workdir", f"{to_json(config)} {workdir.absolute()}")
    with catch_interruptions(jax.process_count(), config.stop_after_minutes) as interruption, ExitStack() as stack:
        newest, best = open_newest(workdir), open_best(workdir)
        is_new = newest.newest_step() is None  # only then are the weights to begin from needed

        def build() -> tuple[Experiment, Variables | None]:
            with interruption.by_itself():
                experiment = build_experiment(config, splits=splits)
                begin_state(experiment, shapes_only=True)  # its own errors, before anything is written
                return experiment, load_initial(config, experiment.model, experiment.class_names) if is_new else None

        def begin() -> None:
            stack.enter_context(folder.lock_workdir(workdir))
            check_run(workdir, config)  # again: another run may have begun there meanwhile

        experiment, initial = together(build)
        if jax.process_count() > 1 and initial is not None:
            check_same("the weights to begin from", digest(initial))
        from_first(begin)
        together(lambda: folder.wait_for_workdir(workdir))
        from_first(newest.clean)
        from_first(best.clean)
        saves = stack.enter_context(BackgroundSaves())
        saves.submit("Orbax could not be imported", load_orbax)
        return _run(experiment, initial, workdir, name, newest, best, saves, interruption)


def _run(
    experiment: Experiment, initial: Variables | None, workdir: Path, name: str, newest: CheckpointFolder,
    best: CheckpointFolder, saves: BackgroundSaves, interruption: Interruption,
) -> RunResult:  # fmt: skip
    config, mesh, num_steps = experiment.config, experiment.mesh, experiment.num_steps
    cadence = Cadence.of(experiment)
    train_digest = together(experiment.batches.source.digest)  # once: it hashes every path of a folder
    check_same("the training images", train_digest)
    state, sums = begin_state(experiment, begin_with=initial), MetricSums()
    lost_step = from_first(newest.lost_step)
    restored = restore_last(state, newest, best, experiment)
    if restored is not None:
        state, manifest = restored
        position = manifest["position"]
        check_images(experiment, train_digest, position, workdir)
        sums = MetricSums(**position["since_log"])
        experiment.bad_images.add(position["bad_images"])
        experiment.bad_images.raise_if_too_many()
        warn_of_another_schedule(manifest["config"], experiment, int(state.step))
    elif initial is None and config.finetune.weights:  # its only checkpoint has gone meanwhile
        raise RunError(f"{newest.directory} has lost its checkpoints since this start: the same command begins anew")
    step = int(state.step)
    if step > num_steps:
        raise UserError(
            f"workdir {workdir} is at step {step}, past the config's {num_steps}: set config.num_epochs or "
            "config.num_steps higher, or choose another --workdir"
        )
    if restored is None and from_first((workdir / folder.METRICS_FILE).exists):
        # Before the new config is there: by the old one `check_run` knows how far a start without a checkpoint got.
        from_first(lambda: begin_log(workdir, step, keep_later=True))
    from_first(lambda: write_text(workdir / folder.CONFIG_FILE, to_json(config)))
    best_accuracy = best_accuracy_of(best, state)
    held_out = not experiment.has_own_validation
    missing = missing_classes(experiment.batches.source, experiment.validation, held_out=held_out)
    if step < num_steps:
        experiment = with_features(experiment, state, interruption)
    train_fn = compile_train_fn(experiment, interruption.watch)
    normalization = None if experiment.from_features else experiment.normalization
    eval_fn = interruption.watch(compile_eval_fn(normalization, config.dtype, mesh), mesh)
    judged_fn = compile_judged_fn(experiment, interruption)
    versions_now = versions()  # not those that an update brings meanwhile

    with Recorder(
        workdir, name, step=step, sums=sums, num_steps=num_steps, steps_per_epoch=experiment.steps_per_epoch,
        batch_size=config.batch_size, log_every_steps=experiment.log_every_steps,
        max_skipped=config.max_skipped_updates if config.on_nonfinite == "skip" else 0,
        keep_later=restored is None or lost_step is not None or newest.newest_step_aside() > step,
    ) as recorder:  # fmt: skip
        if restored is not None:
            recorder.display.say(f"continuing {workdir} after step {step}{other_versions(manifest['versions'])}")
            if lost_step is not None:
                warn(f"{newest.directory} has lost step {lost_step}, which this run saved")
        if experiment.validation is None:
            recorder.display.say("no validation split (config.validation_fraction=0): no best model is kept")
        for line in missing:
            recorder.display.say(f"warning: {line}")

        def evaluate_split(split: str, judged: TrainState) -> dict[str, float | int]:
            """As `evaluate`, and with a moving average its "ema_loss" and "ema_accuracy"."""
            source = experiment.validation if split == "val" else experiment.test
            assert source is not None
            batches = EvalBatches(source, config.batch_size, jax.process_index(), jax.process_count())
            result = evaluate(eval_fn, judged, batches, mesh, interruption)
            if judged.averaging is not None:
                of_average = evaluate(eval_fn, judged.averaged(), batches, mesh, interruption)
                result |= {f"ema_{name}": of_average[name] for name in ("loss", "accuracy")}
            interruption.attempt(lambda: recorder.take_evaluation(step, split, result))
            return result

        def take_step(step: int, metrics: dict[str, jax.Array]) -> None:
            interruption.attempt(lambda: recorder.take_step(step, metrics))

        def save(
            checkpoints: CheckpointFolder, state: TrainState, judged: TrainState | None = None, **more: Any
        ) -> None:
            interruption.raise_together()  # a record that could not be written, for one: its step is not saved
            experiment.bad_images.add(*gather(experiment.bad_images.known()))
            position = {
                "since_log": vars(recorder.sums),
                "normalization": experiment.normalization.to_json(),
                "preprocess": experiment.preprocess.to_json() if experiment.preprocess else None,
                "class_names": list(experiment.class_names),
                "num_train": len(experiment.batches.source),
                "train_digest": train_digest,
                "bad_images": experiment.bad_images.known(),
                **more,
            }
            content = {
                "position": position,
                "seed": config.seed,
                "config": json.loads(to_json(config)),
                "versions": versions_now,
            }
            interruption.attempt(lambda: checkpoints.save(saves, state, content, judged=judged))
            experiment.bad_images.raise_if_too_many()  # of all processes together

        def save_newest(judged_state: Callable[[], TrainState] | None) -> None:
            """judged_state: with config.precise_bn_batches, what computes the statistics that are saved as well."""
            if not newest.is_saved(step, judged=judged_state is not None):
                save(newest, state, judged_state() if judged_state else None)

        def do_what_is_due() -> None:
            nonlocal best_accuracy
            interruption.raise_if_failed()
            if step < num_steps:
                interruption.raise_if_requested()  # before statistics are computed, which may take long
            judged_state = cache(lambda: judged_fn(state))  # once, and only where something asks for it
            if cadence.validates(step):
                # A record may be there without its best: of a run that was killed between the two.
                result = recorder.log.evaluation(step, "val") or evaluate_split("val", judged_state())
                average = "" if state.averaging is None else "ema_"  # what people keep of such a run
                if math.isfinite(result[f"{average}loss"]) and result[f"{average}accuracy"] > best_accuracy:
                    best_accuracy = result[f"{average}accuracy"]
                    # Written before the checkpoint below, which says that this validation is done.
                    save(best, judged_state(), val_accuracy=best_accuracy)
            if cadence.saves(step):
                save_newest(judged_state if config.precise_bn_batches else None)
            if cadence.tests(step) and recorder.log.evaluation(step, "test") is None:
                evaluate_split("test", judged_state())
            if step < num_steps:
                interruption.raise_if_requested()

        pending: dict[str, jax.Array] | None = None
        interrupted_by = ""
        interruption.at_once = False  # from here on there is something to save
        try:
            if restored is not None:
                save_newest(None)  # where the best had to serve
            do_what_is_due()  # a run killed between a checkpoint and what was due after it
            remaining = range(step, num_steps)
            num_parts = config.accumulation_steps
            with closing(prefetch(lambda k: shard_batch(experiment.batches[k], mesh, num_parts), remaining)) as batches:
                for batch in interruption.attempt_each(batches, len(remaining)):
                    state, metrics = train_fn(state, batch)
                    step += 1
                    interruption.has_progressed = True
                    interruption.attempt(saves.raise_failure)
                    is_due = interruption.requested() or cadence.anything(step)
                    if pending is not None:
                        take_step(step - 1, pending)
                    is_due |= interruption.requested()  # a signal while that step was waited for
                    pending = metrics
                    if is_due:
                        interruption.raise_if_failed()  # in this step: nothing of it is recorded
                        take_step(step, pending)
                        pending = None
                        recorder.pause_clock()
                        do_what_is_due()
        except InterruptedRunError as interrupted:
            interrupted_by = str(interrupted)
            recorder.hurries = interrupted_by != signal.SIGINT.name
            save_newest(None)
        interruption.attempt(saves.wait)
        interruption.raise_together()
    if interrupted_by:
        return RunResult(step, num_steps, recorder.log.records, "", interrupted_by)
    return RunResult(step, num_steps, recorder.log.records, digest(state.variables), "")
