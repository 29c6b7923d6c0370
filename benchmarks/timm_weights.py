"""Lists every set of weights that timm publishes for its resnet.py and resnetv2.py, and whether it fits our networks.

    python benchmarks/timm_weights.py > docs/timm_weights.md      # needs torch, torchvision and timm; downloads nothing

Each set's config becomes our network and preprocessing as if it came from the hub. The network fits if timm's network
with as many classes has tensors of exactly the same names and shapes; the preprocessing, if timm's own transform gives
the same pixels of a photograph.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from resnet_jax.data.transforms.preprocess import Preprocess, height_and_width
from resnet_jax.models.shapes import variable_shapes
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.names import layout_names, torch_shapes
from resnet_jax.weights.timm_config import read_timm_config

PHOTO = Path(__file__).parent.parent / "tests" / "golden" / "china.jpg"
MODULES = ("resnet", "resnetv2")
HEAD = """# Sets of timm weights that you can load

Load one of these sets from the hub with `load_pretrained("timm/NAME.SET")`.

timm {timm} publishes {total} sets of weights for the networks of its `resnet.py` and `resnetv2.py`. For {fitting} of
them, our network has tensors of the same names and shapes as timm's. For {same} of them, our preprocessing gives timm's
pixels at its test size.

`benchmarks/timm_weights.py` makes this page. It downloads no weights.
[The logits of the networks](weights.md#timms-networks) are compared elsewhere.

| network | sets (number of classes unless 1,000; resize, crop; filter) | tensors |
|---|---|---|
"""


def published() -> list[str]:
    """Returns the names with tags, as "resnet50.a1_in1k", of all sets of weights."""
    return [name for module in MODULES for name in timm.list_models(module=module, pretrained=True)]


def our_shapes(info: WeightsInfo) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of our network's tensors by timm's names."""
    model = info.create_model()
    shapes = torch_shapes(variable_shapes(model))
    names = layout_names("timm", model, shapes)
    found = {names[name]: shape for name, (_, shape) in shapes.items()}
    if model.preact and model.num_classes:
        found["head.fc.weight"] = (*found["head.fc.weight"], 1, 1)  # timm's head is a convolution
    return found


def timm_shapes(architecture: str, num_classes: int | None) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of timm's tensors by name, without its counters; nothing of it is in memory."""
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=num_classes or 0)
    return {name: tuple(v.shape) for name, v in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def same_pixels(preprocess: Preprocess, pretrained: dict[str, Any]) -> bool:
    """Returns whether timm's transform and ours give the same pixels of a photograph."""
    config = timm.data.resolve_data_config(pretrained_cfg=pretrained, use_test_size=True)
    with Image.open(PHOTO) as photo:
        theirs = create_transform(**config, is_training=False, normalize=False)(photo.convert("RGB"))
        return np.array_equal(theirs.permute(1, 2, 0).numpy(), preprocess.pixels(photo))


def described(tag: str, info: WeightsInfo) -> str:
    """Returns a set of weights in a few words."""
    preprocess = info.preprocess
    classes = info.model_args["num_classes"]
    count = "" if classes == 1000 else f"{classes:,} classes, " if classes else "no head, "
    sizes = [height_and_width(side)[0] if side else "-" for side in (preprocess.resize, preprocess.crop)]
    return f"`{tag}` ({count}{sizes[0]}, {sizes[1]}, {preprocess.interpolation})"


def main() -> None:
    """Prints the page."""
    rows: dict[str, list[str]] = {}
    numbers: dict[str, str] = {}
    shapes: dict[tuple[str, int | None], dict[str, tuple[int, ...]]] = {}
    total = fitting = same = 0
    for name in published():
        architecture, _, tag = name.partition(".")
        pretrained = json.loads(json.dumps(timm.models.get_pretrained_cfg(name).to_dict()))
        config = {"architecture": architecture, "num_classes": pretrained["num_classes"], "pretrained_cfg": pretrained}
        info = read_timm_config(name, config)
        key = (architecture, info.model_args["num_classes"])
        if key not in shapes:
            shapes[key] = timm_shapes(*key)
        fits, prepared = our_shapes(info) == shapes[key], same_pixels(info.preprocess, pretrained)
        total, fitting, same = total + 1, fitting + fits, same + prepared
        flaws = "" if fits and prepared else f" **{'images' if fits else 'tensors'} differ**"
        rows.setdefault(architecture, []).append(described(tag, info) + flaws)
        numbers[architecture] = str(len(shapes[key]))
    print(HEAD.format(timm=timm.__version__, total=total, fitting=fitting, same=same), end="")
    for architecture, sets in rows.items():
        print(f"| `{architecture}` | {', '.join(sets)} | {numbers[architecture]} |")


if __name__ == "__main__":
    main()
