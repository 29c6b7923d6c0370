"""Folders in folders, and how many images lie in each."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass
class Folder:
    """A folder of a tree: how many images lie in it, and in all that it holds.

    Attributes:
      real: where it lies on the disk, links followed; "" for a folder of a tar.
    """

    path: str
    num_images: int = 0
    total: int = 0
    real: str = ""
    children: dict[str, "Folder"] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its own name, without the names of the folders around it."""
        return self.path.rpartition("/")[2]

    @property
    def filled(self) -> dict[str, "Folder"]:
        """The folders in it that hold images, by their names, sorted."""
        return {name: self.children[name] for name in sorted(self.children) if self.children[name].total}

    @property
    def holds_classes(self) -> bool:
        """True if some folder in it holds images."""
        return bool(self.filled)

    def at(self, path: str) -> "Folder | None":
        """Returns the folder at `path` from this one, itself for "."; None if there is none."""
        folder: Folder | None = self
        for name in path.split("/"):
            if name not in ("", "."):
                folder = folder.children.get(name) if folder else None
        return folder

    def walk(self) -> Iterator["Folder"]:
        """Yields this folder and all in it."""
        yield self
        for child in self.children.values():
            yield from child.walk()


def make_tree(
    folders: Iterable[str], num_images: Mapping[str, int], real_paths: Mapping[str, str] | None = None
) -> Folder:
    """Returns the tree of `folders`, paths with slashes.

    Args:
      num_images: by the path of the folder that they lie in.
      real_paths: where folders lie on the disk, links followed.
    """
    real_paths = real_paths or {}
    root = Folder("", num_images.get("", 0))
    for path in folders:
        folder = root
        for name in path.split("/"):
            where = f"{folder.path}/{name}" if folder.path else name
            if name not in folder.children:
                folder.children[name] = Folder(where, num_images.get(where, 0), real=real_paths.get(where, ""))
            folder = folder.children[name]
    for folder in reversed([*root.walk()]):  # children come behind their parents
        folder.total = folder.num_images + sum(child.total for child in folder.children.values())
    return root
