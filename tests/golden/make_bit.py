"""Makes bit.json and bit.npz: logits of a small BiT network that the real timm loaded from an .npz.

    python tests/golden/make_bit.py      # needs timm

The archive's arrays are those of weights.py by their own names and shapes, the images its two of 64 pixels.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from timm.layers import GroupNormAct, StdConv2d
from timm.models import resnetv2

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

import weights  # noqa: E402


def archive_names(network):
    """{name in Big Transfer's archive: shape} of timm's network."""
    names = {}
    for key, value in network.state_dict().items():
        shape = tuple(value.shape)
        *modules, leaf = key.split(".")
        if len(shape) == 4:
            shape, leaf = (*shape[2:], shape[1], shape[0]), "kernel"
        else:
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        match modules:
            case ["stem", "conv"]:
                module = "root_block/standardized_conv2d"
            case ["norm"]:
                module = "group_norm"
            case ["head", "fc"]:
                module, leaf = "head/conv2d", "kernel" if leaf == "kernel" else "bias"
            case ["stages", stage, "blocks", block, *inner]:
                unit = f"block{int(stage) + 1}/unit{int(block) + 1:02d}"
                kind = "group_norm" if inner[0].startswith("norm") else "standardized_conv2d"
                part = "a/proj" if inner[0] == "downsample" else "abc"[int(inner[0][-1]) - 1]
                module = f"{unit}/{part}/{kind}"
        names[f"resnet/{module}/{leaf}"] = shape
    return names


if __name__ == "__main__":
    network = resnetv2.ResNetV2(
        layers=(2, 1), channels=(128, 256), stem_chs=32, num_classes=7, norm_layer=GroupNormAct, stem_type="fixed",
        conv_layer=lambda *args, **options: StdConv2d(*args, eps=1e-8, **options),
    ).double().eval()  # fmt: skip
    names = archive_names(network)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/BiT.npz"
        np.savez(path, **{name: weights.tensor(name, shape) for name, shape in names.items()})
        network.load_pretrained(path)
    with torch.no_grad():
        logits = network(torch.from_numpy(weights.images(2, 64))).numpy()
    np.savez_compressed(HERE / "bit.npz", logits=logits)
    facts = {"timm": timm.__version__, "batch": 2, "image_size": 64, "seed": 0, "names": names}
    (HERE / "bit.json").write_text(json.dumps(facts, separators=(",", ":")) + "\n")
