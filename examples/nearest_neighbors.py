"""Which images of a folder look most like a given one: the pooled features of a trained network, by their angle.

    python examples/nearest_neighbors.py shapes --query shapes/disc/0000.png --workdir runs/folder
    python examples/nearest_neighbors.py photos --query dog.jpg --model resnet50 --weights IMAGENET1K_V2

Prints the nearest images and their cosine similarity, in [-1, 1]; what is in them need not be a class of the network.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from resnet_jax.data.scan import list_images
from resnet_jax.errors import UserError
from resnet_jax.inference.predictor import TrainedModel, open_run, open_weights
from resnet_jax.training.images import normalizer
from resnet_jax.weights.pretrained import find_weights

BATCH_SIZE = 32


def embed(trained: TrainedModel, paths: list[Path]) -> np.ndarray:
    """The images' pooled features, each of length 1: (N, C) float32."""
    headless = trained.model.clone(num_classes=None, base_classes=None)
    normalize = normalizer(trained.normalization, trained.model.dtype)

    @jax.jit
    def features(variables, pixels):  # (BATCH_SIZE, H, W, 3) uint8 -> (BATCH_SIZE, C)
        pooled = headless.apply(variables, normalize(pixels), train=False)
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)

    results = []
    for start in range(0, len(paths), BATCH_SIZE):
        pixels = np.zeros((BATCH_SIZE, *trained.input_shape), np.uint8)  # one shape, so one compilation
        batch = paths[start : start + BATCH_SIZE]
        for row, path in zip(pixels, batch, strict=False):
            try:
                with Image.open(path) as image:
                    row[:] = trained.pixels(image)
            except Exception as error:  # Pillow raises many kinds
                raise UserError(f"{path} cannot be read as an image ({error}): mend it or take it away") from error
        results.append(np.asarray(features(trained.state.variables, pixels))[: len(batch)])
    return np.concatenate(results)


def main() -> int:
    """Print the neighbours that the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to look")
    parser.add_argument("--query", type=Path, required=True, help="the image to compare with")
    parser.add_argument("--workdir", type=Path, help="a run, whose network is taken")
    parser.add_argument("--weights", help="or weights: a file, a folder, or IMAGENET1K_V2")
    parser.add_argument("--model", help="what the weights are of, where they do not tell")
    parser.add_argument("--num_nearest", type=int, default=5)
    arguments = parser.parse_args()
    if (arguments.workdir is None) == (arguments.weights is None):
        parser.error("name a network: either --workdir or --weights")
    if arguments.num_nearest < 1:
        parser.error(f"--num_nearest={arguments.num_nearest} must be at least 1")
    try:
        if arguments.workdir is not None:
            trained = open_run(arguments.workdir)
        else:
            trained = open_weights(find_weights(arguments.weights, arguments.model), model_name=arguments.model)
        found = list_images(arguments.folder)
        paths = [path for path, fault in found if not fault and path.resolve() != arguments.query.resolve()]
        if not paths:
            raise UserError(f"{arguments.folder} has no image to compare with")
        query, *others = embed(trained, [arguments.query, *paths])
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    similarity = np.stack(others) @ query
    for i in np.argsort(-similarity)[: arguments.num_nearest]:
        print(f"{similarity[i]:.4f}  {paths[i]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
