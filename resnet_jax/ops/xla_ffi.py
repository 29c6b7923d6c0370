"""A Python function as a custom call of XLA's on the CPU, through its foreign function interface.

XLA calls a custom call through a C function, `handler(call_frame)`. That function is a ctypes callback here. The
structures are those of xla/ffi/api/c_api.h, as far as they are read.
"""

import ctypes as c
from collections.abc import Callable, Sequence
from typing import Any

# (addresses of the operands, of the results)
Kernel = Callable[[Sequence[int], Sequence[int]], None]


class _Buffer(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("extension", c.c_void_p), ("dtype", c.c_int), ("data", c.c_void_p),
        ("rank", c.c_int64), ("dims", c.c_void_p),
    )  # fmt: skip


class _Buffers(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("extension", c.c_void_p), ("size", c.c_int64), ("types", c.c_void_p),
        ("buffers", c.POINTER(c.POINTER(_Buffer))),
    )  # fmt: skip

    def addresses(self) -> list[int]:
        return [self.buffers[i].contents.data for i in range(self.size)]


class _Version(c.Structure):
    _fields_ = (("struct_size", c.c_size_t), ("extension", c.c_void_p), ("major", c.c_int), ("minor", c.c_int))


class _Metadata(c.Structure):
    _fields_ = (("struct_size", c.c_size_t), ("version", _Version), ("traits", c.c_uint32))


class _MetadataExtension(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("type", c.c_int), ("next", c.c_void_p), ("metadata", c.POINTER(_Metadata)),
    )  # fmt: skip


class _ErrorArguments(c.Structure):
    _fields_ = (("struct_size", c.c_size_t), ("extension", c.c_void_p), ("message", c.c_char_p), ("code", c.c_int))


_CREATE_ERROR = c.CFUNCTYPE(c.c_void_p, c.POINTER(_ErrorArguments))


class _Api(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("extension", c.c_void_p), ("version", _Version), ("internal", c.c_void_p),
        ("create_error", _CREATE_ERROR),
    )  # fmt: skip


class _CallFrame(c.Structure):
    _fields_ = (
        ("struct_size", c.c_size_t), ("extension", c.POINTER(_MetadataExtension)), ("api", c.POINTER(_Api)),
        ("context", c.c_void_p), ("stage", c.c_int), ("operands", _Buffers), ("results", _Buffers),
    )  # fmt: skip


_HANDLER = c.CFUNCTYPE(c.c_void_p, c.POINTER(_CallFrame))
_FFI_VERSION = (0, 3)  # of the structures above; XLA refuses a registration that it does not understand
_INTERNAL_ERROR = 13


def make_handler(kernel: Kernel) -> Any:
    """Returns `kernel` as an XLA FFI handler: returns NULL, or an error that fails the execution."""

    def handle(frame_pointer: Any) -> int | None:
        frame = frame_pointer.contents
        if frame.extension:  # XLA asks for the handler's metadata
            metadata = frame.extension.contents.metadata.contents
            metadata.version.major, metadata.version.minor = _FFI_VERSION
            metadata.traits = 0
            return None
        try:
            kernel(frame.operands.addresses(), frame.results.addresses())
        except Exception as error:  # an exception must not be lost in C: the results would be garbage
            arguments = _ErrorArguments(c.sizeof(_ErrorArguments), None, str(error).encode(), _INTERNAL_ERROR)
            return frame.api.contents.create_error(c.byref(arguments))
        return None

    return _HANDLER(handle)
