"""Computes what a step takes on a GPU at least: the bytes that must cross its memory, and the arithmetic.

    python benchmarks/floor.py --model resnet50 --batch_size 256 --dtype bfloat16 --card h100

Nothing is measured. Read off the network's own program are its convolutions, batch norms and what lies between them;
each is taken for one kernel that reads and writes whole arrays in the computation's dtype:

    images             uint8 read, written in the dtype
    convolutions       the input's pixels that it looks at and the kernel read, output written; the head's product too
    statistics         each batch norm's input read, once: they are not known before the convolution has ended
    normalise          what a convolution or norm reads next, written once from what it is made of: a norm's input, in a
                       residual block also the shortcut's; ReLU, sums and poolings are part of it
    pooling            the same where the result is a mean over an image
    norm sums          batch norm's gradient: its input and its output's cotangent read for two sums ...
    norm gradients     ... and again, to write the input's cotangent
    input gradients    output's cotangent and kernel read, input's cotangent written; where more than one layer reads
                       the input, what the others gave is read and added. A ReLU's mask takes no bytes.
    kernel gradients   input and output's cotangent read, gradient written in float32
    optimizer          parameter, gradient and momentum read in float32, parameter and momentum written, and the
                       parameter in a dtype that is narrower

For --inference batch norms are folded: a convolution adds its bias and the shortcut and applies ReLU before it writes.
What caches keep between two kernels would lower this, what is not fused or read twice raises it. Statistics are counted
nowhere as arrays, nor are labels, masks of dropout, or the sums over positions in squeeze-excite's gradient.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.errors import UserError
from resnet_jax.models import create_model, default_image_size, variable_shapes
from resnet_jax.models.summary import num_elements

# Bytes a second of memory, and FLOP/s of dense products in bfloat16 and, for float32, in TF32: data sheets of the SXM
# modules.
CARDS = {
    "a100": (2.04e12, {"bfloat16": 312e12, "float32": 156e12}),  # with 80 GB
    "h100": (3.35e12, {"bfloat16": 989e12, "float32": 494e12}),
    "h200": (4.8e12, {"bfloat16": 989e12, "float32": 494e12}),
}
ATTAINABLE = 0.6  # of the floor's images a second: a goal, no law
PARAMETER_BYTES = 4


@dataclass
class Tensor:
    """An array in memory. skips: those that are made from it past all norms: the sums that a shortcut leads to."""

    num_bytes: int
    is_images: bool = False
    skips: list["Tensor"] = field(default_factory=list)

    def cotangent_reads(self, *, first: bool) -> int:
        """Bytes that a user reads of what others gave to the cotangent that it adds to."""
        return sum(skip.num_bytes for skip in self.skips) if first else self.num_bytes


@dataclass
class Norm:
    """A batch norm: its input, and the arrays that are made of its output."""

    x: Tensor
    outputs: list[Tensor] = field(default_factory=list)


@dataclass
class Product:
    """A convolution or matrix product; x_read: bytes of `x` that it looks at; kernel_size: numbers in its kernel."""

    x: Tensor
    y: Tensor
    x_read: int
    kernel_size: int
    kernel_bytes: int
    flops: int


@dataclass
class Value:
    """A result in the program, made of tensors and norms' outputs, itself a tensor where it is in memory."""

    num_bytes: int
    parts: list[Any]
    tensor: Tensor | None = None
    kind: str = "normalise"

    def seen(self) -> list[Any]:
        """Returns what something that reads this depends on."""
        return self.parts if self.tensor is None else [self.tensor]


@dataclass
class Kernel:
    """One entry of the account."""

    kind: str
    num_bytes: int
    flops: int = 0


class Program:
    """A forward pass as kernels, with what its gradient needs to know."""

    def __init__(self, inference: bool) -> None:
        self.inference = inference
        self.products: list[Product] = []
        self.norms: list[Norm] = []
        self.kernels: list[Kernel] = []

    def walk(self, jaxpr: Any, values: list[Value | None]) -> list[Value | None]:
        """Account for the equations, given what is known of the arguments; None is what no image has a part in."""
        known = {variable: value for variable, value in zip(jaxpr.invars, values, strict=True) if value is not None}
        for equation in jaxpr.eqns:
            operands = [None if hasattr(x, "val") else known.get(x) for x in equation.invars]
            if any(operand is not None for operand in operands):
                results = self.account(equation, operands)
                known |= {x: y for x, y in zip(equation.outvars, results, strict=True) if y is not None}
        return [None if hasattr(x, "val") else known.get(x) for x in jaxpr.outvars]

    def account(self, equation: Any, operands: list[Value | None]) -> list[Value | None]:
        """The results of one equation."""
        name, avals = equation.primitive.name, [x.aval for x in equation.outvars]
        images = [operand for operand in operands if operand is not None]
        if is_batch_norm(equation):
            self.norms.append(Norm(self.in_memory(images[0], images[0].num_bytes)))
            self.kernels.append(Kernel("statistics", self.norms[-1].x.num_bytes))
            return [Value(size_of(avals[0]), [self.norms[-1]]), *[None] * (len(avals) - 1)]
        inner = next((p for p in equation.params.values() if hasattr(getattr(p, "jaxpr", p), "eqns")), None)
        if inner is not None:
            return self.walk(getattr(inner, "jaxpr", inner), operands)
        if name in ("convolution", "dot_general"):
            return [self.product(equation, images[0])]
        if name == "convert_element_type":  # fused with what reads it: the narrower one is kept
            images[0].num_bytes = min(images[0].num_bytes, size_of(avals[0]))
            return [images[0]]
        pools = name == "reduce_sum" or (self.inference and name.startswith("reduce_window"))
        if pools and self.inference:  # no convolution can pool what it writes
            self.in_memory(images[0], images[0].num_bytes)
        parts = list({id(part): part for image in images for part in image.seen()}.values())
        kind = "pooling" if pools or any(image.kind == "pooling" for image in images) else "normalise"
        return [Value(size_of(avals[0]), parts, kind=kind)]

    def product(self, equation: Any, image: Value) -> Value:
        """A convolution or matrix product: its result is an array in memory, of which inference writes what follows."""
        (images, kernel), output = (operand.aval for operand in equation.invars), equation.outvars[0].aval
        x = self.in_memory(image, size_of(images))
        contracted = kernel.size // kernel.shape[-1]
        y = Tensor(size_of(output))
        # A 1x1 convolution at a stride looks at some pixels only.
        num_positions, num_taps = output.size // kernel.shape[-1], math.prod(kernel.shape[:-2])
        x_read = min(x.num_bytes, num_positions * num_taps * images.shape[-1] * images.dtype.itemsize)
        made = Product(x, y, x_read, kernel.size, size_of(kernel), 2 * output.size * contracted)
        self.products.append(made)
        self.kernels.append(Kernel("convolutions", x_read + y.num_bytes + made.kernel_bytes, made.flops))
        return Value(y.num_bytes, [], y)

    def in_memory(self, value: Value, num_bytes: int) -> Tensor:
        """The array that holds `value`, written from its parts by a kernel unless it is there already."""
        if value.tensor is None:
            value.tensor = Tensor(num_bytes)
            sources = []
            for part in value.parts:
                (part.skips if isinstance(part, Tensor) else part.outputs).append(value.tensor)
                sources.append(part if isinstance(part, Tensor) else part.x)
            fused = [product for product in self.products if any(product.y is source for source in sources)]
            if (
                self.inference and fused and value.kind != "pooling"
            ):  # in the last convolution, instead of its own output
                read = sum(source.num_bytes for source in sources if source is not fused[-1].y)
                self.kernels.append(Kernel("convolutions", read + num_bytes - fused[-1].y.num_bytes))
            else:
                read = sum(source.num_bytes for source in {id(source): source for source in sources}.values())
                self.kernels.append(Kernel(value.kind, read + num_bytes))
        return value.tensor

    def differentiate(self) -> None:
        """Add the kernels of the backward pass, from the last to the first."""
        begun: set[int] = set()

        def added_to(x: Tensor) -> int:
            first = id(x) not in begun
            begun.add(id(x))
            return x.cotangent_reads(first=first)

        for norm in reversed(self.norms):
            read = norm.x.num_bytes + sum(output.num_bytes for output in norm.outputs)
            self.kernels.append(Kernel("norm sums", read))
        for norm in reversed(self.norms):
            read = norm.x.num_bytes + sum(output.num_bytes for output in norm.outputs)
            self.kernels.append(Kernel("norm gradients", read + norm.x.num_bytes + added_to(norm.x)))
        for made in reversed(self.products):
            gradient_bytes = PARAMETER_BYTES * made.kernel_size
            self.kernels.append(Kernel("kernel gradients", made.x_read + made.y.num_bytes + gradient_bytes, made.flops))
            if not made.x.is_images:
                num_bytes = made.y.num_bytes + made.kernel_bytes + made.x.num_bytes + added_to(made.x)
                self.kernels.append(Kernel("input gradients", num_bytes, made.flops))


def is_batch_norm(equation: Any) -> bool:
    """Returns whether an equation normalises by the batch: gives the normalised array, and a mean and variance (C,)."""
    if equation.primitive.name != "custom_jvp_call" or len(equation.outvars) not in (3, 4):
        return False
    normalised, mean, var, *_ = (x.aval.shape for x in equation.outvars)
    return mean == var == normalised[-1:]


def size_of(aval: Any) -> int:
    """Bytes."""
    return aval.size * aval.dtype.itemsize


def kernels_of(model: Any, batch_size: int, image_size: int, inference: bool = False) -> list[Kernel]:
    """The kernels of a step of `model`, or of its forward pass with batch norms folded."""
    if inference and model.preact:
        raise UserError("--inference: no norm of a pre-activation network folds into the convolution before it")
    model = model.clone(batch_norm="folded") if inference else model
    variables, dtype = variable_shapes(model), jnp.dtype(model.dtype)
    images = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), dtype)
    options = {"train": False} if inference else {"train": True, "mutable": ["batch_stats"]}
    # Dropout's own numbers are not counted.
    traced = jax.make_jaxpr(lambda v, x, key: model.apply(v, x, rngs={"dropout": key}, **options))(
        variables, images, jax.random.key(0)
    )
    program = Program(inference)
    given = Value(size_of(images), [], Tensor(size_of(images), is_images=True))
    num_leaves = len(jax.tree.leaves(variables))
    program.kernels.append(Kernel("images", images.size + size_of(images)))
    for result in program.walk(traced.jaxpr, [None] * num_leaves + [given, None]):
        if result is not None and result.kind == "pooling":  # logits are there already
            program.in_memory(result, result.num_bytes)
    if not inference:
        program.differentiate()
        per_parameter = 5 * PARAMETER_BYTES + (dtype.itemsize if dtype.itemsize < PARAMETER_BYTES else 0)
        program.kernels.append(Kernel("optimizer", per_parameter * num_elements(variables["params"])))
    return program.kernels


def floor(
    model: str,
    batch_size: int,
    image_size: int | None,
    dtype: str,
    bandwidth: float,
    peak: float,
    inference: bool = False,
) -> dict[str, Any]:
    """The least time of a training step, or of a folded forward pass, of the named model on one GPU.

    image_size: pixels a side, None for the model's own. bandwidth: of memory, in bytes a second. peak: in FLOP/s.
    Returns its arguments and {"gigabytes" (by kind), "bytes", "flops", "bytes_ms", "flops_ms", "floor_ms" (the larger),
    "layerwise_ms" (the sum over kernels of the larger), "images_per_second" and "layerwise_images_per_second" (at
    these), "attainable_images_per_second" (60 % of the first), "fused_statistics_ms" (layerwise, if the convolutions
    summed their output up as they write it)}.
    """
    image_size = default_image_size(model) if image_size is None else image_size
    kernels = kernels_of(create_model(model, dtype=dtype), batch_size, image_size, inference)
    gigabytes: dict[str, float] = {}
    for kernel in kernels:
        gigabytes[kernel.kind] = gigabytes.get(kernel.kind, 0.0) + 1e-9 * kernel.num_bytes
    num_bytes, flops = sum(kernel.num_bytes for kernel in kernels), sum(kernel.flops for kernel in kernels)
    bytes_seconds, flops_seconds = num_bytes / bandwidth, flops / peak
    floor_seconds = max(bytes_seconds, flops_seconds)
    layerwise = sum(max(kernel.num_bytes / bandwidth, kernel.flops / peak) for kernel in kernels)
    return {
        "model": model,
        "batch_size": batch_size,
        "image_size": image_size,
        "dtype": dtype,
        "inference": inference,
        "bandwidth": bandwidth,
        "peak": peak,
        "gigabytes": gigabytes,
        "bytes": num_bytes,
        "flops": flops,
        "bytes_ms": 1e3 * bytes_seconds,
        "flops_ms": 1e3 * flops_seconds,
        "floor_ms": 1e3 * floor_seconds,
        "layerwise_ms": 1e3 * layerwise,
        "images_per_second": batch_size / floor_seconds,
        "layerwise_images_per_second": batch_size / layerwise,
        "attainable_images_per_second": ATTAINABLE * batch_size / floor_seconds,
        "fused_statistics_ms": 1e3 * (layerwise - 1e9 * gigabytes.get("statistics", 0.0) / bandwidth),
    }


def main() -> int:
    """Prints the account of each model."""
    jax.config.update("jax_platforms", "cpu")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["resnet50"])
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--image_size", type=int, help="default: the model's own")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--card", choices=tuple(CARDS), default="h100", help="whose memory and arithmetic")
    parser.add_argument("--bandwidth", type=float, help="of memory, in bytes a second, in the card's place")
    parser.add_argument("--peak", type=float, help="in FLOP/s, in the card's place")
    parser.add_argument("--inference", action="store_true", help="a forward pass, batch norms folded")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    bandwidth, peaks = CARDS[arguments.card]
    shared = (
        arguments.batch_size, arguments.image_size, arguments.dtype, arguments.bandwidth or bandwidth,
        arguments.peak or peaks[arguments.dtype], arguments.inference,
    )  # fmt: skip
    results = [floor(model, *shared) for model in arguments.model]
    if arguments.json:
        print(json.dumps(results if len(results) > 1 else results[0]))
        return 0
    print(f"{'GB by kind':<20}" + "".join(f"{result['model']:>18}" for result in results))
    for kind in results[0]["gigabytes"]:
        print(f"{kind:<20}" + "".join(f"{result['gigabytes'].get(kind, 0.0):18.2f}" for result in results))
    rows = {
        "GB": [1e-9 * result["bytes"] for result in results],
        "TFLOP": [1e-12 * result["flops"] for result in results],
        "memory ms": [result["bytes_ms"] for result in results],
        "arithmetic ms": [result["flops_ms"] for result in results],
        "layer by layer ms": [result["layerwise_ms"] for result in results],
        "statistics fused ms": [result["fused_statistics_ms"] for result in results],
    }
    for name, numbers in rows.items():
        print(f"{name:<20}" + "".join(f"{number:18.2f}" for number in numbers))
    rates = {
        "images/s": "images_per_second",
        "layer by layer": "layerwise_images_per_second",
        f"{ATTAINABLE:.0%} of images/s": "attainable_images_per_second",
    }
    for name, key in rates.items():
        print(f"{name:<20}" + "".join(f"{result[key]:18.1f}" for result in results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
