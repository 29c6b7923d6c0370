"""Chooses the parameters that decay, by name and dimension, and checks the numbers that all optimizers share."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UserError
from resnet_jax.training.schedule import Schedule

Mask = Callable[[optax.Params], Any]


def check_hyperparameters(learning_rate: float | Schedule, **numbers: float) -> None:
    """Raises UserError for numbers that no optimizer takes; those that JAX traces have no value to be checked.

    Args:
      numbers: momenta, which must be in [0, 1), and others, which must be at least 0, by their names.
    """
    if not callable(learning_rate):
        numbers = {"learning_rate": learning_rate, **numbers}
    for name, value in numbers.items():
        if isinstance(value, jax.core.Tracer):
            continue
        if name.endswith("momentum"):
            if not 0.0 <= value < 1.0:
                raise UserError(f"{name}={value} must be in [0, 1)")
        elif value < 0.0:
            raise UserError(f"{name}={value} must be at least 0")


def is_zero(value: float | jax.Array) -> bool:
    """Returns whether a hyperparameter is the number 0: an array may be another one in the next step.

    `optax.inject_hyperparams` makes arrays of them, and the transforms must be the same in all steps.
    """
    return isinstance(value, Real) and value == 0


def on_decayed(
    transformation: optax.GradientTransformation,
    strength: float | jax.Array,
    decay_norm_and_bias: bool,
    decay_bias: bool,
) -> optax.GradientTransformation:
    """Returns `transformation` on the parameters that decay; nothing where the decay's strength is 0."""
    if is_zero(strength):
        return optax.identity()
    if not isinstance(strength, Real):
        transformation = _where_positive(strength, transformation)
    mask = decayed(decay_norm_and_bias, decay_bias)
    return transformation if mask is None else optax.masked(transformation, mask)


def _where_positive(strength: Any, transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None) -> Any:
        changed, state = transformation.update(updates, state, params)
        return jax.tree.map(lambda one, other: jnp.where(strength > 0, one, other), changed, updates), state

    return optax.GradientTransformation(transformation.init, update)


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
