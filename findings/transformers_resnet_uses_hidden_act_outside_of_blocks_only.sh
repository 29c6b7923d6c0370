#!/usr/bin/env bash
# transformers' ResNetConfig has `hidden_act`, an activation by name. Only the stem and the end of each block use it.
# The blocks' inner convolutions keep ReLU whatever it says. A network with `hidden_act="silu"` is therefore neither a
# ReLU nor a SiLU ResNet, and other libraries cannot rebuild it from its config.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  "transformers==5.24.0" "torch==2.14.1" "torchvision==0.29.1"

cat > "$folder/activations.py" <<'END'
from collections import Counter

import torch
import transformers
from transformers import ResNetConfig, ResNetModel

print("transformers", transformers.__version__, "torch", torch.__version__)
for layer_type, inner in (("basic", 1), ("bottleneck", 2)):
    config = ResNetConfig(
        hidden_act="silu", layer_type=layer_type, embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1]
    )
    model = ResNetModel(config)
    kinds = Counter(type(module).__name__ for name, module in model.named_modules() if name.endswith("activation"))
    print(layer_type, dict(kinds))
    # Two blocks: the inner convolutions of each, and the end of each with the stem.
    assert kinds["ReLU"] == 2 * inner, "the inner convolutions take hidden_act now"
    assert sum(count for kind, count in kinds.items() if kind.startswith(("SiLU", "Silu"))) == 3
END
"$folder/venv/bin/python" "$folder/activations.py" 2>/dev/null
