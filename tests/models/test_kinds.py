"""Each kind of layer that a residual network may have, against the real timm's logits in float64."""

import re

import golden_files
import jax
import numpy as np
import pytest
from golden import weights

from resnet_jax import create_model, load_weights
from resnet_jax.errors import UserError
from resnet_jax.models import BasicBlock, BottleneckBlock, fold_batch_norm
from resnet_jax.models.layers import Conv
from resnet_jax.weights.safetensors_file import write_safetensors

SMALL = {"stage_sizes": (1, 1, 2, 1), "num_classes": 7}
DEEP = {"stem": "deep", "shortcut": "D"}
V2 = {**SMALL, "block_cls": "preact_bottleneck"}
NETWORKS = {
    "senet": {
        "block_cls": "bottleneck", "groups": 16, "width_per_group": 8, "stem": "deep", "shortcut_kernel_size": 3,
        "reduce_first": 2, "squeeze_excite": True,
    },
    "blur_with_convolution_for_pooling": {"anti_alias": "blur", "stem_pool": "conv"},
    "average_for_stride_d": {
        "block_cls": "bottleneck", "stem": "deep_tiered", "shortcut": "D", "anti_alias": "average",
    },
    "efficient_channel_attention": {"channel_attention": True},
    "silu": {"activation": "silu"},
    "gelu": {"block_cls": "bottleneck", "activation": "gelu"},
    "group_norm": {"norm_layer": "group"},
    "mixed_blocks": {
        "block_cls": ("basic", "basic", "bottleneck", "basic"), "num_filters": 32, "stage_filters": (32, 48, 48, 96),
        **DEEP,
    },
    "v2_evonorm": {**V2, **DEEP, "norm_layer": "evonorm_s0"},
    "v2_frn": {**V2, **DEEP, "norm_layer": "frn"},
    "v2_tiered": {**V2, "stem": "deep_tiered", "shortcut": "D"},
    "v2_bit_wide": {
        **V2, "num_filters": 128, "norm_layer": "group", "weight_standardization": True, "stem_pool": "zero_padded_max",
    },
}  # fmt: skip
FACTS, LOGITS = golden_files.load("timm-kinds")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "v2_bit_wide" else ()) for kind in NETWORKS]
)
def test_logits_are_timms(kind, tmp_path):
    shapes = FACTS["networks"][kind]
    tensors = {name: weights.tensor(name, tuple(shape)) for name, shape in shapes.items()}
    write_safetensors(tmp_path / "w.safetensors", tensors, {})
    images = weights.images(2, 64).transpose(0, 2, 3, 1)
    with jax.enable_x64(True):
        model = create_model("resnet18", dtype="float64", **{**SMALL, **NETWORKS[kind]})
        variables = load_weights(tmp_path / "w.safetensors", model)
        logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
        np.testing.assert_allclose(logits, LOGITS[kind], rtol=0, atol=1e-9)
        folded, folded_variables = fold_batch_norm(model, variables)
        again = jax.jit(lambda v, x: folded.apply(v, x, train=False))(folded_variables, images)
        np.testing.assert_allclose(again, LOGITS[kind], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in ("senet", "v2_evonorm") else pytest.mark.slow) for kind in NETWORKS],
)
def test_every_parameter_is_trained_unless_it_is_frozen(kind):
    smaller = {"stage_sizes": (1, 1), "num_filters": 32}
    if kind == "mixed_blocks":
        smaller |= {"block_cls": ("basic", "bottleneck"), "stage_filters": (32, 48)}
    if kind in ("average_for_stride_d", "v2_evonorm"):
        smaller["num_filters"] = 64
    model = create_model("resnet18", **{**SMALL, **NETWORKS[kind], **smaller})
    images = np.random.RandomState(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return (logits * np.arange(1.0, 8.0)).sum()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    still = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(gradients) if not g.any()]
    assert still == []
    model = model.clone(trainable="stage2")
    gradients = jax.jit(jax.grad(loss))(variables["params"])
    moved = {name for name, layer in gradients.items() if any(leaf.any() for leaf in jax.tree.leaves(layer))}
    assert moved == {*gradients} - {*model.frozen_layers}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"norm_layer": "group", "num_filters": 16}, "32 groups, which must divide all its channels, and here are 16"),
        ({"norm_layer": "group", "stem": "deep_tiered"}, "must divide all its channels, and here are 24"),
        ({"norm_layer": "group", "batch_norm": "frozen"}, "batch_norm='frozen' needs norm_layer='batch'"),
        ({"block_cls": ("basic", "basic")}, "one for each of 4 stages"),
        ({"block_cls": ("basic", "basic", "basic", "preact_basic")}, "all v2 or none"),
        ({"stage_filters": (64, 128)}, "for each of the 4 stages"),
        ({"block_widths": ((64, 64),)}, "block_widths must be a tuple for each of the 8 blocks"),
        ({"squeeze_excite": True, "channel_attention": True}, "two gates in one place"),
        ({"squeeze_excite_ratio": 0.0}, "squeeze_excite_ratio=0.0 must be above 0"),
        ({"stem": "deep_tiered", "stem_filters": 12}, "stem_filters=12 must be a multiple of 8"),
        ({"anti_alias": "blur", "output_stride": 16}, "needs anti_alias='none'"),
        ({"shortcut_kernel_size": 2}, "must be 1 or 3"),
        ({"norm_layer": "layer"}, "norm_layer='layer' must be one of batch, group"),
        ({"stem_filters": 0}, "stem_filters=0 must be at least 1"),
        ({"aa_layer": "blur"}, "anti_alias='average' or 'blur'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, line):
    with pytest.raises(UserError, match=line):
        create_model("resnet18", **arguments)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (BasicBlock(8, shortcut="b"), "shortcut='b' must be one of A, A_end, B, C, D, none"),
        (BottleneckBlock(8, stride_in="1*1"), "stride_in='1*1' must be one of 3x3, 1x1"),
        (BasicBlock(8, anti_alias="blurred"), "anti_alias='blurred' must be one of none, average, blur"),
        (BasicBlock(8, activation="swish"), "activation='swish' must be one of"),
        (Conv(8, padding="SAME"), "padding='SAME' must be one of torch, same"),
        (Conv(8, padding="same", stride=2, dilation=2), "padding='same' of a strided convolution needs dilation=1"),
    ],
)
def test_words_that_a_layer_does_not_know_are_refused(layer, message):
    arguments = {} if isinstance(layer, Conv) else {"train": False}
    with pytest.raises(ValueError, match=re.escape(message)):
        layer.init(jax.random.key(0), np.zeros((1, 8, 8, 8), np.float32), **arguments)


def test_widths_that_come_to_nothing_are_refused_by_the_field_that_decides():
    with pytest.raises(UserError, match=r"stage_filters=\(8, 16, 32, 64\) makes stages of 8 filters: times width_per"):
        create_model("resnet50", stage_filters=(8, 16, 32, 64), width_per_group=4)
    with pytest.raises(UserError, match="reduce_first=100 must be at most 64, the narrowest block's outputs"):
        create_model("resnet50", reduce_first=100)


def test_pooled_features_have_no_stages():
    model = create_model("resnet20")
    with pytest.raises(UserError, match="features=True needs images"):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False, features=True), np.zeros((2, 64)))
