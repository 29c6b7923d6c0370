"""Activations: ReLU and its replacements, after norms that do not hold an activation themselves."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array

# The replacements for ReLU, by the name of ResNet's argument `activation`.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": lambda x: 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5)),
    "leaky_relu": lambda x: jnp.maximum(x, 0.0) + 0.01 * jnp.minimum(x, 0.0),
    "hard_swish": nn.hard_swish,
}


def activate_norm(norm: nn.Module, x: Array, activation: str, *, train: bool) -> Array:
    """Returns `x` normalised and activated; norms that hold their activation need none."""
    rectifies = getattr(norm, "rectifies", False) and activation == "relu"
    # Whoever captures what a norm returns, finds it before its ReLU.
    if train and rectifies and not norm.is_mutable_collection("intermediates"):
        return norm(x, train=train, relu=True)
    y = norm(x, train=train)
    return y if getattr(norm, "activates", False) else ACTIVATIONS[activation](y)
