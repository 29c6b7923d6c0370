"""A run from its config to its result: train, evaluate, checkpoint, resume.

The loop keeps one step in flight: a step's metrics are fetched after the next one has been dispatched, so that the
device never waits for the host. Whatever a step number makes due (validation, then the checkpoint, then the test) is
decided from that number and the metrics log alone, so a resumed run does exactly what the unbroken one would have done.
"""

import json
import math
import signal
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from resnet_jax.config import default_config, flatten, to_json
from resnet_jax.data.batches import EvalBatches
from resnet_jax.data.encoded import BadImages
from resnet_jax.data.prefetch import prefetch
from resnet_jax.errors import InterruptedRunError, UserError
from resnet_jax.process import versions
from resnet_jax.training import workdir as folder
from resnet_jax.training.agreement import check_same, from_first, gather, together
from resnet_jax.training.checkpoint import CheckpointFolder, digest, open_best, open_newest, warn_of_damage
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.experiment import Experiment, build_experiment
from resnet_jax.training.interruption import Interruption, catch_interruptions
from resnet_jax.training.mesh import shard_batch
from resnet_jax.training.programs import begin_state, compile_eval_fn, compile_judged_fn, compile_train_fn
from resnet_jax.training.recorder import MetricSums, Recorder
from resnet_jax.training.saves import BackgroundSaves
from resnet_jax.training.state import TrainState
from resnet_jax.weights.items import load_orbax
from resnet_jax.weights.manifest import DamagedCheckpointError

# A continued run may differ from its beginning in these: how long, how often, and where the data lies.
MAY_CHANGE = (
    "num_epochs", "num_steps", "log_every_steps", "eval_every_epochs", "test_every_epochs", "checkpoint_every_steps",
    "stop_after_minutes", "data_dir", "decode_threads", "max_bad_images", "max_skipped_updates",
)  # fmt: skip


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


def train(config: ConfigDict, workdir: Path, name: str) -> RunResult:
    """Train as `config` says in `workdir`, from where an earlier start got to.

    name: the run's, for the title of its curves. Raises UserError (a ValueError) for a config or folder that cannot be
    used, before anything is written; NonFiniteError when training diverges; InterruptedRunError if a signal comes
    before the first step, when there is nothing to save.
    """
    from_first(lambda: _check_workdir(workdir, config))
    check_same("the config or workdir", f"{to_json(config)} {workdir.absolute()}")
    with catch_interruptions(jax.process_count(), config.stop_after_minutes) as interruption, ExitStack() as stack:

        def build() -> Experiment:
            with interruption.by_itself():
                experiment = build_experiment(config)
                begin_state(experiment, shapes_only=True)  # its own errors, before anything is written
                return experiment

        def begin() -> None:
            stack.enter_context(folder.lock_workdir(workdir))
            _check_workdir(workdir, config)  # again: another run may have begun there meanwhile

        experiment = together(build)
        from_first(begin)
        together(lambda: folder.wait_for_workdir(workdir))
        newest, best = open_newest(workdir), open_best(workdir)
        from_first(newest.clean)
        from_first(best.clean)
        saves = stack.enter_context(BackgroundSaves())
        saves.submit("a checkpoint", load_orbax)
        return _run(experiment, workdir, name, newest, best, saves, interruption)


def _run(
    experiment: Experiment, workdir: Path, name: str, newest: CheckpointFolder, best: CheckpointFolder,
    saves: BackgroundSaves, interruption: Interruption,
) -> RunResult:  # fmt: skip
    config, mesh, num_steps = experiment.config, experiment.mesh, experiment.num_steps
    cadence = Cadence.of(experiment)
    train_digest = together(experiment.batches.source.digest)  # once: it hashes every path of a folder
    check_same("the training images", train_digest)
    state, sums = begin_state(experiment), MetricSums()
    restored = _restore(state, newest, best, experiment)
    if restored is not None:
        state, manifest = restored
        position = manifest["position"]
        _check_images(experiment, train_digest, position, workdir)
        sums = MetricSums(**position["since_log"])
        experiment.bad_images.names.update(position["bad_images"])
    step = int(state.step)
    if step > num_steps:
        raise UserError(
            f"workdir {workdir} is at step {step}, past the config's {num_steps}: set config.num_epochs or "
            "config.num_steps higher, or choose another --workdir"
        )
    from_first(lambda: folder.write_atomically(workdir / folder.CONFIG_FILE, to_json(config)))
    best_accuracy = _best_accuracy(best)
    train_fn = compile_train_fn(experiment, interruption.watch)
    eval_fn = interruption.watch(compile_eval_fn(experiment.normalization, config.dtype, mesh), mesh)
    judged_fn = compile_judged_fn(experiment)

    with Recorder(
        workdir, name, step=step, sums=sums, num_steps=num_steps, steps_per_epoch=experiment.steps_per_epoch,
        batch_size=config.batch_size, log_every_steps=config.log_every_steps,
        max_skipped=config.max_skipped_updates if config.on_nonfinite == "skip" else 0,
    ) as recorder:  # fmt: skip
        if restored is not None:
            recorder.display.say(f"continuing {workdir} after step {step}{_other_versions(manifest['versions'])}")
        if experiment.validation is None:
            recorder.display.say("no validation split (config.validation_fraction=0): no best model is kept")

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
            checkpoints: CheckpointFolder, state: TrainState, *, judged: TrainState | None = None,
            replace: bool = False, **more: Any,
        ) -> None:  # fmt: skip
            _share_bad_images(experiment.bad_images)
            position = {
                "since_log": vars(recorder.sums),
                "normalization": experiment.normalization.to_json(),
                "preprocess": experiment.preprocess.to_json() if experiment.preprocess else None,
                "class_names": list(experiment.class_names),
                "num_train": len(experiment.batches.source),
                "train_digest": train_digest,
                "bad_images": sorted(experiment.bad_images.names),
                **more,
            }
            content = {
                "position": position,
                "seed": config.seed,
                "config": json.loads(to_json(config)),
                "versions": versions(),
            }
            checkpoints.save(saves, state, content, judged=judged, replace=replace)

        def do_what_is_due() -> None:
            nonlocal best_accuracy
            interruption.raise_if_failed()
            judged_state = cache(lambda: judged_fn(state))  # once, and only where something asks for it
            if cadence.validates(step) and not recorder.log.has(step, "val_accuracy"):
                result = evaluate_split("val", judged_state())
                average = "" if state.averaging is None else "ema_"  # what people keep of such a run
                if math.isfinite(result[f"{average}loss"]) and result[f"{average}accuracy"] > best_accuracy:
                    best_accuracy = result[f"{average}accuracy"]
                    # Written before the checkpoint below, which says that this validation is done.
                    save(best, judged_state(), replace=True, val_accuracy=best_accuracy)
            if cadence.saves(step):
                save(newest, state, judged=judged_state() if config.precise_bn_batches else None)
            if cadence.tests(step) and not recorder.log.has(step, "test_accuracy"):
                evaluate_split("test", judged_state())
            if step < num_steps:
                interruption.raise_if_requested()

        pending: dict[str, jax.Array] | None = None
        interrupted_by = ""
        interruption.at_once = False  # from here on there is something to save
        try:
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
            save(newest, state)
        interruption.attempt(saves.wait)
        interruption.raise_together()
    if interrupted_by:
        return RunResult(step, num_steps, recorder.log.records, "", interrupted_by)
    return RunResult(step, num_steps, recorder.log.records, digest(state.variables), "")


@dataclass(frozen=True)
class Cadence:
    """What is due after how many updates; at the end everything is. 0 means never before the end, None never."""

    num_steps: int
    validate_every: int | None
    test_every: int | None
    save_every: int

    @classmethod
    def of(cls, experiment: Experiment) -> "Cadence":
        """The cadence of the experiment's config."""
        config, steps_per_epoch = experiment.config, experiment.steps_per_epoch
        return cls(
            num_steps=experiment.num_steps,
            validate_every=None if experiment.validation is None else config.eval_every_epochs * steps_per_epoch,
            test_every=None if experiment.test is None else config.test_every_epochs * steps_per_epoch,
            save_every=config.checkpoint_every_steps or steps_per_epoch,
        )

    def validates(self, step: int) -> bool:
        """Whether the validation images are due."""
        return self.validate_every is not None and self._due(step, self.validate_every)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due."""
        return self._due(step, self.save_every)

    def tests(self, step: int) -> bool:
        """Whether the test images are due."""
        return self.test_every is not None and self._due(step, self.test_every)

    def anything(self, step: int) -> bool:
        """Whether anything is due."""
        return self.validates(step) or self.saves(step) or self.tests(step)

    def _due(self, step: int, every: int) -> bool:
        return step == self.num_steps or (every > 0 and step > 0 and step % every == 0)


def _restore(
    template: TrainState, newest: CheckpointFolder, best: CheckpointFolder, experiment: Experiment
) -> tuple[TrainState, dict[str, Any]] | None:
    """The last state that is what was saved, and its manifest; None if none has been saved yet.

    Steps that are damaged are told and set aside. Where all the newest are, the best may serve, unless its statistics
    are others than those that training goes on with. Raises UserError (a ValueError) if nothing is left, or a step is
    of another model or format.
    """
    folders = [newest] if experiment.config.precise_bn_batches else [newest, best]
    damaged: list[Path] = []
    for checkpoints in folders:
        for step in reversed(checkpoints.steps()):
            if checkpoints is best and not damaged:
                return None  # killed between its first best and its first checkpoint
            try:
                return checkpoints.restore(template, step), checkpoints.manifest(step)
            except DamagedCheckpointError as error:
                damaged.append(checkpoints.set_aside(step))
                warn_of_damage(error, f"moved to {damaged[-1]}, the run goes on from the step before")
    if damaged:
        raise UserError(
            f"no checkpoint of this run is whole: they are in {damaged[-1].parent}; bring one back from a copy, or "
            "choose another --workdir to begin anew"
        )
    return None


def _best_accuracy(best: CheckpointFolder) -> float:
    """The validation accuracy of the best checkpoint; -1.0 if there is none, as where it is damaged and set aside."""
    step = best.newest_step()
    if step is None:
        return -1.0
    try:
        return best.position(step)["val_accuracy"]
    except DamagedCheckpointError as error:
        warn_of_damage(error, f"moved to {best.set_aside(step)}, the next validation is the best")
        return -1.0


def _share_bad_images(bad_images: BadImages) -> None:
    """Let every process know those that any has found; raises UserError, in all, if they are too many together."""
    bad_images.names.update(*gather(sorted(bad_images.names)))
    bad_images.check_limit()


def _check_images(experiment: Experiment, train_digest: str, position: dict[str, Any], workdir: Path) -> None:
    """Raise UserError unless the training images are those with which the run began."""
    source = experiment.batches.source
    if train_digest != position["train_digest"]:
        raise UserError(
            f"the run in {workdir} began with other training images, {position['num_train']} of "
            f"{len(position['class_names'])} classes; now there are {len(source)} of {source.num_classes}: bring them "
            "back as they were, or choose another --workdir"
        )


def _check_workdir(workdir: Path, config: ConfigDict) -> None:
    folder.check_workdir(workdir, _json_fields(config), MAY_CHANGE, _json_fields(default_config()))


def _json_fields(config: ConfigDict) -> dict[str, Any]:
    return {path: list(value) if isinstance(value, tuple) else value for path, value in flatten(config).items()}


def _other_versions(saved: dict[str, str]) -> str:
    """What to say of a checkpoint that other versions than today's have written; empty if there is nothing to say."""
    changed = [f"{name} {saved.get(name)} -> {now}" for name, now in versions().items() if saved.get(name) != now]
    return f" ({', '.join(changed)}: no longer bit for bit what the unbroken run gives)" if changed else ""
