"""A program may end while results are computed that it never looks at."""

import subprocess
import sys

import pytest

PROGRAM = """
import jax, resnet_jax
model = resnet_jax.create_model("resnet20", num_classes=None, stage_sizes=(6,), num_filters=32)
images = jax.numpy.ones((32, 64, 64, 3))
variables = jax.jit(lambda: model.init(jax.random.key(1), images[:1], train=False))()
pool = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
pooled = pool(variables, images)
for _ in range(2):
    dropped = pool(variables, images)
{last}
print("the end", flush=True)
"""


@pytest.mark.parametrize("last", ["del dropped, pooled, variables, images", "raise RuntimeError('on purpose')"])
def test_program_ends_though_nobody_awaits_its_results(last):
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(last=last)], capture_output=True, text=True, timeout=60
    )
    assert (program.returncode, program.stdout) == ((0, "the end\n") if "del" in last else (1, ""))
    assert "on purpose" in program.stderr or not program.stderr


def test_busy_threads_of_others_keep_nobody_waiting():
    program = """
import threading, time
from resnet_jax.ops.xla_ffi import PATIENCE_SECONDS, wait_for_computations
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
start = time.monotonic()
wait_for_computations()
print(time.monotonic() - start < PATIENCE_SECONDS)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("True\n", "")
