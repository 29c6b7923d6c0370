#!/usr/bin/env bash
# A timm network in float64 with EvoNorm-S0 or filter response norm answers with the error of float32. Both layers
# compute their deviation, or their root mean square, through `.float()`, which is meant for half precision, and
# convert it back. A network with group norm keeps float64 throughout. So a comparison in float64 stops at 1e-7, and
# looks like a fault of the other side. With `torch.Tensor.float` made a no-op the full precision is back.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "timm==1.0.31" "torch==2.14.1" "torchvision==0.29.1" "numpy==2.3.5"

cat > "$folder/precision.py" <<'END'
import timm
import torch
from timm.layers import EvoNorm2dS0, FilterResponseNormTlu2d, GroupNormAct

print("timm", timm.__version__, "torch", torch.__version__)
torch.manual_seed(0)
x = torch.randn(2, 64, 8, 8, dtype=torch.float64)
to_float = torch.Tensor.float
differences = {}
for kind in (EvoNorm2dS0, FilterResponseNormTlu2d, GroupNormAct):
    layer = kind(64).double().eval()
    with torch.no_grad():
        given = layer(x)
        torch.Tensor.float = lambda tensor: tensor
        exact = layer(x)
        torch.Tensor.float = to_float
    assert given.dtype == exact.dtype == torch.float64
    differences[kind.__name__] = (given - exact).abs().max().item()
    print(f"{kind.__name__:24} largest difference from float64: {differences[kind.__name__]:.1e}")
assert differences["EvoNorm2dS0"] > 1e-9, "EvoNorm-S0 computes in float64 now"
assert differences["FilterResponseNormTlu2d"] > 1e-9, "filter response norm computes in float64 now"
assert differences["GroupNormAct"] == 0.0
END
"$folder/venv/bin/python" "$folder/precision.py"
