"""How parameters begin: He's normal, and PyTorch's defaults."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

Array = jax.Array
Dtype = Any
Initializer = Callable[..., Array]


# He et al. 2015, "Delving deep into rectifiers" (arXiv:1502.01852): a normal of variance 2 / fan, not truncated.
he_normal_fan_out = initializers.variance_scaling(2.0, "fan_out", "normal")


he_normal_fan_in = initializers.variance_scaling(2.0, "fan_in", "normal")


# torch.nn.Linear: uniform in +-1/sqrt(fan_in).
torch_linear_init = initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def uniform_bias_init(fan_in: int) -> Initializer:
    """Returns PyTorch's initializer of a bias: uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
