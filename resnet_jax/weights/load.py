"""Weights from a file or checkpoint directory into a model's variables, with a report of what went where."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from resnet_jax.errors import UserError, choose
from resnet_jax.models import ResNet, create_model, variable_shapes
from resnet_jax.models.resnet import DTYPES, make_head
from resnet_jax.weights.directory import read_directory
from resnet_jax.weights.likely import architecture, describe_network, has_conv_bias
from resnet_jax.weights.names import HEAD, jax_axes, torch_shapes
from resnet_jax.weights.pretrained import fetch_pretrained
from resnet_jax.weights.state_dict import StateDict, Tensor, read_state_dict
from resnet_jax.weights.stored import Unreadable

Shape = tuple[int, ...]
HEAD_CHOICES = ("strict", "reset")
ALIGNMENT = 64  # bytes
NUM_NAMED = 3  # how many tensors an error names


@dataclass
class Report:
    """What an import did, tensor by tensor: names are torchvision's, shapes in torch's order.

    loaded: all that came from the file. reshaped: those among them whose number of axes differs, (shape there, here).
    missing: of the model, not in the file. unexpected: in the file, not of the model. misshapen: (shape there, here).
    zeroed: biases of convolutions that have none in the file, where others have: the same network.
    reset: the model's, initialised anew. dropped: what the file holds that is no weight of this model.
    """

    path: str
    format: str
    layout: str
    loaded: dict[str, Shape] = field(default_factory=dict)
    reshaped: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    missing: dict[str, Shape] = field(default_factory=dict)
    unexpected: dict[str, Shape] = field(default_factory=dict)
    misshapen: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    zeroed: dict[str, Shape] = field(default_factory=dict)
    reset: dict[str, Shape] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


def load_weights(path: str | Path, model: ResNet, head: str = "strict") -> dict[str, Any]:
    """The model's variables {"params": ..., "batch_stats": ...}, read from `path`.

    path: a torch file (.pth, .th, .pt; torch is not needed and nothing in it is executed), a .safetensors file, or a
    checkpoint directory: a run's, or what the convert command wrote. The names of torchvision, timm, transformers,
    akamaster's CIFAR networks and tutorials are recognised. Half-precision weights are widened.
    head: "strict" takes the head from the file, "reset" initialises it anew (with key 0) whatever the file has.
    Raises UserError (a ValueError) unless every tensor finds its place, telling which do not.
    """
    return import_weights(path, model, head)[0]


def import_weights(path: str | Path, model: ResNet, head: str = "strict") -> tuple[dict[str, Any], Report]:
    """What `load_weights` returns, and the report on it."""
    choose("head", head, HEAD_CHOICES)
    path = Path(path).expanduser()
    state = open_weights(path)
    report = _compare(path, state, model, head)
    if report.missing or report.unexpected or report.misshapen:
        raise UserError(_complaint(report, state, model))
    dtype = np.dtype(DTYPES[model.dtype][1])
    flat = {}
    for name, (leaf_path, shape) in torch_shapes(variable_shapes(model)).items():
        if name in report.loaded:
            flat[leaf_path] = _in_our_order(state.tensors[name], shape, dtype)
        elif name in report.zeroed:
            flat[leaf_path] = np.zeros(shape, dtype)
    variables = unflatten_dict(jax.device_put(flat))
    if report.reset:
        num_features = report.reset[f"{HEAD}.weight"][1]
        new_head = make_head(model, num_features).init(jax.random.key(0), jnp.zeros((1, num_features)))
        variables["params"][HEAD] = new_head["params"]
    return variables, report


def open_weights(path: Path) -> StateDict:
    """The tensors in a weights file or checkpoint directory. Raises UserError (a ValueError) if it is neither."""
    return read_directory(path) if path.is_dir() else read_state_dict(path)


def _compare(path: Path, state: StateDict, model: ResNet, head: str) -> Report:
    report = Report(str(path), state.format, state.layout, dropped=list(state.dropped))
    expected = {name: shape for name, (_, shape) in torch_shapes(variable_shapes(model)).items()}
    zeros = _biases_of_convolutions(expected) if has_conv_bias(state.tensors) else set()
    for name, shape in expected.items():
        if head == "reset" and _of_head(name):
            report.reset[name] = shape
            continue
        tensor = state.tensors.get(name)
        if tensor is None:
            (report.zeroed if name in zeros else report.missing)[name] = shape
            continue
        if isinstance(tensor, Unreadable):
            raise UserError(f"{path}: {state.originals[name]} is {tensor.what}; a weight must be a strided tensor")
        if not jnp.issubdtype(tensor.dtype, np.floating):
            raise UserError(
                f"{path}: {state.originals[name]} is of dtype {tensor.dtype}; a weight must be of a float's"
            )
        if _squeezed(tensor.shape) != _squeezed(shape) or math.prod(tensor.shape) != math.prod(shape):
            report.misshapen[name] = (tensor.shape, shape)
            continue
        report.loaded[name] = shape
        if tensor.shape != shape:
            report.reshaped[name] = (tensor.shape, shape)
    for name, tensor in state.tensors.items():
        if name in expected and name not in report.reset:
            continue
        if isinstance(tensor, Unreadable) or (_of_head(name) and (head == "reset" or model.num_classes is None)):
            report.dropped.append(state.originals[name])
        else:
            report.unexpected[state.originals[name]] = tensor.shape
    return report


def _biases_of_convolutions(shapes: dict[str, Shape]) -> set[str]:
    """The biases that `conv_bias` adds: those of a squeeze-and-excitation block are always there."""
    kernels = [name for name, shape in shapes.items() if len(shape) == 4 and ".se." not in name]
    return {name.removesuffix("weight") + "bias" for name in kernels}


def _squeezed(shape: Shape) -> Shape:
    """Without the trailing axes of length 1 by which a 1x1 convolution differs from a matrix."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _of_head(name: str) -> bool:
    return name.startswith(f"{HEAD}.")


def _complaint(report: Report, state: StateDict, model: ResNet) -> str:
    """One line: which tensors do not fit, and what to do."""
    wrong = [*report.missing, *report.unexpected, *report.misshapen]
    if f"{HEAD}.weight" in report.misshapen and all(map(_of_head, wrong)) and len(wrong) == len(report.misshapen):
        there, here = report.misshapen[f"{HEAD}.weight"]
        return (
            f"{report.path} has {there[0]} classes and the model {here[0]} ({HEAD}.weight is {there} there and {here} "
            f"here): create it with num_classes={there[0]}, or start a new head with head='reset' (--head reset)"
        )
    if all(map(_of_head, wrong)) and len(wrong) == len(report.missing):
        return f"{report.path} has no head ({wrong[0]} is missing): start a new one with head='reset' (--head reset)"
    parts = [
        *_named("lacks", {name: f"{shape}" for name, shape in report.missing.items()}),
        *_named("has beyond the model", {name: f"{shape}" for name, shape in report.unexpected.items()}),
        *_named("differs in", {name: f"{a} there and {b} here" for name, (a, b) in report.misshapen.items()}),
    ]
    network = describe_network(state.shapes)
    advice = f"it looks like {network}" if network else "its names and shapes are those of no network known here"
    if network and _tells_same(state, model):
        advice = "the rest is that of this network"
    return f"{report.path} does not fit the model: it {'; '.join(parts)}; {advice}"


def _named(verb: str, tensors: dict[str, str]) -> list[str]:
    if not tensors:
        return []
    first = ", ".join(f"{name} {what}" for name, what in list(tensors.items())[:NUM_NAMED])
    more = len(tensors) - NUM_NAMED
    return [f"{verb} {first}" + (f" and {more} more" if more > 0 else "")]


def _tells_same(state: StateDict, model: ResNet) -> bool:
    seen = architecture(state.shapes)
    return all(getattr(model, name) == value for name, value in seen.items() if name != "shortcut")


def _in_our_order(tensor: Tensor | Unreadable, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """The tensor's elements, one tensor at a time in memory twice."""
    assert not isinstance(tensor, Unreadable)
    torch_array = tensor.read().reshape(shape)
    array = torch_array.transpose(jax_axes(torch_array.ndim))
    aligned = _aligned_empty(array.shape, dtype)
    np.copyto(aligned, array, casting="same_kind")
    return aligned


def _aligned_empty(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Like np.empty, at an address from which JAX takes an array over on the CPU without copying it."""
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def load_pretrained(
    name: str, tag: str = "IMAGENET1K_V1", model: ResNet | None = None, head: str = "strict"
) -> dict[str, Any]:
    """The variables of torchvision's published weights: downloaded once, checked, kept under RESNET_JAX_HOME.

    tag: "IMAGENET1K_V1" or "IMAGENET1K_V2". model: into which they go, `create_model(name)` if None. head: as in
    `load_weights`. Raises UserError (a ValueError) for a name or tag that is not published; without a network it says
    which file to put where.
    """
    return load_weights(fetch_pretrained(name, tag), model or create_model(name), head)
