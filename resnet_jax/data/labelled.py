"""Files with their labels, and their classes by name: the result of reading a folder, a table or shards."""

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnet_jax.data.listing import StoredFile
from resnet_jax.errors import UserError, abridge, suggestion


@dataclass(frozen=True)
class LabelledFiles:
    """The files of one split.

    Attributes:
      where: the folder, table or shards that they are of, from the root; for messages.
      labels: (N,) int32, positions in class_names; (N, K) uint8 of zeros and ones where an image may have several.
      tars: paths that the files' numbers of tars stand for.
      places: the folder of a class, from the root; for messages.
    """

    where: str
    class_names: tuple[str, ...]
    files: list[StoredFile]
    labels: np.ndarray
    tars: list[str]
    places: dict[str, str] = field(default_factory=dict)

    def positions(self, root: Path, class_names: tuple[str, ...]) -> np.ndarray:
        """Returns the place of each of its classes among class_names, (K,) int32.

        Args:
          root: for messages.
          class_names: a model's.

        Raises:
          UserError: for a class that is not among them.
        """
        composed = [unicodedata.normalize("NFC", name) for name in class_names]  # unpacking leaves the form to chance
        places, counts = {name: i for i, name in enumerate(composed)}, Counter(composed)
        found = []
        for name in self.class_names:
            place = root / self.places.get(name, self.where)
            what = str(place) if name in self.places else f"{place}: the label {name}"
            same = unicodedata.normalize("NFC", name)
            if same not in places:
                raise UserError(
                    f"{what} must be named as one of the model's {len(class_names)} classes: "
                    f"{abridge(class_names)}{suggestion(name, class_names)}"
                )
            if counts[same] > 1:
                raise UserError(f"{what} is {counts[same]} of the model's classes: their names must differ")
            found.append(places[same])
        return np.array(found, np.int32)
