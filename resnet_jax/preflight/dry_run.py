"""Describes a run without beginning it: its shapes, memory and length, and its time, estimated from ten steps."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax

from resnet_jax.checkpoint.folder import open_latest
from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.prefetch import DEPTH, prefetch
from resnet_jax.distributed.mesh import shard_batch
from resnet_jax.errors import UserError
from resnet_jax.models.summary import num_elements, summarize_model
from resnet_jax.preflight.dummy_data import dummy_data, missing_needs, missing_weights
from resnet_jax.preflight.memory import estimate_memory, state_bytes, training_image_shape
from resnet_jax.training.experiment import Experiment, Options, build_experiment
from resnet_jax.training.features import has_fixed_features
from resnet_jax.training.init_weights import load_initial
from resnet_jax.training.jit_steps import TrainStep, init_run_state, jit_run_eval_step, jit_train_step, load_train_batch
from resnet_jax.training.resume import check_run, continues_after
from resnet_jax.training.train_state import TrainState
from resnet_jax.training.validation_score import stops_early
from resnet_jax.training.workdir import MetricsLog, check_unlocked

logger = logging.getLogger(__name__)

NUM_STEPS = 10
NUM_EVAL_BATCHES = 3
MOST_SECONDS = 60.0  # then fewer steps must do
# The first may still warm up; the others use up what is made ahead, which is not there when data come too slowly.
NUM_UNTIMED = 1 + DEPTH


def dry_run(options: Options, workdir: Path) -> dict[str, Any]:
    """Estimates what `train` with these options in `workdir` would take; nothing is written, prepared or downloaded.

    Raises as `train` does, and UserError for a set that is not prepared or weights that are not downloaded.

    Returns:
      "model", "image_shape", "shapes" (of the stages), "parameters", "trainable" (numbers of them), "macs" (of one
        image's forward pass), "images" by split, "num_classes", "steps_per_epoch", "num_steps", "continues_after" (the
        step from which the run in `workdir` goes on, 0 if there is none), "has_stopped_early": whether it has ended by
        its patience, "due": how often each of "validation", "test"
        and "checkpoint" is until the end, and "every": how many steps lie between; "memory", in bytes: of
        `estimate_memory`, "program" as XLA reports it for the compiled step (None if a step is several programs), and
        "checkpoint"; "on_features": whether train computes the frozen network's features once, to train the head alone
        on them; "seconds": to "compile", of a "step" on images, of an "evaluation_batch" (0.0 if there is none), of an
        "evaluation" by split, and of the "rest" of the run, evaluations included, checkpoints and precise statistics
        not, nor the steps on features; "num_timed": how many steps that is from.
    """
    if jax.process_count() > 1:
        raise UserError("--dry_run is of one process: leave out --num_processes and what starts the others")
    check_run(workdir, options)
    check_unlocked(workdir)
    if (needs := missing_needs(options.images)) is not None:
        dummy_data(options, needs.num_classes, needs.image_shape)  # its own errors come first, as in training
        raise UserError(
            f"config.dataset={options.images.dataset!r} is not prepared in {needs.where}, which a dry run leaves to "
            f"train: {needs.remedy}"
        )
    experiment = build_experiment(options)
    done = continues_after(experiment, workdir)
    is_new = open_latest(workdir).latest_step() is None  # only then does train need the weights to begin from
    if is_new and (missing := missing_weights(options)) is not None:
        raise UserError(
            f"config.finetune.weights={options.finetune.weights!r} is not downloaded, which a dry run leaves to train: "
            f"run that, or {missing}"
        )
    periods, batch_size = experiment.periods, experiment.batches.batch_size
    part_size = experiment.batches.part_size
    every = {"validation": periods.validate_every, "test": periods.test_every, "checkpoint": periods.save_every}
    has_stopped = bool(done) and stops_early(MetricsLog(workdir).records, periods.patience, done, experiment.num_steps)
    due = {name: 0 if has_stopped else periods.num_due(steps, done) for name, steps in every.items()}
    images = {"train": experiment.batches.source, "validation": experiment.validation, "test": experiment.test}
    image_shape = training_image_shape(experiment)
    initial = load_initial(options, experiment.model, experiment.class_names) if is_new else None
    state = init_run_state(experiment, begin_with=initial)
    memory = {**asdict(estimate_memory(experiment)), "checkpoint": state_bytes(state)}
    trainable = num_elements(state.trained(state.params))
    seconds, program, num_timed = _time(experiment, state)
    on_features = has_fixed_features(experiment)
    if has_stopped:
        rest = 0.0
    elif on_features and done < experiment.num_steps:  # each image passes the network once, as in an evaluation
        each = seconds["evaluation_batch"] or seconds["step"]
        rest = each * sum(-(-len(source) // part_size) for source in images.values() if source is not None)
    else:
        rest = (experiment.num_steps - done) * seconds["step"]
        rest += sum(due[split] * taken for split, taken in seconds["evaluation"].items())
    return {
        "model": options.model.model,
        "image_shape": image_shape,
        **summarize_model(experiment.model, image_shape),
        "trainable": trainable,
        "images": {split: len(source) if source is not None else 0 for split, source in images.items()},
        "num_classes": experiment.batches.source.num_classes,
        "batch_size": batch_size,
        "steps_per_epoch": experiment.steps_per_epoch,
        "num_steps": experiment.num_steps,
        "continues_after": done,
        "has_stopped_early": has_stopped,
        "due": due,
        "every": every,
        "memory": {**memory, "program": program},
        "on_features": on_features,
        "seconds": {**seconds, "rest": rest},
        "num_timed": num_timed,
    }


def _time(experiment: Experiment, state: TrainState) -> tuple[dict[str, Any], dict[str, int] | None, int]:
    """Returns the seconds to compile, of a step and of the evaluations; the step's memory; of how many steps.

    Uses `state` up.
    """
    mesh, num_parts = experiment.mesh, experiment.batches.num_parts
    train_fn, program = jit_train_step(experiment), None
    first = load_train_batch(experiment, 0)
    logger.info("compiling the step")
    started = time.perf_counter()
    if num_parts == 1:
        train_fn, program = _compile(train_fn, state, first)
    else:  # several programs, which compile as they are called
        state, _ = jax.block_until_ready(train_fn(state, first))
    seconds: dict[str, Any] = {"compile": time.perf_counter() - started}
    logger.info(f"timing {NUM_STEPS} steps")
    (state, _), seconds["step"], num_timed = _seconds_each(
        lambda carried, batch: train_fn(carried[0], batch),
        (state, None),
        partial(load_train_batch, experiment),
        NUM_UNTIMED,
        NUM_STEPS,
    )
    eval_fn = jit_run_eval_step(experiment)
    seconds |= {"evaluation": {}, "evaluation_batch": 0.0}
    for split, source in (("validation", experiment.validation), ("test", experiment.test)):
        if source is None:
            continue
        batches = EvalBatches(source, experiment.batches.part_size)
        one = lambda k, batches=batches: shard_batch(batches[k % len(batches)], mesh)  # noqa: E731
        logger.info(f"timing {NUM_EVAL_BATCHES} batches of the {split} images")
        _, each, _ = _seconds_each(lambda _, batch: eval_fn(state, batch), None, one, 1, NUM_EVAL_BATCHES)
        seconds["evaluation_batch"] = each
        seconds["evaluation"][split] = each * len(batches) * (1 if state.averaging is None else 2)
    return seconds, program, num_timed


def _compile(train_fn: Any, state: TrainState, batch: Any) -> tuple[TrainStep, dict[str, int]]:
    compiled = train_fn.lower(state, batch).compile()
    analysis = compiled.memory_analysis()
    sizes = {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in ("argument", "output", "temp", "alias")}
    return compiled, {**sizes, "total": sizes["argument"] + sizes["output"] + sizes["temp"] - sizes["alias"]}


def _seconds_each(
    function: Callable[[Any, Any], Any], carried: Any, make: Callable[[int], Any], num_untimed: int, num_timed: int
) -> tuple[Any, float, int]:
    """Returns (what the last call returned, seconds of a call, of how many): carried = function(carried, make(k)),
    with one call in flight as in training; fewer than `num_timed` of them where they take more than MOST_SECONDS.
    """
    previous: Any = None
    started, count = time.perf_counter(), 0
    with closing(prefetch(make, range(num_untimed + num_timed))) as batches:
        for k, batch in enumerate(batches):
            carried = function(carried, batch)
            # The last of what a step returns are its metrics: its state will have been given away by then.
            current = jax.tree.leaves(carried)[-1]
            if previous is not None:
                previous.block_until_ready()
            previous = current
            if k + 1 == num_untimed:
                current.block_until_ready()
                started = time.perf_counter()
            count = k + 1 - num_untimed
            if count > 0 and time.perf_counter() - started > MOST_SECONDS:
                break
    jax.block_until_ready(carried)
    return carried, (time.perf_counter() - started) / count, count
