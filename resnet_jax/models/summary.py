"""Stage shapes, parameters and multiply-accumulates of a model, without computing anything."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shapes import variable_shapes
from resnet_jax.models.variants import create_model, default_image_size


def summarize(name: str, image_size: int | tuple[int, int] | None = None, **overrides: Any) -> dict[str, Any]:
    """Returns the content of the `summary` command, for one image of `image_size` pixels a side, or (height, width).

    None is the model's own size.

    {"model", "image_size", "shapes": {"stem": (h, w, C), ...}, "parameters", "statistics", "macs"}.

    Raises:
      UserError: for an unknown model or an image_size below 1.
    """
    model = create_model(name, **overrides)
    image_size = default_image_size(name) if image_size is None else image_size
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if min(height, width) < 1:
        raise UserError(f"image_size={image_size} must be at least 1")
    return {"model": name, "image_size": image_size, **summarize_model(model, (height, width, 3))}


def summarize_model(model: ResNet, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the part of `summarize` that depends on the model and one image of (H, W, C) only: "shapes",
    "parameters", "statistics", "macs".
    """
    model = model.clone(conv_impl="xla")  # one branch to count
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = variable_shapes(model, image_shape[-1])
    # One trace gives all: the head is computed with the features as well.
    forward = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False, features=True), return_shape=True)
    traced, outputs = forward(variables, images)
    stages = [f"stage{i + 1}" for i in range(len(model.stage_sizes))]
    shapes = {name: outputs[name].shape[1:] for name in ("stem", *stages, "pooled")}
    if model.num_classes is not None:
        shapes["logits"] = (model.num_classes,)
    return {
        "shapes": shapes,
        "parameters": num_elements(variables["params"]),
        "statistics": num_elements(variables.get("batch_stats", {})),
        "macs": _jaxpr_macs(traced.jaxpr),
    }


def count_macs(function: Any, *arguments: Any) -> int:
    """Returns the multiply-accumulates of the convolutions and matrix products of `function`, padding counted as work.

    Read from the jaxpr, as papers count them; a compiled program leaves out operations on the padding. Gradients count
    rightly with conv_impl="auto": with "xla" the zeros between the pixels of a stride's gradient would count as work.
    """
    return _jaxpr_macs(jax.make_jaxpr(function)(*arguments).jaxpr)


def num_product_elements(function: Any, *arguments: Any) -> int:
    """Returns the numbers that the convolutions and matrix products of `function` return: the activations of a
    network.
    """
    return sum(equation.outvars[0].aval.size for equation, _ in _products(jax.make_jaxpr(function)(*arguments).jaxpr))


def max_product_elements(function: Any, *arguments: Any) -> int:
    """Returns the numbers that the largest of them returns."""
    return max(equation.outvars[0].aval.size for equation, _ in _products(jax.make_jaxpr(function)(*arguments).jaxpr))


def _jaxpr_macs(jaxpr: Any) -> int:
    return sum(macs for _, macs in _products(jaxpr))


def _products(jaxpr: Any) -> Iterator[tuple[Any, int]]:
    """Yields the equations that are convolutions or matrix products, with their multiply-accumulates."""
    for equation in jaxpr.eqns:
        macs = _macs(equation)
        if macs is not None:
            yield equation, macs
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _products(inner)


def _macs(equation: Any) -> int | None:
    name, output = equation.primitive.name, equation.outvars[0].aval
    operands = [operand.aval for operand in equation.invars]
    if name == "conv_general_dilated":
        kernel = operands[1].shape
        return output.size * math.prod(kernel) // kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return output.size * math.prod(operands[0].shape[axis] for axis in contracted)
    # The primitives of models/convolution.py: a convolution's gradients take the products of the convolution itself,
    # the features' maps (its output or the output's cotangent) times the kernel (k, k, C / groups) of one feature.
    if name == "convolution":
        return output.size * math.prod(operands[1].shape[:3])
    if name == "convolution_input_gradient":
        return operands[0].size * math.prod(operands[1].shape[:3])
    if name == "convolution_kernel_gradient":
        return operands[1].size * math.prod(output.shape[:3])
    return None


def num_elements(tree: Any) -> int:
    """Returns how many numbers the arrays, or shapes, of a tree hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
