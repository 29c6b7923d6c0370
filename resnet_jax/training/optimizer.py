"""SGD, LARS and LAMB as torch.optim and timm compute them, the choice of one, and the transforms around them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UserError
from resnet_jax.ranges import FRACTION, NOT_NEGATIVE, POSITIVE, OneOf
from resnet_jax.training.adam import adam, adamw, lion, rmsprop
from resnet_jax.training.schedule import Schedule
from resnet_jax.training.weight_decay import (
    begins_with,
    check_hyperparameters,
    decayed,
    dotted,
    is_zero,
    on_decayed,
)

OPTIMIZERS = ("sgd", "lars", "lamb", "adamw", "adam", "rmsprop", "lion")


@dataclass(frozen=True)
class OptimizerOptions:
    """The optimizer that updates the weights, and its numbers."""

    optimizer: Annotated[str, OneOf(OPTIMIZERS)]
    learning_rate: Annotated[float, NOT_NEGATIVE]  # the peak
    momentum: Annotated[float, FRACTION]
    second_momentum: Annotated[float, FRACTION]  # 0: the optimizer's own
    nesterov: bool
    weight_decay: Annotated[float, NOT_NEGATIVE]
    decay_norm_and_bias: bool
    decay_bias: bool
    l1: Annotated[float, NOT_NEGATIVE]
    trust_coefficient: Annotated[float, POSITIVE]
    clip_gradient_norm: Annotated[float, NOT_NEGATIVE]  # 0: gradients are not clipped
    learning_rate_factors: Mapping[str, float]  # by layer


def make_optimizer(
    options: OptimizerOptions, schedule: Schedule, factors: Mapping[str, float]
) -> optax.GradientTransformation:
    """Returns the optimizer that the options name, chained with the transforms around it.

    Args:
      factors: of the learning rate, as for `scale_by_layer`, instead of the options'.
    """
    exempt: dict[str, Any] = {"decay_norm_and_bias": options.decay_norm_and_bias, "decay_bias": options.decay_bias}
    arguments: dict[str, Any] = {"momentum": options.momentum, "weight_decay": options.weight_decay, **exempt}
    if options.optimizer in ADAPTIVE:
        second: dict[str, Any] = {"second_momentum": options.second_momentum} if options.second_momentum else {}
        tx = ADAPTIVE[options.optimizer](schedule, **arguments, **second)
    elif options.optimizer == "lars":
        tx = lars(schedule, nesterov=options.nesterov, trust_coefficient=options.trust_coefficient, **arguments)
    else:
        tx = sgd(schedule, nesterov=options.nesterov, **arguments)
    before = [add_l1(options.l1, **exempt)] if options.l1 else []
    if options.clip_gradient_norm:
        before.append(clip_gradient_norm(options.clip_gradient_norm))
    after = [scale_by_layer(factors)] if factors else []
    return optax.chain(*before, tx, *after) if before or after else tx


def sgd(
    learning_rate: float | Schedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    *,
    decay_bias: bool = False,
) -> optax.GradientTransformation:
    """Returns torch.optim.SGD for Optax: buffer = momentum * buffer + gradient + weight_decay * parameter.

    Args:
      learning_rate: a number >= 0, or a schedule: step (from 0) -> number. momentum in [0, 1). weight_decay >= 0,
        coupled: added to the gradient, so scaled by the learning rate and seen by the momentum.
      decay_norm_and_bias: False exempts every parameter of one dimension (batch-norm scales, all biases); with
        decay_bias only the parameters of batch norms, so that the head's bias decays, as in torchvision's V2 recipe.

    Raises:
      UserError: for numbers outside these ranges.
    """
    check_hyperparameters(learning_rate, momentum=momentum, weight_decay=weight_decay)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, decayed(decay_norm_and_bias, decay_bias)),
        _descend(learning_rate, momentum, nesterov),
    )


def lars(
    learning_rate: float | Schedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    *,
    decay_bias: bool = False,
    trust_coefficient: float = 0.001,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Returns LARS (You et al. 2017, arXiv:1708.03888) for Optax, as timm's: SGD on gradients scaled by layer.

    A decayed parameter's gradient + weight_decay * parameter is multiplied by its trust ratio, trust_coefficient *
    |parameter| / (|gradient| + weight_decay * |parameter| + epsilon), or 1 where either norm is 0. A parameter
    that does not decay keeps its gradient; with weight_decay=0 all do, and this is `sgd`. The other arguments and
    errors are `sgd`'s.
    """
    check_hyperparameters(learning_rate, momentum=momentum, weight_decay=weight_decay)
    if not isinstance(trust_coefficient, jax.core.Tracer) and trust_coefficient <= 0.0:
        raise UserError(f"trust_coefficient={trust_coefficient} must be positive")

    def scale(gradient: jax.Array, parameter: jax.Array) -> jax.Array:
        parameter_norm, gradient_norm = jnp.linalg.norm(parameter.ravel()), jnp.linalg.norm(gradient.ravel())
        ratio = trust_coefficient * parameter_norm / (gradient_norm + weight_decay * parameter_norm + epsilon)
        ratio = jnp.where((parameter_norm > 0) & (gradient_norm > 0), ratio, 1.0)
        return (gradient + weight_decay * parameter) * ratio

    by_layer = optax.stateless(lambda gradients, params: jax.tree.map(scale, gradients, params))
    return optax.chain(
        on_decayed(by_layer, weight_decay, decay_norm_and_bias, decay_bias),
        _descend(learning_rate, momentum, nesterov),
    )


def lamb(
    learning_rate: float | Schedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    *,
    decay_bias: bool = False,
    second_momentum: float = 0.999,
    epsilon: float = 1e-6,
    max_gradient_norm: float = 1.0,
) -> optax.GradientTransformation:
    """Returns LAMB (You et al. 2019, arXiv:1904.00962) for Optax, as timm's.

    The gradients are scaled down to a global norm of max_gradient_norm (0: not at all); Adam's update with decay rates
    momentum and second_momentum in [0, 1) (beta_1 and beta_2) gets weight_decay * parameter added and is multiplied by
    |parameter| / |update|, or 1 where either norm is 0. A parameter that does not decay gets Adam's update unchanged;
    with weight_decay=0 all do.
    decay_norm_and_bias, decay_bias: see `sgd`. Raises UserError (a ValueError) for numbers outside their ranges.
    """
    check_hyperparameters(
        learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        second_momentum=second_momentum,
        max_gradient_norm=max_gradient_norm,
    )
    by_layer = optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_trust_ratio())
    return optax.chain(
        optax.identity() if is_zero(max_gradient_norm) else optax.clip_by_global_norm(_or_unlimited(max_gradient_norm)),
        optax.scale_by_adam(momentum, second_momentum, epsilon),
        on_decayed(by_layer, weight_decay, decay_norm_and_bias, decay_bias),
        optax.scale_by_learning_rate(learning_rate),
    )


def clip_gradient_norm(max_norm: float) -> optax.GradientTransformation:
    """Returns a transform that scales gradients down to a global L2 norm of max_norm > 0, as torch's clip_grad_norm_.

    It goes before the optimizer: optax.chain(clip_gradient_norm(1.0), sgd(0.1)).

    Raises:
      UserError: if max_norm is not positive.
    """
    if not isinstance(max_norm, jax.core.Tracer) and max_norm <= 0.0:
        raise UserError(f"max_norm={max_norm} must be positive")

    def clip(gradients: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        factor = jnp.minimum(max_norm / (optax.tree.norm(gradients) + 1e-6), 1.0)
        return jax.tree.map(lambda gradient: gradient * factor.astype(gradient.dtype), gradients)

    return optax.stateless(clip)


def add_l1(strength: float, decay_norm_and_bias: bool = True, *, decay_bias: bool = False) -> Any:
    """Returns a transform that adds the gradients of strength * sum |parameter|, for the parameters that `sgd` decays.

    It goes before the optimizer. strength >= 0, else UserError (a ValueError).
    """
    if not isinstance(strength, jax.core.Tracer) and strength < 0.0:
        raise UserError(f"l1={strength} must be at least 0")
    penalty = optax.stateless(
        lambda gradients, params: jax.tree.map(lambda g, p: g + strength * jnp.sign(p), gradients, params)
    )
    return on_decayed(penalty, strength, decay_norm_and_bias, decay_bias)


def scale_by_layer(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Returns a transform that multiplies updates by a factor >= 0 for each layer: layer-wise learning rates.

    It goes after the optimizer.

    Args:
      factors: by the layer's dotted name, {"layer4": 0.1, "layer4.1": 0.5, "fc": 1.0}; the longest name that a
        parameter begins with counts, 1 where there is none. 0 keeps a layer as it is (its statistics still move).

    Raises:
      UserError: for a negative factor, and, in `init`, for a name of no layer.
    """
    for name, factor in factors.items():
        if not (0.0 <= factor < math.inf):
            raise UserError(f"the learning-rate factor of {name!r}, {factor}, must be at least 0 and finite")

    def check_names(params: optax.Params) -> optax.EmptyState:
        paths = [dotted(path) for path, _ in jax.tree.leaves_with_path(params)]
        for name in factors:
            if not any(begins_with(path, name) for path in paths):
                layers = sorted({path.split(".")[0] for path in paths})
                raise UserError(f"no layer {name!r} is trained, to be given a learning rate: use {', '.join(layers)}")
        return optax.EmptyState()

    def scale_one(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        names = [name for name in factors if begins_with(dotted(path), name)]
        return update * factors[max(names, key=len)] if names else update

    def scale(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None) -> Any:
        del params
        return jax.tree.map_with_path(scale_one, updates), state

    return optax.GradientTransformation(check_names, scale)


def _descend(learning_rate: float | Schedule, momentum: float, nesterov: bool) -> optax.GradientTransformation:
    """Steps against the gradients, or with momentum their running sum: the end of SGD and LARS."""
    if nesterov and is_zero(momentum):
        raise UserError("nesterov=True needs momentum > 0")
    return optax.chain(
        optax.identity() if is_zero(momentum) else optax.trace(momentum, nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


def _or_unlimited(max_norm: Any) -> Any:
    """Returns a norm that gradients are clipped to, where an array may be 0, which stands for none."""
    return max_norm if isinstance(max_norm, Real) else jnp.where(max_norm > 0, max_norm, jnp.inf)


# Those that keep a mean of squares or a second momentum.
ADAPTIVE: dict[str, Callable[..., optax.GradientTransformation]] = {
    "lamb": lamb,
    "adamw": adamw,
    "adam": adam,
    "rmsprop": rmsprop,
    "lion": lion,
}
