"""Norms that look at one image alone: group norm, and two that hold their activation (EvoNorm-S0, FRN).

Statistics are computed in float32 at least, whatever `dtype`. x (B, H, W, C) -> (B, H, W, C), in training as in
evaluation.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.nn import initializers

from resnet_jax.models.initializers import Initializer

Array = jax.Array
Dtype = Any
NUM_GROUPS = 32


class ImageNorm(nn.Module):
    """A norm of one image: parameters `scale` and `bias` (C,), and `extra`, if it has one.

    Attributes:
      activate: of those that hold an activation, apply it.
      trainable: if False, the parameters' gradients are zero.
    """

    extra = ""
    activates = False
    epsilon: float = 1e-5
    activate: bool = True
    trainable: bool = True
    scale_init: Initializer = initializers.ones
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        del train
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", initializers.zeros, shape, self.param_dtype)
        extra = None
        if self.extra and self.activate:
            init = initializers.ones if self.extra == "v" else initializers.zeros
            extra = self.param(self.extra, init, shape, self.param_dtype)
        if not self.trainable:
            scale, bias, extra = stop_gradient((scale, bias, extra))
        return self.normalize(x.astype(self.param_dtype), scale, bias, extra).astype(self.dtype)

    def normalize(self, x: Array, scale: Array, bias: Array, extra: Array | None) -> Array:
        """Returns the result of `x`, both (B, H, W, C), with parameters (C,)."""
        raise NotImplementedError


def group_mean(x: Array) -> Array:
    """Returns for each channel the mean over its group's channels and all positions: (B, H, W, C) -> (B, 1, 1, C).

    Raises:
      ValueError: if 32 does not divide C.
    """
    channels = x.shape[-1]
    if channels % NUM_GROUPS:
        raise ValueError(f"{NUM_GROUPS} groups must divide the {channels} channels")
    size = channels // NUM_GROUPS
    within = np.kron(np.eye(NUM_GROUPS), np.full((size, size), 1.0 / size))  # (C, C): channels to their group's mean
    means = jnp.dot(jnp.mean(x, (1, 2)), jnp.asarray(within, x.dtype), precision=jax.lax.Precision.HIGHEST)
    return means[:, None, None, :]


class GroupNorm(ImageNorm):
    """Group norm of 32 groups of channels (Wu and He 2018, arXiv:1803.08494)."""

    def normalize(self, x: Array, scale: Array, bias: Array, extra: Array | None) -> Array:
        """Does as ImageNorm's."""
        del extra
        centred = x - group_mean(x)
        return centred * (jax.lax.rsqrt(group_mean(jnp.square(centred)) + self.epsilon) * scale) + bias


class EvoNormS0(ImageNorm):
    """EvoNorm-S0 (Liu et al. 2020, arXiv:2004.02967): x sigmoid(v x) over the groups' standard deviation."""

    extra = "v"
    activates = True

    def normalize(self, x: Array, scale: Array, bias: Array, extra: Array | None) -> Array:
        """Does as ImageNorm's."""
        if extra is not None:
            var = group_mean(jnp.square(x - group_mean(x)))
            x = x * nn.sigmoid(x * extra) * jax.lax.rsqrt(var + self.epsilon)
        return x * scale + bias


class FilterResponseNorm(ImageNorm):
    """Filter response norm with its threshold (Singh and Krishnan 2019, arXiv:1911.09737)."""

    extra = "tau"
    activates = True

    def normalize(self, x: Array, scale: Array, bias: Array, extra: Array | None) -> Array:
        """Does as ImageNorm's."""
        y = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), (1, 2), keepdims=True) + self.epsilon) * scale + bias
        return y if extra is None else jnp.maximum(y, extra)


NORMS = {"group": GroupNorm, "evonorm_s0": EvoNormS0, "frn": FilterResponseNorm}
