"""Adam, AdamW and RMSprop as torch.optim computes them, and Lion: the optimizers for finetuning."""

import optax

from resnet_jax.training.schedule import Schedule
from resnet_jax.training.weight_decay import check_hyperparameters, decayed, is_zero


def adamw(
    learning_rate: float | Schedule,
    momentum: float = 0.9,
    weight_decay: float = 0.01,
    decay_norm_and_bias: bool = True,
    *,
    decay_bias: bool = False,
    second_momentum: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Returns torch.optim.AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) for Optax.

    Args:
      learning_rate: a number >= 0, or a schedule: step (from 0) -> number.
      momentum, second_momentum: in [0, 1): beta_1 and beta_2, of the means of gradients and of their squares.
      weight_decay: >= 0, decoupled: learning_rate * weight_decay of each parameter is taken off at each step.
      decay_norm_and_bias, decay_bias: which parameters decay, see `sgd`.
      epsilon: added to the root of the mean square.

    Raises:
      UserError: for numbers outside these ranges.
    """
    check_hyperparameters(learning_rate, momentum=momentum, weight_decay=weight_decay, second_momentum=second_momentum)
    return optax.chain(
        optax.scale_by_adam(momentum, second_momentum, epsilon),
        optax.add_decayed_weights(weight_decay, decayed(decay_norm_and_bias, decay_bias)),
        optax.scale_by_learning_rate(learning_rate),
    )


def adam(
    learning_rate: float | Schedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    *,
    decay_bias: bool = False,
    second_momentum: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Returns torch.optim.Adam (Kingma and Ba 2014, arXiv:1412.6980) for Optax: decay is added to the gradient.

    Takes the arguments of `adamw` and raises its errors.
    """
    check_hyperparameters(learning_rate, momentum=momentum, weight_decay=weight_decay, second_momentum=second_momentum)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, decayed(decay_norm_and_bias, decay_bias)),
        optax.scale_by_adam(momentum, second_momentum, epsilon),
        optax.scale_by_learning_rate(learning_rate),
    )


def rmsprop(
    learning_rate: float | Schedule,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    *,
    decay_bias: bool = False,
    second_momentum: float = 0.99,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Returns torch.optim.RMSprop for Optax: gradients over the root of their mean square, summed up with `momentum`.

    second_momentum is torch's alpha; weight_decay is added to the gradient. The other arguments and the errors
    are `adamw`'s. Optax's own adds epsilon under the root by default; torch, and this, add it outside the root.
    """
    check_hyperparameters(learning_rate, momentum=momentum, weight_decay=weight_decay, second_momentum=second_momentum)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, decayed(decay_norm_and_bias, decay_bias)),
        optax.scale_by_rms(second_momentum, epsilon, eps_in_sqrt=False),
        optax.identity() if is_zero(momentum) else optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def lion(
    learning_rate: float | Schedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    *,
    decay_bias: bool = False,
    second_momentum: float = 0.99,
) -> optax.GradientTransformation:
    """Returns Lion (Chen et al. 2023, arXiv:2302.06675) for Optax: the sign of a mean of gradients, decoupled decay.

    momentum and second_momentum are beta_1, of the mean whose sign counts, and beta_2, of the one that is kept. The
    other arguments and the errors are `adamw`'s. Rates are three to ten times smaller than AdamW's, decay as
    much larger.
    """
    check_hyperparameters(learning_rate, momentum=momentum, weight_decay=weight_decay, second_momentum=second_momentum)
    return optax.chain(
        optax.scale_by_lion(momentum, second_momentum),
        optax.add_decayed_weights(weight_decay, decayed(decay_norm_and_bias, decay_bias)),
        optax.scale_by_learning_rate(learning_rate),
    )
