"""Trains a network in float32 and in bfloat16, ours and torch's by autocast, and prints how far the losses drift.

    python benchmarks/bfloat16_drift.py --model resnet18 --steps 50      # needs torch and torchvision

All four runs begin with torchvision's initial weights and see the same images: a template for each class, and noise.
SGD with momentum 0.9 and weight decay 5e-4, as it is computed in float32 by both. The drift of a step is the
difference of its loss from float32's of the same library.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision

from resnet_jax import create_model, load_weights
from resnet_jax.training import create_train_state, sgd, train_step

NUM_CLASSES, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 10, 0.02, 0.9, 5e-4


def batches(num_steps: int, batch_size: int, side: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The images (B, side, side, 3) and labels (B,) of each step."""
    rng = np.random.default_rng(seed)
    templates = np.repeat(np.repeat(rng.normal(size=(NUM_CLASSES, 8, 8, 3)), side // 8, axis=1), side // 8, axis=2)
    made = []
    for _ in range(num_steps):
        labels = rng.integers(0, NUM_CLASSES, batch_size)
        noise = 2 * rng.normal(size=(batch_size, side, side, 3))
        made.append(((templates[labels] + noise).astype(np.float32), labels.astype(np.int32)))
    return made


def torch_losses(network: torch.nn.Module, data: list, *, autocast: bool) -> list[float]:
    """The losses of torch's steps."""
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses = []
    network.train()
    for images, labels in data:
        given = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = network(given)
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.from_numpy(labels).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def our_losses(name: str, weights: Path, data: list, dtype: str) -> list[float]:
    """The losses of our steps."""
    model = create_model(name, num_classes=NUM_CLASSES, dtype=dtype)
    variables = load_weights(weights, model)
    state = create_train_state(model, variables, sgd(LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY))
    step = jax.jit(train_step, donate_argnums=0)
    losses = []
    for images, labels in data:
        state, metrics = step(state, {"image": jnp.asarray(images), "label": jnp.asarray(labels)})
        losses.append(float(metrics["loss"]))
    return losses


def main() -> int:
    """Prints a table of the drifts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18", help="of torchvision's")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print("| seed | loss first and last | largest drift, torch | ours | mean drift, torch | ours |")
    print("|---|---|---|---|---|---|")
    for seed in range(arguments.seeds):
        data = batches(arguments.steps, arguments.batch_size, arguments.image_size, seed)
        torch.manual_seed(seed)
        network = getattr(torchvision.models, arguments.model)(num_classes=NUM_CLASSES)
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "initial.pth"
            torch.save(network.state_dict(), weights)
            for autocast in (False, True):
                network.load_state_dict(torch.load(weights))
                found["torch", autocast] = np.array(torch_losses(network, data, autocast=autocast))
            for dtype in ("float32", "bfloat16"):
                found["ours", dtype == "bfloat16"] = np.array(our_losses(arguments.model, weights, data, dtype))
        drifts = {who: np.abs(found[who, True] - found[who, False]) for who in ("torch", "ours")}
        exact = found["torch", False]
        cells = [seed, f"{exact[0]:.3f} {exact[-1]:.3f}"]
        cells += [f"{drifts[who].max():.4f}" for who in drifts] + [f"{drifts[who].mean():.4f}" for who in drifts]
        print("|", *(f"{cell} |" for cell in cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
