"""Makes torchvision-resnet50-dilated.npz: stages 3 and 4, or 4 alone, dilated instead of strided, in float64.

    python tests/golden/make_dilated.py      # needs torchvision

The weights are those of weights.py, the images weights.images(2, 64). For each output stride: the logits and, of each
stage, the mean over the channels at every place.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torchvision.models.resnet import resnet50

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import weights  # noqa: E402

DILATED = {8: [False, True, True], 16: [False, False, True]}


def main():
    arrays, images = {}, torch.from_numpy(weights.images(2, 64)).double()
    for output_stride, dilated in DILATED.items():
        network = resnet50(replace_stride_with_dilation=dilated).double().eval()
        for name, tensor in network.state_dict().items():
            tensor.copy_(torch.from_numpy(np.array(weights.tensor(name, tuple(tensor.shape)))))
        for i in range(1, 5):

            def keep(module, inputs, output, key=f"{output_stride}_layer{i}"):
                arrays[key] = output.mean(1).numpy()  # (B, h, w)

            getattr(network, f"layer{i}").register_forward_hook(keep)
        with torch.no_grad():
            arrays[f"{output_stride}_logits"] = network(images).numpy()
    np.savez_compressed(HERE / "torchvision-resnet50-dilated.npz", **arrays)


if __name__ == "__main__":
    main()
