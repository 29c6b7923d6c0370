"""A network's inference function as a list of a few operations on images, with its weights; fused where they may be."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from resnet_jax.inference.jaxpr_translator import JaxprTranslator

SPATIAL = (1, 2)  # the axes of rows and columns


class UnknownOperationError(Exception):
    """The function has an operation that is not among those here."""


@dataclass
class Operation:
    """One operation, on images (B, H, W, C); what has no rows and columns counts as one pixel.

    Attributes:
      kind: "input", "conv", "affine" (each channel times a factor, plus a term), "relu", "logistic", "swish", "add",
        "mul" (the second operand may be of one pixel), "max_pool", "average_pool" or "mean".
      inputs: the operands, by their places in the list.
      shape: (B, H, W, C) of the result.
      kernel: of conv, (kh, kw, C / groups, F); bias: of conv and affine, (C,); factor: of affine, (C,).
      window, strides, dilation: of conv and poolings, of rows and columns.
      padding: of rows and columns, ((top, bottom), (left, right)).
      counts_padding: the mean of a pooling's window includes the zeros around the image.
      activated: a ReLU follows. added: of conv, the place of what is added before it; None: nothing.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, int, int, int]
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    factor: np.ndarray | None = None
    window: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: int = 1
    groups: int = 1
    counts_padding: bool = False
    activated: bool = False
    added: int | None = None

    @property
    def operands(self) -> tuple[int, ...]:
        """All that it reads, by their places."""
        return self.inputs if self.added is None else (*self.inputs, self.added)


@dataclass(frozen=True)
class _Value:
    """A value in the making: the place of the operation that gives it, and its shape in the function.

    Attributes:
      sums: it is a sum over so many window elements yet, which a division makes a mean.
    """

    place: int
    shape: tuple[int, ...]
    sums: dict[str, Any] | None = field(default=None, hash=False)


def trace(function: Callable[[Any], Any], input_shape: tuple[int, int, int, int]) -> list[Operation]:
    """Returns the operations of `function`, from images of `input_shape` to its result, the last one's; fused.

    Raises:
      UnknownOperationError: for an operation that is not among those here.
    """
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(input_shape, np.float32))
    tracer = _Tracer()
    start = tracer.append("input", (), input_shape)
    (result,) = tracer.inline(traced, [start])
    if not isinstance(result, _Value) or result.sums is not None:
        raise UnknownOperationError("the result does not depend on the images")
    return fuse(tracer.operations, result.place)


class _Tracer(JaxprTranslator):
    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def append(self, kind: str, inputs: tuple["_Value", ...], shape: tuple[int, ...], **attributes: Any) -> "_Value":
        batch, *middle, channels = shape
        height, width = middle or (1, 1)
        places = tuple(value.place for value in inputs)
        self.operations.append(Operation(kind, places, (batch, height, width, channels), **attributes))
        return _Value(len(self.operations) - 1, shape)

    def translate(self, equation: Any, operands: list[Any]) -> Any:
        translate = getattr(self, f"_{equation.primitive.name}", None)
        shape = equation.outvars[0].aval.shape
        if translate is None or len(shape) not in (2, 4):
            raise UnknownOperationError(equation.primitive.name)
        return translate(equation, shape, *operands)

    def _convolution(self, equation: Any, shape: Any, x: Any, kernel: Any) -> Any:
        params = equation.params
        if not isinstance(x, _Value) or not isinstance(kernel, np.ndarray):
            raise UnknownOperationError("a convolution by what depends on the images")
        pad = kernel.shape[0] // 2 * params["dilation"]
        strides, padding = (params["stride"],) * 2, ((pad, pad),) * 2
        return self._conv(x, kernel, shape, strides, padding, params["dilation"], params["groups"])

    def _conv_general_dilated(self, equation: Any, shape: Any, x: Any, kernel: Any) -> Any:
        params = equation.params
        dilation = params["rhs_dilation"]
        plain = params["lhs_dilation"] == (1, 1) and params["batch_group_count"] == 1 and len(shape) == 4
        plain = plain and params["dimension_numbers"] == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        if not plain or not isinstance(kernel, np.ndarray) or not isinstance(x, _Value) or len({*dilation}) > 1:
            raise UnknownOperationError("conv_general_dilated")
        strides, padding = params["window_strides"], params["padding"]
        return self._conv(x, kernel, shape, strides, padding, dilation[0], params["feature_group_count"])

    def _conv(
        self, x: "_Value", kernel: np.ndarray, shape: Any, strides: Any, padding: Any, dilation: int, groups: int
    ) -> Any:
        return self.append(
            "conv", (x,), shape, kernel=np.asarray(kernel, np.float32), strides=tuple(strides),
            padding=tuple(map(tuple, padding)), dilation=dilation, groups=groups, window=kernel.shape[:2],
        )  # fmt: skip

    def _dot_general(self, equation: Any, shape: Any, x: Any, kernel: Any) -> Any:
        contracted, batched = equation.params["dimension_numbers"]
        if contracted != ((1,), (0,)) or batched != ((), ()) or not isinstance(kernel, np.ndarray):
            raise UnknownOperationError("dot_general")
        return self._conv(x, kernel[None, None], shape, (1, 1), ((0, 0), (0, 0)), 1, 1)

    def _add(self, equation: Any, shape: Any, x: Any, y: Any) -> Any:
        del equation
        if isinstance(x, np.ndarray):
            x, y = y, x
        if isinstance(y, np.ndarray):
            return self._affine(x, shape, np.ones((), np.float32), y)
        if x.shape != y.shape:
            raise UnknownOperationError("add of other shapes")
        return self.append("add", (x, y), shape)

    _add_any = _add

    def _sub(self, equation: Any, shape: Any, x: Any, y: Any) -> Any:
        if isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
            raise UnknownOperationError("sub")
        return self._add(equation, shape, x, -y)

    def _mul(self, equation: Any, shape: Any, x: Any, y: Any) -> Any:
        del equation
        if isinstance(x, np.ndarray):
            x, y = y, x
        if isinstance(y, np.ndarray):
            return self._affine(x, shape, y, np.zeros((), np.float32))
        for one, other in ((x, y), (y, x)):
            made = self.operations[other.place]
            if made.kind == "logistic" and made.inputs == (one.place,):
                return self.append("swish", (one,), shape)
        if x.shape != shape:
            x, y = y, x
        if x.shape != shape or (y.shape != shape and y.shape != (shape[0], 1, 1, shape[-1])):
            raise UnknownOperationError("mul of other shapes")
        return self.append("mul", (x, y), shape)

    def _affine(self, x: "_Value", shape: Any, factor: np.ndarray, bias: np.ndarray) -> Any:
        if x.shape != shape or x.sums is not None:
            raise UnknownOperationError("an affine map of another shape")
        channels = shape[-1]
        try:
            both = [
                np.broadcast_to(np.float32(array), (1,) * (len(shape) - 1) + (channels,)) for array in (factor, bias)
            ]
        except ValueError as error:
            raise UnknownOperationError("an affine map that differs from pixel to pixel") from error
        factor, bias = (np.ascontiguousarray(array.reshape(channels)) for array in both)
        return self.append("affine", (x,), shape, factor=factor, bias=bias)

    def _div(self, equation: Any, shape: Any, x: Any, y: Any) -> Any:
        if not isinstance(y, np.ndarray) or not isinstance(x, _Value):
            raise UnknownOperationError("div")
        if x.sums is None:
            return self._mul(equation, shape, x, 1 / y)
        sums, counts = x.sums, np.broadcast_to(np.asarray(y), (1, *x.shape[1:]))
        for counts_padding in (True, False):
            if np.array_equal(counts, np.broadcast_to(_counts(sums, counts_padding), counts.shape)):
                return self.append(x.sums["kind"], (_Value(x.place, ()),), shape, **sums["options"], **(
                    {"counts_padding": counts_padding} if sums["kind"] == "average_pool" else {}
                ))  # fmt: skip
        raise UnknownOperationError("a division of sums")

    def _reduce_sum(self, equation: Any, shape: Any, x: Any) -> Any:
        if equation.params["axes"] != SPATIAL or not isinstance(x, _Value) or x.sums is not None:
            raise UnknownOperationError("reduce_sum")
        options = {"window": x.shape[1:3]}
        return _Value(x.place, shape, {"kind": "mean", "options": options, "input": x.shape})

    def _reduce_window_sum(self, equation: Any, shape: Any, x: Any) -> Any:
        if not isinstance(x, _Value) or x.sums is not None:
            raise UnknownOperationError("reduce_window_sum")
        return _Value(x.place, shape, {"kind": "average_pool", "options": _window(equation.params), "input": x.shape})

    def _reduce_window_max(self, equation: Any, shape: Any, x: Any) -> Any:
        return self.append("max_pool", (x,), shape, **_window(equation.params))

    def _max(self, equation: Any, shape: Any, x: Any, y: Any) -> Any:
        del equation
        if isinstance(x, np.ndarray):
            x, y = y, x
        if not isinstance(y, np.ndarray) or np.any(y):
            raise UnknownOperationError("max")
        return self.append("relu", (x,), shape)

    def _logistic(self, equation: Any, shape: Any, x: Any) -> Any:
        del equation
        return self.append("logistic", (x,), shape)

    def _slice(self, equation: Any, shape: Any, x: Any) -> Any:
        """Translates every n-th row and column: a convolution that is the identity."""
        params = equation.params
        strides = params["strides"] or (1,) * len(shape)
        whole = params["start_indices"] == (0,) * len(shape) and params["limit_indices"] == x.shape
        if len(shape) != 4 or not whole or strides[0] != 1 or strides[3] != 1:
            raise UnknownOperationError("slice")
        return self._identity(x, shape, (strides[1], strides[2]), (0, 0))

    def _pad(self, equation: Any, shape: Any, x: Any, fill: Any) -> Any:
        """Translates channels of zeros beside those there are."""
        axes = equation.params["padding_config"]
        if len(shape) != 4 or any(any(axis) for axis in axes[:3]) or axes[3][2] or np.any(fill) or min(axes[3]) < 0:
            raise UnknownOperationError("pad")
        made = self.operations[x.place]
        if made.kind == "conv" and made.window == (1, 1) and x.place == len(self.operations) - 1 and made.bias is None:
            assert made.kernel is not None  # a subsampling right before
            made.kernel = np.pad(made.kernel, ((0, 0), (0, 0), (0, 0), axes[3][:2]))
            made.shape = shape
            return _Value(x.place, shape)
        return self._identity(x, shape, (1, 1), axes[3][:2])

    def _identity(self, x: "_Value", shape: Any, strides: tuple[int, int], beside: tuple[int, int]) -> Any:
        kernel = np.pad(np.eye(x.shape[-1], dtype=np.float32), ((0, 0), beside))[None, None]
        return self._conv(x, kernel, shape, strides, ((0, 0), (0, 0)), 1, 1)

    def _same(self, equation: Any, shape: Any, x: Any) -> Any:
        """Translates an operation that changes neither values nor their order."""
        del equation
        if [side for side in x.shape if side != 1] != [side for side in shape if side != 1] or shape[0] != x.shape[0]:
            raise UnknownOperationError("reshape")
        if x.sums is not None and x.sums["kind"] != "mean" and len(shape) != len(x.shape):
            raise UnknownOperationError("reshape")
        return _Value(x.place, shape, x.sums)

    _reshape = _squeeze = _expand_dims = _broadcast_in_dim = _same
    _stop_gradient = _copy = _copy_p = _convert_element_type = _same


def _window(params: Any) -> dict[str, Any]:
    sides, strides, padding = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    plain = all(one[0] == one[3] == 1 for one in (sides, strides)) and not any((*padding[0], *padding[3]))
    plain = plain and {*params["base_dilation"], *params["window_dilation"]} == {1}
    if len(sides) != 4 or not plain:
        raise UnknownOperationError("reduce_window")
    return {"window": tuple(sides[1:3]), "strides": tuple(strides[1:3]), "padding": tuple(map(tuple, padding[1:3]))}


def _counts(sums: dict[str, Any], counts_padding: bool) -> np.ndarray:
    """Returns how many elements are in each window's sum, (1, h, w, 1) or a number."""
    options, (_, height, width, _) = sums["options"], sums["input"]
    if sums["kind"] == "mean" or counts_padding:
        return np.asarray(float(np.prod(options["window"])))
    found = []
    for side, size, stride, (low, high) in zip(
        (height, width), options["window"], options["strides"], options["padding"], strict=True
    ):
        starts = np.arange((side + low + high - size) // stride + 1) * stride - low
        found.append(np.minimum(starts + size, side) - np.maximum(starts, 0))
    return np.multiply.outer(*found)[None, :, :, None].astype(np.float64)


# --- fusing ----------------------------------------------------------------------------------------------------------


def fuse(operations: list[Operation], result: int) -> list[Operation]:
    """Returns the operations that the result needs, with affine maps, sums and ReLUs within the convolutions before
    them; the last gives the result.
    """
    readers: dict[int, list[int]] = {}
    for place, operation in enumerate(operations):
        for operand in operation.inputs:
            readers.setdefault(operand, []).append(place)
    stands_for = list(range(len(operations)))  # which operation gives a value after fusing
    last: dict[int, int] = {}  # which value an operation gives after fusing

    def is_only_reader(place: int) -> bool:
        return len(readers.get(place, ())) == 1 and place != result

    for place, operation in enumerate(operations):
        operation.inputs = tuple(stands_for[operand] for operand in operation.inputs)
        for index, operand in enumerate(operation.inputs[:2]):
            if not is_only_reader(last.get(operand, operand)):
                continue
            before = operations[operand]
            others = [other for i, other in enumerate(operation.inputs) if i != index]
            if _take_in(before, operation, others, operand):
                stands_for[place] = operand
                last[operand] = place
                break
    return _needed(operations, stands_for[result])


def _take_in(before: Operation, operation: Operation, others: list[int], place: int) -> bool:
    """Has a convolution (or affine map) do what the operation after it does; returns whether it can."""
    if before.activated or before.kind not in ("conv", "affine", "add"):
        return False
    if operation.kind == "affine" and before.added is None and before.kind != "add":
        assert operation.factor is not None
        assert operation.bias is not None
        bias = np.float32(0) if before.bias is None else before.bias
        before.bias = bias * operation.factor + operation.bias
        if before.kind == "conv":
            assert before.kernel is not None
            before.kernel = before.kernel * operation.factor
        else:
            assert before.factor is not None
            before.factor = before.factor * operation.factor
        return True
    if operation.kind == "add" and before.kind == "conv" and before.added is None and others[0] < place:
        before.added = others[0]
        return True
    if operation.kind == "relu":
        before.activated = True
        return True
    return False


def _needed(operations: list[Operation], result: int) -> list[Operation]:
    """Returns the operations that the result needs, in order, with the operands' places renumbered."""
    needed = {result, 0}
    for place in range(result, -1, -1):
        if place in needed:
            needed.update(operations[place].operands)
    order = {place: number for number, place in enumerate(sorted(needed))}
    for place in order:
        operation = operations[place]
        operation.inputs = tuple(order[operand] for operand in operation.inputs)
        operation.added = None if operation.added is None else order[operation.added]
    return [operations[place] for place in order]
