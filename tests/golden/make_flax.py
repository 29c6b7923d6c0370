"""Makes flax.tar.xz: small ResNets of transformers' Flax and of Flax's ImageNet example as msgpack, and their logits.

    python tests/golden/make_flax.py FLAX/examples/imagenet/models.py    # needs transformers 4.40 with jax and flax

The weights are those of weights.py by their paths, rounded to float32; the images its two of SIZE pixels, rounded
likewise; the logits, in logits.npz, are computed in float64. transformers-KIND.msgpack is what save_pretrained writes;
example-KIND.msgpack is the state in the example's checkpoint: {"step", "params", "opt_state", "batch_stats"}.
"""

import importlib.util
import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path

os.environ["JAX_ENABLE_X64"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import FlaxResNetForImageClassification, ResNetConfig

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

import weights  # noqa: E402

SIZES = (64, 75)
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
SMALL = {"embedding_size": 8, "depths": [2, 1], "num_labels": 5}
HIDDEN_SIZES = {"basic": [8, 16], "bottleneck": [32, 64]}


def filled(variables):
    """Variables of the same paths and shapes, of numbers that follow from them."""
    flat = {}
    for path, leaf in flatten_dict(variables).items():
        shape = leaf.shape
        axes, back = {4: ((3, 2, 0, 1), (2, 3, 1, 0)), 2: ((1, 0), (1, 0))}.get(len(shape), ((0,), (0,)))
        name = ".".join((*path[1:-1], LEAVES[path[-1]]))
        array = weights.tensor(name, tuple(shape[axis] for axis in axes)).astype(np.float32)
        flat[path] = np.ascontiguousarray(array.transpose(back))
    return unflatten_dict(flat)


def exact(variables):
    """The same as float64: Flax's batch norm computes in its variables' precision."""
    return jax.tree_util.tree_map(lambda leaf: np.asarray(leaf, np.float64), variables)


def images(size, channels_first):
    array = weights.images(2, size).astype(np.float32)  # as which transformers takes them
    return array if channels_first else array.transpose(0, 2, 3, 1)


def of_transformers(folder, logits):
    for kind in ("basic", "bottleneck"):
        network = FlaxResNetForImageClassification(
            ResNetConfig(layer_type=kind, hidden_sizes=HIDDEN_SIZES[kind], **SMALL), dtype=jnp.float64
        )
        network.params = filled(network.params)
        network.save_pretrained(folder / kind)
        (folder / kind / "flax_model.msgpack").rename(folder / f"transformers-{kind}.msgpack")
        for size in SIZES:
            result = network(jnp.asarray(images(size, True)), params=exact(network.params)).logits
            logits[f"transformers-{kind}-{size}"] = np.asarray(result)


def of_example(source, folder, logits):
    specification = importlib.util.spec_from_file_location("models", source)
    models = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(models)
    for kind, block in (("basic", models.ResNetBlock), ("bottleneck", models.BottleneckResNetBlock)):
        network = models.ResNet(stage_sizes=[2, 2], block_cls=block, num_classes=5, num_filters=8, dtype=jnp.float64)
        shapes = jax.eval_shape(
            lambda net=network: net.init(jax.random.PRNGKey(0), jnp.zeros((1, 64, 64, 3)), train=False)
        )
        variables = filled(shapes)
        state = {
            "step": np.int32(7),
            **variables,
            "opt_state": {"0": {"trace": {"Dense_0": variables["params"]["Dense_0"]}}, "1": {}},
        }
        (folder / f"example-{kind}.msgpack").write_bytes(serialization.msgpack_serialize(state))
        for size in SIZES:
            result = network.apply(exact(variables), jnp.asarray(images(size, False)), train=False)
            logits[f"example-{kind}-{size}"] = np.asarray(result)


if __name__ == "__main__":
    logits = {}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        of_transformers(folder, logits)
        of_example(sys.argv[1], folder, logits)
        assert all(array.dtype == np.float64 for array in logits.values())
        np.savez(folder / "logits.npz", **logits)
        with tarfile.open(HERE / "flax.tar.xz", "w:xz") as archive:
            for path in sorted(path for path in folder.iterdir() if path.is_file()):
                info = tarfile.TarInfo(path.name)
                info.size = path.stat().st_size
                archive.addfile(info, io.BytesIO(path.read_bytes()))
