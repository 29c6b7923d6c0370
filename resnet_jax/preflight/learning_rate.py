"""The learning rate that a range test proposes: the one at which the loss, after its fall, turns."""

import math
from dataclasses import dataclass, field

import numpy as np

from resnet_jax.errors import RunError, UserError

DECAY = 0.9  # of the average loss
BEGIN = 9  # the step, from 0, whose average is the loss at the beginning: the first of as many losses as any
PLATEAU = 20  # steps at least
DIVERGED = 4.0  # times its lowest: the average has left it far behind
# The average has turned when it stands above its lowest by a tenth of that, or by a fifth of its fall where that is
# less; but noise alone does not turn it, nor make it fall.
RISE, RISE_OF_FALL = 0.1, 0.2
FALL = 0.03  # of the first average, at least
NUM_DEVIATIONS = 3.0
MOST_BEYOND = 4.0  # times the rate of the lowest: on a plateau that wide nothing says where the loss turns
# By steps of warm-up at least, how many times the rate at which the loss turns a run stands: see docs/many_runs.md.
BY_WARMUP = {100: 2.0, 10: 1.0, 0: 0.5}


@dataclass
class LossCurve:
    """The loss and its moving average by learning rate, one for each step; the last of them may not be finite.

    Attributes:
      has_diverged: the last loss is not finite, or the average is far above its lowest.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    averages: list[float] = field(default_factory=list)
    has_diverged: bool = False

    def add(self, rate: float, loss: float) -> None:
        """Takes in the loss of the next step."""
        num_before = len(self.losses)
        sums = self.averages[-1] * (1.0 - DECAY**num_before) if num_before else 0.0
        self.rates.append(rate)
        self.losses.append(loss)
        self.averages.append((DECAY * sums + (1.0 - DECAY) * loss) / (1.0 - DECAY ** (num_before + 1)))
        self.has_diverged = not math.isfinite(loss) or self.averages[-1] > DIVERGED * min(self.averages)


@dataclass(frozen=True)
class Proposal:
    """The rate for a run, and why.

    Attributes:
      lowest_rate, lowest_loss: of the step at which the average loss was lowest, before it turned;
      turn_rate: of that at which it had turned, None if it did not.
    """

    learning_rate: float
    lowest_rate: float
    lowest_loss: float
    turn_rate: float | None


def propose_learning_rate(curve: LossCurve, *, warmup_steps: int, optimizer: str) -> Proposal:
    """Returns the peak, with two significant digits, for a run of which `curve` is the range test.

    It is the rate at which the average loss turns: half of it for a run that begins at its peak, and twice as much for
    one that comes to it by a long warm-up. A loss that does not turn gives the rate at which it ceases to fall.
    Optimizers whose steps are as long as the rate, however small gradients have become, do no harm yet in a few steps
    at rates by which a run comes to nothing: theirs is the geometric mean of the rates at which the loss ceases to fall
    and is lowest, and Lion's, whose steps are the longest, the one at which it has half fallen.

    Args:
      curve: at rates that grow by a factor from step to step.
      warmup_steps: in which the run comes to its peak.
      optimizer: as config.optimizer names it.

    Raises:
      RunError: if the very first loss is not finite.
      UserError: if the loss did not fall, or still does at the last rate.
    """
    averages = np.array(curve.averages)
    averages = averages[np.isfinite(averages)]
    if not averages.size:
        raise RunError(
            "the loss is not finite at the first step, whatever the learning rate: look at the images with preview, "
            "and at config.finetune.weights if there are some"
        )
    losses = np.array(curve.losses[: averages.size])
    lowest, turn = _find_turn(losses, averages)
    last = f"{curve.rates[-1]:.2g}"
    if lowest is None and curve.has_diverged:
        raise UserError(
            f"the loss did not fall before it diverged at a rate of {last}: begin with a lower one (--from), or take "
            "more steps (--steps)"
        )
    if lowest is None:
        raise UserError(
            f"the loss did not fall up to a rate of {last}: end with a higher one (--to_rate), or take more steps "
            "(--steps)"
        )
    ceased = _first_below(averages, averages[lowest] + _rise(losses, averages, lowest))
    if turn is None and not curve.has_diverged and averages.size - ceased <= PLATEAU:
        raise UserError(f"the loss still falls at a rate of {last}: end with a higher one (--to_rate)")
    times = next(times for steps, times in BY_WARMUP.items() if warmup_steps >= steps)
    if optimizer == "lion":
        rate = curve.rates[_first_below(averages, (averages[BEGIN] + averages[lowest]) / 2.0)]
    elif optimizer != "sgd":
        rate = math.sqrt(curve.rates[ceased] * curve.rates[lowest])
    elif turn is None:
        rate = min(times, 1.0) * curve.rates[ceased]
    else:
        rate = min(curve.rates[turn], MOST_BEYOND * curve.rates[lowest])
        far_below = curve.rates[-1] / 2.0 if curve.has_diverged else math.inf
        rate = min(times * rate, max(rate, far_below))
    return Proposal(
        learning_rate=float(f"{rate:.2g}"),
        lowest_rate=curve.rates[lowest],
        lowest_loss=float(averages[lowest]),
        turn_rate=None if turn is None else curve.rates[turn],
    )


def _find_turn(losses: np.ndarray, averages: np.ndarray) -> tuple[int | None, int | None]:
    """Returns the steps at which the average is lowest, None if it does not fall, and at which it has turned, None if
    it does not.
    """
    lowest, has_fallen = BEGIN, False
    for step in range(BEGIN + 1, len(averages)):
        if averages[step] < averages[lowest]:
            lowest = step
        fall = averages[BEGIN] - averages[lowest]
        has_fallen = fall > max(FALL * averages[BEGIN], 2.0 * _noise(losses, lowest))
        if has_fallen and averages[step] > averages[lowest] + _rise(losses, averages, lowest):
            return lowest, step
    return (lowest if has_fallen else None), None


def _rise(losses: np.ndarray, averages: np.ndarray, lowest: int) -> float:
    """Returns how far the average stands above its lowest when it has turned."""
    of_fall = RISE_OF_FALL * (averages[BEGIN] - averages[lowest])
    return max(min(RISE * float(averages[lowest]), of_fall), _noise(losses, lowest))


def _noise(losses: np.ndarray, lowest: int) -> float:
    """Returns how far chance alone takes the average, by the differences between successive losses up to the lowest.

    Their median, in which a few leaps count little, stands for the deviation of a normal distribution.
    """
    of_a_loss = 1.4826 * np.median(np.abs(np.diff(losses[: lowest + 1]))) / math.sqrt(2.0)
    return NUM_DEVIATIONS * float(of_a_loss) * math.sqrt((1.0 - DECAY) / (1.0 + DECAY))


def _first_below(averages: np.ndarray, level: float) -> int:
    """Returns the first step whose average is at most `level`; those before BEGIN are of few losses, and leap."""
    return BEGIN + int(np.argmax(averages[BEGIN:] <= level))
