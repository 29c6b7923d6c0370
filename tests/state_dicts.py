"""Small networks' weights as state_dicts, for tests of import and export."""

import zlib

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.models import ResNet, variable_shapes
from resnet_jax.weights.names import torch_arrays

# The smallest networks that still have every kind of layer.
SMALL = {"stage_sizes": (2, 1), "num_filters": 8, "num_classes": 5}
ONE_BLOCK = {"stage_sizes": (1, 1, 1, 1), "num_filters": 8, "num_classes": 5}


def small(name="resnet18", **arguments):
    """A small network like the named one."""
    from resnet_jax import create_model

    return create_model(name, **{**SMALL, **arguments})


def random_variables(model: ResNet):
    """Variables of the model that differ in every number."""
    flat = {
        path: jax.numpy.asarray(
            np.random.RandomState(zlib.crc32("/".join(path).encode())).uniform(0.5, 1.5, leaf.shape), leaf.dtype
        )
        for path, leaf in flatten_dict(variable_shapes(model)).items()
    }
    return unflatten_dict(flat)


def plausible_variables(model: ResNet, seed=0):
    """Variables as of a trained network: its activations keep their size, and every number matters.

    Drawing them by `model.init` would take longer to compile than most of what is tested with them.
    """
    numbers = np.random.default_rng(seed)

    def draw(leaf):
        if leaf.ndim > 1:
            drawn = numbers.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        else:
            drawn = numbers.uniform(0.5, 1.5, leaf.shape)
        return jax.numpy.asarray(drawn, leaf.dtype)

    return jax.tree.map(draw, dict(variable_shapes(model)))


def state_dict(model: ResNet):
    """Its random variables by torchvision's names, in torch's order."""
    return {name: np.array(array, order="C") for name, array in torch_arrays(random_variables(model)).items()}


def assert_equal(actual, expected):
    """The same tree, bit for bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def network(name="resnet18", seed=0, **arguments):
    """(model, its variables, the same as torchvision's state_dict): random, of one block a stage."""
    from resnet_jax import create_model

    model = create_model(name, **{**ONE_BLOCK, **arguments})
    random = np.random.default_rng(seed)
    variables = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(leaf.dtype), variable_shapes(model))
    return model, variables, torch_arrays(variables)
