"""Makes timm-stems.npz: logits of timm's networks for images of other than three channels, by the real timm.

    python tests/golden/make_stems.py      # needs timm and safetensors

The weights of weights.py for three channels are written to a file, from which timm loads them with in_chans=C.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

import weights  # noqa: E402

FACTS = {
    "models": ["resnet18", "resnet18d"], "in_chans": [1, 2, 4, 6], "num_classes": 10, "batch": 2, "image_size": 48,
    "seed": 0, "images": "RandomState(1000 + seed).standard_normal((batch, in_chans, image_size, image_size))",
    "timm": timm.__version__, "torch": torch.__version__,
}  # fmt: skip


def main():
    logits = {}
    for name in FACTS["models"]:
        network = timm.create_model(name, num_classes=FACTS["num_classes"])
        state = {
            key: torch.from_numpy(np.asarray(weights.tensor(key, tuple(tensor.shape), FACTS["seed"]))).to(tensor.dtype)
            for key, tensor in network.state_dict().items()
        }
        for channels in FACTS["in_chans"]:
            with tempfile.TemporaryDirectory() as folder:
                path = f"{folder}/model.safetensors"
                save_file(state, path)
                adapted = timm.create_model(
                    name, pretrained=True, pretrained_cfg_overlay={"file": path, "num_classes": FACTS["num_classes"]},
                    in_chans=channels, num_classes=FACTS["num_classes"],
                )  # fmt: skip
            shape = (FACTS["batch"], channels, FACTS["image_size"], FACTS["image_size"])
            images = np.random.RandomState(1000 + FACTS["seed"]).standard_normal(shape)
            with torch.no_grad():
                logits[f"{name}/{channels}"] = adapted.double().eval()(torch.from_numpy(images)).numpy()
    np.savez_compressed(HERE / "timm-stems.npz", **logits)
    (HERE / "timm-stems.json").write_text(json.dumps(FACTS, indent=1) + "\n")


if __name__ == "__main__":
    main()
