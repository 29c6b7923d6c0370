#!/usr/bin/env bash
# `safetensors.numpy.save` accepts a transposed NumPy array and writes its memory in the order in which it lies, under
# the transposed shape. You read back the right shape and other numbers. The documentation asks for contiguous arrays,
# and torch's binding refuses others; NumPy's binding does not. Call `np.ascontiguousarray` before saving.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "safetensors==0.8.0" "numpy==2.3.5"

cat > "$folder/save.py" <<'END'
import numpy as np
import safetensors
from safetensors.numpy import load, save

print("safetensors", safetensors.__version__, "numpy", np.__version__)
array = np.arange(6, dtype=np.float32).reshape(2, 3).T
back = load(save({"w": array}))["w"]
print("saved", array.tolist())
print("read ", back.tolist())
assert back.shape == array.shape == (3, 2)
assert back.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], "it no longer writes the memory as it lies"
assert not np.array_equal(back, array), "it writes transposed arrays rightly now"
contiguous = load(save({"w": np.ascontiguousarray(array)}))["w"]
assert np.array_equal(contiguous, array)
print("made contiguous first:", contiguous.tolist())
END
"$folder/venv/bin/python" "$folder/save.py"
