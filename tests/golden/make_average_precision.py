"""Writes average-precision.json: what scikit-learn makes of random labels and scores, which the tests compare with.

Needs scikit-learn, which the package does not: python tests/golden/make_average_precision.py
"""

import json
from pathlib import Path

import numpy as np
import sklearn
from sklearn.metrics import average_precision_score, balanced_accuracy_score, precision_recall_fscore_support

NUM_IMAGES, THRESHOLD = 40, 0.4
SHARES = np.array([0.5, 0.1, 0.0, 0.9, 1.0])  # of the images that have each label: of one none has


def main() -> None:
    random = np.random.RandomState(0)
    labels = (random.uniform(size=(NUM_IMAGES, len(SHARES))) < SHARES).astype(int)
    logits = 2 * labels - 1 + random.normal(size=labels.shape) * 1.5
    logits[:, 0] = np.round(logits[:, 0])  # many ties
    logits[:, 1] = 0.25  # nothing but one
    logits = np.round(logits, 3)
    predicted = (1 / (1 + np.exp(-logits)) > THRESHOLD).astype(int)
    scores = precision_recall_fscore_support(labels, predicted, average=None, zero_division=np.nan)
    classes, taken_for = random.randint(0, 4, 60) % 5, random.randint(0, 5, 60)
    golden = {
        "sklearn": sklearn.__version__,
        "threshold": THRESHOLD,
        "labels": labels.tolist(),
        "logits": logits.tolist(),
        # Where no image has the label scikit-learn warns and returns 0; it is undefined.
        "average_precision": [
            float(average_precision_score(labels[:, k], logits[:, k])) if labels[:, k].any() else None
            for k in range(len(SHARES))
        ],
        **{
            name: [None if np.isnan(value) else float(value) for value in values]
            for name, values in zip(("precision", "recall", "f1"), scores, strict=False)
        },
        "classes": classes.tolist(),
        "taken_for": taken_for.tolist(),
        "balanced_accuracy": float(balanced_accuracy_score(classes, taken_for)),
    }
    Path(__file__).with_name("average-precision.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
