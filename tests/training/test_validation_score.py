"""The best validation of a log, and how long ago it was."""

import math

import pytest

from resnet_jax.training.validation_score import best_validation, is_out_of_patience, num_since_best

NAN = math.nan


@pytest.mark.parametrize(
    ("accuracies", "losses", "best", "since"),
    [
        ([0.5, 0.7, 0.7], [1.0, 1.0, 0.5], 1, 1),  # the earliest of equal ones
        ([0.9, 0.7, 0.6], [NAN, 1.0, 1.0], 1, 1),
        ([0.1, 0.1, 0.1], [NAN, math.inf, NAN], None, 2),
        ([], [], None, 0),
    ],
)
def test_best_is_the_highest_of_a_finite_loss(accuracies, losses, best, since):
    records = [{"val_loss": loss, "val_accuracy": accuracy} for accuracy, loss in zip(accuracies, losses, strict=True)]
    found = best_validation([{"train_loss": 1.0}, *records])
    assert found is (None if best is None else records[best])
    assert num_since_best(records) == since
    assert is_out_of_patience(records, 2) == (since >= 2)
