"""The 2-D convolution, in XLA's form and in one that is faster on the CPU; equal to rounding.

The convolution and its two gradients are three bilinear functions, each of which has the other two as its gradients.
They are JAX primitives here, so that each platform gets its own lowering and all of JAX's transformations hold:
- "xla": XLA's convolution, on every platform.
- "cpu": on the CPU oneDNN's (resnet_jax.ops.onednn) for a program on one device, or, where that is not to be had,
  ordinary formulations of the same sums that XLA runs faster than its own; elsewhere XLA's convolution.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from resnet_jax.ops import onednn
from resnet_jax.ops.batch_axes import vary_alike
from resnet_jax.ops.primitives import like, make_primitive

Array = jax.Array

CONV_IMPLS = ("auto", "xla", "cpu")

# From this many input channels on, matrix products beat XLA's convolution as weight gradient; measured on two cores.
MIN_CHANNELS_FOR_MATMUL_GRADIENT = 64
# oneDNN computes in bfloat16 where the processor does, else in float32: half precision is widened then, as XLA does for
# its own convolutions on the CPU.
ONEDNN_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


def convolve(x: Array, kernel: Array, stride: int = 1, groups: int = 1, impl: str = "auto", dilation: int = 1) -> Array:
    """Returns `x` (B, H, W, C) convolved by `kernel` (k, k, C / groups, F): (B, ceil(H/s), ceil(W/s), F).

    It is padded by k // 2 * dilation. A kernel of a wider type is rounded to the type of `x`; its gradient has the
    kernel's type.

    Args:
      impl: "xla" or "cpu" as above; "auto" is "cpu", which other platforms than the CPU do not see.
      dilation: how far apart the pixels lie that the kernel's elements meet.
    """
    if impl == "xla":
        return _xla(x, kernel, stride, groups, dilation)
    x, kernel = vary_alike((x, kernel), x, kernel)  # a kernel that all devices share has the sum as its gradient
    return _forward.bind(x, kernel, stride=stride, groups=groups, dilation=dilation)


def subsample(x: Array, stride: int) -> Array:
    """Returns every `stride`-th pixel: (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), C).

    As a slice also where the number of rows is a symbol; indexing would gather then.
    """
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))


def _xla(x: Array, kernel: Array, stride: int, groups: int, dilation: int) -> Array:
    pad = kernel.shape[0] // 2 * dilation
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _xla_input_gradient(cotangent: Array, kernel: Array, *, result: Any, **geometry: int) -> Array:
    return jax.linear_transpose(lambda x: _xla(x, kernel, **geometry), like(result))(cotangent)[0]


def _xla_kernel_gradient(x: Array, cotangent: Array, *, result: Any, **geometry: int) -> Array:
    return jax.linear_transpose(lambda kernel: _xla(x, kernel, **geometry), like(result))(cotangent)[0]


# --- XLA's CPU backend without oneDNN --------------------------------------------------------------------------------
# It is slow in four places, each met here by an ordinary formulation of the same sum:
# - A 1x1 convolution takes several times as long as the matrix product that it is.
# - Before a weight gradient it transposes the cotangent, and fuses that transpose with the whole chain of batch-norm
#   and ReLU gradients that makes it, which it then recomputes with strided access. `_materialize` ends that.
# - The weight gradient itself is slow where a 3x3 convolution has 64 channels or more: three matrix products, one for
#   each row of the kernel, take less than half the time.
# - The weight gradient of a grouped convolution takes a hundred times as long as its groups' one by one.


def _cpu_forward(x: Array, kernel: Array, *, stride: int, groups: int, dilation: int) -> Array:
    if kernel.shape[:2] == (1, 1) and groups == 1:
        return subsample(x, stride) @ kernel[0, 0].astype(x.dtype)
    return _xla(x, kernel, stride, groups, dilation)


def _cpu_input_gradient(cotangent: Array, kernel: Array, *, result: Any, **geometry: int) -> Array:
    cotangent = _materialize(cotangent, kernel)
    return jax.linear_transpose(lambda x: _cpu_forward(x, kernel, **geometry), like(result))(cotangent)[0]


def _cpu_kernel_gradient(x: Array, cotangent: Array, *, result: Any, groups: int, **geometry: int) -> Array:
    size, _, channels, features = result.shape
    if groups > 1:
        pairs = zip(jnp.split(x, groups, axis=-1), jnp.split(cotangent, groups, axis=-1), strict=True)
        result = result.update(shape=(size, size, channels, features // groups))
        parts = [_cpu_kernel_gradient(x, y, result=result, groups=1, **geometry) for x, y in pairs]
        return jnp.concatenate(parts, axis=-1)
    cotangent = _materialize(cotangent, x)
    if size == 3 and geometry == {"stride": 1, "dilation": 1} and channels >= MIN_CHANNELS_FOR_MATMUL_GRADIENT:
        return _kernel_gradient_by_rows(x, cotangent).astype(result.dtype)
    transposed = jax.linear_transpose(lambda kernel: _cpu_forward(x, kernel, groups=1, **geometry), like(result))
    return transposed(cotangent)[0]


def _kernel_gradient_by_rows(x: Array, cotangent: Array) -> Array:
    """Returns the gradient of a 3x3 stride-1 kernel, (3, 3, C, F): for each kernel row a product (F, B*H*W) x (B*H*W,
    3*C).
    """
    _, height, width, channels = x.shape
    features = cotangent.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = jnp.concatenate([padded[:, :, j : j + width] for j in range(3)], axis=-1)  # (B, H + 2, W, 3C)
    transposed = cotangent.reshape(-1, features).T  # (F, BHW)
    accumulated = jnp.promote_types(x.dtype, jnp.float32)
    rows = [
        jnp.matmul(transposed, columns[:, i : i + height].reshape(-1, 3 * channels), preferred_element_type=accumulated)
        for i in range(3)
    ]
    return jnp.stack(rows).reshape(3, features, 3, channels).transpose(0, 2, 3, 1)


def _materialize(value: Array, other: Array) -> Array:
    """Returns `value`, written to memory before anything reads it: XLA fuses nothing across a loop.

    The loop runs zero times, by a bound that the compiler cannot fold; if `other` begins with NaN once, which adds 1 to
    gradients that are NaN anyway. `lax.optimization_barrier` would say this better, but is dropped before fusion on the
    CPU.
    """
    first = other.reshape(-1)[0]
    num_trips = (first != first).astype(jnp.int32)
    _, value = lax.while_loop(
        lambda carry: carry[0] < num_trips, lambda carry: (carry[0] + 1, carry[1] + 1), (jnp.int32(0), value)
    )
    return value


# --- oneDNN ----------------------------------------------------------------------------------------------------------


def _problem(operation: str, left: Any, right: Any, *, result: Any = None, **geometry: Any) -> onednn.Problem:
    """Returns the convolution that an operation belongs to, by the types of its operands and, of a gradient, its
    result.
    """
    x = result if operation == "input_gradient" else left
    kernel = result if operation == "kernel_gradient" else right
    return onednn.Problem(x.shape, kernel.shape, **geometry)


def _by_onednn(operation: str, problem: onednn.Problem, dtype: Any, left: Array, right: Array) -> Array:
    """Returns an operation's result in `dtype`, computed in the problem's."""
    kinds = onednn.operand_dtypes(operation, problem)
    left, right = (array.astype(kind) for array, kind in zip((left, right), kinds, strict=True))
    return onednn.call(operation, problem, left, right).astype(dtype)


def _solvable(operation: str, problem: onednn.Problem, dtype: Any) -> onednn.Problem | None:
    """Returns the problem in the type in which oneDNN computes it here, for images of `dtype`; None if it does not."""
    kinds = ("bfloat16", "float32") if dtype == jnp.bfloat16 else ("float32",)
    problems = (dataclasses.replace(problem, dtype=kind) for kind in kinds)
    return next((one for one in problems if onednn.implementation(operation, one)), None)


# --- the primitives --------------------------------------------------------------------------------------------------


def _primitive(operation: str, xla: Callable[..., Array], cpu: Callable[..., Array]) -> Primitive:
    """Returns a function of two arrays that lowers to `xla`, but on the CPU to oneDNN's or `cpu`.

    Args:
      operation: one of onednn.OPERATIONS.
    """

    def infer(*operands: Any, result: Any = None, **geometry: Any) -> Any:
        if result is not None:
            return result
        return jax.make_jaxpr(partial(xla, **geometry))(*operands).out_avals[0]

    def for_cpu(avals: Any, results: Any, is_for_one_device: bool, **params: Any) -> Callable[..., Array]:
        if is_for_one_device and all(aval.dtype in ONEDNN_DTYPES for aval in avals) and onednn.available():
            problem = _solvable(operation, _problem(operation, *avals, **params), avals[0].dtype)
            if problem is not None:
                return partial(_by_onednn, operation, problem, results[0].dtype)
        # The formulations for the CPU reshape and slice as neither an explicit mesh nor an empty batch bears.
        bears = not any(aval.sharding.mesh.explicit_axes or aval.size == 0 for aval in avals)
        return partial(cpu if bears else xla, **params)

    name = "convolution" if operation == "forward" else f"convolution_{operation}"
    return make_primitive(name, xla, for_cpu, infer=infer)


_forward = _primitive("forward", lambda x, kernel, **geometry: _xla(x, kernel, **geometry), _cpu_forward)
_input_gradient = _primitive("input_gradient", _xla_input_gradient, _cpu_input_gradient)
_kernel_gradient = _primitive("kernel_gradient", _xla_kernel_gradient, _cpu_kernel_gradient)

ad.defbilinear(
    _forward,
    lambda cotangent, x, kernel, **geometry: _input_gradient.bind(cotangent, kernel, result=x.aval, **geometry),
    lambda cotangent, x, kernel, **geometry: _kernel_gradient.bind(x, cotangent, result=kernel.aval, **geometry),
)
ad.defbilinear(
    _input_gradient,
    lambda gradient, cotangent, kernel, *, result, **geometry: _forward.bind(gradient, kernel, **geometry),
    lambda gradient, cotangent, kernel, *, result, **geometry: _kernel_gradient.bind(
        gradient, cotangent, result=kernel.aval, **geometry
    ),
)
ad.defbilinear(
    _kernel_gradient,
    lambda gradient, x, cotangent, *, result, **geometry: _input_gradient.bind(
        cotangent, gradient, result=x.aval, **geometry
    ),
    lambda gradient, x, cotangent, *, result, **geometry: _forward.bind(x, gradient, **geometry),
)
