"""SGD with momentum and coupled weight decay, as torch.optim.SGD computes it."""

import jax
import optax

from resnet_jax.errors import UserError
from resnet_jax.training.schedule import Schedule


def sgd(
    learning_rate: float | Schedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
) -> optax.GradientTransformation:
    """Optax transformation of torch.optim.SGD: buffer = momentum * buffer + gradient + weight_decay * parameter.

    learning_rate: a number >= 0, or a schedule: step (from 0) -> number. momentum in [0, 1).
    weight_decay >= 0, coupled: added to the gradient, so scaled by the learning rate and seen by the momentum.
    decay_norm_and_bias: False exempts every parameter of one dimension (batch-norm scales, all biases).
    Raises UserError (a ValueError) for numbers outside these ranges.
    """
    if not callable(learning_rate) and learning_rate < 0.0:
        raise UserError(f"learning_rate={learning_rate} must be at least 0")
    if not 0.0 <= momentum < 1.0:
        raise UserError(f"momentum={momentum} must be in [0, 1)")
    if nesterov and momentum == 0.0:
        raise UserError("nesterov=True needs momentum > 0")
    if weight_decay < 0.0:
        raise UserError(f"weight_decay={weight_decay} must be at least 0")
    mask = None if decay_norm_and_bias else _is_kernel
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.trace(momentum, nesterov) if momentum else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def _is_kernel(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
