"""The info that travels with weights: their model, its class names, and how images are prepared for it."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.errors import UserError

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

METADATA_KEY = "resnet_jax"  # of a safetensors file
FORMAT = 1
FLAGS = ("multi_label", "exif_rotation")  # that are written where they are true


@dataclass(frozen=True)
class WeightsInfo:
    """model: its name, None if unknown. model_args: the arguments beyond the name, num_classes among them.

    Attributes:
      class_names: empty if unknown.
      preprocess: None if unknown.
      source: the name of the file the weights came from.
      multi_label: an image may have several of the classes: each logit's sigmoid is a probability.
      image_size: (height, width) of the images that evaluation saw; None if unknown.
      exif_rotation: images are rotated as EXIF says.
    """

    model: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    source: str = ""
    multi_label: bool = False
    image_size: tuple[int, int] | None = None
    exif_rotation: bool = False

    def create_model(self) -> "ResNet":
        """Returns the model that the weights are of, if they name it."""
        from resnet_jax.models.variants import create_model  # here: reading the info needs no network

        assert self.model is not None
        return create_model(self.model, **self.model_args)

    def to_json(self) -> str:
        """Returns it as JSON text, for a checkpoint directory or a file's metadata."""
        values = dataclasses.asdict(self) | {"format": FORMAT}
        values["preprocess"] = self.preprocess.to_json() if self.preprocess else None
        for name in FLAGS:  # files without them stay as they were
            if not values[name]:
                del values[name]
        if self.image_size is None:
            del values["image_size"]
        return json.dumps(values)

    @classmethod
    def from_json(cls, where: str, text: str) -> "WeightsInfo":
        """Returns the info from `to_json`'s result; `where` names its place in the UserError (a ValueError) if it is
        something else.
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
            for name in FLAGS:
                if not isinstance(getattr(info, name), bool):
                    raise ValueError(f"its {name} is neither true nor false")
            if info.image_size is not None:
                height, width = info.image_size
                if not all(type(side) is int and side > 0 for side in (height, width)):
                    raise ValueError("its image_size is no height and width")
                info = dataclasses.replace(info, image_size=(height, width))
            if info.model is not None:
                info.create_model()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{where} does not tell what its weights are of ({error}): convert them again") from None
        return dataclasses.replace(info, class_names=tuple(names))
