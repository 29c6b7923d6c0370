"""Image files in class folders, on disk or in tars that hold such folders: listed at once, read when asked for."""

import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from resnet_jax.data.decoding import BadImageError
from resnet_jax.data.image_formats import EXTENSIONS
from resnet_jax.data.source import digest_of
from resnet_jax.data.split_names import SPLIT_FOLDERS, are_splits, split_in, split_of
from resnet_jax.data.tars import list_tar
from resnet_jax.errors import UserError, suggestion


@dataclass(frozen=True)
class FolderImages:
    """Image files by index: reading one opens its file, or its tar, anew, so that any number of threads may.

    Attributes:
      root: what the paths below are relative to.
      paths: of the files, or their names inside a tar. labels (N,) int32.
      tars: paths of the tars. tar_index (N,) int32: in which of them an image lies, -1: it is a file. offset, size
        (N,) int64: where in its tar, in bytes.
    """

    root: Path
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    tars: tuple[str, ...]
    tar_index: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> tuple[bytes, int]:
        """Returns an image's bytes and its label.

        Raises:
          BadImageError: if it is no longer there.
        """
        tar = self.tar_index[index]
        try:
            path = self.paths[index] if tar < 0 else self.tars[tar]  # "" where the root is the tar
            with open(f"{self.root}/{path}" if path else self.root, "rb", buffering=0) as file:
                if tar >= 0:
                    file.seek(self.offset[index])
                data = file.read(-1 if tar < 0 else self.size[index])
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise BadImageError(self.name(index), error.strerror or str(error)) from error
        except OSError as error:  # the disk's or the network's fault: to leave the image out would change the run
            raise UserError(f"{self.name(index)} cannot be read: {error.strerror}") from error
        if tar >= 0 and len(data) < self.size[index]:
            raise BadImageError(self.name(index), "its tar ends before it does")
        return data, int(self.labels[index])

    def name(self, index: int) -> str:
        """Returns the image's path, through its tar if it lies in one."""
        tar = self.tar_index[index]
        return str(self.root / (self.tars[tar] if tar >= 0 else "") / self.paths[index])

    def digest(self) -> str:
        """Returns a hash of the images' paths and labels."""
        return digest_of(self.labels.tobytes(), *self.paths)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """path: where in the tree it stands, with slashes. stored: its path from the root, or its name in its tar."""

    path: str
    stored: str
    tar: int = -1
    offset: int = 0
    size: int = 0


@dataclass(frozen=True)
class FolderTree:
    """What lies under a root, as if its tars had been unpacked where they lie.

    Attributes:
      files: the images, known by EXTENSIONS in any case.
      folders: paths of all folders. Hidden ones are in neither.
    """

    root: Path
    files: list[StoredFile]
    folders: set[str]
    tars: tuple[str, ...]

    @cached_property
    def splits(self) -> dict[str, str]:
        """The folders of "train", "validation" and "test"; empty if the root itself holds the classes.

        Raises:
          UserError: if that is not clear: other folders of images beside train/, two names of one split, a val/
            without class folders.
        """
        outer = {file.path.partition("/")[0] for file in self.files if "/" in file.path}
        inner = {file.path.partition("/")[0] for file in self.files if file.path.count("/") >= 2}
        known = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
        found: dict[str, str] = {}
        for name in sorted(inner):
            split = known.get(name.lower())
            if split in found:
                raise UserError(f"{self.root} has both {found[split]}/ and {name}/: keep one of them")
            if split is not None:
                found[split] = name
        if not found:
            return {}
        for name in sorted({path.partition("/")[0] for path in self.folders} - {*found.values()}):
            split = known.get(name.lower())
            if split == "test" and name not in inner:
                continue  # test images without labels, as competitions have them
            if split is not None:
                raise UserError(f"{self.root / name} holds no images in class folders: add some or remove the folder")
            if name in outer:
                beside = ", ".join(f"{other}/" for other in found.values())
                raise UserError(f"{self.root} holds images in {name}/ beside {beside}: move them away")
        return {split: found[split] for split in SPLIT_FOLDERS if split in found}

    def images(self, split: str | None = None, *, class_names: tuple[str, ...] | None = None) -> FolderImages:
        """Returns the images `<class>/…/<image>` of a split, or of the root; classes and files in the order of their
        names.

        Args:
          split: one of `splits`, None if there are none.
          class_names: those of the model, of which the folder may hold a part: labels are positions in them. None:
            the folder's own.

        Raises:
          UserError: for a folder that is not of this form, has a class without images, or one that is not among
            class_names; and, for the folder's own classes, if it is only one, or they are named like splits.
        """
        folder = f"{self.splits[split]}/" if split is not None else ""
        where = self.root / folder
        if split is None and self.splits:
            near = next(self.splits[name] for name in ("test", "validation", "train") if name in self.splits)
            raise UserError(f"{where} holds no images in class folders; did you mean {where / near}?")
        below = (path.removeprefix(folder) for path in self.folders if path.startswith(folder))
        classes: dict[str, list[StoredFile]] = {name: [] for name in sorted({path.partition("/")[0] for path in below})}
        for file in self.files:
            name, slash, _ = file.path.removeprefix(folder).partition("/")
            if slash and file.path.startswith(folder):
                classes[name].append(file)
        if not any(classes.values()):
            raise UserError(f"{where} holds no images in class folders; they are expected as {where}/<class>/<image>")
        for name, files in classes.items():
            if not files:
                raise UserError(
                    f"{where / name} holds no images ({' '.join(EXTENSIONS)}): add some or remove the folder"
                )
        if class_names is None or (set(classes).isdisjoint(class_names) and self._likely_folder(folder) is not None):
            self._check_own_classes(folder, tuple(classes))
        positions = _positions(where, tuple(classes), class_names)
        chosen = [file for files in classes.values() for file in sorted(files, key=lambda file: file.path)]
        return FolderImages(
            self.root,
            class_names or tuple(classes),
            tuple(file.stored for file in chosen),
            np.repeat(np.array(positions, np.int32), [len(files) for files in classes.values()]),
            self.tars,
            np.array([file.tar for file in chosen], np.int32),
            np.array([file.offset for file in chosen], np.int64),
            np.array([file.size for file in chosen], np.int64),
        )

    def _check_own_classes(self, folder: str, names: tuple[str, ...]) -> None:
        """Raises UserError if the folders `names`, of `folder`, can hardly be the classes."""
        where = self.root / folder
        if are_splits(names, self._paths_in(folder)):
            raise UserError(
                f"{where} holds the folders {_abridged(names)}, which are named like splits and not like classes: "
                f"{self._advice(folder)} (splits are folders train/, val/ and test/ of class folders)"
            )
        if len(names) < 2:
            raise UserError(
                f"{where} holds one class, {names[0]}; a classifier needs two or more: {self._advice(folder)}"
            )

    def _paths_in(self, folder: str) -> Iterator[str]:
        """Yields the paths of the images in `folder`, relative to it."""
        return (file.path.removeprefix(folder) for file in self.files if file.path.startswith(folder))

    def _advice(self, folder: str) -> str:
        """Says what to give instead of a folder whose own folders are not the classes."""
        likely = self._likely_folder(folder)
        if likely is None:
            return f"sort the images into {self.root / folder}/<class>/<image>"
        files = [file for file in self.files if file.path.startswith(likely)]
        if all(file.tar < 0 for file in files):
            return f"did you mean {self.root / likely}?"
        tars = sorted({str(self.root / self.tars[file.tar]) for file in files if file.tar >= 0})
        return f"write {_abridged(tuple(tars))} anew so that what is in {likely} comes first in it: tar -C {likely} …"

    def _likely_folder(self, folder: str) -> str | None:
        """Returns the folder inside `folder`, with a slash at its end, that holds class folders, or splits; None if
        none does.

        A folder around one other is passed, and of splits under other names the training images are taken.
        """
        inside = folder
        while True:
            paths = list(self._paths_in(inside))
            names = tuple(sorted({path.partition("/")[0] for path in paths if "/" in path}))
            if are_splits(names, paths):
                known = [name for names in SPLIT_FOLDERS.values() for name in names]
                hold_classes = {path.split("/")[0].lower() for path in paths if path.count("/") >= 2}
                if inside != folder and "train" in map(split_in, names) and hold_classes & set(known):
                    return inside
                names = tuple(name for name in names if split_in(name) == "train")
            elif len(names) > 1:
                return inside if inside != folder else None
            if len(names) != 1:
                return None
            inside += f"{names[0]}/"


def scan_folder(root: Path) -> FolderTree:
    """Returns the image files under `root`, a folder or a tar; nothing is decoded.

    A tar stands for what is in it, where it lies: root/train/00.tar that holds cat/1.jpg is as good as
    root/train/cat/1.jpg, and so is root/train-00.tar.

    Raises:
      UserError: for what cannot be read, and for an image that is there twice, in a tar and beside it.
    """
    files: dict[str, StoredFile] = {}
    folders: set[str] = set()
    tars: list[str] = []

    def add(file: StoredFile) -> None:
        if file.path in files:
            raise UserError(f"{root / file.path} is there twice, in a tar and beside it: remove one of them")
        files[file.path] = file

    def add_tar(tar: Path, folder: str) -> None:
        for member in list_tar(tar):
            inside = not folder or member.path.split("/")[0] == folder  # as in train.tar, which holds train/
            path = member.path if inside else f"{folder}/{member.path}"
            above = path.split("/")[: None if member.is_folder else -1]
            folders.update("/".join(above[: i + 1]) for i in range(len(above)))
            if not member.is_folder and path.lower().endswith(EXTENSIONS):
                add(StoredFile(path, member.path, len(tars), member.offset, member.size))

    if root.suffix.lower() == ".tar" and root.is_file():
        add_tar(root, "")
        return FolderTree(root, list(files.values()), folders, ("",))
    for path, fault in _walk(root, "", folders, {os.path.realpath(root)}):
        if fault:
            raise UserError(f"{root / path} {fault}{'' if fault.startswith('cannot') else ': remove it'}")
        suffix = os.path.splitext(path)[1].lower()
        if suffix == ".tar":
            folder, _, name = path.rpartition("/")
            add_tar(root / path, folder or split_of(name))
            tars.append(path)
        elif suffix in EXTENSIONS:
            add(StoredFile(path, path))
    return FolderTree(root, list(files.values()), folders, tuple(tars))


def list_images(root: Path) -> list[tuple[Path, str]]:
    """Returns the image files under the folder `root`, as `scan_folder` finds them but not in tars, in the order of
    names.

    With each comes what is wrong with it, as a reason: what is neither a file nor a folder that can be read is among
    them.

    Raises:
      UserError: if the root itself cannot be read.
    """
    found = []
    for path, fault in _walk(root, "", set(), {os.path.realpath(root)}):
        if fault and not path:
            raise UserError(f"{root} {fault}")
        if fault or os.path.splitext(path)[1].lower() in EXTENSIONS:
            found.append((root / path, fault and f"it {fault}"))
    return found


def _walk(root: Path, folder: str, folders: set[str], seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yields (path, "") of the files under root/folder, relative to the root; their folders are added to `folders`.

    Of what is neither a file nor a folder that can be read, (path, what to say of it).
    """
    try:
        with os.scandir(root / folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        yield folder, f"cannot be read as a folder of images: {error.strerror}"
        return
    for entry in found:
        path = f"{folder}/{entry.name}" if folder else entry.name
        try:
            # A link that leads nowhere is listed too: reading it tells, leaving it out would change the result.
            is_file = entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
            is_folder = entry.is_dir()
        except OSError as error:
            reason = "leads to itself" if error.errno == errno.ELOOP else f"cannot be followed ({error.strerror})"
            yield path, f"is a link that {reason}"
            continue
        if is_file:
            yield path, ""
        elif not is_folder:
            yield path, "is neither a file nor a folder"
        elif (real := os.path.realpath(root / path)) not in seen:  # links may lead in circles
            folders.add(path)
            yield from _walk(root, path, folders, seen | {real})


def _positions(root: Path, names: tuple[str, ...], class_names: tuple[str, ...] | None) -> list[int]:
    """Returns the label of each of the folder's classes."""
    if class_names is None:
        return list(range(len(names)))
    counts = Counter(class_names)
    for name in names:
        if name not in counts:
            raise UserError(
                f"{root / name} must be named as one of the model's {len(class_names)} classes: "
                f"{_abridged(class_names)}{suggestion(name, class_names)}"
            )
        if counts[name] > 1:
            raise UserError(f"{root / name} is {counts[name]} of the model's classes: their names must differ")
    return [class_names.index(name) for name in names]


def _abridged(names: tuple[str, ...]) -> str:
    return ", ".join(names if len(names) <= 10 else (*names[:9], "…", names[-1]))
