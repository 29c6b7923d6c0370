"""Folders in which hubs, timm and transformers keep a model: config.json beside the weights, which may be in parts."""

import json
import re
from pathlib import Path
from typing import Any

from resnet_jax.checkpoint.manifest import MANIFEST_FILE
from resnet_jax.errors import UserError, truncate
from resnet_jax.weights.lazy_tensor import reading

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
INDEX_SUFFIX = ".index.json"
# The weights, in order of preference; an index names the files that hold the parts.
WEIGHTS = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
    "pytorch_model.pth",
    "model.pth",
)  # fmt: skip


def is_model_folder(path: Path) -> bool:
    """Returns whether the folder holds weights as hubs have them; a checkpoint directory of ours is none, nor is a
    run's folder, in which somebody may have put such a file.
    """
    if (path / MANIFEST_FILE).exists() or any(_holds_steps(path / name) for name in ("checkpoints", "best")):
        return False
    return any((path / name).is_file() for name in WEIGHTS)


def _holds_steps(folder: Path) -> bool:
    return folder.is_dir() and any((step / MANIFEST_FILE).is_file() for step in folder.iterdir())


def weights_files(path: Path) -> list[Path]:
    """Returns the files that hold the weights of a model folder, or of the index file `path`.

    Raises:
      UserError: if an index is damaged, or names a file that is not there.
    """
    if path.is_dir():
        path = next(path / name for name in WEIGHTS if (path / name).is_file())
    if not path.name.endswith(INDEX_SUFFIX):
        return [path]
    files = [path.with_name(name) for name in index_files(path)]
    for file in files:
        if not file.is_file():
            raise UserError(f"{path} names {file.name}, which is not beside it: fetch all parts of the weights")
    return files


def hub_name(path: Path) -> str | None:
    """Returns the owner/name of a model in the hub's cache by its folder there; None for other paths."""
    match = re.fullmatch(r"models--(.+?)--(.+)", path.parent.parent.name)
    return f"{match[1]}/{match[2]}" if match and path.parent.name == "snapshots" else None


def index_files(path: Path) -> list[str]:
    """Returns the names of the files that an index of weights in parts names, each once.

    Raises:
      UserError: if it is none.
    """
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path} is no index of weights: it has no weight_map")
    names = list(dict.fromkeys(weight_map.values()))
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise UserError(f"{path} names {truncate(str(name))!r}, which is no file beside it")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
      UserError: if it holds none.
    """
    with reading(path):
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it holds no JSON object")
    return values
