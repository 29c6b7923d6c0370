"""Batch norm folded into the convolutions before it, for inference."""

from collections.abc import Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UserError
from resnet_jax.models.layers import standardize
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.stems import DEEP_STEM_LAST

Array = jax.Array
Path = tuple[str, ...]

CONVOLUTION_AXES = 4  # of a kernel (k, k, C, F)


def fold_batch_norm(model: ResNet, variables: Mapping[str, Any]) -> tuple[ResNet, dict[str, Any]]:
    """Returns a model and variables that compute the same as these in evaluation mode, without batch norms; equal up
    to rounding.

    Evaluated, a batch norm multiplies and shifts each channel: the factor goes into the kernel before it, the shift
    becomes a bias; if no convolution comes right before (pre-activation), both stay. Kernels that the model
    standardizes are standardized here. The result has no `batch_stats` and cannot be trained. A model of another
    norm_layer comes back as it is.

    Raises:
      UserError: if the model is folded already.
    """
    if model.norm_layer != "batch":
        return model, dict(variables)
    if model.batch_norm == "folded":
        raise UserError("batch_norm='folded': the model is folded already")
    flat, statistics = (flatten_dict(variables[name]) for name in ("params", "batch_stats"))
    if model.weight_standardization:  # which would undo the factors
        flat = {path: standardize(leaf) if _is_convolution(path, leaf) else leaf for path, leaf in flat.items()}
    for norm in dict.fromkeys(path[:-1] for path in statistics):  # in the same order in each process, to be cached
        mean, var = (statistics[*norm, name] for name in ("mean", "var"))
        factor = flat.pop((*norm, "scale")) * jax.lax.rsqrt(var + model.norm_epsilon)  # (F,)
        flat[*norm, "bias"] -= mean * factor
        conv = _convolution_before(norm, model.preact, flat)
        if conv is None:
            flat[*norm, "scale"] = factor
            continue
        for leaf in ("kernel", "bias"):
            if (*conv, leaf) in flat:
                flat[*conv, leaf] = flat[*conv, leaf] * factor
    return model.clone(batch_norm="folded", weight_standardization=False), {"params": unflatten_dict(flat)}


def _is_convolution(path: Path, leaf: Array) -> bool:
    return path[-1] == "kernel" and leaf.ndim == CONVOLUTION_AXES


def _convolution_before(norm: Path, preact: bool, params: Mapping[Path, Array]) -> Path | None:
    """Returns where the convolution is that a batch norm follows directly; None if it follows none.

    bn2 follows conv2, before it in pre-activation blocks conv1; a number follows the convolution before it, whose
    result may have been pooled.
    """
    *parents, name = norm
    if name.isdigit():
        before = (str(i) for i in reversed(range(int(name))))
        return (*parents, next(i for i in before if (*parents, i, "kernel") in params))
    index = int(name.removeprefix("bn")) - preact if name.startswith("bn") else 0
    if index == 0:
        return None
    conv = (*parents, f"conv{index}")
    return conv if (*conv, "kernel") in params else (*conv, DEEP_STEM_LAST)
