"""Every family's logits against the real torchvision, timm and transformers, from weights under their names."""

import golden_files
import jax
import numpy as np
import pytest
from golden import weights

from resnet_jax import create_model, load_weights
from resnet_jax.weights.safetensors_file import write_safetensors

NETWORKS = {
    "torchvision-resnet18": ("resnet18", {}),
    "torchvision-resnet34": ("resnet34", {}),
    "torchvision-resnet50": ("resnet50", {}),
    "torchvision-resnet101": ("resnet101", {}),
    "torchvision-resnext50_32x4d": ("resnext50_32x4d", {}),
    "torchvision-wide_resnet50_2": ("wide_resnet50_2", {}),
    "timm-resnet50d": ("resnet50d", {}),
    "timm-seresnet50": ("seresnet50", {}),
    "timm-resnetv2_50": ("resnetv2_50", {}),
    **{
        f"timm-{name}": (name, {})
        for name in (
            "resnet10t", "resnet50s", "resnet50_gn", "resnetaa50", "resnetblur50", "resnetrs50", "ecaresnet50t",
            "seresnext26d_32x4d", "resnetv2_18d", "resnetv2_50d_gn", "resnetv2_50x1_bit",
        )
    },
    "hf-resnet-18": ("resnet18", {}),
    "hf-resnet-50": ("resnet50", {}),
    "hf-resnet-50-v1": ("resnet50", {"stride_in": "1x1"}),  # downsample_in_bottleneck
}  # fmt: skip

# One of each kind of block: the others are slow, and float32 is of these alone.
FAMILIES = [
    "timm-resnet50_gn", "timm-resnetblur50", "timm-resnetrs50", "timm-ecaresnet50t", "timm-resnetv2_50x1_bit",
    "torchvision-resnet18", "torchvision-resnext50_32x4d", "timm-resnet50d", "timm-seresnet50", "timm-resnetv2_50",
    "hf-resnet-50-v1",
]  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def golden(request, tmp_path_factory):
    """The facts, the reference values, and a file of the weights by the names of the framework they come from."""
    facts, arrays = golden_files.load(request.param)
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.safetensors"
    tensors = {name: weights.tensor(name, tuple(shape)) for name, shape in facts["state_dict"].items()}
    write_safetensors(path, tensors, {})
    name, arguments = NETWORKS[request.param]
    yield facts, arrays, path, name, arguments
    path.unlink()


def applied(golden, dtype, **options):
    """Return the variables and the jitted model's result for the golden images with the golden weights."""
    facts, _, path, name, arguments = golden
    model = create_model(name, dtype=dtype, **arguments)
    variables = load_weights(path, model)
    images = golden_files.images(facts, dtype)
    return variables, jax.jit(lambda v, x: model.apply(v, x, train=False, **options))(variables, images)


def test_float64_logits_and_stage_means_are_the_frameworks_own(golden):
    _, arrays, *_ = golden
    with jax.enable_x64(True):
        variables, stages = applied(golden, "float64", features=True)
        head = variables["params"]["fc"]
        logits = stages["pooled"] @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-9)
        for i in range(1, 5):
            if f"layer{i}_mean" in arrays:
                mean = stages[f"stage{i}"].mean((1, 2))
                np.testing.assert_allclose(mean, arrays[f"layer{i}_mean"], rtol=0, atol=1e-9)


@pytest.mark.numerics
@pytest.mark.parametrize("golden", FAMILIES, indirect=True)
def test_float32_error_is_like_the_frameworks_own(golden):
    facts, arrays, *_ = golden
    _, logits = applied(golden, "float32")
    assert np.abs(np.asarray(logits, np.float64) - arrays["logits"]).max() <= 5 * facts["torch_float32_max_error"]
