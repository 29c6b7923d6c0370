#!/usr/bin/env bash
# jaxlib 0.10.2 on the CPU: `jax.lax.reduce_window` with an addition, over images of one column, gives right sums for
# a few images and wrong ones for many, although no window reaches from one image into another. The same images in a
# smaller batch are right. Average pooling is built on it (`flax.linen.avg_pool`, ResNet-D's shortcuts).
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.3.5"

cat > "$folder/sums.py" <<'END'
import jax
import numpy as np

print("jax", jax.__version__, "numpy", np.__version__)


@jax.jit
def sums(x):
    padding = ((0, 0), (0, 1), (0, 1), (0, 0))
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), padding)


errors = {}
for batch in (4, 64, 256):
    x = np.random.default_rng(0).standard_normal((batch, 5, 1, 32), np.float32)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    right = padded[:, ::2, ::2] + padded[:, 1::2, ::2] + padded[:, ::2, 1::2] + padded[:, 1::2, 1::2]
    errors[batch] = float(np.abs(np.asarray(sums(x)) - right).max())
    print(f"batch {batch}: largest error {errors[batch]:.2g}")
assert errors[4] < 1e-5
assert errors[256] > 0.1, "it sums them rightly now"
END
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/sums.py"
