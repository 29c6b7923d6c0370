"""Average precision and what follows of a threshold, against scikit-learn's numbers."""

import json

import numpy as np
import pytest
from golden_files import GOLDEN

from resnet_jax.inference.classification_metrics import ClassificationMetrics
from resnet_jax.inference.multi_label_metrics import MultiLabelMetrics
from resnet_jax.training.average_precision import average_precision, mean_average_precision

FACTS = json.loads((GOLDEN / "average-precision.json").read_text())
LABELS, LOGITS = np.array(FACTS["labels"]), np.array(FACTS["logits"])


def as_numbers(values):
    return np.array([np.nan if value is None else value for value in values])


def test_average_precision_is_scikit_learns_with_ties_and_undefined_without_positives():
    expected = as_numbers(FACTS["average_precision"])
    assert np.isnan(expected).tolist() == [False, False, True, False, False]
    np.testing.assert_allclose(average_precision(LABELS, LOGITS), expected, rtol=0, atol=1e-12)
    assert mean_average_precision(average_precision(LABELS, LOGITS)) == pytest.approx(np.nanmean(expected), abs=1e-12)
    single = average_precision(LABELS.astype(np.uint8), LOGITS.astype(np.float32))
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6)


def test_average_precision_by_hand():
    # Ranked: right, wrong, right. Precision 1 at recall 1/2, 2/3 at recall 1.
    assert average_precision(np.array([[1], [0], [1]]), np.array([[3.0], [2.0], [1.0]])) == pytest.approx([5 / 6])
    # All alike: one threshold, at which the share of positives is the precision.
    assert average_precision(np.array([[1], [0], [1]]), np.zeros((3, 1))) == pytest.approx([2 / 3])
    assert np.isnan(average_precision(np.array([[1], [0]]), np.array([[np.nan], [1.0]])))
    assert np.isnan(mean_average_precision(average_precision(np.zeros((3, 2)), np.zeros((3, 2)))))


def test_precision_recall_and_f1_at_a_threshold_are_scikit_learns():
    names = tuple("abcde")
    # A row that could not be read is left out.
    rows = [
        {
            "label": np.vstack([LABELS, 1 - LABELS[:1]]),
            "logit": np.vstack([LOGITS, LOGITS[:1]]),
            "loss": np.ones(41),
            "counted": np.arange(41) < 40,
        }
    ]
    metrics = MultiLabelMetrics.of_rows(rows, names, FACTS["threshold"])
    classes = metrics.classes()
    for key in ("average_precision", "precision", "recall", "f1"):
        np.testing.assert_allclose(as_numbers([row[key] for row in classes]), as_numbers(FACTS[key]), atol=1e-12)
    assert [row["count"] for row in classes] == LABELS.sum(axis=0).tolist()
    summary = metrics.summary({"loss": 1.0, "accuracy": 0.0, "count": 40})
    predicted = 1 / (1 + np.exp(-LOGITS)) > FACTS["threshold"]
    assert summary["accuracy"] == pytest.approx(np.mean(predicted == LABELS))
    assert summary["exact_match_accuracy"] == pytest.approx(np.mean((predicted == LABELS).all(axis=1)))
    assert summary["map"] == pytest.approx(np.nanmean(as_numbers(FACTS["average_precision"])))
    assert metrics.without_positives() == ["c"]


def test_balanced_accuracy_is_scikit_learns():
    label, predicted = np.array(FACTS["classes"]), np.array(FACTS["taken_for"])
    rank, ones = (label != predicted).astype(np.int32), np.ones(len(label))
    metrics = ClassificationMetrics(np.arange(len(label)), label, predicted, ones, rank, ones, tuple("abcde"))
    assert metrics.balanced_accuracy == pytest.approx(FACTS["balanced_accuracy"], abs=1e-12)  # of four that occur
