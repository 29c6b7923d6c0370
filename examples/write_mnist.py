"""Writes MNIST's files, or those of a set in the same format, as a folder of images to train on.

    python examples/write_mnist.py DIR FOLDER

DIR has the four files of MNIST, Fashion-MNIST, KMNIST …: train-images-idx3-ubyte, train-labels-idx1-ubyte and the two
that begin with t10k, as they are or with .gz. Writes FOLDER/train/<label>/<number>.png and FOLDER/test/….
"""

import argparse
import gzip
import math
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": "train", "t10k": "test"}


def read_idx(path: Path) -> np.ndarray:
    """Returns the bytes of an idx file, in the shape that it says.

    Raises:
      ValueError: if there is no such file, or it is none.
    """
    packed = path.with_name(f"{path.name}.gz")
    if path.is_file():
        data = path.read_bytes()
    elif packed.is_file():
        with gzip.open(packed) as file:
            data = file.read()
    else:
        raise ValueError(f"{path} is not there, nor {packed.name}")
    if len(data) < 4 or data[:3] != b"\0\0\x08":  # 8: bytes
        raise ValueError(f"{path} is no idx file of bytes")
    num_dimensions = data[3]
    start = 4 + 4 * num_dimensions
    shape = np.frombuffer(data[4:start], ">u4").tolist()
    if len(shape) != num_dimensions or len(data) != start + math.prod(shape):
        raise ValueError(f"{path} is not whole")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def write_split(source: Path, prefix: str, folder: Path) -> int:
    """Writes a split's images by their labels, and returns how many there are."""
    images = read_idx(source / f"{prefix}-images-idx3-ubyte")
    labels = read_idx(source / f"{prefix}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(f"{source}: images of shape {images.shape} and labels of shape {labels.shape}")
    for label in np.unique(labels):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / str(label) / f"{number:05}.png")
    return len(images)


def main() -> None:
    """Writes as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="DIR")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    try:
        for prefix, split in SPLITS.items():
            number = write_split(arguments.source, prefix, arguments.folder / split)
            print(f"{number} images in {arguments.folder / split}")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
