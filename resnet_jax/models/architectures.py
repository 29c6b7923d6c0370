"""The arguments of every listed network, by family and name; timm's names where timm has the network."""

from typing import Any

Arguments = dict[str, Any]

STAGES: dict[int, Arguments] = {
    18: {"stage_sizes": (2, 2, 2, 2), "block_cls": "basic"},
    26: {"stage_sizes": (2, 2, 2, 2), "block_cls": "bottleneck"},
    34: {"stage_sizes": (3, 4, 6, 3), "block_cls": "basic"},
    50: {"stage_sizes": (3, 4, 6, 3), "block_cls": "bottleneck"},
    101: {"stage_sizes": (3, 4, 23, 3), "block_cls": "bottleneck"},
    152: {"stage_sizes": (3, 8, 36, 3), "block_cls": "bottleneck"},
    10: {"stage_sizes": (1, 1, 1, 1), "block_cls": "basic"},
    14: {"stage_sizes": (1, 1, 1, 1), "block_cls": "bottleneck"},
    200: {"stage_sizes": (3, 24, 36, 3), "block_cls": "bottleneck"},
    269: {"stage_sizes": (3, 30, 48, 8), "block_cls": "bottleneck"},
}
# The meaning of a letter behind the depth (arXiv:1812.01187 and its ports): the stem, and pooling before projections.
_LETTERS: dict[str, Arguments] = {
    "": {},
    "c": {"stem": "deep"},
    "d": {"stem": "deep", "shortcut": "D"},
    "s": {"stem": "deep", "stem_filters": 128},
    "t": {"stem": "deep_tiered", "shortcut": "D"},
}
_SE: Arguments = {"squeeze_excite": True}
_ECA: Arguments = {"channel_attention": True}


def _imagenet(prefix: str, depths: str, suffix: str = "", **arguments: Any) -> dict[str, Arguments]:
    """Returns networks of four stages; depths: "18 34d", numbers of STAGES with a letter of _LETTERS or none."""
    found = {}
    for depth in depths.split():
        letter = depth.lstrip("0123456789")
        stages = STAGES[int(depth.removesuffix(letter))]
        found[f"{prefix}{depth}{suffix}"] = {**stages, **_LETTERS[letter], **arguments}
    return found


def _resnext(prefix: str, depths: str, groups: int, width: int, **arguments: Any) -> dict[str, Arguments]:
    return _imagenet(prefix, depths, f"_{groups}x{width}d", groups=groups, width_per_group=width, **arguments)


def _v2(depths: str, suffix: str = "", **arguments: Any) -> dict[str, Arguments]:
    found = _imagenet("resnetv2_", depths, suffix, **arguments)
    return {name: {**one, "block_cls": f"preact_{one['block_cls']}"} for name, one in found.items()}


def _bit(depth: int, width: int) -> dict[str, Arguments]:
    """Returns the network of Big Transfer of this depth, `width` times as wide."""
    bit = {"norm_layer": "group", "weight_standardization": True, "stem_pool": "zero_padded_max"}
    return _v2(str(depth), f"x{width}_bit", num_filters=64 * width, **bit)


def _cifar(depth: int, block_cls: str = "basic", **arguments: Any) -> Arguments:
    """Returns the paper's network for 32x32 images (section 4.2): three stages of 16/32/64 filters, option A shortcuts.

    6n+2 layers, with bottlenecks 9n+2.
    """
    num_blocks = (depth - 2) // (9 if "bottleneck" in block_cls else 6)
    family = {"stage_sizes": (num_blocks,) * 3, "num_filters": 16, "stem": "cifar", "shortcut": "A", "num_classes": 10}
    return {**family, "block_cls": block_cls, **arguments}


def _wide(depth: int, widen_factor: int) -> Arguments:
    """Returns the Wide ResNet for 32x32 images: 6n+4 layers, of which the stem and the three projections are not in
    the blocks.
    """
    wide = {"widen_factor": widen_factor, "dropout_in": "block", "shortcut": "B"}
    return _cifar(depth - 2, "preact_basic", **wide)


def _pruned(*stages: tuple[int, str]) -> Arguments:
    """Returns the widths of a pruned network; stages: their outputs, and the inner widths of each block's two."""
    widths = []
    for features, inner in stages:
        numbers = [*map(int, inner.split())]
        widths += [(first, second, features) for first, second in zip(numbers[::2], numbers[1::2], strict=True)]
    return {"block_widths": tuple(widths)}


# By network pruning as timm ships them (arXiv:2002.08258).
_PRUNED_50 = _pruned(
    (19, "47 18 52 22 64 35"),
    (171, "85 37 107 80 120 85 125 87"),
    (818, "198 126 255 232 256 233 253 235 256 225 256 239"),
    (2022, "492 237 512 500 512 490"),
)
_PRUNED_101 = _pruned(
    (26, "45 25 53 20 60 27"),
    (142, "81 24 93 49 102 54 122 78"),
    (
        278,
        "101 25 239 160 234 156 250 176 253 191 251 175 230 128 244 154 244 159 238 97 244 149 253 181 245 119 255 216 "
        "256 201 253 149 254 141 256 190 256 217 255 156 256 155 256 232 256 214",
    ),
    (2042, "499 289 512 512 512 502"),
)
_RS = {"stem": "deep", "stem_pool": "conv", "shortcut": "D", "squeeze_excite": True, "squeeze_excite_ratio": 0.25}
_RS_STAGES = {
    **{depth: STAGES[depth]["stage_sizes"] for depth in (50, 101, 152, 200)},
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}

FAMILIES: dict[str, dict[str, Arguments]] = {
    "ResNet (arXiv:1512.03385; bottlenecks v1.5)": _imagenet("resnet", "18 26 34 50 101 152 200"),
    "ResNeXt (arXiv:1611.05431)": {
        **_resnext("resnext", "50", 32, 4),
        **_resnext("resnext", "101", 32, 8),
        **_resnext("resnext", "101", 64, 4),
        **_resnext("resnext", "50d 101", 32, 4),
        **_resnext("resnext", "101", 32, 16),
        **_resnext("resnext", "101", 32, 32),
    },
    "Wide ResNet (arXiv:1605.07146)": _imagenet("wide_resnet", "50 101", "_2", width_per_group=128),
    "ResNet-C, -D, -S, -T: other stems and projections (arXiv:1812.01187)": {
        **_imagenet("resnet", "18d 26d 34d 50d 101d 152d 200d 50c 101c 152c 50s 101s 152s 10t 14t 26t 50t"),
        "test_resnet": {
            "stage_sizes": (1, 1, 1, 1),
            "block_cls": ("basic", "basic", "bottleneck", "basic"),
            "num_filters": 32,
            "stage_filters": (32, 48, 48, 96),
            **_LETTERS["d"],
        },
    },
    "Squeeze-and-excitation (arXiv:1709.01507)": {
        **_imagenet("seresnet", "18 34 50 101 152 50t 152d 200d 269d", **_SE),
        **_resnext("seresnext", "26d 26t 50 101", 32, 4, **_SE),
        **_resnext("seresnext", "101 101d", 32, 8, **_SE),
        **_resnext("seresnext", "101", 64, 4, **_SE),
        "senet154": {
            **STAGES[152], **_LETTERS["s"], **_SE, "groups": 64, "width_per_group": 4, "reduce_first": 2,
            "shortcut_kernel_size": 3,
        },
    },
    "Efficient channel attention (arXiv:1910.03151)": {
        **_imagenet("ecaresnet", "26t 50d 50t 101d 200d 269d", **_ECA),
        **_resnext("ecaresnext", "26t 50t", 32, 4, **_ECA),
        **_imagenet("ecaresnet", "50d", "_pruned", **_ECA, **_PRUNED_50),
        **_imagenet("ecaresnet", "101d", "_pruned", **_ECA, **_PRUNED_101),
        "ecaresnetlight": {"stage_sizes": (1, 1, 11, 3), "block_cls": "bottleneck", "shortcut": "D", **_ECA},
    },
    "Anti-aliased: strides are pooled (arXiv:1904.11486)": {
        **_imagenet("resnetblur", "18 50 50d 101d", anti_alias="blur"),
        **_imagenet("resnetaa", "34d 50 50d 101d", anti_alias="average"),
        **_imagenet("seresnetaa", "50d", anti_alias="average", **_SE),
        **_resnext("seresnextaa", "101d", 32, 8, anti_alias="average", **_SE),
        "seresnextaa201d_32x8d": {
            "stage_sizes": (3, 24, 36, 4), "block_cls": "bottleneck", **_LETTERS["d"], "stem_filters": 128,
            "groups": 32, "width_per_group": 8, "anti_alias": "average", **_SE,
        },
    },
    "ResNet-RS (arXiv:2103.07579)": {
        f"resnetrs{depth}": {"stage_sizes": sizes, "block_cls": "bottleneck", **_RS}
        for depth, sizes in _RS_STAGES.items()
    },
    "Group norm (arXiv:1803.08494)": _imagenet("resnet", "50", "_gn", norm_layer="group"),
    "Pre-activation, v2 (arXiv:1603.05027)": {
        **_v2("50 101 152 18 34 18d 34d 50d 101d 152d 50t"),
        **_v2("50d", "_gn", norm_layer="group"),
        **_v2("50d", "_evos", norm_layer="evonorm_s0"),
        **_v2("50d", "_frn", norm_layer="frn"),
    },
    "Big Transfer, BiT (arXiv:1912.11370)": {
        name: arguments
        for depth, width in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
        for name, arguments in _bit(depth, width).items()
    },
    "For 32x32 images (arXiv:1512.03385, section 4.2)": {
        f"resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110, 1202)
    },
    # Projections where shapes differ, as in the authors' code.
    "For 32x32 images, pre-activation (arXiv:1603.05027)": {
        **{f"preact_resnet{depth}": _cifar(depth, "preact_basic", shortcut="B") for depth in (20, 56, 110)},
        **{f"preact_resnet{depth}": _cifar(depth, "preact_bottleneck", shortcut="B") for depth in (164, 1001)},
    },
    # Dropout acts inside the blocks.
    "For 32x32 images, wide (arXiv:1605.07146)": {
        f"wrn{depth}_{factor}": _wide(depth, factor) for depth, factor in ((16, 8), (28, 10), (40, 4))
    },
    "For 32x32 images, ImageNet's stages behind a 3x3 stem, as tutorials have it": {
        f"cifar_resnet{depth}": {**STAGES[depth], "stem": "cifar", "num_classes": 10} for depth in (18, 34, 50)
    },
    "Plain networks, which show the degradation problem (arXiv:1512.03385)": {
        **{f"plain{depth}": {**STAGES[depth], "shortcut": "none"} for depth in (18, 34)},
        **{f"plain{depth}": _cifar(depth, shortcut="none") for depth in (20, 32, 44, 56)},
    },
}  # fmt: skip

VARIANTS: dict[str, Arguments] = {name: one for family in FAMILIES.values() for name, one in family.items()}
