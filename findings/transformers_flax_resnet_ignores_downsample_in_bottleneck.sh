#!/usr/bin/env bash
# transformers' Flax ResNet ignores the field `downsample_in_bottleneck` of its config. In torch that field moves the
# stride of a bottleneck from the 3x3 convolution to the first 1x1, as in the paper; in Flax it stays in the 3x3. So
# one config with one set of weights, loaded by `from_pretrained(..., from_pt=True)` without a warning, gives other
# logits. With the field False, its default, the two agree to rounding.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "transformers==4.40.2" "torch==2.2.2" "jax==0.4.28" "jaxlib==0.4.28" "flax==0.8.3" "numpy==1.26.4" "scipy==1.12.0"

cat > "$folder/compare.py" <<'END_OF_PROGRAM'
import tempfile

import numpy as np
import torch
import transformers
from transformers import FlaxResNetForImageClassification, ResNetConfig, ResNetForImageClassification

transformers.logging.set_verbosity_error()
print("transformers", transformers.__version__)
images = np.random.RandomState(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
differences = {}
for value in (False, True):
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[32, 64], depths=[1, 1], num_labels=5, downsample_in_bottleneck=value
    )
    network = ResNetForImageClassification(config).eval()
    with tempfile.TemporaryDirectory() as saved, torch.no_grad():
        network.save_pretrained(saved)
        expected = network(torch.from_numpy(images)).logits.numpy()
        in_flax = FlaxResNetForImageClassification.from_pretrained(saved, from_pt=True)
        assert in_flax.config.downsample_in_bottleneck is value
        differences[value] = np.abs(np.asarray(in_flax(images).logits) - expected).max() / np.abs(expected).max()
    print(f"downsample_in_bottleneck={value}: largest difference {differences[value]:.1e} of the largest logit")
assert differences[False] < 1e-5
assert differences[True] > 1e-3, "Flax's network follows the field now"
END_OF_PROGRAM
"$folder/venv/bin/python" "$folder/compare.py"
