"""Batch norm with PyTorch's arithmetic, and the rest of it after folding into a convolution."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import initializers

from resnet_jax.errors import UserError
from resnet_jax.models.batch_statistics import normalize_by_batch
from resnet_jax.models.initializers import Initializer

Array = jax.Array
Dtype = Any


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) over all axes but the last.

    Training normalises by the batch's own mean and biased variance, see `batch_statistics`, and moves the running
    statistics by `1 - momentum`: the running variance is the unbiased one, as in torch and unlike flax.linen.BatchNorm.
    Evaluation normalises by the running statistics. Statistics are computed in float32 at least, whatever `dtype`.
    Under `jit` with a batch sharded over devices, the statistics cover the global batch.

    x (..., C) -> (..., C), rectified if called with `relu`. Parameters `scale`, `bias` (C,); collection `batch_stats`:
    `mean`, `var` (C,).

    Attributes:
      axis_name: axes of a surrounding `shard_map` over whose shares the statistics are taken together; () for the
        share's own.
      rows_per_group: where positive, every so many rows of the first axis are normalised by separate statistics (ghost
        batch norm, Hoffer et al. 2017, arXiv:1705.08741), and the running ones move by the groups' mean.
      frozen: the running statistics are used in training too, and stay.
      trainable: if False, scale, bias and statistics get no gradient.

    Raises:
      ValueError: in training if rows_per_group does not divide the rows.
    """

    rectifies = True
    momentum: float = 0.9
    epsilon: float = 1e-5
    rows_per_group: int = 0
    axis_name: tuple[str, ...] = ()
    frozen: bool = False
    trainable: bool = True
    scale_init: Initializer = initializers.ones
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, relu: bool = False) -> Array:
        """Returns x normalised; with `relu` rectified too, in one pass where that is faster."""
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", initializers.zeros, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)
        old_mean, old_var = running_mean.value, running_var.value
        if not self.trainable:
            scale, bias, old_mean, old_var = stop_gradient((scale, bias, old_mean, old_var))

        if train and not self.frozen:
            num_groups = self._num_groups(x)
            options: dict[str, Any] = {"axis_name": self.axis_name, "dtype": self.dtype, "relu": relu}
            normalize: Any = partial(normalize_by_batch, epsilon=self.epsilon, **options)
            if num_groups == 1:
                y, mean, var = normalize(x, scale, bias)
            else:
                y, mean, var = _normalize_by_group(normalize, x, scale, bias, num_groups)
            if not self.is_initializing():
                count = x.size // x.shape[-1] // num_groups * jax.lax.axis_size(self.axis_name)
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self.momentum * old_mean + (1.0 - self.momentum) * mean
                running_var.value = self.momentum * old_var + (1.0 - self.momentum) * unbiased
        else:
            factor = jax.lax.rsqrt(old_var + self.epsilon) * scale
            y = ((x.astype(self.param_dtype) - old_mean) * factor + bias).astype(self.dtype)
            y = nn.relu(y) if relu else y
        return y.astype(self.dtype)

    def _num_groups(self, x: Array) -> int:
        rows = x.shape[0]
        if not self.rows_per_group:
            return 1
        if rows % self.rows_per_group:
            raise ValueError(f"rows_per_group={self.rows_per_group} must divide the {rows} rows of the batch")
        return rows // self.rows_per_group


def _normalize_by_group(
    normalize: Callable[..., tuple[Array, Array, Array]], x: Array, scale: Array, bias: Array, num_groups: int
) -> tuple[Array, Array, Array]:
    """Returns `normalize` of each of the groups of rows: `x`, and the means over the groups of mean and variance."""
    groups = x.reshape(num_groups, -1, *x.shape[1:])  # (G, B / G, ..., C)
    y, mean, var = jax.vmap(lambda group: normalize(group, scale, bias))(groups)
    return y.reshape(x.shape), jnp.mean(mean, axis=0), jnp.mean(var, axis=0)


class FoldedBatchNorm(nn.Module):
    """The rest of a batch norm after `fold_batch_norm` has put its factor into the convolution before it: a bias.

    Parameters `bias` (C,) and, if `scaled`, `scale` (C,).

    Attributes:
      scaled: the scale stays as well, where no convolution comes right before. x (..., C) -> (..., C).

    Raises:
      UserError: in training, which needs a whole batch norm.
    """

    scaled: bool = False
    trainable: bool = True  # this and scale_init as BatchNorm takes them
    scale_init: Initializer = initializers.ones
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if train:
            raise UserError("batch_norm='folded' is for inference: train the model from which it was folded")
        shape = (x.shape[-1],)
        bias = self.param("bias", initializers.zeros, shape, self.param_dtype)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype) if self.scaled else None
        if not self.trainable:
            bias, scale = stop_gradient((bias, scale))
        if scale is not None:
            x = x * scale.astype(self.dtype)
        return x + bias.astype(self.dtype)
