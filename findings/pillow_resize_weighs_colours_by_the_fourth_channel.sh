#!/usr/bin/env bash
# Pillow, resizing an array of four channels (H, W, 4): the first three are weighed by the fourth, which Pillow takes for
# opacity. Where the fourth is 0 they become 0, and where it is small they are rounded coarsely; NEAREST and arrays of
# three channels leave them alone. You would expect a resize of numbers, channel by channel, as OpenCV's and torch's are:
# of an image with infrared as its fourth channel, dark infrared deletes the colours. `resnet_jax` resizes each channel
# by itself.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "pillow==13.0.0" "numpy==2.4.0"

cat > "$folder/resize.py" <<'END'
import numpy as np
import PIL
from PIL import Image


def resized(fourth, resampling, channels=4):
    pixels = np.full((8, 8, 4), (200, 100, 50, fourth), np.uint8)[..., :channels]
    return np.asarray(Image.fromarray(pixels).resize((4, 4), resampling))[0, 0].tolist()


print("Pillow", PIL.__version__)
bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
seen = {
    "fourth 255, bilinear": resized(255, bilinear),
    "fourth 3, bilinear": resized(3, bilinear),
    "fourth 0, bilinear": resized(0, bilinear),
    "fourth 0, nearest": resized(0, nearest),
    "three channels, bilinear": resized(0, bilinear, 3),
}
for name, values in seen.items():
    print(f"200, 100, 50; {name}: {values}")
assert seen["fourth 255, bilinear"][:3] == seen["fourth 0, nearest"][:3] == seen["three channels, bilinear"] == [200, 100, 50]
assert seen["fourth 0, bilinear"][:3] == [0, 0, 0], "it is otherwise now"
assert seen["fourth 3, bilinear"][:3] != [200, 100, 50], "it is otherwise now"
END
"$folder/venv/bin/python" "$folder/resize.py"
