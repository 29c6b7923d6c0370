"""Takes off the folders that only lie around others, as unpacking leaves them."""

from collections.abc import Collection

from resnet_jax.data.folder_tree import Folder
from resnet_jax.data.split_names import holds_all_alike, split_in, split_named

_MOST_STRAYS = 5
_SHARE_OF_STRAYS = 0.01


def _are_strays(folder: Folder) -> bool:
    return folder.num_images <= min(_MOST_STRAYS, _SHARE_OF_STRAYS * folder.total)


def unwrap(folder: Folder, class_names: Collection[str], *, of_split: bool) -> tuple[Folder, list[str]]:
    """Returns the folder that is left when those that hold one folder alone are taken off, and what lies beside it.

    A few images beside it, such as a preview, are no reason to stay. A folder that the model has a class of stays, and
    so does a class: one that holds images itself, unless it only repeats the name of the folder around it, as unpacking
    does, or is called like one of all images of a split.

    Args:
      class_names: the model's.
      of_split: the folder belongs to a split, or to the whole set if it has none.
    """
    beside: list[str] = []
    while len(folder.filled) == 1:
        ((name, child),) = folder.filled.items()
        if folder.num_images and not (_are_strays(folder) and child.holds_classes):
            break
        if name in class_names or (not of_split and split_named(name) is not None):
            break
        repeats = of_split and (name.lower() == folder.name.lower() or split_named(name) is not None)
        alike = of_split and split_in(folder.name) and (holds_all_alike(name, folder.name) or split_in(name))
        is_class = not child.holds_classes or (child.num_images and len(child.filled) < 2)
        if is_class and not repeats and not alike:
            break
        beside = sorted({*folder.children} - {name})
        folder = child
    return folder, beside
