"""Files and folders that are taken for weights and are none that are read: what each is, and what to do about it."""

import re
from pathlib import Path

from resnet_jax.errors import UserError

# How other files begin.
BEGINNINGS = {
    b"version https://git-lfs": "it is a Git LFS pointer; fetch the file itself with git lfs pull",
    b"<!doctype html": "it is a web page that was saved instead of the file; download the file itself",
    b"<html": "it is a web page that was saved instead of the file; download the file itself",
    b"\x93numpy": "it is a NumPy array (.npy); give a torch or safetensors file",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
    b"model_checkpoint_path:": "it names a TensorFlow checkpoint; load that in Keras and save it as .weights.h5",
}
TABLE_END = bytes.fromhex("57fb808b247547db")  # of a TensorFlow checkpoint's .index
_TENSORFLOW_DATA = re.compile(r".+\.data-\d{5}-of-\d{5}")
_TENSORFLOW = "a TensorFlow checkpoint; load it into the network in Keras and save that as .weights.h5"
_ONNX = "it is an ONNX model, a graph without the names of its layers; give the weights that it was exported from"
_SAVED_MODEL = "a TensorFlow SavedModel; load it in Keras and save it with model.save_weights('model.weights.h5')"
_DISTRIBUTED = (
    "{path} is a checkpoint of torch.distributed.checkpoint, in shards: make one file of it with "
    "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} model.pth"
)


def refuse_file(path: Path, head: bytes) -> None:
    """Raises UserError if the file, which begins with `head`, is of a kind that is known and not read."""
    beginning = head.lstrip().lower()
    for start, reason in BEGINNINGS.items():
        if beginning.startswith(start):
            raise UserError(f"{path} is not a checkpoint: {reason}")
    if path.suffix == ".distcp":
        raise UserError(_DISTRIBUTED.format(path=path.parent))
    if _TENSORFLOW_DATA.fullmatch(path.name) or (path.suffix == ".index" and _ends_as_table(path)):
        raise UserError(f"{path} is not a checkpoint: it is a part of {_TENSORFLOW}")
    if path.suffix == ".pb" and head[:1] == b"\x08":
        raise UserError(f"{path} is not a checkpoint: it is {_SAVED_MODEL}")
    if _is_onnx(path, head):
        raise UserError(f"{path} is not a checkpoint: {_ONNX}")


def refuse_missing(path: Path) -> None:
    """Raises UserError if `path` does not exist because it is the prefix of a TensorFlow checkpoint's files."""
    if path.with_name(f"{path.name}.index").is_file():
        raise UserError(f"{path} is not a checkpoint: it is {_TENSORFLOW}")


def refuse_folder(path: Path) -> None:
    """Raises UserError if the folder is a checkpoint of another framework."""
    if (path / ".metadata").is_file() and any(path.glob("*.distcp")):
        raise UserError(_DISTRIBUTED.format(path=path))
    if (path / "saved_model.pb").is_file():
        raise UserError(f"{path} is not a checkpoint: it is {_SAVED_MODEL}")
    if any(path.glob("*.index")) and any(path.glob("*.data-*-of-*")):
        raise UserError(f"{path} is not a checkpoint: it holds {_TENSORFLOW}")


def _ends_as_table(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - len(TABLE_END), 0))
        return file.read() == TABLE_END


def _is_onnx(path: Path, head: bytes) -> bool:
    """Returns whether a protobuf begins as an ONNX model: its version, then who made it, or the graph."""
    if head[:1] != b"\x08":
        return False
    if path.suffix == ".onnx":
        return True
    producer = head[4 : 4 + head[3]] if len(head) > 3 and head[2:3] == b"\x12" else b""
    return len(producer) > 2 and producer.isascii() and producer.decode("ascii", "replace").isprintable()
