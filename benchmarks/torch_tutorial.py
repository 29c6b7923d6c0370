"""Trains the PyTorch tutorials' CIFAR-10 recipe in torch for so many minutes: beside `configs/cifar10_fast.py`.

    python benchmarks/torch_tutorial.py FOLDER --minutes 30 --seed 0

ResNet-18 with a 3x3 stem, SGD at a constant rate of 0.1, momentum 0.9, weight decay 5e-4, batches of 128, pad-4 crop
and flip. FOLDER has train/<class>/ and test/<class>/. Prints a line of JSON at each epoch's end and at the end of the
time: minutes of training, epochs, and the accuracy on the test images, which is not timed. Needs torch; of this package
nothing computes.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from resnet_jax.benchmark.torch_side import Network

RESNET18 = {
    "stem": "cifar", "stage_sizes": (2, 2, 2, 2), "num_filters": 64, "block_cls": "basic", "shortcut": "B",
    "num_classes": 10,
}  # fmt: skip
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
    padded = functional.pad(images, (4, 4, 4, 4))
    places = torch.randint(0, 9, (len(images), 2)).tolist()
    crops = [image[:, y : y + 32, x : x + 32] for image, (y, x) in zip(padded, places, strict=True)]
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
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of autocast")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    dtype = getattr(torch, arguments.dtype)
    images, labels = read_images(arguments.folder / "train")
    test_images, test_labels = read_images(arguments.folder / "test")
    network = Network(RESNET18).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    trained, num_images = 0.0, 0
    while trained < 60 * arguments.minutes:
        for rows in torch.randperm(len(images)).split(BATCH_SIZE):
            started = time.perf_counter()
            batch = normalized(cropped_and_flipped(images[rows]))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = functional.cross_entropy(network(batch), labels[rows])
            loss.backward()
            optimizer.step()
            trained += time.perf_counter() - started
            num_images += len(rows)
            if trained >= 60 * arguments.minutes:
                break
        accuracy = evaluate(network, test_images, test_labels, dtype)
        place = {
            "seed": arguments.seed,
            "minutes": round(trained / 60, 2),
            "epochs": round(num_images / len(images), 3),
        }
        print(json.dumps({**place, "accuracy": accuracy, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
