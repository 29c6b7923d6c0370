"""A run from its config to its result: the checks before it begins, and the objects that its loop works with."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from resnet_jax.checkpoint.background_writer import BackgroundWriter
from resnet_jax.checkpoint.folder import CheckpointFolder, digest, open_best, open_latest
from resnet_jax.checkpoint.serialization import load_orbax
from resnet_jax.data.image_set import describe_lines
from resnet_jax.data.sources import Splits, missing_classes
from resnet_jax.distributed.preemption import PreemptionGuard, catch_preemption
from resnet_jax.distributed.processes import log, warn
from resnet_jax.distributed.sync import assert_equal_across_processes, broadcast_from_process_0, sync_errors
from resnet_jax.errors import RunError
from resnet_jax.filesystem import write_text
from resnet_jax.formatting import format_count
from resnet_jax.runtime import missing_accelerator, versions
from resnet_jax.storage.workdir import Workdir
from resnet_jax.training import workdir as folder
from resnet_jax.training.callbacks import CallbackList, TrainingRun
from resnet_jax.training.checkpointer import Checkpointer, RunMetadata, score_name
from resnet_jax.training.evaluator import Evaluator
from resnet_jax.training.experiment import Experiment, Options, build_experiment
from resnet_jax.training.features import with_features
from resnet_jax.training.init_weights import Variables, load_initial
from resnet_jax.training.jit_steps import (
    init_run_state,
    jit_run_eval_step,
    jit_train_step,
    load_train_batch,
    make_eval_state_fn,
)
from resnet_jax.training.loop import Run, RunResult, train_loop
from resnet_jax.training.metric_writer import MetricSums, MetricWriter, begin_log
from resnet_jax.training.resume import (
    best_score_of,
    check_images,
    check_run,
    check_step,
    digests_of,
    other_images,
    other_shares,
    other_versions,
    restore_last,
    warn_of_another_schedule,
    write_config,
)
from resnet_jax.training.starts import StartLog
from resnet_jax.training.train_state import TrainState


def train(
    options: Options, place: Path | Workdir, name: str, splits: Splits | None = None, callbacks: Sequence[Any] = ()
) -> RunResult:
    """Trains as `options` say in a folder, from where an earlier start got to.

    Args:
      options: the run's.
      place: its folder, or its copy of one in a bucket.
      name: the run's, for the title of its curves.
      splits: images to train and evaluate on, instead of the options' images.
      callbacks: called as the run goes, see `Callback`.

    Returns:
      How the run ended.

    Raises:
      UserError: a ValueError: options or a folder that cannot be used, before anything is written.
      NonFiniteError: training diverges.
      Preempted: a signal came before the first step, when there is nothing to save.
    """
    began = time.time()
    place = place if isinstance(place, Workdir) else Workdir(place, str(place))
    workdir = place.path
    broadcast_from_process_0(partial(check_run, workdir, options))
    heard = sync_errors(partial(CallbackList, callbacks, workdir))
    assert_equal_across_processes("the config or workdir", f"{options.written} {place.identity}")
    with catch_preemption(jax.process_count(), options.periods.stop_after_minutes) as preemption, ExitStack() as stack:
        latest, best = open_latest(workdir, place.publish), open_best(workdir, place.publish)
        preemption.check_each_step(place.check)
        is_new = latest.latest_step() is None  # only then are the weights to begin from needed
        experiment, template, initial = sync_errors(partial(_build, options, splits, is_new, preemption))
        if jax.process_count() > 1 and initial is not None:
            assert_equal_across_processes("the weights to begin from", digest(initial))
        broadcast_from_process_0(partial(_lock, stack, workdir, options))
        sync_errors(partial(folder.wait_for_workdir, workdir))
        broadcast_from_process_0(latest.clean)
        broadcast_from_process_0(best.clean)
        background = stack.enter_context(BackgroundWriter())
        background.submit("Orbax could not be imported", load_orbax)
        start = _start(experiment, template, initial, workdir, latest, best)
        if not start.is_over:
            experiment = with_features(experiment, start.state, preemption)
        writer = stack.enter_context(_open_writer(experiment, workdir, name, latest, start, preemption))
        starts = stack.enter_context(StartLog(workdir, start.step, began, is_over=start.is_over))
        _log_start(experiment, workdir, latest, start)
        run = _make_run(experiment, latest, best, background, writer, start, preemption, heard)
        preemption.interrupt_immediately = False  # from here on there is something to save
        if start.manifest is not None:
            run.checkpointer.save(start.step, start.state)  # where the best had to serve
        seen = _as_callbacks_see_it(experiment, workdir, starts, writer, preemption)
        sync_errors(partial(heard.start, seen, (latest, best)))
        writer.listeners += [starts.record, heard.record]
        preemption.check_each_step(heard.bring_checkpoints)
        preemption.check_each_step(starts.write_if_due)
        result = train_loop(run, start.state)
        starts.finish(result.step, finished=not result.interrupted_by)
        sync_errors(partial(heard.end, result))
        return result


def _build(
    options: Options, splits: Splits | None, is_new: bool, preemption: PreemptionGuard
) -> tuple[Experiment, TrainState, Variables | None]:
    """Returns the experiment, its state's shapes, and the variables that it begins with; reports faults before
    anything is written.
    """
    with preemption.interruptible():
        experiment = build_experiment(options, splits=splits)
        template = init_run_state(experiment, shapes_only=True)  # raises errors of its own
        initial = load_initial(options, experiment.model, experiment.class_names) if is_new else None
        return experiment, template, initial


def _lock(stack: ExitStack, workdir: Path, options: Options) -> None:
    stack.enter_context(folder.lock_workdir(workdir))
    check_run(workdir, options)  # again: another run may have begun there meanwhile


@dataclass(frozen=True)
class _Start:
    """Where a run begins: its state, its log, and the manifest that it continues from, if any; or that it is over."""

    step: int
    is_over: bool
    state: TrainState
    sums: MetricSums
    manifest: dict[str, Any] | None
    digests: dict[str, str]
    best_score: float
    lost_step: int | None
    missing: list[str]  # lines that say which classes have no images


def _start(
    experiment: Experiment, template: TrainState, initial: Variables | None, workdir: Path, latest: CheckpointFolder,
    best: CheckpointFolder,
) -> _Start:  # fmt: skip
    """Restores the saved state, or begins a new run, and writes the run's config."""
    digests = sync_errors(partial(digests_of, experiment))  # once: it hashes every path of a folder
    for split, name in (("train", "training"), ("val", "validation"), ("test", "test")):
        assert_equal_across_processes(f"the {name} images", digests[f"{split}_digest"])
    sums, manifest = MetricSums(), None
    lost_step = broadcast_from_process_0(latest.lost_step)
    restored = restore_last(template, latest, best, experiment)
    if restored is not None:
        state, manifest = restored
        position = manifest["position"]
        check_images(experiment, digests["train_digest"], position, workdir)
        for line in (*other_images(digests, position), *other_shares(experiment, position)):
            warn(line)
        sums = MetricSums(**position["since_log"])
        experiment.bad_images.add(position["bad_images"])
        experiment.bad_images.raise_if_too_many()
        warn_of_another_schedule(manifest["config"], experiment, int(state.step))
    elif initial is None and experiment.options.finetune.weights:  # its only checkpoint has gone meanwhile
        raise RunError(f"{latest.directory} has lost its checkpoints since this start: the same command begins anew")
    else:
        state = init_run_state(experiment, begin_with=initial)
    step = int(state.step)
    check_step(workdir, step, experiment.num_steps)
    if manifest is None and broadcast_from_process_0((workdir / folder.METRICS_FILE).exists):
        # Before the new config is there: by the old one `check_run` knows how far a start without a checkpoint got.
        broadcast_from_process_0(partial(begin_log, workdir, step, keep_later=True))
    ends = broadcast_from_process_0(partial(write_config, experiment, workdir, step))
    if experiment.layout:
        understood = json.dumps(experiment.layout, indent=1, ensure_ascii=False) + "\n"
        broadcast_from_process_0(partial(write_text, workdir / folder.IMAGES_FILE, understood))
    held_out = not experiment.has_own_validation
    missing = missing_classes(experiment.batches.source, experiment.validation, held_out=held_out)
    best_score = best_score_of(best, template, score_name(experiment))
    return _Start(step, ends, state, sums, manifest, digests, best_score, lost_step, missing)


def _open_writer(
    experiment: Experiment, workdir: Path, name: str, latest: CheckpointFolder, start: _Start,
    preemption: PreemptionGuard,
) -> MetricWriter:  # fmt: skip
    of_state = experiment.options.state
    has_gone_on = start.lost_step is not None or latest.latest_quarantined_step() > start.step
    return MetricWriter(
        workdir,
        name,
        step=start.step,
        sums=start.sums,
        num_steps=experiment.num_steps,
        steps_per_epoch=experiment.steps_per_epoch,
        batch_size=experiment.batches.batch_size,
        log_every_steps=experiment.log_every_steps,
        preemption=preemption,
        max_skipped=of_state.max_skipped_updates if of_state.on_nonfinite == "skip" else 0,
        keep_later=start.manifest is None or has_gone_on,
        tensorboard_tags=experiment.options.periods.tensorboard_tags,
    )


def _as_callbacks_see_it(
    experiment: Experiment, workdir: Path, starts: StartLog, writer: MetricWriter, preemption: PreemptionGuard
) -> TrainingRun:
    fields = folder.flatten_fields(json.loads(experiment.options.written))
    num_steps, steps_per_epoch = experiment.num_steps, experiment.steps_per_epoch
    return TrainingRun(workdir, starts.run_id, fields, num_steps, steps_per_epoch, writer.log, preemption)


def _log_start(experiment: Experiment, workdir: Path, latest: CheckpointFolder, start: _Start) -> None:
    """Says what its images are, where the run goes on, and what it will not have."""
    if (line := missing_accelerator(jax.default_backend())) is not None:
        warn(line)
    for line in describe_lines(experiment.layout) if experiment.layout else ():
        log(line)
    if start.manifest is not None:
        log(f"continuing {workdir} after step {start.step}{other_versions(start.manifest['versions'])}")
        if start.lost_step is not None:
            warn(f"{latest.directory} has lost step {start.lost_step}, which this run saved")
    if experiment.multi_label:
        log(
            f"an image may have several of the {len(experiment.class_names)} labels: map is mean average precision, "
            "accuracy the share of right decisions whether an image has a label, at a probability of 1/2"
        )
    if experiment.validation is None:
        line = "no validation split (config.validation_fraction=0): no best model is kept"
        if experiment.test is not None and (every := experiment.options.periods.test_every_epochs):
            line += f"; the test images are evaluated every {format_count(every, 'epoch')}, only to watch"
        log(line)
    for line in start.missing:
        warn(line)


def _make_run(
    experiment: Experiment, latest: CheckpointFolder, best: CheckpointFolder, background: BackgroundWriter,
    writer: MetricWriter, start: _Start, preemption: PreemptionGuard, heard: CallbackList,
) -> Run:  # fmt: skip
    options, mesh = experiment.options, experiment.mesh
    sources = {"val": experiment.validation, "test": experiment.test}
    metadata = RunMetadata(experiment, start.digests, versions())
    eval_step = jit_run_eval_step(experiment)
    return Run(
        load_batch=partial(load_train_batch, experiment),
        train_step=preemption.marking_progress(jit_train_step(experiment, preemption.with_stop_flag)),
        due=experiment.periods,
        writer=writer,
        evaluator=Evaluator(eval_step, sources, experiment.batches.part_size, mesh, writer, preemption),
        checkpointer=Checkpointer(
            latest, best, background, metadata, writer, preemption, start.best_score, heard.checkpoint_saved
        ),
        preemption=preemption,
        eval_state=make_eval_state_fn(experiment, preemption),
        has_precise_batch_norm=bool(options.state.precise_bn_batches),
    )
