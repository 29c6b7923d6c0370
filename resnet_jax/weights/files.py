"""Files of weights of every kind that is read, distinguished by their content."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.weights.formats.hdf5_file import MAGIC as HDF5_MAGIC
from resnet_jax.weights.formats.keras_file import is_keras_archive, open_hdf5, open_keras_archive
from resnet_jax.weights.formats.msgpack_file import looks_like_msgpack, open_msgpack
from resnet_jax.weights.formats.named_tensors import NamedTensors
from resnet_jax.weights.formats.npz_file import is_npz, open_npz
from resnet_jax.weights.formats.pickle_file import looks_like_pickle, open_pickle
from resnet_jax.weights.formats.refusals import refuse_file, refuse_missing
from resnet_jax.weights.formats.zip_entries import zip_names
from resnet_jax.weights.lazy_tensor import reading
from resnet_jax.weights.model_folder import INDEX_SUFFIX, is_model_folder, weights_files
from resnet_jax.weights.safetensors_file import MAX_HEADER_BYTES, open_safetensors
from resnet_jax.weights.torch.file import ZIP_MAGIC, open_torch_file

HEAD_BYTES = 64


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file of weights: containers, in which tensors are not read yet."""

    root: Any
    metadata: dict[str, str]  # of a safetensors file
    format: str  # "torch", "torch-legacy", "safetensors", "npz", "msgpack", "pickle", "keras", "hdf5"
    named: NamedTensors | None = None  # where the root is not in torch's names


def open_weights_file(path: Path) -> WeightsFile:
    """Returns the content of a file of weights, whatever its name; of most kinds reads no tensor; executes nothing.

    Of a folder or index of weights in parts (`model_folder`) it covers all parts.

    Raises:
      UserError: if the file is damaged, or is something else, which the message names.
    """
    if not path.exists():
        refuse_missing(path)
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
    refuse_file(path, head)
    if looks_like_msgpack(head):
        return _translated(open_msgpack(path), "msgpack")
    if looks_like_pickle(head):
        return _translated(open_pickle(path), "pickle")
    if head.startswith(HDF5_MAGIC):
        return _translated(open_hdf5(path), "hdf5")
    if not head.startswith(ZIP_MAGIC):
        return WeightsFile(open_torch_file(path), {}, "torch-legacy")
    with reading(path):
        names = zip_names(path)
    if is_keras_archive(names):
        return _translated(open_keras_archive(path), "keras")
    if is_npz(names):
        return _translated(open_npz(path), "npz")
    return WeightsFile(open_torch_file(path), {}, "torch")


def _translated(content: dict[str, Any] | NamedTensors, kind: str) -> WeightsFile:
    """Returns the file of another framework, whose names may be torch's."""
    if isinstance(content, NamedTensors):
        return WeightsFile(content.tensors, {}, kind, content)
    return WeightsFile(content, {}, kind)


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
