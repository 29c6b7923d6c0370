"""A network's inference function as an ONNX graph, translated operation by operation from its jaxpr.

Images lie as (B, C, H, W) in the graph, as ONNX has it, so every array of four axes is kept in that order; the first
operation turns the input (B, H, W, C) around. Values that depend on constants only are computed here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.inference.jaxpr_translator import JaxprTranslator

OPSET = 17  # onnxruntime from 1.12 on
IR_VERSION = 8
MOST_BYTES = 2**31 - 2**20  # of a protobuf, less what is not the constants
BATCH = "batch"
TO_ONNX = (0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
ELEMENTWISE = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
    "logistic": "Sigmoid", "exp": "Exp", "sqrt": "Sqrt", "neg": "Neg", "tanh": "Tanh", "stop_gradient": "Identity",
    "copy": "Identity", "copy_p": "Identity", "erf": "Erf",
}  # fmt: skip


def to_onnx(
    function: Callable[[Any], Any],
    input_shape: tuple[int, int, int],
    dtype: Any,
    *,
    channels_first: bool = False,
) -> Any:
    """Returns the onnx.ModelProto of `function`, from "images" (batch, H, W, C) of `dtype` to "logits" (batch, K).

    Args:
      function: traceable by JAX for a batch of any size, of the operations that networks here consist of.
      input_shape: (H, W, C).
      channels_first: the file takes (batch, C, H, W).

    Raises:
      UserError: for an operation that has no translation, and where onnx is missing.
    """
    onnx = import_onnx()
    (batch,) = jax.export.symbolic_shape(BATCH)
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, *input_shape), dtype))
    graph = _Graph(onnx)
    given = "images" if channels_first else graph.add("Transpose", ["images"], perm=TO_ONNX)
    (result,) = graph.inline(traced, [given])
    assert isinstance(result, str)
    graph.nodes[-1].output[0] = "logits"
    helper = onnx.helper
    image_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    logits_type = helper.np_dtype_to_tensor_dtype(np.dtype(traced.out_avals[0].dtype))
    inputs = [helper.make_tensor_value_info("images", image_type, [BATCH, *axes_in_file(input_shape, channels_first)])]
    outputs = [helper.make_tensor_value_info("logits", logits_type, [BATCH, *traced.out_avals[0].shape[1:]])]
    made = helper.make_graph(graph.nodes, "resnet_jax", inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="resnet_jax")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def axes_in_file(shape: tuple[int, int, int], channels_first: bool) -> tuple[int, int, int]:
    """Returns (H, W, C) in the order in which a file takes images."""
    height, width, channels = shape
    return (channels, height, width) if channels_first else shape


def import_onnx() -> Any:
    """Returns the package onnx.

    Raises:
      UserError: if it is missing; the message says what to install.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("ONNX needs the package onnx: pip install 'resnet-family-jax[export]'") from None
    return onnx


class _Graph(JaxprTranslator):
    """Nodes in the making.

    A value is the name of a node's output, or a constant array as JAX has it.
    """

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._num_bytes = 0

    def add(self, operation: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def named(self, value: Any, order: tuple[int, ...] | None = None) -> str:
        """Returns the name of a value; a constant becomes an initializer, of four axes in ONNX's order, or in
        `order`.
        """
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        order = order or (TO_ONNX if array.ndim == 4 else None)
        array = np.ascontiguousarray(array if order is None else array.transpose(order))
        self._num_bytes += array.nbytes
        if self._num_bytes > MOST_BYTES:
            raise UserError("an ONNX file holds at most 2 GiB, and the network has more: export it as .stablehlo")
        name = f"c{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def translate(self, equation: Any, operands: list[Any]) -> Any:
        """Returns the value of an operation: the name of a node's output, or a constant."""
        name = equation.primitive.name
        if name in ELEMENTWISE:
            if name == "max" and any(not isinstance(v, str) and v.ndim == 0 and v == 0 for v in operands):
                return self.add("Relu", [next(v for v in operands if isinstance(v, str))])
            return self.add(ELEMENTWISE[name], [self.named(operand) for operand in operands])
        translate = getattr(self, f"_{name}", None)
        if translate is None:
            raise UserError(f"the operation {name!r} has no translation to ONNX here")
        return translate(equation, *operands)

    def _conv_general_dilated(self, equation: Any, x: Any, kernel: Any) -> str:
        params = equation.params
        (top, bottom), (left, right) = params["padding"]
        return self.add(
            "Conv",
            [self.named(x), self.named(kernel, (3, 2, 0, 1))],  # HWIO -> OIHW
            kernel_shape=equation.invars[1].aval.shape[:2],  # OpenCV reads it (4.10)
            strides=params["window_strides"],
            pads=[top, left, bottom, right],
            dilations=params["rhs_dilation"],
            group=params["feature_group_count"],
        )

    def _reduce_window_max(self, equation: Any, x: Any) -> str:
        return self.add("MaxPool", [self.named(x)], **_pooling(equation.params))

    def _reduce_window_sum(self, equation: Any, x: Any) -> str:
        options = _pooling(equation.params)
        mean = self.add("AveragePool", [self.named(x)], count_include_pad=1, **options)
        size = np.asarray(np.prod(options["kernel_shape"]), equation.outvars[0].aval.dtype)
        return self.add("Mul", [mean, self.named(size)])

    def _reduce_sum(self, equation: Any, x: Any) -> str:
        axes = [_axis(axis, equation.invars[0].aval.ndim) for axis in equation.params["axes"]]
        return self.add("ReduceSum", [self.named(x), self.named(np.asarray(axes, np.int64))], keepdims=0)

    def _dot_general(self, equation: Any, x: Any, kernel: Any) -> str:
        (contracted, batched) = equation.params["dimension_numbers"]
        if contracted != ((1,), (0,)) or batched != ((), ()):
            raise UserError(f"a product over the axes {contracted} has no translation to ONNX here")
        return self.add("MatMul", [self.named(x), self.named(kernel)])

    def _pad(self, equation: Any, x: Any, fill: Any) -> str:
        low, high, interior = zip(*equation.params["padding_config"], strict=True)
        order = TO_ONNX if len(low) == 4 else range(len(low))
        if any(interior):
            raise UserError("padding between pixels has no translation to ONNX here")
        pads = np.asarray([*(low[axis] for axis in order), *(high[axis] for axis in order)], np.int64)
        return self.add("Pad", [self.named(x), self.named(pads), self.named(fill)])

    def _concatenate(self, equation: Any, *parts: Any) -> str:
        axis = _axis(equation.params["dimension"], equation.invars[0].aval.ndim)
        return self.add("Concat", [self.named(part) for part in parts], axis=axis)

    def _slice(self, equation: Any, x: Any) -> str:
        params, shape = equation.params, equation.invars[0].aval.shape
        strides = params["strides"] or (1,) * len(shape)
        cut = [
            (start, limit, stride, _axis(axis, len(shape)))
            for axis, (start, limit, stride) in enumerate(
                zip(params["start_indices"], params["limit_indices"], strides, strict=True)
            )
            if (start, stride) != (0, 1) or limit != shape[axis]
        ]
        if not cut:
            return self.named(x)
        starts, limits, steps, axes = (self.named(np.asarray(column, np.int64)) for column in zip(*cut, strict=True))
        return self.add("Slice", [self.named(x), starts, limits, axes, steps])

    def _convert_element_type(self, equation: Any, x: Any) -> str:
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
        return self.add("Cast", [self.named(x)], to=kind)

    def _square(self, equation: Any, x: Any) -> str:
        del equation
        name = self.named(x)
        return self.add("Mul", [name, name])

    def _integer_pow(self, equation: Any, x: Any) -> str:
        power = np.asarray(equation.params["y"], equation.outvars[0].aval.dtype)
        return self.add("Pow", [self.named(x), self.named(power)])

    def _rsqrt(self, equation: Any, x: Any) -> str:
        del equation
        return self.add("Reciprocal", [self.add("Sqrt", [self.named(x)])])

    def _broadcast_in_dim(self, equation: Any, x: Any, *dynamic: Any) -> Any:
        """Axes of length 1 where there are none yet: ONNX's operations broadcast on their own."""
        del dynamic
        places, rank = equation.params["broadcast_dimensions"], equation.outvars[0].aval.ndim
        shape = [1] * rank
        for place, side in zip(places, equation.invars[0].aval.shape, strict=True):
            shape[place] = side
        if not isinstance(x, str):
            return np.asarray(x).reshape(shape)
        return self._reshaped(x, equation.invars[0].aval.shape, shape)

    def _reshape(self, equation: Any, x: Any) -> str:
        return self._reshaped(x, equation.invars[0].aval.shape, equation.outvars[0].aval.shape)

    _squeeze = _reshape
    _expand_dims = _reshape

    def _reshaped(self, x: Any, old: Sequence[Any], new: Sequence[Any]) -> str:
        """Returns x with its lengths changed by axes of length 1 alone, so that no order of axes matters."""
        if [side for side in old if not _is_one(side)] != [side for side in new if not _is_one(side)]:
            raise UserError(f"the shape {tuple(old)} cannot become {tuple(new)} in ONNX here")
        order = TO_ONNX if len(new) == 4 else range(len(new))
        sides = [new[axis] for axis in order]
        shape = np.asarray([side if isinstance(side, int) else -1 for side in sides], np.int64)
        return self.add("Reshape", [self.named(x), self.named(shape)])


def _is_one(side: Any) -> bool:
    return isinstance(side, int) and side == 1


def _axis(axis: int, rank: int) -> int:
    """Returns where ONNX has an axis."""
    return TO_ONNX.index(axis) if rank == 4 else axis


def _pooling(params: Mapping[str, Any]) -> dict[str, Any]:
    (top, bottom), (left, right) = params["padding"][1:3]
    return {
        "kernel_shape": params["window_dimensions"][1:3],
        "strides": params["window_strides"][1:3],
        "pads": [top, left, bottom, right],
    }
