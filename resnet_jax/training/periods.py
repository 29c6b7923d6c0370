"""Decides what is due after an update from its number alone, so a resumed run does the same as an unbroken one."""

from dataclasses import dataclass
from typing import Annotated

from resnet_jax.ranges import NOT_NEGATIVE, POSITIVE

TENSORBOARD_TAGS = ("grouped", "plain")


@dataclass(frozen=True)
class PeriodOptions:
    """How long a run lasts, and how often it does and writes what; 0 where the comment does not say otherwise: never.

    Attributes:
      tensorboard_tags: "grouped", so that a metric's curves of training, validation and test share a chart, or "plain".
    """

    num_epochs: Annotated[int, NOT_NEGATIVE]
    num_steps: Annotated[int, NOT_NEGATIVE]  # > 0: instead of num_epochs
    stop_after_minutes: Annotated[float, NOT_NEGATIVE]
    log_every_steps: Annotated[int, POSITIVE]
    eval_every_epochs: Annotated[int, POSITIVE]
    early_stopping_patience: Annotated[int, NOT_NEGATIVE]
    test_every_epochs: Annotated[int, NOT_NEGATIVE]  # 0: at the end only
    checkpoint_every_steps: Annotated[int, NOT_NEGATIVE]  # 0: once an epoch
    tensorboard_tags: str

    def run_length(self, steps_per_epoch: int) -> int:
        """Returns the number of steps of the run."""
        return self.num_steps or self.num_epochs * steps_per_epoch


@dataclass(frozen=True)
class Periods:
    """The number of updates after which each action is due; at the end all are. 0: never before the end, None: never.

    Attributes:
      patience: so many validations in succession without a better one end the run early; 0: none do.
    """

    num_steps: int
    validate_every: int | None
    test_every: int | None
    save_every: int
    patience: int = 0

    def validates(self, step: int) -> bool:
        """Returns whether the validation images are due."""
        return self.validate_every is not None and self._due(step, self.validate_every)

    def saves(self, step: int) -> bool:
        """Returns whether a checkpoint is due."""
        return self._due(step, self.save_every)

    def tests(self, step: int) -> bool:
        """Returns whether the test images are due."""
        return self.test_every is not None and self._due(step, self.test_every)

    def anything(self, step: int) -> bool:
        """Returns whether anything is due."""
        return self.validates(step) or self.saves(step) or self.tests(step)

    def num_due(self, every: int | None, after: int = 0) -> int:
        """Returns how often what is due `every` so many updates, a field of this, is due behind update `after`."""
        if every is None or after >= self.num_steps:
            return 0
        regular = self.num_steps // every - after // every if every else 0
        return regular + (not every or self.num_steps % every > 0)  # at the end whatever the cadence

    def _due(self, step: int, every: int) -> bool:
        return step == self.num_steps or (every > 0 and step > 0 and step % every == 0)
