#!/usr/bin/env bash
# oneDNN's batch norm can apply a ReLU in the same pass (`dnnl_fuse_norm_relu`). On processors for which it generates
# code, this ReLU makes NaN zero. One NaN pixel makes its channel's mean and variance NaN, and the whole channel of
# the result 0 instead of NaN. So a diverged network continues with finite numbers. Without the flag the channel is
# NaN.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "onednn-cpu-gomp==2023.2.0" "numpy==2.3.5"

cat > "$folder/norm.py" <<'END'
import ctypes as c
import importlib.metadata

import numpy as np

files = importlib.metadata.files("onednn-cpu-gomp")
library = c.CDLL(str(next(file.locate() for file in files if file.name == "libdnnl.so.3")))
library.dnnl_primitive_desc_query_md.restype = c.c_void_p
CPU, FLOAT, TRAINING, SCALE, SHIFT, RELU = 1, 3, 64, 2, 4, 8
SHAPE, WORKSPACE = (2, 16, 3, 3), 64  # B, C, H, W


def make(function, *arguments):
    result = c.c_void_p()
    status = getattr(library, function)(c.byref(result), *arguments)
    assert status == 0, (function, status)
    return result


def numbers(values):
    return (c.c_int64 * len(values))(*values)


class Argument(c.Structure):
    _fields_ = (("index", c.c_int), ("memory", c.c_void_p))


engine = make("dnnl_engine_create", c.c_int(CPU), c.c_size_t(0))
stream = make("dnnl_stream_create", engine, c.c_uint(1))
images = make("dnnl_memory_desc_create_with_strides", c.c_int(4), numbers(SHAPE), c.c_int(FLOAT), numbers((144, 1, 48, 16)))
channels = make("dnnl_memory_desc_create_with_strides", c.c_int(1), numbers((16,)), c.c_int(FLOAT), numbers((1,)))
x = np.random.default_rng(0).normal(size=(2, 3, 3, 16)).astype(np.float32)
x[0, 1, 1, 5] = np.nan


def normalize(flags):
    description = make(
        "dnnl_batch_normalization_forward_primitive_desc_create", engine, c.c_int(TRAINING), images, images,
        c.c_float(1e-5), c.c_uint(flags), None,
    )
    y, mean, var = np.empty_like(x), np.empty(16, np.float32), np.empty(16, np.float32)
    scale, shift = np.ones(16, np.float32), np.zeros(16, np.float32)
    arrays = {1: (images, x), 17: (images, y), 49: (channels, mean), 50: (channels, var), 51: (channels, scale)}
    arrays[52] = channels, shift
    if flags & RELU:
        arrays[WORKSPACE] = c.c_void_p(library.dnnl_primitive_desc_query_md(description, 135, 0)), np.zeros(x.size, np.uint8)
    memories = {k: make("dnnl_memory_create", kind, engine, c.c_void_p(a.ctypes.data)) for k, (kind, a) in arrays.items()}
    arguments = (Argument * len(memories))(*(Argument(k, memory) for k, memory in memories.items()))
    primitive = make("dnnl_primitive_create", description)
    assert library.dnnl_primitive_execute(primitive, stream, c.c_int(len(arguments)), arguments) == 0
    assert library.dnnl_stream_wait(stream) == 0
    return y[..., 5], var[5]


for name, flags in (("alone", SCALE | SHIFT), ("with ReLU", SCALE | SHIFT | RELU)):
    y, var = normalize(flags)
    print(f"batch norm {name}: variance {var}, NaN {np.isnan(y).sum()} of {y.size}, zero {(y == 0).sum()}")
END

"$folder/venv/bin/python" "$folder/norm.py" | tee "$folder/out"
grep -q "^batch norm alone: variance nan, NaN 18 of 18" "$folder/out" || { echo "changed: batch norm alone"; exit 1; }
grep -q "^batch norm with ReLU: variance nan, NaN 0 of 18, zero 18" "$folder/out" || { echo "changed: NaN is kept now"; exit 1; }
echo "still so: batch norm with ReLU makes NaN zero (onednn-cpu-gomp 2023.2.0)"
