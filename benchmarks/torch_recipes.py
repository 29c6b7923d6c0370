"""Trains a recipe for small images in torch, beside ours: for so many minutes, or so many epochs.

    python benchmarks/torch_recipes.py FOLDER --recipe tutorial --minutes 30 --seed 0

Batches of 128, a pad-4 crop and a flip, and:
  tutorial  the PyTorch tutorials' recipe for CIFAR-10: ResNet-18 with a 3x3 stem, SGD at a constant rate of 0.1,
            momentum 0.9, weight decay 5e-4;
  quick     that of configs/cifar10_quick.py: ResNet-20, Nesterov's momentum, a rate of 0.2 after an epoch of warm-up,
            then a cosine over --epochs; but normalized as the tutorial's images are.

FOLDER has train/<class>/ and test/<class>/. Prints a line of JSON at each epoch's end and at the end: minutes of
training, epochs, and the accuracy on the test images, which is not timed. Needs torch; nothing here computes in JAX.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from resnet_jax.benchmark.torch_side import Network


@dataclass(frozen=True)
class Recipe:
    """A network, as `torch_side` builds it, and how it is trained; rate_at: the rate by the share of the steps done."""

    network: dict[str, object]
    init: Callable[[torch.nn.Module], None]
    nesterov: bool
    rate_at: Callable[[float, float], float]


def he_normal(network: torch.nn.Module) -> None:
    """Draws the kernels as He et al. 2015 do."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def cosine(epoch: float, num_epochs: float) -> float:
    """Returns the rate after so many epochs: an epoch of warm-up, and a cosine."""
    if epoch < 1:
        return 0.2 * epoch
    return 0.1 * (1 + math.cos(math.pi * (epoch - 1) / (num_epochs - 1)))


SMALL = {"stem": "cifar", "block_cls": "basic", "num_classes": 10}
RESNET18 = {**SMALL, "stage_sizes": (2, 2, 2, 2), "num_filters": 64, "shortcut": "B"}
RESNET20 = {**SMALL, "stage_sizes": (3, 3, 3), "num_filters": 16, "shortcut": "A"}
RECIPES = {
    "tutorial": Recipe(RESNET18, lambda network: None, nesterov=False, rate_at=lambda epoch, num_epochs: 0.1),
    "quick": Recipe(RESNET20, he_normal, nesterov=True, rate_at=cosine),
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
BATCH_SIZE = 128


def read_images(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the images (N, 3, 32, 32) uint8 and their labels, by the folders' names in order."""
    images, labels = [], []
    for label, name in enumerate(sorted(path.name for path in folder.iterdir() if path.is_dir())):
        for path in sorted((folder / name).iterdir()):
            images.append(np.asarray(Image.open(path).convert("RGB")))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Returns uint8 images as the network takes them."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def cropped_and_flipped(images: torch.Tensor) -> torch.Tensor:
    """Returns each image of a batch of uint8, padded by four pixels, cut back at random, and mirrored or not."""
    height, width = images.shape[-2:]
    padded = functional.pad(images, (4, 4, 4, 4))
    places = torch.randint(0, 9, (len(images), 2)).tolist()
    crops = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, places, strict=True)]
    batch = torch.stack(crops)
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, batch.flip(3), batch)


def evaluate(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype) -> float:
    """Returns the accuracy."""
    network.eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = [network(normalized(part)) for part in images.split(500)]
    network.train()
    return (torch.cat(logits).argmax(1) == labels).float().mean().item()


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, default="tutorial")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, default=math.inf, help="of training, without the evaluations")
    length.add_argument("--epochs", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of autocast")
    arguments = parser.parse_args()
    if arguments.recipe == "quick" and not 1 < arguments.epochs < math.inf:
        parser.error("the cosine of --recipe quick needs --epochs above 1")
    torch.manual_seed(arguments.seed)
    dtype, recipe = getattr(torch, arguments.dtype), RECIPES[arguments.recipe]
    images, labels = read_images(arguments.folder / "train")
    test_images, test_labels = read_images(arguments.folder / "test")
    network = Network(recipe.network)
    recipe.init(network)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=recipe.nesterov)
    trained, num_images = 0.0, 0

    def is_over() -> bool:
        return trained >= 60 * arguments.minutes or num_images >= arguments.epochs * len(images)

    while not is_over():
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            started = time.perf_counter()
            batch = normalized(cropped_and_flipped(images[rows]))
            optimizer.param_groups[0]["lr"] = recipe.rate_at(num_images / len(images), arguments.epochs)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = functional.cross_entropy(network(batch), labels[rows])
            loss.backward()
            optimizer.step()
            trained += time.perf_counter() - started
            num_images += len(rows)
            if is_over():
                break
        accuracy = evaluate(network, test_images, test_labels, dtype)
        place = {
            "recipe": arguments.recipe,
            "seed": arguments.seed,
            "minutes": round(trained / 60, 2),
            "epochs": round(num_images / len(images), 3),
        }
        print(json.dumps({**place, "accuracy": accuracy, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
