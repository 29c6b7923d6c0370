"""Learning rates by step: constant, step, cosine, polynomial and one-cycle, each with an optional warm-up.

A schedule maps the number of updates done so far (0 for the first) to the learning rate of the next; it works inside
`jit`. `learning_rate` is always the peak.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UserError, check_choice
from resnet_jax.ranges import NOT_NEGATIVE, POSITIVE, OneOf

# The number of updates done so far, an int or an int array -> the learning rate of the next.
Schedule = Callable[[Any], Any]

SCHEDULES = ("constant", "step", "cosine", "polynomial", "one_cycle")
WARMUP_SHAPES = ("linear", "constant")
RISING_FRACTION = 0.3  # of a run by "one_cycle"


@dataclass(frozen=True)
class ScheduleOptions:
    """How the learning rate changes during a run."""

    schedule: str
    schedule_by: Annotated[str, OneOf(("step", "epoch"))]
    decay_epochs: tuple[float, ...]
    decay_steps: tuple[int, ...]
    decay_factor: Annotated[float, POSITIVE]
    warmup_epochs: Annotated[float, NOT_NEGATIVE]
    warmup_steps: Annotated[int, NOT_NEGATIVE]  # > 0: instead of warmup_epochs
    warmup_start_factor: Annotated[float, NOT_NEGATIVE]
    warmup_shape: str

    def num_warmup_steps(self, steps_per_epoch: int) -> int:
        """Returns the number of steps of the warm-up, without the one that "one_cycle" includes."""
        return self.warmup_steps or round(self.warmup_epochs * steps_per_epoch)


def step_decay(learning_rate: float, boundaries: Sequence[int], factor: float) -> Schedule:
    """Returns `learning_rate`, multiplied by `factor` at each of the steps `boundaries` (torch's MultiStepLR)."""
    return optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(boundaries, factor))


def cosine(learning_rate: float, num_steps: int) -> Schedule:
    """Returns half a cosine from `learning_rate` at step 0 to 0 at step `num_steps` (arXiv:1608.03983, no restarts)."""
    return optax.cosine_decay_schedule(learning_rate, num_steps)


def polynomial(learning_rate: float, num_steps: int, power: float = 2.0) -> Schedule:
    """Returns learning_rate * (1 - step / num_steps) ** power, 0 from step num_steps on."""
    return optax.polynomial_schedule(learning_rate, 0.0, power, num_steps)


def exponential(low: float, high: float, num_steps: int) -> Schedule:
    """Returns the rate that grows by the same factor at each step, from `low` at step 0 to `high` at num_steps - 1."""
    return optax.exponential_decay(low, num_steps - 1, high / low)


def one_cycle(
    learning_rate: float,
    num_steps: int,
    rising_fraction: float = RISING_FRACTION,
    start_divisor: float = 25.0,
    end_divisor: float = 1e4,
) -> Schedule:
    """Returns torch's OneCycleLR with cosine ramps (arXiv:1708.07120), of the learning rate alone: momentum stays.

    From learning_rate / start_divisor up to learning_rate at step rising_fraction * num_steps - 1, then down to
    learning_rate / (start_divisor * end_divisor) at the last step, num_steps - 1.
    """
    start = learning_rate / start_divisor
    end = start / end_divisor
    peak_step = rising_fraction * num_steps - 1.0
    last_step = num_steps - 1.0

    def ramp(low: float, high: float, fraction: jax.Array) -> jax.Array:
        return high + (low - high) / 2.0 * (1.0 + jnp.cos(jnp.pi * jnp.clip(fraction, 0.0, 1.0)))

    def schedule(step: jax.Array) -> jax.Array:
        rising = ramp(start, learning_rate, step / max(peak_step, 1e-9))
        falling = ramp(learning_rate, end, (step - peak_step) / max(last_step - peak_step, 1e-9))
        return jnp.where(step <= peak_step, rising, falling)

    return schedule


def warm_up(schedule: Schedule, num_steps: int, learning_rate: float, start_factor: float, shape: str) -> Schedule:
    """Returns `schedule`, begun after `num_steps` steps of warm-up to `learning_rate`.

    Args:
      shape: "linear" rises from start_factor * learning_rate at step 0; "constant" stays there (He et al.'s 110
        layers).
    """
    if num_steps == 0:
        return schedule
    start = start_factor * learning_rate
    end = learning_rate if shape == "linear" else start
    return optax.join_schedules([optax.linear_schedule(start, end, num_steps), schedule], [num_steps])


def make_schedule(
    name: str,
    learning_rate: float,
    num_steps: int,
    *,
    decay_steps: Sequence[int] = (),
    decay_factor: float = 0.1,
    warmup_steps: int = 0,
    warmup_start_factor: float = 0.0,
    warmup_shape: str = "linear",
    hold_steps: int = 1,
) -> Schedule:
    """Returns the named schedule over a run of `num_steps` steps, warm-up included.

    Args:
      name: "constant"; "step" (decay_steps, counted from the run's start, and decay_factor); "cosine" over the steps
        after the warm-up; "polynomial" over the same steps, quadratic; "one_cycle" (it includes a warm-up). hold_steps
        > 1 lets the rate change only every so many steps: an epoch's number of them gives the recipes that advance by
        epoch.

    Raises:
      UserError: for an unknown name and for numbers that make no schedule.
    """
    check_choice("schedule", name, SCHEDULES)
    check_choice("warmup_shape", warmup_shape, WARMUP_SHAPES)
    if learning_rate < 0.0:
        raise UserError(f"learning_rate={learning_rate} must be at least 0")
    if not 0 <= warmup_steps <= num_steps:
        raise UserError(
            f"the warm-up of {warmup_steps} steps must be from 0 to the run's {num_steps} steps: set warmup_epochs or "
            "warmup_steps lower"
        )
    if list(decay_steps) != sorted(set(decay_steps)) or any(boundary <= warmup_steps for boundary in decay_steps):
        raise UserError(f"decay steps {tuple(decay_steps)} must increase and come after the warm-up's {warmup_steps}")
    if name == "step" and not decay_steps:
        raise UserError("schedule='step' needs decay_steps or decay_epochs")
    if name == "one_cycle" and warmup_steps:
        raise UserError("schedule='one_cycle' warms up by itself: set warmup_epochs and warmup_steps to 0")
    schedules: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "step": lambda: step_decay(learning_rate, [step - warmup_steps for step in decay_steps], decay_factor),
        "cosine": lambda: cosine(learning_rate, max(num_steps - warmup_steps, 1)),
        "polynomial": lambda: polynomial(learning_rate, max(num_steps - warmup_steps, 1)),
        "one_cycle": lambda: one_cycle(learning_rate, num_steps),
    }
    schedule = warm_up(schedules[name](), warmup_steps, learning_rate, warmup_start_factor, warmup_shape)
    if hold_steps == 1:
        return schedule
    return lambda step: schedule(step // hold_steps * hold_steps)
