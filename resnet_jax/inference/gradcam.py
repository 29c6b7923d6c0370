"""Grad-CAM: the places of an image that led to a network's answer (Selvaraju et al. 2016, arXiv:1610.02391)."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.models.resnet import ResNet

Array = jax.Array

COLORS = "inferno"  # even to the eye, and from dark to light also in grey print
OPACITY = 0.75  # of the colours where the map is 1


def explain(model: ResNet, variables: Mapping[str, Any], images: Array) -> tuple[Array, Array]:
    """Returns (logits (B, K), Grad-CAM of the largest (B, h, w) in [0, 1]) in evaluation mode; pure, to be jitted.

    Args:
      images: (B, V, H, W, C) normalised: V views of each image, whose logits are averaged; the map is of the first
        view. A channel of the last stage weighs as the mean over its places of the gradient of the class's logit; the
        map is the weighted sum of the channels where that is positive, divided by its largest value. An image in which
        nothing speaks for its class has a map of zeros.
    """
    num_images, num_views = images.shape[:2]
    views = images.reshape(-1, *images.shape[2:])  # (B * V, H, W, C)
    apply: Callable[..., Any] = model.apply
    last = f"layer{len(model.stage_sizes)}"

    def run(change: Array | None) -> tuple[Array, tuple[Array, Array]]:
        """Returns the sum of the images' largest logits, (logits, the last stage's output to which `change` is
        added).
        """
        outputs = []

        def add_change(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            result = call(*args, **kwargs)
            if context.method_name != "__call__" or context.module.path != (last,):
                return result
            outputs.append(result)
            return result if change is None else result + change

        with nn.intercept_methods(add_change):
            logits = apply(variables, views, train=False)
        logits = logits.reshape(num_images, num_views, -1).mean(axis=1)
        return jnp.sum(jnp.max(logits, axis=-1)), (logits, outputs[0])

    shape = jax.eval_shape(lambda: run(None)[1][1])
    gradient, (logits, output) = jax.grad(run, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    gradient, output = (  # (B, h, w, C) of the first view
        array.reshape(num_images, num_views, *array.shape[1:])[:, 0].astype(logits.dtype)
        for array in (gradient, output)
    )
    weights = jnp.mean(gradient, axis=(1, 2))  # (B, C)
    maps = nn.relu(jnp.einsum("bc,bhwc->bhw", weights, output))
    largest = jnp.max(maps, axis=(1, 2), keepdims=True)
    return logits, jnp.where(largest > 0, maps / jnp.where(largest > 0, largest, 1), 0)


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns the image in grey below the map's colours: (H, W, 3) uint8.

    Args:
      pixels: (H, W, 3) uint8.
      heat: (H, W) in [0, 1]; where it is 0, only the grey image shows.
    """
    from matplotlib import colormaps

    colors = colormaps[COLORS](heat)[..., :3] * 255
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    opacity = OPACITY * heat[..., None]
    return np.round(grey[..., None] * (1 - opacity) + colors * opacity).astype(np.uint8)
