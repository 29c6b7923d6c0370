"""Image files in class folders, on disk or in tars that hold such folders: listed at once, read when asked for."""

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from resnet_jax.data.decoding import BadImageError
from resnet_jax.errors import UserError, suggestion

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
# The names of a split's folder, or of its tars up to a character that is no letter.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class FolderImages:
    """Image files by index: reading one opens its file, or its tar, anew, so that any number of threads may.

    root: what the paths below are relative to. paths: of the files, or their names inside a tar. labels (N,) int32.
    tars: paths of the tars. tar_index (N,) int32: in which of them an image lies, -1: it is a file. offset, size (N,)
    int64: where in its tar, in bytes.
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
        """An image's bytes and its label. Raises BadImageError if it is no longer there."""
        tar = self.tar_index[index]
        try:
            path = self.paths[index] if tar < 0 else self.tars[tar]  # "" where the root is the tar
            with open(f"{self.root}/{path}" if path else self.root, "rb", buffering=0) as file:
                data = file.read() if tar < 0 else os.pread(file.fileno(), self.size[index], self.offset[index])
        except OSError as error:
            raise BadImageError(self.name(index), error.strerror or str(error)) from error
        if tar >= 0 and len(data) < self.size[index]:
            raise BadImageError(self.name(index), "its tar ends before it does")
        return data, int(self.labels[index])

    def name(self, index: int) -> str:
        """The image's path, through its tar if it lies in one."""
        tar = self.tar_index[index]
        return str(self.root / (self.tars[tar] if tar >= 0 else "") / self.paths[index])


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

    files: the images, known by EXTENSIONS in any case. folders: paths of all folders. Hidden ones are in neither.
    """

    root: Path
    files: list[StoredFile]
    folders: set[str]
    tars: tuple[str, ...]

    @cached_property
    def splits(self) -> dict[str, str]:
        """The folders of "train", "validation" and "test"; empty if the root itself holds the classes."""
        inner = {file.path.partition("/")[0] for file in self.files if file.path.count("/") >= 2}
        outer = {file.path.partition("/")[0] for file in self.files if "/" in file.path}
        found = {split: [name for name in names if name in inner] for split, names in SPLIT_FOLDERS.items()}
        known = [name for names in SPLIT_FOLDERS.values() for name in names]
        return {split: names[0] for split, names in found.items() if names} if outer <= {*known} else {}

    def images(self, split: str | None = None, *, class_names: tuple[str, ...] | None = None) -> FolderImages:
        """The images `<class>/…/<image>` of a split, or of the root; classes and files in the order of their names.

        split: one of `splits`, None if there are none. class_names: those of the model, of which the folder may hold a
        part: labels are positions in them. None: the folder's own. Raises UserError (a ValueError) for a folder that is
        not of this form, has a class without images, or one that is not among class_names.
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


def scan_folder(root: Path) -> FolderTree:
    """The image files under `root`, a folder or a tar; nothing is decoded.

    A tar stands for what is in it, where it lies: root/train/00.tar that holds cat/1.jpg is as good as
    root/train/cat/1.jpg, and so is root/train-00.tar. Raises UserError (a ValueError) for what cannot be read.
    """
    files: list[StoredFile] = []
    folders: set[str] = set()
    tars: list[str] = []
    if root.suffix == ".tar" and root.is_file():
        _add_tar(root, "", 0, files, folders)
        return FolderTree(root, files, folders, ("",))
    for path in _walk(root, "", folders, {os.path.realpath(root)}):
        suffix = os.path.splitext(path)[1].lower()
        if suffix == ".tar":
            folder, _, name = path.rpartition("/")
            _add_tar(root / path, folder or _split_of(name), len(tars), files, folders)
            tars.append(path)
        elif suffix in EXTENSIONS:
            files.append(StoredFile(path, path))
    return FolderTree(root, files, folders, tuple(tars))


def _walk(root: Path, folder: str, folders: set[str], seen: set[str]) -> Iterator[str]:
    """The files under root/folder, relative to the root; their folders are added to `folders`."""
    try:
        with os.scandir(root / folder) as entries:
            found = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"{root / folder} cannot be read as a folder of images: {error.strerror}") from error
    for name, is_folder in found:
        path = f"{folder}/{name}" if folder else name
        if not is_folder:
            # A link that leads nowhere is listed too: reading it tells, leaving it out would change the result.
            yield path
        elif (real := os.path.realpath(root / path)) not in seen:  # links may lead in circles
            folders.add(path)
            yield from _walk(root, path, folders, seen | {real})


def _add_tar(tar: Path, folder: str, index: int, files: list[StoredFile], folders: set[str]) -> None:
    try:
        with tarfile.open(tar, "r:") as members:
            for member in members:
                parts = [part for part in member.name.split("/") if part not in ("", ".")]
                if any(part.startswith(".") for part in parts):
                    continue
                path = "/".join(([folder] if folder else []) + parts)
                above = path.split("/")[: None if member.isdir() else -1]
                folders.update("/".join(above[: i + 1]) for i in range(len(above)))
                if member.isfile() and path.lower().endswith(EXTENSIONS):
                    files.append(StoredFile(path, member.name, index, member.offset_data, member.size))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{tar} cannot be read as a tar ({error}): it must be whole and not compressed") from error


def _split_of(name: str) -> str:
    """The split's folder that a tar beside the split's folders stands for, by its name; empty if none."""
    word = next((i for i, letter in enumerate(name) if not letter.isalpha()), len(name))
    known = [folder for folders in SPLIT_FOLDERS.values() for folder in folders]
    return name[:word] if name[:word] in known else ""


def _positions(root: Path, names: tuple[str, ...], class_names: tuple[str, ...] | None) -> list[int]:
    """The label of each of the folder's classes."""
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
