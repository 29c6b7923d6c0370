"""Networks made ready for inference answer as the same networks with batch norm folded do, to rounding."""

import gc
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import create_model, list_models
from resnet_jax.distributed.mesh import make_mesh
from resnet_jax.inference.ready.apply import make_ready, ready_apply
from resnet_jax.inference.ready.network import ReadyNetwork
from resnet_jax.inference.ready.trace import Operation, UnknownOperationError, trace
from resnet_jax.models.folding import fold_batch_norm
from resnet_jax.models.shapes import variable_shapes
from resnet_jax.models.variants import default_image_size
from resnet_jax.ops import xla_ffi
from resnet_jax.ops.onednn import Problem, available, implementations
from resnet_jax.training.images import Normalization
from resnet_jax.training.jit_steps import jit_per_example_eval_step
from resnet_jax.training.train_state import create_train_state

pytestmark = [
    pytest.mark.skipif(not available(), reason="oneDNN is not installed for this machine"),
    pytest.mark.numerics,
]
ANY_CONVOLUTION = Problem((2, 8, 8, 16), (3, 3, 16, 16), stride=1, groups=1, dtype="bfloat16")
COMPUTES_BFLOAT16 = available() and any(implementations("forward", ANY_CONVOLUTION))
needs_bfloat16 = pytest.mark.skipif(
    not COMPUTES_BFLOAT16, reason="oneDNN has no convolutions in bfloat16 on this processor"
)
TINY = {"stage_sizes": (2, 1), "num_classes": 7, "num_filters": 16}
NETWORKS = {
    "basic": ("resnet18", TINY),
    "bottleneck": ("resnet50", TINY),
    "grouped": ("resnext50_32x4d", {**TINY, "groups": 4, "width_per_group": 16}),
    "odd channels": ("resnet18", {**TINY, "num_filters": 11}),
    "stride in the first": ("resnet50", {**TINY, "stride_in": "1x1"}),
    "shortcuts without parameters": ("resnet20", TINY),
    "plain": ("plain20", TINY),
    "projections everywhere": ("resnet18", {**TINY, "shortcut": "C"}),
    "pooled projections": ("resnet50d", TINY),
    "tiered stem": ("resnet10t", TINY),
    "pooled strides": ("resnetaa50", TINY),
    "squeeze and excitation": ("seresnet50", TINY),
    "convolution for pooling": ("resnetrs50", TINY),
    "pre-activation": ("resnetv2_18", TINY),
    "pre-activation, for small images": ("preact_resnet20", TINY),
    "wide": ("wrn16_8", {**TINY, "widen_factor": 2}),
    "dilated": ("resnet50", {**TINY, "stage_sizes": (1, 1, 1), "output_stride": 8}),
    "silu": ("resnet18", {**TINY, "activation": "silu"}),
    "biased convolutions": ("resnet18", {**TINY, "conv_bias": True}),
    "Keras' V2": ("resnet50", {**TINY, "block_cls": "preact_bottleneck", "strided_block": "last"}),
}
LEFT = {
    "group norm": ("resnet50_gn", {**TINY, "num_filters": 32}),
    "blurred": ("resnetblur18", TINY),
    "channel attention": ("ecaresnet26t", TINY),
    "gelu": ("resnet18", {**TINY, "activation": "gelu"}),
}


def made(name, arguments, size=32):
    """A model with random variables, statistics among them."""
    model = create_model(name, **arguments)
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            deviation = (1.5 / np.prod(leaf.shape[:-1])) ** 0.5
            return random.normal(0, deviation, leaf.shape).astype(np.float32)
        low, high = (0.5, 1.0) if path[-1].key in ("scale", "var") else (-0.2, 0.2)
        return random.uniform(low, high, leaf.shape).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, variable_shapes(model))


def images(batch, size, seed=1):
    return np.random.default_rng(seed).standard_normal((batch, size, size, 3), np.float32)


def folded_answer(model, variables, inputs):
    folded, its = fold_batch_norm(model, variables)
    return np.asarray(jax.jit(lambda x: folded.apply(its, x, train=False))(inputs))


def difference(one, other):
    return np.max(np.abs(one - other)) / np.max(np.abs(other))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("size", [32, 45])
def test_a_ready_network_is_the_folded_one_to_rounding(kind, size):
    model, variables = made(*NETWORKS[kind])
    inputs = images(3, size)
    network = make_ready(model, variables, inputs.shape)
    expected = folded_answer(model, variables, inputs)
    assert difference(network(inputs), expected) < 1e-5
    assert difference(network(inputs), expected) < 1e-5  # its memory holds the last call's activations


@pytest.mark.parametrize("kind", LEFT)
def test_other_networks_answer_as_they_did(kind):
    model, variables = made(*LEFT[kind])
    inputs = images(2, 32)
    with pytest.raises(UnknownOperationError):
        make_ready(model, variables, inputs.shape)
    apply = ready_apply(model, variables, num_devices=1)
    answer = jax.jit(lambda given, x: apply(given, x, train=False))(variables, inputs)
    one, its = fold_batch_norm(model, variables)
    assert difference(np.asarray(answer), np.asarray(one.apply(its, inputs, train=False))) < 1e-5


@needs_bfloat16
@pytest.mark.parametrize("kind", ["basic", "bottleneck", "squeeze and excitation", "pooled projections"])
def test_bfloat16_is_as_near_as_the_folded_network_in_bfloat16(kind):
    name, arguments = NETWORKS[kind]
    model, variables = made(name, arguments)
    inputs = images(4, 32)
    exact = folded_answer(model, variables, inputs)
    in_bfloat16 = model.clone(dtype="bfloat16")
    network = make_ready(in_bfloat16, variables, inputs.shape)
    allowed = difference(folded_answer(in_bfloat16, variables, inputs), exact)
    assert 0 < difference(network(inputs), exact) < 1.5 * allowed


def conv_cases(count, seed):
    """Random convolutions: (batch, side, channels, features, kernel, stride, groups, dilation, bias, relu, added)."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        groups = int(random.choice([1, 1, 1, 2, 4, 8]))
        channels, features = (groups * int(random.integers(1, 40 // groups + 2)) for _ in range(2))
        size, dilation = int(random.choice([1, 1, 3, 3, 5, 7])), int(random.choice([1, 1, 1, 2, 3]))
        sides = tuple(int(side) for side in random.integers(1, 30, 2))
        flags = (bool(flag) for flag in random.integers(0, 2, 3))
        yield (
            int(random.integers(1, 5)),
            sides,
            channels,
            features,
            size,
            int(random.integers(1, 4)),
            groups,
            dilation,
            *flags,
        )


def check_conv(case, seed, dtype="float32"):
    batch, (height, width), channels, features, size, stride, groups, dilation, bias, relu, adds = case
    random = np.random.default_rng(seed)
    x = random.standard_normal((batch, height, width, channels), np.float32)
    kernel = random.standard_normal((size, size, channels // groups, features), np.float32)
    pad = size // 2 * dilation
    terms = random.standard_normal(features, np.float32) if bias else None

    def expected(x):
        y = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), ((pad, pad),) * 2, rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip
        y = y if terms is None else y + terms
        y = y + y if adds else y
        return jnp.maximum(y, 0.0) if relu else y

    reference = np.asarray(expected(x))
    shape = reference.shape
    options = {
        "kernel": kernel, "bias": terms, "window": (size, size), "strides": (stride, stride),
        "padding": ((pad, pad), (pad, pad)), "dilation": dilation, "groups": groups,
    }  # fmt: skip
    operations = [Operation("input", (), x.shape), Operation("conv", (0,), shape, **options)]
    if adds:
        operations.append(Operation("conv", (0,), shape, **options, added=1, activated=relu))
    else:
        operations[1].activated = relu
    place = len(operations) - 1
    operations.append(Operation("mean", (place,), (batch, 1, 1, features), window=shape[1:3]))
    answer = ReadyNetwork(operations, dtype)(x)
    atol = {"float32": 2e-5, "bfloat16": 2e-2}[dtype] * max(np.abs(reference).max(), 1e-3)
    np.testing.assert_allclose(answer, reference.mean(axis=(1, 2)), rtol=0, atol=atol, err_msg=str(case))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_convolutions_of_any_shape_stride_group_and_dilation(dtype):
    for seed, case in enumerate(conv_cases(40, seed=0)):
        check_conv(case, seed, dtype)


@pytest.mark.slow
def test_three_hundred_convolutions():
    for seed, case in enumerate(conv_cases(300, seed=1)):
        check_conv(case, seed, "bfloat16" if seed % 2 and COMPUTES_BFLOAT16 else "float32")


@pytest.mark.slow
def test_every_listed_network_is_ready_or_left_as_it_is():
    ready = 0
    for name in list_models():
        num_stages = len(create_model(name).stage_sizes)
        try:  # one block a stage, narrow: whole, they take an hour
            model, variables = made(name, {"stage_sizes": (1,) * num_stages, "num_filters": 16, "num_classes": 10})
        except ValueError:
            continue  # a pruned network has its own widths
        inputs = images(1, 32 if default_image_size(name) == 32 else 64)
        try:
            network = make_ready(model, variables, inputs.shape)
        except UnknownOperationError:
            continue
        assert difference(network(inputs), folded_answer(model, variables, inputs)) < 2e-5, name
        ready += 1
    assert ready >= 80


def test_two_networks_of_equal_shapes_keep_their_own_weights():
    model, variables = made("resnet18", TINY)
    others = jax.tree.map(lambda leaf: leaf * np.float32(0.5), variables)
    inputs = images(2, 32)
    applies = [ready_apply(model, one, num_devices=1) for one in (variables, others)]
    answers = [np.asarray(jax.jit(lambda given, x, f=f: f(given, x, train=False))({}, inputs)) for f in applies]
    for answer, one in zip(answers, (variables, others), strict=True):
        assert difference(answer, folded_answer(model, one, inputs)) < 1e-5
    assert difference(answers[0], answers[1]) > 1e-2


def test_a_networks_memory_goes_with_its_function():
    model, variables = made("resnet18", TINY)
    gc.collect()
    held = {*xla_ffi._held}
    state = create_train_state(model, variables, optax.identity())
    batch = {"image": np.zeros((2, 32, 32, 3), np.uint8), "label": np.zeros(2, np.int32)}
    normalization, mesh = Normalization(np.full(3, 0.5), np.ones(3)), make_mesh(jax.devices()[:1])

    def answer():
        apply = ready_apply(model, variables, num_devices=1)
        result = jit_per_example_eval_step(normalization, "float32", mesh, apply)(state, batch)
        assert len({*xla_ffi._held} - held) == 1
        return np.asarray(result["rows"]["loss"])

    first = answer()
    gc.collect()
    assert {*xla_ffi._held} <= held
    np.testing.assert_array_equal(answer(), first)


def test_threads_may_call_it_at_once():
    model, variables = made("resnet18", TINY)
    network = make_ready(model, variables, (2, 32, 32, 3))
    inputs = [images(2, 32, seed) for seed in range(12)]
    alone = [network(one) for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(network, inputs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_program_calls_one_network():
    model, variables = made("resnet18", TINY)
    apply = ready_apply(model, variables, num_devices=1)
    step = jax.jit(lambda given, x: apply(given, x, train=False))
    text = step.lower(variables, images(2, 32)).as_text()
    assert text.count("custom_call @resnet_jax_ready_float32_") == 1
    assert "convolution" not in text
    split = ready_apply(model, variables, num_devices=2)
    text = jax.jit(lambda given, x: split(given, x, train=False)).lower(variables, images(2, 32)).as_text()
    assert "resnet_jax_ready" not in text
    xla = ready_apply(model.clone(conv_impl="xla"), variables, num_devices=1)
    text = jax.jit(lambda given, x: xla(given, x, train=False)).lower(variables, images(2, 32)).as_text()
    assert "resnet_jax_ready" not in text


def test_images_of_another_shape_are_refused_before_anything_is_read():
    model, variables = made("resnet18", TINY)
    network = make_ready(model, variables, (2, 32, 32, 3))
    with pytest.raises(ValueError, match=r"images\.shape=\(1, 32, 32, 3\) must be \(2, 32, 32, 3\)"):
        network(images(1, 32))
    with pytest.raises(ValueError, match="cannot be trained"):
        ready_apply(model, variables, num_devices=1)(variables, images(2, 32), train=True)


def test_sums_and_activations_are_within_convolutions():
    model, variables = made("resnet50", TINY)
    operations = trace(lambda x: model.apply(variables, x, train=False), (1, 32, 32, 3))
    kinds = [operation.kind for operation in operations]
    assert kinds.count("conv") == 1 + 3 * 3 + 2 + 1  # stem, three blocks, two projections, head
    assert {*kinds} == {"input", "conv", "max_pool", "mean"}
    assert sum(operation.added is not None for operation in operations) == 3
    assert sum(operation.activated for operation in operations) == 1 + 3 * 3
