"""The weights for ImageNet that Keras publishes, by the names of their files: of which network, for which images."""

import re
from dataclasses import dataclass, replace

from resnet_jax.data.transforms.preprocess import Preprocess

_FILE = re.compile(r"resnet(50|101|152)(v2)?_weights_tf_dim_ordering_tf_kernels(_notop)?\.h5")
# Squashed to the network's size, as load_img(target_size=...) does.
_IMAGES = Preprocess(None, 224, "bilinear", mean=(0.5,) * 3, std=(0.5,) * 3, fit="squash")
# Of version 1, red first: blue, green and red less 103.939, 116.779 and 123.68, out of 255 and not divided.
CAFFE = replace(_IMAGES, mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255,) * 3)
TF = _IMAGES


@dataclass(frozen=True)
class Published:
    """Weights that Keras publishes.

    Attributes:
      model: the name of the network here.
      num_classes: None without a head.
      v2: of the pre-activated network.
    """

    model: str
    num_classes: int | None
    v2: bool

    def preprocess(self, *, bgr: bool) -> Preprocess | None:
        """Returns how images become the network's input, if that is red first.

        Args:
          bgr: the network, which takes blue first in version 1, was made one for red first.
        """
        if self.v2 == bgr:
            return None
        return TF if self.v2 else CAFFE


def published_weights(name: str) -> Published | None:
    """Returns the published file of this name; None if Keras publishes none."""
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    depth, v2, no_top = match.groups()
    return Published(f"resnetv2_{depth}" if v2 else f"resnet{depth}", None if no_top else 1000, v2 is not None)
