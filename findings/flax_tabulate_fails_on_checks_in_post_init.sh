#!/usr/bin/env bash
# A Flax module that checks its arguments in a method called from `__post_init__` works in `init` and `apply`.
# `tabulate` fails on it with an AssertionError without a message. It records every method call, and takes the one
# before the module has a scope for a layer's call. `@nn.nowrap` on the method helps.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "jax==0.10.2" "flax==0.12.8"

cat > "$folder/tabulate.py" <<'END'
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp


def network(decorate):
    class Network(nn.Module):
        features: int = 3

        def __post_init__(self):
            self.check()
            super().__post_init__()

        @decorate
        def check(self):
            if self.features < 1:
                raise ValueError(f"features={self.features} must be positive")

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.features)(x)

    return Network()


print("flax", flax.__version__)
x, key = jnp.ones((1, 2)), jax.random.key(0)
for name, decorate in (("plain", lambda method: method), ("nowrap", nn.nowrap)):
    model = network(decorate)
    print(name, "applies:", model.apply(model.init(key, x), x).shape)
    try:
        print(name, "tabulates:", "Dense" in model.tabulate(key, x))
    except AssertionError as error:
        print(name, "AssertionError:", repr(str(error)[:60]))
END

JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/tabulate.py" | tee "$folder/output"
grep -q "^plain applies" "$folder/output"
grep -q "^plain AssertionError" "$folder/output" || { echo "changed: tabulate allows checks in __post_init__"; exit 1; }
grep -q "^nowrap tabulates: True" "$folder/output" || { echo "changed: nowrap does not help"; exit 1; }
echo "still so: tabulate fails on a method that __post_init__ calls, unless it is nn.nowrap"
