"""The number by which a run's best is chosen, and what a run's log says of it: all processes read the same there."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from resnet_jax.training.workdir import Record

NO_SCORE = -1.0  # less than any accuracy


def validation_score(metrics: Mapping[str, Any], prefix: str = "") -> float:
    """Returns the number by which the best is chosen, `score_field`'s; NO_SCORE where it or its loss is not finite.

    Args:
      prefix: of the metrics' names, "val_" in a record of the log.
    """
    score, loss = metrics[score_field(metrics, prefix)], metrics[f"{_average(metrics, prefix)}loss"]
    return score if math.isfinite(loss) and math.isfinite(score) else NO_SCORE


def score_field(metrics: Mapping[str, Any], prefix: str = "") -> str:
    """Returns the name of the number by which the best is chosen: the moving average's, if there is one.

    That is what people keep of such a run. The number is the validation accuracy, or of several labels an image the
    mean average precision.
    """
    return f"{_average(metrics, prefix)}{'map' if f'{prefix}map' in metrics else 'accuracy'}"


def best_validation(records: Iterable[Record]) -> Record | None:
    """Returns the record of the best validation in a log, the earliest of equal ones; None if none has a score."""
    best = max(_validations(records), key=lambda record: validation_score(record, "val_"), default=None)
    return None if best is None or validation_score(best, "val_") == NO_SCORE else best


def num_since_best(records: Iterable[Record]) -> int:
    """Returns how many validations came after the best one, or after the first where none has a score."""
    validations = _validations(records)
    best = best_validation(validations)
    place = 0 if best is None else validations.index(best)
    return max(len(validations) - 1 - place, 0)


def is_out_of_patience(records: Iterable[Record], patience: int) -> bool:
    """Returns whether as many validations came after the best one as a run has patience for; 0: it has no end."""
    return 0 < patience <= num_since_best(records)


def stops_early(records: Iterable[Record], patience: int, step: int, num_steps: int) -> bool:
    """Returns whether a run's patience is over at `step`, before its own end.

    A killed run may have recorded validations that it has yet to come to again: they do not count.
    """
    known = [record for record in records if record["step"] <= step]
    return step < num_steps and is_out_of_patience(known, patience)


def is_over(records: Iterable[Record], step: int, num_steps: int, patience: int) -> bool:
    """Returns whether nothing is left of a run at `step`: it is at its end, or its patience is over."""
    return step >= num_steps or stops_early(records, patience, step, num_steps)


def _average(metrics: Mapping[str, Any], prefix: str) -> str:
    return f"{prefix}ema_" if f"{prefix}ema_loss" in metrics else prefix


def _validations(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if "val_loss" in record]
