#!/usr/bin/env bash
# `datasets`: `load_dataset("imagefolder")` and `to_parquet` write a Parquet file without a single image. In every row
# `bytes` is empty and `path` is the absolute path on the machine that wrote the file. You would expect the images
# inside, as in the files of the Hugging Face hub, where `push_to_hub` puts them. Move the file elsewhere and the
# images are gone. Our reader refuses such a file and gives the reason.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "datasets==4.4.1" "pillow==12.0.0"

cat > "$folder/convert.py" <<'END'
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = sys.argv[1] + "/home"
import datasets
import pyarrow.parquet
from PIL import Image

root = sys.argv[1]
for name in ("cat", "dog"):
    os.makedirs(f"{root}/pets/{name}")
    Image.new("RGB", (8, 8)).save(f"{root}/pets/{name}/1.png")
print("datasets", datasets.__version__)
images = datasets.load_dataset("imagefolder", data_dir=f"{root}/pets", split="train")
images.to_parquet(f"{root}/pets.parquet")
rows = pyarrow.parquet.read_table(f"{root}/pets.parquet").column("image").to_pylist()
for row in rows:
    print({"bytes": row["bytes"] and len(row["bytes"]), "path": row["path"].replace(root, "FOLDER")})
    assert row["bytes"] is None, "the file holds its images now"
    assert os.path.isabs(row["path"]), "paths are no longer absolute"
END
"$folder/venv/bin/python" "$folder/convert.py" "$folder" 2>/dev/null
