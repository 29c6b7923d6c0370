"""Makes finetune-stage and finetune-top: transfer learning by the real torch, in float64, to be compared step by step.

    python tests/golden/make_finetune.py      # needs torch

A ResNet-20 with the weights of weights.py. finetune-stage: the last stage and the head are trained, the head at ten
times the rate; what is before is without gradients and in eval mode. finetune-top: a new layer on top of the head,
which alone is trained.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import weights  # noqa: E402
from torch_networks import Network  # noqa: E402

FACTS = {
    "model": "resnet20", "num_classes": 10, "steps": 8, "batch": 16, "image_size": 32, "seed": 0, "learning_rate": 0.01,
    "head_learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0005,
    "lr_divided_by_10_after_steps": [5],
    "data": "step t: images(batch, image_size, seed + t); labels RandomState(seed + t).randint(0, num_classes, batch)",
    "torch": torch.__version__,
}  # fmt: skip


def make_network():
    network = Network((3, 3, 3), head="fc").double()
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            tensor.copy_(
                torch.from_numpy(np.array(weights.tensor(name, tuple(tensor.shape), FACTS["seed"]), np.float64))
            )
    return network.eval()


def train(network, modules, groups, num_classes):
    """The losses; only the modules are in training mode."""
    optimizer = torch.optim.SGD(
        groups, lr=FACTS["learning_rate"], momentum=FACTS["momentum"], nesterov=FACTS["nesterov"],
        weight_decay=FACTS["weight_decay"],
    )  # fmt: skip
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, FACTS["lr_divided_by_10_after_steps"])
    losses = []
    for t in range(FACTS["steps"]):
        for module in modules:
            module.train()
        images = torch.from_numpy(weights.images(FACTS["batch"], FACTS["image_size"], FACTS["seed"] + t)).double()
        labels = torch.from_numpy(np.random.RandomState(FACTS["seed"] + t).randint(0, num_classes, FACTS["batch"]))
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def save(name, facts, losses, tensors):
    np.savez_compressed(HERE / f"{name}.npz", losses=losses, **{key: t.detach().numpy() for key, t in tensors.items()})
    (HERE / f"{name}.json").write_text(json.dumps({**FACTS, **facts}, indent=1) + "\n")


def main():
    network = make_network()
    for parameter in network.parameters():
        parameter.requires_grad = False
    modules = [network.layer3, network.fc]
    for module in modules:
        for parameter in module.parameters():
            parameter.requires_grad = True
    groups = [
        {"params": network.layer3.parameters()},
        {"params": network.fc.parameters(), "lr": FACTS["head_learning_rate"]},
    ]
    losses = train(network, modules, groups, FACTS["num_classes"])
    names = ("layer3.0.conv1.weight", "layer3.2.bn2.weight", "layer3.2.bn2.running_mean", "layer3.2.bn2.running_var",
             "layer3.0.bn1.running_var", "fc.weight", "fc.bias")  # fmt: skip
    state = network.state_dict()
    save("finetune-stage", {"trainable": "stage3"}, losses, {name: state[name] for name in names})

    network, num_classes = make_network(), 3
    for parameter in network.parameters():
        parameter.requires_grad = False
    top = nn.Linear(FACTS["num_classes"], num_classes).double()
    for name, tensor in top.state_dict().items():
        tensor.copy_(torch.from_numpy(np.array(weights.tensor(f"top.{name}", tuple(tensor.shape), 0), np.float64)))
    losses = train(nn.Sequential(network, top), [top], [{"params": top.parameters(), "lr": 0.1}], num_classes)
    tensors = {f"top.{name}": tensor for name, tensor in top.state_dict().items()}
    save("finetune-top", {"trainable": "head", "num_classes": 3, "base_classes": 10}, losses, tensors)


if __name__ == "__main__":
    main()
