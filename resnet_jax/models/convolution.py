"""The 2-D convolution, in XLA's form and in one that trains faster on the CPU; equal to rounding.

XLA's CPU backend is slow in three places, each met here by an ordinary formulation of the same sum:
- A 1x1 convolution takes several times as long as the matrix product that it is.
- Before a convolution's weight gradient it transposes the cotangent, and fuses that transpose with the whole chain of
  batch-norm and ReLU gradients that makes it, which it then recomputes with strided access. `_materialize` ends that.
- The weight gradient itself is slow where a 3x3 convolution has 64 channels or more: three matrix products, one for
  each row of the kernel, take less than half the time.
On other platforms "auto" is XLA's own convolution alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

CONV_IMPLS = ("auto", "xla", "cpu")

# From this many input channels on, matrix products beat the convolution as weight gradient; measured on two cores.
MIN_CHANNELS_FOR_MATMUL_GRADIENT = 64


def convolve(x: Array, kernel: Array, stride: int = 1, groups: int = 1, impl: str = "auto") -> Array:
    """`x` (B, H, W, C) convolved by `kernel` (k, k, C / groups, F), padded by k // 2: (B, ceil(H/s), ceil(W/s), F).

    impl: "xla", "cpu" (reverse-mode differentiable only), or "auto": "cpu" when compiled for the CPU, else "xla".
    """
    if impl == "xla":
        return _xla(x, kernel, stride, groups)
    if impl == "cpu":
        return _cpu(x, kernel, stride, groups)
    return lax.platform_dependent(
        x, kernel, cpu=partial(_cpu, stride=stride, groups=groups), default=partial(_xla, stride=stride, groups=groups)
    )


def _xla(x: Array, kernel: Array, stride: int, groups: int) -> Array:
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _cpu(x: Array, kernel: Array, stride: int, groups: int) -> Array:
    if kernel.shape[:2] == (1, 1) and groups == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    return _cpu_spatial(x, kernel, stride, groups)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cpu_spatial(x: Array, kernel: Array, stride: int, groups: int) -> Array:
    return _xla(x, kernel, stride, groups)


def _cpu_spatial_forward(x: Array, kernel: Array, stride: int, groups: int) -> tuple[Array, tuple[Array, Array]]:
    return _xla(x, kernel, stride, groups), (x, kernel)


def _cpu_spatial_backward(
    stride: int, groups: int, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    cotangent = _materialize(cotangent, kernel)
    (x_gradient,) = jax.vjp(lambda x: _xla(x, kernel, stride, groups), x)[1](cotangent)
    if kernel.shape[:2] == (3, 3) and stride == groups == 1 and x.shape[-1] >= MIN_CHANNELS_FOR_MATMUL_GRADIENT:
        kernel_gradient = _kernel_gradient_by_rows(x, cotangent).astype(kernel.dtype)
    else:
        (kernel_gradient,) = jax.vjp(lambda kernel: _xla(x, kernel, stride, groups), kernel)[1](cotangent)
    return x_gradient, kernel_gradient


_cpu_spatial.defvjp(_cpu_spatial_forward, _cpu_spatial_backward)


def _kernel_gradient_by_rows(x: Array, cotangent: Array) -> Array:
    """Gradient of a 3x3 stride-1 kernel, (3, 3, C, F): for each kernel row a product (F, B*H*W) x (B*H*W, 3*C)."""
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


def _materialize(value: Array, kernel: Array) -> Array:
    """`value`, written to memory before anything reads it: XLA fuses nothing across a loop.

    The loop runs zero times, by a bound that the compiler cannot fold; for a NaN kernel once, which adds 1 to gradients
    that are NaN anyway. `lax.optimization_barrier` would say this better, but is dropped before fusion on the CPU.
    """
    first = kernel.reshape(-1)[0]
    num_trips = (first != first).astype(jnp.int32)
    _, value = lax.while_loop(
        lambda carry: carry[0] < num_trips, lambda carry: (carry[0] + 1, carry[1] + 1), (jnp.int32(0), value)
    )
    return value
