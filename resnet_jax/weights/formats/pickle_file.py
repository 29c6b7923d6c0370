"""Plain pickles of NumPy arrays by name, as detectron2's model zoo has them; nothing in them is executed."""

from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.weights.formats.caffe2_names import is_caffe2, name_blobs
from resnet_jax.weights.formats.named_tensors import NamedTensors
from resnet_jax.weights.lazy_tensor import ArrayTensor, reading
from resnet_jax.weights.torch.numpy_pickle import NUMPY_FUNCTIONS, PickledArray, plain_tensor
from resnet_jax.weights.torch.pickle_stream import Stream, is_legacy
from resnet_jax.weights.torch.safe_unpickler import load_pickle

MAX_ARRAY_BYTES = 2**34  # of arrays that are pickled with the rest
PROTOCOL = b"\x80"
# What may be around the arrays, in the order in which it is looked into.
WRAPPERS = ("model", "blobs", "state_dict")


def looks_like_pickle(head: bytes) -> bool:
    """Returns whether a file that begins so may be a pickle that is not torch's, of protocol 2 or later."""
    return head[:1] == PROTOCOL and b"\x02" <= head[1:2] <= b"\x05" and not is_legacy(head)


def open_pickle(path: Path) -> dict[str, Any] | NamedTensors:
    """Returns the pickled dict, a tensor in place of each array; Caffe2's blobs by torchvision's names.

    Raises:
      UserError: if the file is damaged, or holds no arrays by name.
    """
    not_torch = "is a plain pickle, not a torch checkpoint: save model.state_dict() with torch.save"
    num_bytes = path.stat().st_size
    with reading(path), path.open("rb") as file:
        root = load_pickle(Stream(file, num_bytes, MAX_ARRAY_BYTES), NUMPY_FUNCTIONS)
        for name in WRAPPERS:
            if isinstance(root, dict) and isinstance(root.get(name), dict):
                root = root[name]
        if not isinstance(root, dict) or not any(
            isinstance(value, PickledArray | ArrayTensor) for value in root.values()
        ):
            raise UserError(f"{path} {not_torch}")
        tensors = {name: plain_tensor(value) for name, value in root.items() if isinstance(name, str)}
        return name_blobs(tensors) if is_caffe2(tensors) else tensors
