"""The step's program for a GPU, read without one; and, marked `gpu`, what only a GPU can show.

The latter run where there is one: RESNET_JAX_TEST_PLATFORM=cuda pytest -m gpu -n 0
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import collectives
from step_cost import lower_step, make_experiment, shapes, step_config

from resnet_jax.data.sources import Splits
from resnet_jax.distributed.mesh import shard_batch
from resnet_jax.training.experiment import build_experiment
from resnet_jax.training.jit_steps import init_run_state, jit_eval_step, jit_train_step

# JAX's own random numbers on a GPU, where its plugin is installed; everything else would be a call of ours.
ALLOWED_CALLS = {"cu_threefry2x32_ffi"}


def experiment(dtype="bfloat16", num_devices=1, batch_size=8, **fields):
    return make_experiment(step_config("resnet50", batch_size, 32, dtype, fields), num_devices)


def convolution_types(program):
    """The element types of each convolution's operands and result."""
    signatures = re.findall(r"stablehlo\.convolution.* : (\(.*)", program)
    return [set(re.findall(r"tensor<(?:\d+x)*(\w+)>", signature)) for signature in signatures]


def calls(program):
    return set(re.findall(r"(?:custom_call @|call_target_name = \")(\w+)", program))


@pytest.fixture(scope="module", params=[1, 8])
def step_program(request):
    made = experiment(num_devices=request.param)
    return made, lower_step(made, "cuda").as_text()


def test_all_convolutions_of_the_training_step_are_bfloat16(step_program):
    _, program = step_program
    types = convolution_types(program)
    assert len(types) == 3 * 53 - 1  # forward and both gradients; nobody asks for the images' own
    assert set(map(tuple, types)) == {("bf16",)}


def test_the_training_step_has_no_float64_no_callback_and_no_foreign_call(step_program):
    _, program = step_program
    assert "f64" not in program
    assert "callback" not in program
    assert calls(program) <= ALLOWED_CALLS


def test_every_leaf_of_the_state_is_donated(step_program):
    made, program = step_program
    main = program[program.index("@main(") :]
    arguments = re.split(r", (?=%arg\d+: )", main[: main.index(") -> ")])
    num_leaves = len(jax.tree.leaves(shapes(made)[0]))
    donated = ["tf.aliasing_output" in argument or "jax.buffer_donor" in argument for argument in arguments]
    assert donated == [True] * num_leaves + [False] * (len(arguments) - num_leaves)
    assert num_leaves > 400


def test_batch_norm_computes_and_sums_in_float32(step_program):
    """Sums over an image's positions are batch statistics, over images too their gradients; only they subtract."""
    _, program = step_program
    sums = re.findall(r"stablehlo\.reduce\(.*across dimensions = \[(?:0, )?1, 2\] : \(tensor<[\dx]*x(\w+)>", program)
    assert len(sums) >= 4 * 53
    assert set(sums) == {"f32"}
    assert not re.search(r"stablehlo\.(subtract|rsqrt) .*bf16", program)


def test_the_evaluation_step_is_bfloat16_too():
    made = experiment()
    state, batch = shapes(made)
    batch = {"image": batch["image"], "label": batch["label"], "mask": jax.ShapeDtypeStruct((8,), jnp.float32)}
    step = jit_eval_step(made.normalization, "bfloat16", made.mesh)
    program = step.trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()
    assert convolution_types(program) == [{"bf16"}] * 53
    assert "f64" not in program
    assert "callback" not in program
    assert calls(program) <= ALLOWED_CALLS


def test_every_flag_of_the_documentation_is_known_to_xla():
    text = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    flags = re.findall(r"`(--xla_\w+=\w*)`", text)
    assert len(flags) > 10
    for known, given in ((True, flags), (False, ["--xla_gpu_no_such_flag=true"])):
        environment = {
            **os.environ,
            "XLA_FLAGS": " ".join(given),
            "JAX_PLATFORMS": "cpu",
            "JAX_OPTIMIZATION_LEVEL": "O1",
        }
        words = [sys.executable, "-c", "import jax; jax.devices()"]
        process = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert (process.returncode == 0) == known, process.stderr


def gpus(count=1):
    try:
        found = jax.devices("gpu")
    except RuntimeError:
        found = []
    if len(found) < count:
        pytest.skip(f"needs {count} GPU(s), and RESNET_JAX_TEST_PLATFORM=cuda")
    return found[:count]


TINY = {"model_args.stage_sizes": (1,), "model_args.num_filters": 16, "learning_rate": 0.05}


def losses(dtype, devices, num_steps=5):
    """The losses of some steps on random images, from the same weights on every device."""
    made = tiny_experiment(dtype, devices)
    with jax.default_device(devices[0]), jax.default_matmul_precision("highest"):  # no TF32
        state, step = init_run_state(made), jit_train_step(made)
        results = []
        for _ in range(num_steps):
            state, metrics = step(state, shard_batch(random_batch(16, 32), made.mesh))
            results.append(float(metrics["loss"]))
    return np.array(results)


def tiny_experiment(dtype, devices):
    made = experiment(dtype, batch_size=16, **TINY)
    return build_experiment(made.options, devices, Splits(made.batches.source, None, None))


def random_batch(batch_size, image_size):
    random = np.random.default_rng(0)
    rows = np.arange(batch_size, dtype=np.int32)
    images = random.integers(0, 256, (batch_size, image_size, image_size, 3), np.uint8)
    return {"image": images, "label": rows, "sample": rows, "epoch": np.zeros(batch_size, np.int32)}


def test_the_losses_that_the_gpu_tests_compare_fall():
    """So that what follows is known to run and to compare more than constants."""
    on_the_cpu = losses("float32", jax.devices("cpu")[:1])
    assert on_the_cpu[-1] < on_the_cpu[0] - 0.1


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 5e-2)])
def test_the_gpus_losses_are_the_cpus(dtype, tolerance):
    np.testing.assert_allclose(losses(dtype, gpus()), losses("float32", jax.devices("cpu")[:1]), rtol=tolerance)


@pytest.mark.gpu
def test_two_gpus_train_as_one():
    np.testing.assert_allclose(losses("float32", gpus(2)), losses("float32", gpus(1)), rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_compiled_step_donates_its_state_and_stays_on_the_gpu(dtype):
    made = tiny_experiment(dtype, gpus())
    state, batch = shapes(made)
    compiled = jit_train_step(made).lower(state, batch).compile()
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes >= num_bytes
    program = compiled.as_text()
    for transfer in ("infeed", "outfeed", " send(", " recv(", "callback", "MoveToHost"):
        assert transfer not in program
    assert collectives(program) == []
    if dtype == "bfloat16":
        assert re.search(r"bf16\[[\d,]+\].*(conv|cudnn)", program)
