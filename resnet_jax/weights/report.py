"""Maps the tensors of a weights file to a model, and reports those that do not fit."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import UserError, abridge, truncate
from resnet_jax.models.head_names import HEAD
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shapes import RGB, stem_kernel, variable_shapes
from resnet_jax.weights.adapt_stem import adaptation
from resnet_jax.weights.infer_architecture import agrees, architecture, has_conv_bias
from resnet_jax.weights.lazy_tensor import Unreadable
from resnet_jax.weights.names import HEADS, torch_shapes
from resnet_jax.weights.state_dict import StateDict

Shape = tuple[int, ...]
RESET = "head='reset' (convert --head reset)"
NUM_NAMED = 3  # how many tensors an error names


@dataclass
class Report:
    """The result of an import, tensor by tensor: names are torchvision's, shapes in torch's order.

    Attributes:
      loaded: all that came from the file.
      reshaped: those among them whose number of axes differs, (shape there, here).
      missing: of the model, not in the file.
      unexpected: in the file, not of the model.
      misshapen: (shape there, here).
      zeroed: biases of convolutions that have none in the file, where others have: the same network.
      reset: the model's, newly initialised.
      dropped: the rest of the file.
      counters: how many of its entries count something, batches or steps.
      num_channels: of the images that the network takes.
      left: names in the file that are no part of the network.
      adapted: the change to the file's stem for images of other channels, in words; "" if there was none.
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
    counters: int = 0
    num_channels: int = RGB
    adapted: str = ""
    left: list[str] = field(default_factory=list)

    def describe_left(self) -> str:
        """Returns a line on the rest of the file beside the network; "" if there is none."""
        if not self.left:
            return ""
        return f"{self.path}: left {abridge([*map(truncate, self.left)], 4)}: {len(self.left)} beside the network"


def compare(
    path: Path,
    state: StateDict,
    model: ResNet,
    head: str,
    num_channels: int | None = None,
    *,
    adapt_stem: bool = False,
) -> Report:
    """Returns which tensors of the state_dict go where in the model.

    Args:
      num_channels: of the images that it must take; None: as many as the file's stem has.
      adapt_stem: a stem of three channels will be made one of num_channels; the report says so.

    Raises:
      UserError: if an entry cannot be a weight, or the stem is for other images.
    """
    there = _num_input_channels(state, model)
    fits = num_channels in (None, there)
    if not fits and not (adapt_stem and there == RGB):
        raise UserError(
            f"{path} is of a network for images of {_channels(there)}, and here they have {num_channels}: use weights "
            f"for images of {num_channels}"
        )
    report = Report(str(path), state.format, state.layout, counters=state.num_counters, num_channels=there)
    report.left = state.left
    if not fits and num_channels is not None:
        report.adapted = adaptation(path, num_channels)
    expected = {name: shape for name, (_, shape) in torch_shapes(variable_shapes(model, there)).items()}
    zeros = _absent_kinds_of_bias(expected, state)
    new = f"{model.head_layers[-1][0]}." if head == "reset" and model.head_layers else None
    for name, shape in expected.items():
        if new is not None and name.startswith(new):
            report.reset[name] = shape
            continue
        tensor = state.tensors.get(name)
        if tensor is None:
            (report.zeroed if name in zeros else report.missing)[name] = shape
            continue
        if isinstance(tensor, Unreadable):
            raise UserError(
                f"{path}: {truncate(state.originals[name])} is {tensor.what}; a weight must be a plain tensor"
            )
        if not jnp.issubdtype(tensor.dtype, np.floating):
            raise UserError(
                f"{path}: {truncate(state.originals[name])} is of dtype {tensor.dtype}; weights are floating point"
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


def _num_input_channels(state: StateDict, model: ResNet) -> int:
    """Returns the channels of the file's stem, where it has one like the model's; else 3, whose shape then does not
    fit.
    """
    *modules, _ = stem_kernel(model)
    tensor = state.tensors.get(".".join((*modules, "weight")))
    shape = () if tensor is None or isinstance(tensor, Unreadable) else tensor.shape
    return shape[1] if len(shape) == 4 and shape[1] > 0 else RGB


def _channels(count: int) -> str:
    return f"{count} channel{'' if count == 1 else 's'}"


def _absent_kinds_of_bias(expected: dict[str, Shape], state: StateDict) -> set[str]:
    """Returns the biases of the model's convolutions of a kind that has none in the file, although others have.

    A kind is the stem's, all blocks' conv1, or all projections'. (Squeeze-and-excitation always has biases.)
    """
    if not has_conv_bias(state.tensors):
        return set()
    kernels = [name for name, shape in expected.items() if len(shape) == 4 and ".se." not in name]
    kinds: dict[str, set[str]] = {}
    for kernel in kernels:
        kinds.setdefault(re.sub(r"^layer\d+\.\d+", "layer", kernel), set()).add(kernel.removesuffix("weight") + "bias")
    return {bias for biases in kinds.values() if biases.isdisjoint(state.tensors) for bias in biases}


def _squeezed(shape: Shape) -> Shape:
    """Returns the shape without the trailing axes of length 1 by which a 1x1 convolution differs from a matrix."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _of_head(name: str) -> bool:
    return name.split(".")[0] in HEADS


def complaint(report: Report, state: StateDict, model: ResNet) -> str:
    """Returns one line: which tensors do not fit, and what to do."""
    wrong = [*report.missing, *report.unexpected, *report.misshapen]
    there, here = report.misshapen.get(f"{HEAD}.weight", ((), ()))
    same_features = len(there) == 2 and there[0] > 0 and there[1] == here[1]
    if same_features and all(map(_of_head, wrong)) and len(wrong) == len(report.misshapen):
        shapes = f"{HEAD}.weight is {there} there and {here} here"
        has = f"{report.path} has {there[0]} classes and the model {here[0]} ({shapes})"
        if model.base_classes is not None:
            return f"{has}: create it with base_classes={there[0]}"
        return f"{has}: create it with num_classes={there[0]}, or start a new head with {RESET}"
    if wrong == [f"{HEAD}.bias"] and f"{HEAD}.weight" in report.loaded:
        return f"{report.path} has a head without a bias, and the model's has one: start a new head with {RESET}"
    if all(map(_of_head, wrong)) and len(wrong) == len(report.missing):
        return f"{report.path} has no head ({wrong[0]} is missing): start a new one with {RESET}"
    parts = [
        *_named("lacks", {name: f"{shape}" for name, shape in report.missing.items()}),
        *_named("has beyond the model", {name: f"{shape}" for name, shape in report.unexpected.items()}),
        *_named("differs in", {name: f"{a} there and {b} here" for name, (a, b) in report.misshapen.items()}),
    ]
    from resnet_jax.weights.nearest_network import describe_network  # makes every listed network: for this line alone
    from resnet_jax.weights.structure import describe_structure

    by_structure = describe_structure(Path(report.path), state, model)
    network = describe_network(state.shapes)
    advice = f"it looks like {network}" if network else "its names and shapes are those of no network known here"
    if network and _tells_same(state, model):
        advice = "the rest is that of this network"
    return f"{report.path} does not fit the model: it {'; '.join(parts)}; {advice}{by_structure}"


def _named(verb: str, tensors: dict[str, str]) -> list[str]:
    if not tensors:
        return []
    first = ", ".join(f"{truncate(name)} {what}" for name, what in list(tensors.items())[:NUM_NAMED])
    more = len(tensors) - NUM_NAMED
    return [f"{verb} {first}" + (f" and {more} more" if more > 0 else "")]


def _tells_same(state: StateDict, model: ResNet) -> bool:
    seen = architecture(state.shapes)
    # Where no projection is seen, one may be among what is missing.
    return all(agrees(model, name, value) for name, value in seen.items() if (name, value) != ("shortcut", None))
