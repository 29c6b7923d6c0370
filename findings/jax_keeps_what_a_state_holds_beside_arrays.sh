#!/usr/bin/env bash
# Objects in the static fields of a pytree, such as apply_fn in a train state, outlive the jitted function that was called
# with it: when the function and the state are gone, the object is still held, until jax.clear_caches(). You would expect
# it to go with them, as what a jitted function closes over does. But a call keeps the structure of its arguments, static
# fields included, in a cache that belongs to no function. An evaluation loop over checkpoints whose apply_fn holds
# weights or buffers keeps those of every checkpoint. `resnet_jax` closes over such functions instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "jax==0.10.2"

"$folder/venv/bin/python" - <<'END'
import functools
import gc
import weakref
from dataclasses import dataclass

import jax
import numpy as np


class Apply:
    """A function that holds a large array."""

    def __init__(self):
        self.buffer = np.zeros(1_000_000)

    def __call__(self, x):
        return x + 1.0


@functools.partial(jax.tree_util.register_dataclass, data_fields=["x"], meta_fields=["apply_fn"])
@dataclass(frozen=True)
class State:
    x: jax.Array
    apply_fn: object


def as_static_field(apply):
    jax.jit(lambda state: state.apply_fn(state.x))(State(jax.numpy.ones(3), apply)).block_until_ready()


def as_closure(apply):
    jax.jit(lambda x: apply(x))(jax.numpy.ones(3)).block_until_ready()


def is_held_after(call):
    apply = Apply()
    reference = weakref.ref(apply)
    call(apply)
    del apply
    gc.collect()
    return reference() is not None, reference


held, reference = is_held_after(as_static_field)
closed_over, _ = is_held_after(as_closure)
print(f"jax {jax.__version__}: after the call a static field is held: {held}; what is closed over is held: {closed_over}")
assert held and not closed_over, "it is otherwise now"
jax.clear_caches()
gc.collect()
print(f"after jax.clear_caches() the static field is held: {reference() is not None}")
assert reference() is None, "it is otherwise now"
END
