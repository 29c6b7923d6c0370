"""Files as torch.save writes them, made without torch, of sound or hostile content."""

import struct
import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclass(frozen=True)
class Name:
    """A class or function, as "module name" (a GLOBAL opcode)."""

    text: str


@dataclass(frozen=True)
class Call:
    """A function's result (a REDUCE opcode)."""

    function: Any
    args: tuple


@dataclass(frozen=True)
class Persistent:
    """An object outside the pickle (a BINPERSID opcode)."""

    id: Any


@dataclass(frozen=True)
class Built:
    """An object of a class with a state (NEWOBJ and BUILD opcodes)."""

    name: Name
    state: Any


@dataclass(frozen=True)
class Raw:
    """Opcodes that push one object."""

    opcodes: bytes


def opcodes(value) -> bytes:
    """Return the opcodes that push `value`, of protocol 2 (and bytes of 3)."""
    match value:
        case Raw():
            return value.opcodes
        case Name():
            module, _, name = value.text.rpartition(".")
            return f"c{module}\n{name}\n".encode()
        case Call():
            return opcodes(value.function) + opcodes(value.args) + b"R"
        case Built():
            return opcodes(value.name) + opcodes(()) + b"\x81" + opcodes(value.state) + b"b"
        case Persistent():
            return opcodes(value.id) + b"Q"
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(key) + opcodes(item) for key, item in value.items()) + b"u"
    raise TypeError(type(value))


def pickled(value) -> bytes:
    """A whole pickle of `value`."""
    return b"\x80\x02" + opcodes(value) + b"."


def strides_of(shape) -> tuple:
    """The strides, in elements, of a contiguous array."""
    return tuple(int(np.prod(shape[axis + 1 :], dtype=int)) for axis in range(len(shape)))


def storage(key, dtype, num_elements, *view) -> Persistent:
    """A typed storage; view: (its key, offset, number of elements) in a legacy file."""
    return Persistent(("storage", Name(f"torch.{STORAGES.get(dtype, dtype)}"), key, "cuda:0", num_elements, *view))


def tensor(key, dtype, shape, *, strides=None, offset=0, num_elements=None, view=()) -> Call:
    """A tensor as torch.save refers to it."""
    strides = strides_of(shape) if strides is None else strides
    num_elements = offset + int(np.prod(shape, dtype=int)) if num_elements is None else num_elements
    hooks = Call(Name("collections.OrderedDict"), ())
    args = (storage(key, dtype, num_elements, *view), offset, tuple(shape), strides, False, hooks)
    return Call(Name("torch._utils._rebuild_tensor_v2"), args)


def zip_file(root, storages, *, extra=None, top="archive", compression=zipfile.ZIP_STORED) -> bytes:
    """The zip format. root: anything that `opcodes` takes; storages: key -> bytes; extra: more entries."""
    entries = {"data.pkl": pickled(root), "byteorder": b"little"}
    entries |= {f"data/{key}": data for key, data in storages.items()} | (extra or {})
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            if data is not None:
                archive.writestr(f"{top}/{name}", data)
    return buffer.getvalue()


def legacy_file(root, storages, *, system=None) -> bytes:
    """The format before torch 1.6. storages: key -> (number of elements, bytes)."""
    system = {"protocol_version": 1001, "little_endian": True} if system is None else system
    head = b"".join(map(pickled, (LEGACY_MAGIC, 1001, system, root, list(storages))))
    return head + b"".join(struct.pack("<q", count) + data for count, data in storages.values())


def torch_file(path, tree):
    """Writes nested dicts of arrays as torch.save would; the same array is stored once."""
    storages, keys = {}, {}

    def of(value):
        if isinstance(value, dict):
            return {key: of(item) for key, item in value.items()}
        if isinstance(value, Built):
            return Built(value.name, of(value.state))
        if not isinstance(value, np.ndarray):
            return value
        key = keys.setdefault(id(value), str(len(keys)))
        storages[key] = np.ascontiguousarray(value).tobytes()
        return tensor(key, "float32", value.shape)

    path.write_bytes(zip_file(of(tree), storages))
    return path


def whole_module(state, name="someones.project.models.Net", hidden=None):
    """The module that has this state_dict, pickled whole. hidden: buffers that its state_dict would not have."""
    parts, own = {}, {}
    for key, value in state.items():
        first, dot, rest = key.partition(".")
        (parts.setdefault(first, {}) if dot else own)[rest if dot else key] = value
    buffers = {key: value for key, value in own.items() if key.startswith("running_")}
    return Built(Name(name), {
        "training": False,
        "_parameters": {**{key: value for key, value in own.items() if key not in buffers}, "unset": None},
        "_buffers": {**buffers, **(hidden or {})},
        "_non_persistent_buffers_set": Call(Name("builtins.set"), ([*(hidden or {})],)),
        "_modules": {key: whole_module(inner, "torch.nn.modules.Module") for key, inner in parts.items()},
    })  # fmt: skip
