"""Draws a folder of images to train on, where one has none at hand: discs, squares and triangles on noise.

    python examples/draw_shapes.py shapes [--num_images 300]

Writes shapes/<class>/<number>.png, 64x64 pixels, the same ones each time; other files there stay.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
CLASSES = ("disc", "square", "triangle")


def draw_shape(name: str, random: np.random.Generator) -> np.ndarray:
    """Where the shape is: (SIDE, SIDE) bool, of random size and place."""
    radius, (y, x) = random.integers(9, 17), random.integers(16, SIDE - 16, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    down, right = rows - y, abs(columns - x)
    if name == "disc":
        return np.hypot(down, right) < radius
    if name == "square":
        return np.maximum(abs(down), right) < 0.9 * radius
    return (abs(down) < radius) & (2 * right < down + radius)


def paint(masks: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: the masks, each in a bright colour, on a dark one, and noise on all."""
    image = np.broadcast_to(random.uniform(10, 100, 3), (SIDE, SIDE, 3)).copy()
    for mask in masks:
        image[mask] = random.uniform(120, 250, 3)
    return (image + random.normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)


def main() -> None:
    """Draw as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num_images", type=int, default=300)
    arguments = parser.parse_args()
    if arguments.num_images < 1:
        parser.error(f"--num_images={arguments.num_images} must be at least 1")
    random = np.random.default_rng(0)
    for number in range(arguments.num_images):
        name = CLASSES[number % len(CLASSES)]
        path = arguments.folder / name / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint([draw_shape(name, random)], random)).save(path)
    print(f"{arguments.num_images} images of {', '.join(CLASSES)} in {arguments.folder}")


if __name__ == "__main__":
    main()
