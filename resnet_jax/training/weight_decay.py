"""Chooses the parameters that decay, by name and dimension, and checks the numbers that all optimizers share."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from resnet_jax.errors import UserError
from resnet_jax.training.schedule import Schedule

Mask = Callable[[optax.Params], Any]


def check_hyperparameters(learning_rate: float | Schedule, momentum: float, weight_decay: float) -> None:
    """Raises UserError for numbers that no optimizer takes."""
    if not callable(learning_rate) and learning_rate < 0.0:
        raise UserError(f"learning_rate={learning_rate} must be at least 0")
    if not 0.0 <= momentum < 1.0:
        raise UserError(f"momentum={momentum} must be in [0, 1)")
    if weight_decay < 0.0:
        raise UserError(f"weight_decay={weight_decay} must be at least 0")


def on_decayed(
    transformation: optax.GradientTransformation, strength: float, decay_norm_and_bias: bool, decay_bias: bool
) -> optax.GradientTransformation:
    """Returns `transformation` on the parameters that decay; nothing where the decay's strength is 0."""
    if strength == 0.0:
        return optax.identity()
    mask = decayed(decay_norm_and_bias, decay_bias)
    return transformation if mask is None else optax.masked(transformation, mask)


def decayed(decay_norm_and_bias: bool, decay_bias: bool) -> Mask | None:
    """Returns which parameters decay, as a tree of bools; None for all."""
    if decay_norm_and_bias:
        return None

    def mask(params: optax.Params) -> Any:
        # A layer with a scale is a batch norm.
        names = {dotted(path) for path, _ in jax.tree.leaves_with_path(params)}

        def decays(path: tuple[Any, ...], leaf: jax.Array) -> bool:
            module, _, name = dotted(path).rpartition(".")
            return leaf.ndim > 1 or (decay_bias and name == "bias" and f"{module}.scale" not in names)

        return jax.tree.map_with_path(decays, params)

    return mask


def dotted(path: tuple[Any, ...]) -> str:
    """Returns a parameter's name: layer1.0.conv1.kernel."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def begins_with(path: str, name: str) -> bool:
    """Returns whether a parameter is of the layer of that name."""
    return f"{path}.".startswith(f"{name}.")
