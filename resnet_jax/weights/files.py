"""Files of weights of every kind that is read, told apart by what is in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.weights.lazy_tensor import reading
from resnet_jax.weights.model_folder import INDEX_SUFFIX, is_model_folder, weights_files
from resnet_jax.weights.safetensors_file import MAX_HEADER_BYTES, open_safetensors
from resnet_jax.weights.torch.file import ZIP_MAGIC, open_torch_file

HEAD_BYTES = 64
# How other files begin that are taken for checkpoints, and what to do about them.
OTHER_KINDS = {
    b"version https://git-lfs": "it is a Git LFS pointer; fetch the file itself with git lfs pull",
    b"<!doctype html": "it is a web page that was saved instead of the file; download the file itself",
    b"<html": "it is a web page that was saved instead of the file; download the file itself",
    b"\x89hdf\r\n": "it is an HDF5 file (Keras?); give a torch or safetensors file",
    b"\x93numpy": "it is a NumPy array (.npy); give a torch or safetensors file",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
}


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds: containers, in which tensors are not read yet."""

    root: Any
    metadata: dict[str, str]  # of a safetensors file
    format: str  # "torch", "torch-legacy" or "safetensors"


def open_weights_file(path: Path) -> WeightsFile:
    """Returns the content of a torch or safetensors file, whatever its name; no tensor is read and nothing is executed.

    Of a folder or index of weights in parts (`model_folder`) it is that of all parts.

    Raises:
      UserError: with what the file is instead, if it is none, and for a damaged one.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give the path of a torch or safetensors file")
    if (path.is_dir() and is_model_folder(path)) or path.name.endswith(INDEX_SUFFIX):
        return _joined(path)
    if not path.is_file():
        raise UserError(f"{path} is a folder or a device, not a file: give the path of a torch or safetensors file")
    with reading(path), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise UserError(f"{path} is empty: fetch the file again")
    # safetensors has no magic: the length of its header, which is JSON.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES:
        tensors, metadata = open_safetensors(path)
        return WeightsFile(tensors, metadata, "safetensors")
    for beginning, reason in OTHER_KINDS.items():
        if head.lstrip().lower().startswith(beginning):
            raise UserError(f"{path} is not a checkpoint: {reason}")
    root = open_torch_file(path)
    return WeightsFile(root, {}, "torch" if head.startswith(ZIP_MAGIC) else "torch-legacy")


def _joined(path: Path) -> WeightsFile:
    """Returns the content of the files that a model folder or an index names, as if it were one file's."""
    files = [open_weights_file(file) for file in weights_files(path)]
    if len(files) == 1:
        return files[0]
    root: dict[str, Any] = {}
    for file in files:
        if not isinstance(file.root, dict) or not root.keys().isdisjoint(file.root):
            raise UserError(f"{path} names files that are no parts of one state_dict: names occur twice, or not at all")
        root |= file.root
    return WeightsFile(root, {}, files[0].format)
