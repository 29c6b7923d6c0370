"""Which table says the labels of images, and how it is read, as a config has it."""

from collections.abc import Collection
from dataclasses import dataclass

from resnet_jax.errors import UserError


@dataclass(frozen=True)
class TableOptions:
    """Which table says the labels, and how it is read; "" leaves it to be found.

    Attributes:
      file: the table, from the folder of the images.
      image_column, label_column, split_column: names of columns; label_column may be several, with commas between:
        columns of zeros and ones.
      image_dir: the folder that paths in the table start from, itself from the folder of the images.
      label_separator: stands between the labels of an image that has several.
      class_names: a text file of class names, one a line, which numbers count from 0.
    """

    file: str = ""
    image_column: str = ""
    label_column: str = ""
    split_column: str = ""
    image_dir: str = ""
    label_separator: str = ""
    class_names: str = ""

    def check_read(self, read: Collection[str], what: str) -> None:
        """Raises UserError for an option that is set and has no effect on `what`, which is read by `read` alone."""
        for name, value in vars(self).items():
            if value and name not in read:
                raise UserError(f"config.table.{name}={value!r} has no effect on {what}: leave it out")

    def of_columns(self) -> dict[str, str]:
        """Returns the options by which any table is read, without those that name files."""
        return {name: value for name, value in vars(self).items() if name not in ("file", "class_names")}
