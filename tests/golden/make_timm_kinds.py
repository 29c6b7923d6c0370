"""Makes timm-kinds.npz and .json: logits of small networks, one of each kind of layer, by the real timm in float64.

    python tests/golden/make_timm_kinds.py      # needs timm

The weights are those of weights.py by timm's names, the images its two of 64 pixels.
"""

import json
from pathlib import Path

import numpy as np
import timm
import torch
import weights
from timm.layers import (
    BatchNormAct2d,
    BlurPool2d,
    EvoNorm2dS0,
    FilterResponseNormTlu2d,
    GroupNormAct,
    StdConv2d,
    create_conv2d,
)  # fmt: skip
from timm.models import resnet, resnetv2
from torch import nn

SMALL = {"layers": (1, 1, 2, 1), "num_classes": 7}
BOTTLENECK = {"block": resnet.Bottleneck, **SMALL}
BASIC = {"block": resnet.BasicBlock, **SMALL}
V2 = {**SMALL, "conv_layer": create_conv2d}
NETWORKS = {
    "senet": resnet.ResNet(
        **BOTTLENECK, cardinality=16, base_width=8, stem_width=32, stem_type="deep", down_kernel_size=3,
        block_reduce_first=2, block_args={"attn_layer": "se"},
    ),
    "blur_with_convolution_for_pooling": resnet.ResNet(**BASIC, aa_layer=BlurPool2d, replace_stem_pool=True),
    "average_for_stride_d": resnet.ResNet(
        **BOTTLENECK, stem_width=32, stem_type="deep_tiered", avg_down=True, aa_layer=nn.AvgPool2d
    ),
    "efficient_channel_attention": resnet.ResNet(**BASIC, block_args={"attn_layer": "eca"}),
    "silu": resnet.ResNet(**BASIC, act_layer=nn.SiLU),
    "gelu": resnet.ResNet(**BOTTLENECK, act_layer="gelu"),
    "group_norm": resnet.ResNet(**BASIC, norm_layer="groupnorm"),
    "mixed_blocks": resnet.ResNet(
        block=[resnet.BasicBlock, resnet.BasicBlock, resnet.Bottleneck, resnet.BasicBlock], **SMALL, stem_width=16,
        stem_type="deep", avg_down=True, channels=(32, 48, 48, 96),
    ),
    "v2_evonorm": resnetv2.ResNetV2(**V2, norm_layer=EvoNorm2dS0, stem_type="deep", avg_down=True),
    "v2_frn": resnetv2.ResNetV2(**V2, norm_layer=FilterResponseNormTlu2d, stem_type="deep", avg_down=True),
    "v2_tiered": resnetv2.ResNetV2(**V2, norm_layer=BatchNormAct2d, stem_type="tiered", avg_down=True),
    "v2_bit_wide": resnetv2.ResNetV2(
        **SMALL, norm_layer=GroupNormAct, conv_layer=lambda *a, **k: StdConv2d(*a, eps=1e-8, **k), stem_type="fixed",
        width_factor=2,
    ),
}  # fmt: skip

if __name__ == "__main__":
    torch.Tensor.float = lambda tensor: tensor  # EvoNorm and filter response norm compute a part in float32 otherwise
    logits, facts = {}, {"timm": timm.__version__, "torch": torch.__version__, "networks": {}}
    images = torch.from_numpy(weights.images(2, 64))
    for name, network in NETWORKS.items():
        network.double().eval()
        state = network.state_dict()
        for key, tensor in state.items():
            tensor.copy_(torch.from_numpy(np.asarray(weights.tensor(key, tuple(tensor.shape)))))
        with torch.no_grad():
            logits[name] = network(images).numpy()
        facts["networks"][name] = {key: list(tensor.shape) for key, tensor in state.items()}
    here = Path(__file__).parent
    np.savez_compressed(here / "timm-kinds.npz", **logits)
    text = json.dumps(facts, indent=None, separators=(",", ":"))
    (here / "timm-kinds.json").write_text(text + "\n")
