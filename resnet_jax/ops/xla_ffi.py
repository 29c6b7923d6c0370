"""A Python function as a custom call of XLA's on the CPU, through its foreign function interface.

XLA calls a custom call through a C function, `handler(call_frame)`. That function is a ctypes callback here. The
structures follow xla/ffi/api/c_api.h, as far as they are read.
"""

import atexit
import contextlib
import ctypes as c
import functools
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

LOOK_SECONDS = 0.005
NUM_LOOKS = 3
PATIENCE_SECONDS = 60.0

# (addresses of the operands, of the results)
Kernel = Callable[[Sequence[int], Sequence[int]], None]

_registered: dict[str, Any] = {}  # by name: ctypes callbacks must outlive their registration
_held: "weakref.WeakValueDictionary[str, Kernel]" = weakref.WeakValueDictionary()  # by name, as long as somebody does


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


def register(name: str, prepare: Callable[[], Kernel]) -> str:
    """Returns the name of the custom call for the CPU, which XLA knows from now on; prepared the first time."""
    if name not in _registered:
        handler = make_handler(prepare())
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
        _registered[name] = handler
        wait_at_exit()
    return name


def register_while_held(name: str, prepare: Callable[[], Kernel]) -> Kernel:
    """Returns the kernel of the custom call of this name, which XLA knows from now on.

    Whoever runs a program with that call must hold the kernel meanwhile: once nobody does, it goes, and its memory with
    it. It is prepared anew then where it is asked for again.
    """
    kernel = _held.get(name)
    if kernel is None:
        kernel = _held[name] = prepare()
        register(name, lambda: functools.partial(_run_held, name))
    return kernel


def _run_held(name: str, operands: Sequence[int], results: Sequence[int]) -> None:
    kernel = _held.get(name)
    if kernel is None:
        raise RuntimeError(f"{name}: what it computed with is gone; hold the function that was traced")
    kernel(operands, results)


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


# --- the end of a process whose custom calls are Python: what is being computed ends first ---------------------------
# At exit JAX waits for the computations of its CPU client and holds the interpreter's lock, which the handlers need for
# a moment each: a program that ends with a result that it never looked at would wait for ever.


@functools.cache
def wait_at_exit() -> None:
    """Has this process wait, when it ends, for what its CPU devices compute; before JAX does, which came first."""
    atexit.register(wait_for_computations)


def wait_for_computations() -> None:
    """Returns when the CPU devices compute nothing: what is still held, and for PATIENCE_SECONDS what nobody holds.

    A program on many processes does not wait: what one computes may need another that is no longer there. One of your
    own must look at its results before it ends.
    """
    with contextlib.suppress(RuntimeError, OSError):  # no CPU device any more, or no /proc
        if jax.process_count() > 1:
            return
        for array in jax.live_arrays("cpu"):
            with contextlib.suppress(RuntimeError):  # deleted meanwhile, or computed in vain
                array.block_until_ready()
        end = time.monotonic() + PATIENCE_SECONDS
        quiet_looks = 0
        while quiet_looks < NUM_LOOKS and time.monotonic() < end:
            quiet_looks = 0 if _computes() else quiet_looks + 1
            time.sleep(LOOK_SECONDS)


def _computes() -> bool:
    """Returns whether a thread that Python did not start runs, or would if a core were free (Linux)."""
    of_python = {str(thread.native_id) for thread in threading.enumerate()}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if task.name not in of_python and (task / "stat").read_text().rpartition(") ")[2].startswith("R"):
                return True
    return False
