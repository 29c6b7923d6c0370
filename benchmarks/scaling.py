"""Step time against the number of GPUs, on paper: nothing here is measured on a GPU.

A step takes what is longest: the device's work or its images' way through the host. The device's work is arithmetic or
memory traffic, then the all-reduces of batch norm, which it waits for, then what of the gradients' all-reduce the
backward pass does not hide. docs/scaling.md tells the formula and what follows from it.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from resnet_jax.cli.printing import print_result
from resnet_jax.errors import check_choice
from resnet_jax.models.shapes import variable_shapes
from resnet_jax.models.summary import count_macs, num_elements, num_product_elements
from resnet_jax.models.variants import create_model

GPUS_PER_NODE = 8
NUM_GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
NUM_TRAIN_IMAGES = 1_281_167  # ImageNet

# NVIDIA's data sheets of the H100 SXM and the DGX H100.
PEAK_FLOPS = 989e12  # a second, bfloat16, dense
MEMORY_BANDWIDTH = 3.35e12  # bytes a second
MEMORY_BYTES = 80e9
NVLINK_BANDWIDTH = 450e9  # bytes a second, each way
NETWORK_BANDWIDTH = 50e9  # bytes a second, each way: one 400 Gb/s InfiniBand port a GPU
CORES_PER_GPU = 14  # two processors of 56 cores for eight GPUs

# Assumptions. MLPerf Training 3.0 (ResNet-50, 13.47 minutes on 8 H100s, some 37 epochs) is 7,300 images a second and
# GPU, with kernels fused by hand; these two make it 5,700 here, a seventh of the peak.
MATMUL_EFFICIENCY = 0.5  # of PEAK_FLOPS, in convolutions
MEMORY_EFFICIENCY = 0.6  # of MEMORY_BANDWIDTH
# How often a convolution's output, or its gradient, passes through memory in a step. Forward it is written, read for
# the mean, for the variance and to be normalised, written again, and read by the next convolution. Backward both are
# read for the two sums, both for the gradient, which is written and read by two convolutions, of which one reads the
# input as well and the other writes its gradient; then the residual sums.
MEMORY_PASSES = 16
BYTES_PER_ACTIVATION = 2
KEPT_TENSORS = 2  # for the backward pass, of a convolution's output: itself and what the norm and ReLU make of it
FLOPS_PER_MAC = 6  # multiply and add, of the forward pass and two gradients
KERNELS_PER_LAYER = 10  # a convolution with its norm: forward, backward and update
KERNEL_MICROSECONDS = 5.0  # what a kernel takes at least, however small its work
LINK_EFFICIENCY = 0.8  # of both bandwidths
NODE_LATENCY_MICROSECONDS = 15.0  # of an all-reduce in a node, and ...
DOUBLING_LATENCY_MICROSECONDS = 10.0  # ... more for each doubling of the nodes: a tree
BYTES_PER_GRADIENT = 4
REDUCTIONS_PER_NORM = 3  # mean; variance; the two sums of the backward pass together (XLA merges a few more)
BACKWARD_SHARE = 2 / 3  # of the device's arithmetic ...
OVERLAP = 0.5  # ... and the share of it that hides the gradients' all-reduce
# Full decode, random-resized crop and flip, measured on two cores. Policies such as RandAugment cost more.
DECODED_IMAGES_PER_CORE = 254

MIN_EFFICIENCY = 0.5  # of eight GPUs' images a second and GPU: below, a recipe has stopped scaling
BATCH_NORMS = ("global", "local")
ADVICE = {
    "batch too small": "a larger batch (LAMB, LARS), or fewer GPUs",
    "network": "batch_norm='local', or a larger batch",
    "compute": "nothing: add GPUs",
    "input": "more cores a GPU",
    "memory": "more GPUs, or the model's remat",
}


class Recipe(NamedTuple):
    """An ImageNet recipe; `batch_size` is global, or, if `grows`, that of eight GPUs."""

    name: str
    batch_size: int
    image_size: int
    num_epochs: int
    grows: bool = False
    model: str = "resnet50"


RECIPES = (
    Recipe("torchvision V1", 256, 224, 90),
    Recipe("torchvision V2", 1024, 176, 600),
    Recipe("Flax example", 256, 224, 100, grows=True),
    Recipe("RSB A1", 2048, 224, 600),
    Recipe("RSB A2", 2048, 224, 300),
    Recipe("RSB A3", 2048, 160, 100),
    Recipe("LARS 8k", 8192, 224, 90),
    Recipe("LARS 32k", 32768, 224, 90),
)


class Network(NamedTuple):
    """The counts that the step time depends on: of one image's forward pass, and of the variables."""

    macs: int
    activations: int  # numbers that convolutions and products return
    parameters: int
    statistics: int
    num_norms: int


@cache
def network(model: str, image_size: int) -> Network:
    """The named model's counts at `image_size` pixels a side."""
    built = create_model(model)
    variables = variable_shapes(built)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    forward = partial(built.apply, train=False), variables, image
    statistics = jax.tree.leaves(variables["batch_stats"])
    return Network(
        macs=count_macs(*forward),
        activations=num_product_elements(*forward),
        parameters=num_elements(variables["params"]),
        statistics=num_elements(statistics),
        num_norms=len(statistics) // 2,
    )


def all_reduce_seconds(num_bytes: float, num_gpus: int, count: int = 1) -> float:
    """`count` all-reduces one after the other, of `num_bytes` together: rings in each node and across nodes."""
    local, num_nodes = min(num_gpus, GPUS_PER_NODE), max(num_gpus // GPUS_PER_NODE, 1)
    in_node = 2 * (local - 1) / local * num_bytes / NVLINK_BANDWIDTH
    across = 2 * (num_nodes - 1) / num_nodes * num_bytes / local / NETWORK_BANDWIDTH  # each GPU its part
    latency = 1e-6 * (NODE_LATENCY_MICROSECONDS + DOUBLING_LATENCY_MICROSECONDS * math.log2(num_nodes))
    return (in_node + across) / LINK_EFFICIENCY + count * latency


def step_times(net: Network, images_per_gpu: float, num_gpus: int, batch_norm: str = "global") -> dict[str, Any]:
    """{"compute_ms", "gradient_ms" (hidden or not), "statistics_ms", "input_ms", "step_ms", "bound"} of one step."""
    arithmetic = FLOPS_PER_MAC * net.macs * images_per_gpu / (PEAK_FLOPS * MATMUL_EFFICIENCY)
    traffic = BYTES_PER_ACTIVATION * MEMORY_PASSES * net.activations * images_per_gpu
    floor = 1e-6 * KERNEL_MICROSECONDS * KERNELS_PER_LAYER * net.num_norms
    compute = max(arithmetic, traffic / (MEMORY_BANDWIDTH * MEMORY_EFFICIENCY), floor)
    gradient = all_reduce_seconds(BYTES_PER_GRADIENT * net.parameters, num_gpus)
    statistics = 0.0
    if batch_norm == "global":
        count = REDUCTIONS_PER_NORM * net.num_norms
        statistics = all_reduce_seconds(2 * BYTES_PER_GRADIENT * net.statistics, num_gpus, count)
    reading = images_per_gpu / (DECODED_IMAGES_PER_CORE * CORES_PER_GPU)
    waiting = statistics + max(gradient - OVERLAP * BACKWARD_SHARE * compute, 0.0)
    step = max(compute + waiting, reading)
    if reading >= step:
        bound = "input"
    elif waiting > compute:
        bound = "network"
    else:
        bound = "batch too small" if compute == floor else "compute"
    parts = {"compute": compute, "gradient": gradient, "statistics": statistics, "input": reading, "step": step}
    return {**{f"{name}_ms": 1e3 * seconds for name, seconds in parts.items()}, "bound": bound}


def recipe_rows(recipe: Recipe, batch_norm: str = "global") -> list[dict[str, Any]]:
    """`step_times` of a recipe for each of NUM_GPUS, with "num_gpus", "images_per_gpu", "efficiency" and "hours".

    Efficiency is in images a second and GPU, by that of the fewest GPUs that can. Where one would have no image, or
    more than its memory holds, the row has "efficiency" 0 and no times; "bound" is "batch too small" or "memory".
    """
    rows: list[dict[str, Any]] = []
    first_rate = 0.0
    net = network(recipe.model, recipe.image_size)
    for num_gpus in NUM_GPUS:
        batch_size = recipe.batch_size * (num_gpus // GPUS_PER_NODE if recipe.grows else 1)
        place = {"num_gpus": num_gpus, "images_per_gpu": batch_size / num_gpus}
        kept = BYTES_PER_ACTIVATION * KEPT_TENSORS * net.activations * batch_size / num_gpus
        if batch_size < num_gpus or kept > MEMORY_BYTES:
            bound = "batch too small" if batch_size < num_gpus else "memory"
            rows.append({**place, "efficiency": 0.0, "bound": bound})
            continue
        times = step_times(net, batch_size / num_gpus, num_gpus, batch_norm)
        rate = batch_size / num_gpus / times["step_ms"]
        first_rate = first_rate or rate
        num_steps = NUM_TRAIN_IMAGES // batch_size * recipe.num_epochs
        hours = num_steps * times["step_ms"] / 3.6e6
        rows.append({**place, **times, "efficiency": rate / first_rate, "hours": hours})
    return rows


def scaling(batch_norm: str = "global") -> list[dict[str, Any]]:
    """Each recipe's fields, its "rows", "scales_to" (GPUs), what bounds it beyond ("bound", "") and "advice".

    batch_norm: "global" statistics, or "local" ones, which need no all-reduce. Raises UserError (a ValueError) for
    another. A recipe scales to the last count whose efficiency is MIN_EFFICIENCY or more.
    """
    check_choice("batch_norm", batch_norm, BATCH_NORMS)
    results = []
    for recipe in RECIPES:
        rows = recipe_rows(recipe, batch_norm)
        fits = [i for i, row in enumerate(rows) if row["efficiency"] >= MIN_EFFICIENCY]
        beyond = rows[fits[-1] + 1 :]
        bound = beyond[0]["bound"] if beyond else ""
        results.append({
            **recipe._asdict(),
            "batch_norm": batch_norm,
            "scales_to": rows[fits[-1]]["num_gpus"],
            "bound": bound,
            "advice": ADVICE.get(bound, ""),
            "rows": rows,
        })  # fmt: skip
    return results


def print_scaling(results: dict[str, list[dict[str, Any]]], as_json: bool) -> int:
    """Where each recipe stops, with either batch norm, then every step with global statistics."""
    if as_json:
        return print_result(results, as_json=True)
    print("recipe          batch norm  scales to  then bound by    what to do")
    for one, other in zip(results["global"], results["local"], strict=True):
        for row in (one, other):
            print(
                f"{row['name']:<15} {row['batch_norm']:<11} {row['scales_to']:>9}  {row['bound'] or '-':<15}  "
                f"{row['advice'] or '-'}"
            )
    print(
        "\nglobal batch norm  GPUs  images/GPU  compute  gradients  statistics  input  step ms  efficiency  hours  "
        "bound"
    )
    for recipe in results["global"]:
        for row in recipe["rows"]:
            place = f"{recipe['name']:<17} {row['num_gpus']:>5}  {row['images_per_gpu']:>10g}"
            if "step_ms" in row:
                place += (
                    f"  {row['compute_ms']:7.1f}  {row['gradient_ms']:9.1f}  {row['statistics_ms']:10.1f}"
                    f"  {row['input_ms']:5.1f}  {row['step_ms']:7.1f}  {row['efficiency']:10.0%}  {row['hours']:5.2f}"
                )
            else:
                place += " " * 70
            print(f"{place}  {row['bound']}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    return print_scaling({name: scaling(name) for name in ("global", "local")}, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
