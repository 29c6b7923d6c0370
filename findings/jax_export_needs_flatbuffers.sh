#!/usr/bin/env bash
# The documentation of `jax.export` and `Exported.serialize()` mentions no other package. But serialising needs
# flatbuffers, which jax does not require: after `pip install jax` it raises ImportError. A program that exports works
# where TensorFlow or onnxruntime happens to be installed, and fails on a clean machine.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "jax==0.10.2"

cat > "$folder/export.py" <<'END'
import importlib.metadata

import jax
import jax.export
import jax.numpy as jnp

print("jax", jax.__version__, "requires", ", ".join(importlib.metadata.requires("jax")[:4]))
exported = jax.export.export(jax.jit(lambda x: x + 1))(jax.ShapeDtypeStruct((2,), jnp.float32))
try:
    print("serialized:", len(exported.serialize()) > 0)
except ImportError as error:
    print("ImportError:", str(error).splitlines()[0])
END

echo "-- jax alone"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/export.py" | tee "$folder/alone"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "flatbuffers==25.12.19"
echo "-- with flatbuffers"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/export.py" | tee "$folder/with"

grep -q "^ImportError: .*flatbuffers" "$folder/alone" || { echo "changed: jax alone serializes now"; exit 1; }
grep -q "^serialized: True" "$folder/with" || { echo "changed: flatbuffers is not enough"; exit 1; }
echo "still so: jax.export serializes only where flatbuffers is installed besides"
