"""What travels with weights: the model they are of, its class names, and how images are prepared for it."""

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from resnet_jax.checkpoint.manifest import INFO_FILE
from resnet_jax.checkpoint.weights_directory import read_info_text
from resnet_jax.data.transforms.preprocess import PREPROCESS, Preprocess
from resnet_jax.errors import UserError
from resnet_jax.filesystem import expand
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import create_model
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.formats.keras_published import published_weights
from resnet_jax.weights.lazy_tensor import reading
from resnet_jax.weights.pretrained import PRETRAINED, recipe_of

METADATA_KEY = "resnet_jax"  # of a safetensors file
FORMAT = 1
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class WeightsInfo:
    """model: its name, None if unknown. model_args: the arguments beyond the name, num_classes among them.

    Attributes:
      class_names: empty if unknown.
      preprocess: None if unknown.
      source: the name of the file the weights came from.
      multi_label: an image may have several of the classes: each logit's sigmoid is a probability.
    """

    model: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    source: str = ""
    multi_label: bool = False

    def create_model(self) -> ResNet:
        """Returns the model that the weights are of, if they tell."""
        assert self.model is not None
        return create_model(self.model, **self.model_args)

    def to_json(self) -> str:
        """Returns it as JSON text, for a checkpoint directory or a file's metadata."""
        values = dataclasses.asdict(self) | {"format": FORMAT}
        values["preprocess"] = self.preprocess.to_json() if self.preprocess else None
        if not self.multi_label:  # files of one label an image stay as they were
            del values["multi_label"]
        return json.dumps(values)

    @classmethod
    def from_json(cls, where: str, text: str) -> "WeightsInfo":
        """Returns what `to_json` gave; `where` it stands is for the UserError (a ValueError) if it is something
        else.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise ValueError("it is of a later format")
            preprocess = values.pop("preprocess")
            info = cls(**values, preprocess=Preprocess.from_json(preprocess) if preprocess else None)
            if not isinstance(info.model, str | None) or not isinstance(info.model_args, dict):
                raise ValueError("its model is no name with arguments")
            names = info.class_names
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("its class_names are no list of names")
            if not isinstance(info.multi_label, bool):
                raise ValueError("its multi_label is neither true nor false")
            if info.model is not None:
                info.create_model()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{where} does not tell what its weights are of ({error}): convert them again") from None
        return dataclasses.replace(info, class_names=tuple(names))


def read_info(path: str | Path) -> WeightsInfo:
    """Returns what is known of the weights at `path`: written there by the convert command, or by the name torchvision
    gave.

    Raises:
      UserError: if what is written there cannot be read.
    """
    path = expand(path)
    if path.is_dir():
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
    return WeightsInfo.from_json(str(path), metadata[METADATA_KEY]) if METADATA_KEY in metadata else WeightsInfo()


def load_preprocess(path: str | Path) -> Preprocess:
    """Returns how images are prepared for the weights at `path`, a file or checkpoint directory of the convert
    command's.

    Also for a file that has the name under which torchvision publishes it. Called with a Pillow image, it returns the
    network's input (H, W, 3) float32.

    Raises:
      UserError: if nothing is known.
    """
    preprocess = read_info(path).preprocess
    if preprocess is None:
        raise UserError(
            f"{path} does not tell how its images were prepared: convert it with --preprocess {'|'.join(PREPROCESS)} "
            "or --mean and --std"
        )
    return preprocess


def names_for(preprocess: str, num_classes: int | None) -> tuple[str, ...]:
    """Returns the class names that belong to a recipe of PREPROCESS, where there are as many classes; otherwise
    none.
    """
    names = CIFAR10_NAMES if preprocess == "CIFAR" else imagenet_names()
    return names if len(names) == num_classes else ()


def same_classes(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Returns whether the names are those of the same classes in the same order; ImageNet's are named in two ways."""
    return one == other or {one, other} == {imagenet_names(), imagenet_wordnet_ids()}


@cache
def imagenet_names() -> tuple[str, ...]:
    """Returns the names of ImageNet's 1,000 classes, as torchvision gives them, by label."""
    return tuple(name for _, name in _imagenet_classes())


@cache
def imagenet_wordnet_ids() -> tuple[str, ...]:
    """Returns the WordNet ids of ImageNet's 1,000 classes, which name its folders ("n01440764"), by label."""
    return tuple(wordnet_id for wordnet_id, _ in _imagenet_classes())


def _imagenet_classes() -> list[tuple[str, str]]:
    text = resources.files("resnet_jax.weights").joinpath("imagenet_classes.txt").read_text()
    pairs = (line.split(" ", 1) for line in text.splitlines())
    return [(wordnet_id, name) for wordnet_id, name in pairs]
