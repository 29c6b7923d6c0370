"""Folders of runs as train leaves them, without training."""

import json

from resnet_jax.config import default_config, to_json


def write_run(folder, accuracies, *, num_epochs=3, test=None, train_loss=1.0, val_loss=1.0, **fields):
    """A run's folder with a validation an epoch of ten steps, as train writes it."""
    config = default_config()
    for name, value in {"num_epochs": num_epochs, "validation_fraction": 0.1, **fields}.items():
        config[name] = value
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(config))
    records = []
    for epoch, accuracy in enumerate(accuracies, start=1):
        place = {"step": 10 * epoch, "epoch": float(epoch)}
        records.append({**place, "train_loss": train_loss / epoch, "train_accuracy": 0.5, "learning_rate": 0.1})
        records.append({**place, "val_loss": val_loss, "val_accuracy": accuracy, "val_count": 10})
    if test is not None:
        records.append({**place, "test_loss": 1.5, "test_accuracy": test, "test_count": 10})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
