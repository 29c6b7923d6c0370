"""A learning-rate range test (Smith 2015, arXiv:1506.01186): a short run whose rate grows from step to step."""

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from functools import partial

import jax

from resnet_jax.data.prefetch import prefetch
from resnet_jax.errors import UserError
from resnet_jax.preflight.learning_rate import LossCurve
from resnet_jax.training.experiment import Experiment, Options, build_experiment
from resnet_jax.training.init_weights import load_initial
from resnet_jax.training.jit_steps import init_run_state, jit_train_step, load_train_batch
from resnet_jax.training.progress import ProgressDisplay
from resnet_jax.training.schedule import RISING_FRACTION, exponential

logger = logging.getLogger(__name__)

FEWEST_STEPS = 50
LOG_EVERY_STEPS = 25  # where there is no live bar
# The lowest and the highest rate by optimizer, far below and above those that networks are trained with.
RANGES = {
    "sgd": (1e-5, 10.0),
    "lars": (1e-3, 1000.0),
    "lamb": (1e-6, 1.0),
    "adamw": (1e-6, 1.0),
    "adam": (1e-6, 1.0),
    "rmsprop": (1e-6, 1.0),
    "lion": (1e-7, 1.0),
}


def rate_range(optimizer: str, low: float | None, high: float | None, num_steps: int) -> tuple[float, float]:
    """Returns the lowest and the highest rate of a test of `num_steps`, the optimizer's own where None is given.

    Raises:
      UserError: for numbers that make no test.
    """
    for option, rate in (("--from", low), ("--to_rate", high)):
        if rate is not None and not (math.isfinite(rate) and rate > 0.0):
            raise UserError(f"{option} {rate:g} must be a learning rate above 0")
    low = RANGES[optimizer][0] if low is None else low
    high = RANGES[optimizer][1] if high is None else high
    if low >= high:
        raise UserError(f"--from {low:g} must be less than --to_rate {high:g}: the rate grows")
    if num_steps < FEWEST_STEPS:
        raise UserError(f"--steps {num_steps} must be at least {FEWEST_STEPS}: fewer losses make no curve")
    return low, high


def range_test(
    options: Options, low: float, high: float, num_steps: int, devices: Sequence[jax.Device] | None = None
) -> tuple[LossCurve, int]:
    """Returns the loss of the options' run by its rate, and in how many steps it warms up; on `devices` (all if None).

    The run is train's but for the rate, which grows from `low` to `high` in `num_steps` steps: its first state, its
    batches, its optimizer with the factors of its layers. It ends early when the loss has diverged. Nothing is written.

    Raises:
      RunError, UserError: as train does.
    """
    experiment = build_experiment(options, devices, schedule=exponential(low, high, num_steps))
    logger.info(f"the rate grows from {low:g} to {high:g} in {num_steps} steps")
    curve = _train(experiment, num_steps)
    return curve, num_warmup_steps(experiment)


def num_warmup_steps(experiment: Experiment) -> int:
    """Returns in how many steps the run comes to its peak."""
    schedule = experiment.options.schedule
    if schedule.schedule == "one_cycle":
        return round(RISING_FRACTION * experiment.num_steps)
    return schedule.num_warmup_steps(experiment.steps_per_epoch)


def _train(experiment: Experiment, num_steps: int) -> LossCurve:
    initial = load_initial(experiment.options, experiment.model, experiment.class_names)
    state, train_step = init_run_state(experiment, begin_with=initial), jit_train_step(experiment)
    curve = LossCurve()
    with (
        closing(prefetch(partial(load_train_batch, experiment), range(num_steps))) as batches,
        ProgressDisplay(0, num_steps, experiment.steps_per_epoch) as display,
    ):
        for step, batch in enumerate(batches, start=1):
            state, metrics = train_step(state, batch)
            curve.add(float(metrics["learning_rate"]), float(metrics["loss"]))
            shown = (step, curve.losses[-1], float(metrics["accuracy"]), 0.0, 0.0)
            display.update(*shown)
            if step % LOG_EVERY_STEPS == 0:
                display.log(*shown)
            if curve.has_diverged:
                break
    return curve
