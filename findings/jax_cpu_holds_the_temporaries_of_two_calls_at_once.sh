#!/usr/bin/env bash
# On the CPU, JAX runs one computation at a time. You would expect a chain of calls of one compiled function to need
# the temporaries of `memory_analysis` once. JAX dispatches asynchronously and allocates those of the next call before
# the current one has ended. The address space grows by them, and where freed memory is kept (mallopt, jemalloc) so
# does the memory that the process holds. With `jax_cpu_enable_async_dispatch=False` it does not grow.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "jax==0.10.2" "jaxlib==0.10.2"

cat > "$folder/chain.py" <<'END'
import sys

import jax
import jax.numpy as jnp

jax.config.update("jax_cpu_enable_async_dispatch", sys.argv[1] == "asynchronous")


@jax.jit
def step(x):  # a vector in, a vector out, two matrices of 256 MiB between
    matrix = jnp.outer(x, x)
    return jnp.tanh(matrix @ matrix)[0]


def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmPeak"))
    return int(line.split()[1]) // 1024


x = jnp.full(8192, 1e-3)
compiled = step.lower(x).compile()
temporaries = compiled.memory_analysis().temp_size_in_bytes // 2**20
jax.block_until_ready(compiled(x))
before = peak()
for _ in range(4):
    x = compiled(x)
x.block_until_ready()
print("jax", jax.__version__, sys.argv[1], "- temporaries", temporaries, "MiB - more for four calls", peak() - before, "MiB")
print("grows" if peak() - before > temporaries // 2 else "stays")
END

for dispatch in asynchronous synchronous; do
    JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/chain.py" "$dispatch" | tee "$folder/$dispatch"
done
grep -qx grows "$folder/asynchronous" || { echo "changed: asynchronous calls share their temporaries now"; exit 1; }
grep -qx stays "$folder/synchronous" || { echo "changed: synchronous calls need more as well"; exit 1; }
echo "still so: calls that wait for one another hold their temporaries at once"
