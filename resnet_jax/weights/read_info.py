"""Reads the info that travels with weights: from a directory, a file's metadata, a config beside them or their name."""

from pathlib import Path

from resnet_jax.checkpoint.manifest import INFO_FILE
from resnet_jax.checkpoint.weights_directory import read_info_text
from resnet_jax.data.transforms.preprocess import PREPROCESS, Preprocess
from resnet_jax.errors import UserError
from resnet_jax.weights.class_names import imagenet_names
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.formats.keras_published import published_weights
from resnet_jax.weights.info import METADATA_KEY, WeightsInfo
from resnet_jax.weights.lazy_tensor import reading
from resnet_jax.weights.model_config import read_model_config
from resnet_jax.weights.model_folder import is_model_folder
from resnet_jax.weights.pretrained import PRETRAINED, find_weights, recipe_of


def read_info(path: str | Path) -> WeightsInfo:
    """Returns the info on weights: from the convert command, from a config.json beside them, or from the name that
    torchvision gave them.

    Args:
      path: a file, a checkpoint directory, a folder with a config.json of timm's or transformers', or the owner/name of
        a model on the hub, which is downloaded if need be.

    Raises:
      UserError: if the info there cannot be read.
    """
    path = find_weights(str(path), None)
    if path.is_dir():
        if is_model_folder(path):
            return read_model_config(path)
        file = path / INFO_FILE
        with reading(file):
            text = read_info_text(path)
        return WeightsInfo() if text is None else WeightsInfo.from_json(str(file), text)
    metadata = open_weights_file(path).metadata
    published = {file: name for (name, _), file in PRETRAINED.items()}
    if path.name in published:
        recipe = PREPROCESS[recipe_of(path.name)]
        return WeightsInfo(published[path.name], {}, imagenet_names(), recipe, path.name)
    if of_keras := published_weights(path.name):
        names = imagenet_names() if of_keras.num_classes else ()
        arguments = {"num_classes": of_keras.num_classes}
        return WeightsInfo(of_keras.model, arguments, names, of_keras.preprocess(bgr=False), path.name)
    if METADATA_KEY in metadata:
        return WeightsInfo.from_json(str(path), metadata[METADATA_KEY])
    return read_model_config(path.parent)


def load_preprocess(path: str | Path) -> Preprocess:
    """Returns how images are prepared for weights, as far as they, or the run that trained them, tell it.

    Called with a Pillow image, it returns the network's input (H, W, C) float32.

    Raises:
      UserError: if nothing is known.
    """
    from resnet_jax.weights.describe import told_info  # which reads runs' folders, too

    preprocess = told_info(find_weights(str(path), None)).preprocess
    if preprocess is None:
        raise UserError(
            f"{path} does not tell how its images were prepared: convert it with --preprocess {'|'.join(PREPROCESS)} "
            "or --mean and --std"
        )
    return preprocess
