#!/usr/bin/env bash
# PyTorch computes convolutions on x86 processors with oneDNN. In bfloat16 and channels-last memory, the gradient of a
# depthwise kernel is wrong where the kernel is dilated and the images are 29 pixels wide or more: it does not even
# point in the right direction. Nothing is raised. Outputs and the images' gradients are right. Without dilation, in
# contiguous memory or in float32 the kernel's gradient is right too. Atrous separable convolutions, as in
# segmentation networks, are of this kind. Processors without AVX-512 widen bfloat16 and are not affected.
set -euo pipefail
python=${PYTHON:-python3}
if ! grep -q avx512bw /proc/cpuinfo; then
  echo "not shown: oneDNN computes bfloat16 convolutions on processors with AVX-512, which this one lacks"
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.14.1" "numpy==2.3.5"

cat > "$folder/gradient.py" <<'END'
import torch
from torch.nn import functional

torch.manual_seed(0)
images, kernel, cotangent = torch.randn(2, 16, 32, 32), torch.randn(16, 1, 3, 3), torch.randn(2, 16, 32, 32)
images, kernel, cotangent = (one.bfloat16() for one in (images, kernel, cotangent))


def gradient(dtype, dilation, memory_format):
    leaf = kernel.to(dtype).requires_grad_()
    x = images.to(dtype).to(memory_format=memory_format)
    y = functional.conv2d(x, leaf, padding=dilation, dilation=dilation, groups=16)
    return torch.autograd.grad(y, leaf, cotangent.to(dtype))[0].double().flatten()


print("torch", torch.__version__)
for memory_format in (torch.contiguous_format, torch.channels_last):
    for dilation in (1, 2):
        ours, exact = (gradient(dtype, dilation, memory_format) for dtype in (torch.bfloat16, torch.float64))
        cosine = functional.cosine_similarity(ours, exact, 0).item()
        print(f"{memory_format}, dilation {dilation}: cosine to float64's gradient {cosine:.2f}")
END

"$folder/venv/bin/python" "$folder/gradient.py" | tee "$folder/out"
test "$(grep -c 'gradient 1.00$' "$folder/out")" = 3 || { echo "changed: not three of four are right"; exit 1; }
grep -Eq "channels_last, dilation 2: cosine to float64's gradient (-?0\.[0-4]|nan)" "$folder/out" || { echo "changed: it is right now"; exit 1; }
echo "still so: bfloat16 gradients of dilated depthwise kernels are wrong on channels-last images (torch 2.14.1)"
