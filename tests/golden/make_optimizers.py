"""Makes train-adamw, train-adam and train-rmsprop: eight steps of resnet18 by torch.optim, in float64 and float32.

    python tests/golden/make_optimizers.py      # needs torch and torchvision

Data and initial weights are those of the other golden runs, see weights.py; a few layers' tensors after the last step.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torchvision
import weights

HERE = Path(__file__).parent
KEPT = ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "fc.weight", "fc.bias")
RUN = {"model": "resnet18", "num_classes": 10, "steps": 8, "batch": 16, "image_size": 64, "label_smoothing": 0.0}
RUNS = {
    "adamw": {"seed": 41, "learning_rate": 1e-3, "momentum": 0.9, "second_momentum": 0.95, "weight_decay": 0.1},
    "adam": {"seed": 43, "learning_rate": 1e-3, "momentum": 0.8, "second_momentum": 0.999, "weight_decay": 1e-3},
    "rmsprop": {"seed": 47, "learning_rate": 1e-3, "momentum": 0.9, "second_momentum": 0.9, "weight_decay": 1e-3},
}


def optimizer_of(name, facts, parameters):
    options = {"lr": facts["learning_rate"], "weight_decay": facts["weight_decay"]}
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, momentum=facts["momentum"], alpha=facts["second_momentum"], **options)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(parameters, betas=(facts["momentum"], facts["second_momentum"]), **options)


def run(name, facts, dtype):
    network = torchvision.models.resnet18(num_classes=10).to(dtype).train()
    for key, tensor in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            tensor.copy_(torch.from_numpy(np.asarray(weights.tensor(key, tuple(tensor.shape), facts["seed"]))))
    optimizer = optimizer_of(name, facts, network.parameters())
    losses = []
    for step in range(facts["steps"]):
        seed = facts["seed"] + step
        images = torch.from_numpy(weights.images(facts["batch"], facts["image_size"], seed)).to(dtype)
        labels = torch.from_numpy(np.random.RandomState(seed).randint(0, 10, facts["batch"]))
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    with torch.no_grad():
        images = torch.from_numpy(weights.images(4, facts["image_size"], facts["seed"] + 99)).to(dtype)
        logits = network(images).numpy()
    return np.array(losses), {key: network.state_dict()[key].numpy() for key in KEPT}, logits


if __name__ == "__main__":
    for name, own in RUNS.items():
        facts = {**RUN, "optimizer": name, **own, "decay_norm_and_bias": True, "torch": torch.__version__}
        losses, tensors, logits = run(name, facts, torch.float64)
        in_float32, _, _ = run(name, facts, torch.float32)
        arrays = {"losses": losses, "losses_torch_float32": in_float32, "eval_logits": logits, **tensors}
        np.savez_compressed(HERE / f"train-{name}.npz", **arrays)
        (HERE / f"train-{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
