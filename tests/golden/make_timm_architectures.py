"""Makes timm-architectures.json: of every network in timm's resnet.py and resnetv2.py, its tensors by the real timm.

    python tests/golden/make_timm_architectures.py      # needs timm

Of each the number of parameters, and the SHA-256 of its tensors' names and shapes, a line "name (1, 2)" each, sorted.
"""

import hashlib
import json
from pathlib import Path

import timm
import torch


def describe(network):
    state = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    lines = sorted(f"{name} {shape}" for name, shape in state.items() if not name.endswith("num_batches_tracked"))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": parameters, "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


if __name__ == "__main__":
    with torch.device("meta"):
        networks = {
            name: describe(timm.create_model(name))
            for module in ("resnet", "resnetv2")
            for name in timm.list_models(module=module)
        }
    facts = {"timm": timm.__version__, "networks": networks}
    Path(__file__).with_name("timm-architectures.json").write_text(json.dumps(facts, indent=1) + "\n")
