"""The names by which torch.save refers to storages and tensors, each with its counterpart here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resnet_jax.weights.lazy_tensor import DTYPES, FLOAT8, ByteRange, StoredTensor, Unreadable
from resnet_jax.weights.torch.safe_unpickler import Functions, Name

# The dtypes of torch.FloatStorage and so on; torch.cuda has the same names. The dtype of an untyped storage comes
# with each tensor.
STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
MAX_ARGUMENTS = 16
ITEMSIZES = {name: dtype.itemsize for name, dtype in DTYPES.items()} | {
    "complex128": 16,
    "complex64": 8,
    "qint8": 1,
    "qint32": 4,
    "quint8": 1,
    "quint4x2": 1,
    "quint2x4": 1,
}


@dataclass(frozen=True, slots=True)
class Storage(Unreadable):
    """The bytes that tensors share, and the name of their dtype; alone it is no tensor."""

    data: ByteRange
    dtype: str


def storage_dtype(storage_type: Any) -> str:
    """Returns the dtype's name, as "float32" for torch.FloatStorage.

    Raises:
      ValueError: for a type that torch does not have.
    """
    if isinstance(storage_type, Name) and storage_type.name.startswith("torch."):
        dtype = STORAGE_DTYPES.get(storage_type.name.rpartition(".")[2])
        if dtype is not None:
            return dtype
    raise ValueError("a storage has a type that torch does not have")


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, dtype: str, metadata: Any
) -> StoredTensor | Unreadable:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    if dtype.startswith("float8"):
        return Unreadable(FLOAT8.format(dtype))
    if dtype not in DTYPES:
        return Unreadable(f"a tensor of dtype {dtype}")
    if metadata:
        return Unreadable("a tensor whose negation or conjugation is still to be done")
    return StoredTensor.checked(storage.data, DTYPES[dtype], offset, shape, strides)


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any = False,
    backward_hooks: Any = None,
    metadata: Any = None,
) -> StoredTensor | Unreadable:
    dtype = storage.dtype if isinstance(storage, Storage) else ""
    return _tensor(storage, offset, shape, strides, dtype, metadata)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    backward_hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> StoredTensor | Unreadable:
    if not isinstance(dtype, Name):
        raise ValueError("a tensor has a dtype that torch does not have")
    return _tensor(storage, offset, shape, strides, dtype.name.removeprefix("torch."), metadata)


def _rebuild_parameter(data: Any, *_requires_grad_hooks_and_state: Any) -> Any:
    return data


def _rebuild_from_type(function: Any, new_type: Any, arguments: Any, state: Any) -> Any:
    """Returns a tensor of a subclass is read as the tensor it was made of."""
    rebuild = TENSOR_FUNCTIONS.get(function.name) if isinstance(function, Name) else None
    if rebuild is None:
        return new_type.instance if isinstance(new_type, Name) else Unreadable("a tensor of an unknown class")
    if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
        raise ValueError("a tensor is made from too many arguments")
    return rebuild(*arguments)


def _size(*sizes: Any) -> Any:
    return sizes[0] if sizes else ()


def _always(what: str) -> Callable[..., Unreadable]:
    unreadable = Unreadable(what)
    return lambda *_: unreadable


TENSOR_FUNCTIONS: Functions = {
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type": _rebuild_from_type,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch._utils._rebuild_qtensor": _always("a quantised tensor"),
    "torch._utils._rebuild_sparse_tensor": _always("a sparse tensor"),
    "torch._utils._rebuild_sparse_csr_tensor": _always("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _always("a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _always("a tensor on the meta device, which has no content"),
    "torch._utils._rebuild_wrapper_subclass": _always("a tensor of a wrapper class"),
    "torch._utils._rebuild_device_tensor_from_numpy": _always("a tensor of a device without storage"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _rebuild_parameter,
}
