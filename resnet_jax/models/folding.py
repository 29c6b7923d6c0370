"""Batch norm folded into the convolutions before it, for inference."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet

Array = jax.Array


def fold_batch_norm(model: ResNet, variables: Mapping[str, Any]) -> tuple[ResNet, dict[str, Any]]:
    """A model and variables that compute what these do in evaluation mode, without batch norms; equal to rounding.

    Evaluated, a batch norm multiplies and shifts each channel: the factor goes into the kernel before it, the shift
    becomes a bias. The result has no `batch_stats` and cannot be trained.
    Raises UserError (a ValueError) if the model is folded already.
    """
    if model.batch_norm == "folded":
        raise UserError("batch_norm='folded': the model is folded already")
    params = _fold(variables["params"], variables["batch_stats"], model.norm_epsilon)
    return model.clone(batch_norm="folded", conv_bias=False), {"params": params}


def _fold(params: Mapping[str, Any], statistics: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
    folded = {name: value for name, value in params.items() if not isinstance(value, Mapping)}
    for name, child in params.items():
        if not isinstance(child, Mapping):
            continue
        inner = statistics.get(name, {})
        if "mean" in inner:
            conv = _convolution_before(name)
            kernel, bias = _fold_one(params[conv], child, inner, epsilon)
            folded[conv], folded[name] = {"kernel": kernel}, {"bias": bias}
        elif name not in folded:
            folded[name] = _fold(child, inner, epsilon)
    return folded


def _convolution_before(norm: str) -> str:
    """The name of the convolution that a batch norm follows: conv1 before bn1, a projection's 0 before its 1."""
    return "0" if norm == "1" else re.sub(r"^bn", "conv", norm)


def _fold_one(
    conv: Mapping[str, Array], norm: Mapping[str, Array], statistics: Mapping[str, Array], epsilon: float
) -> tuple[Array, Array]:
    factor = norm["scale"] * jax.lax.rsqrt(statistics["var"] + epsilon)  # (F,)
    shift = conv.get("bias", jnp.zeros_like(factor)) - statistics["mean"]
    return conv["kernel"] * factor, norm["bias"] + shift * factor
