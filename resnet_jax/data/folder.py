"""Images in a folder, `root/<class>/<image>`: listed at once, decoded when a batch asks for them."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from resnet_jax.data.batches import LazySource
from resnet_jax.data.transforms import Preprocess
from resnet_jax.errors import UserError, suggestion

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
# Pillow decodes and resizes without the interpreter lock.
DECODE_THREADS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class FolderImages:
    """Image files that are indexed like an array (N, H, W, 3) uint8."""

    paths: tuple[Path, ...]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, 3); where nothing is cropped, the first image is decoded to tell."""
        return (len(self), *self._size, 3)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices` (n,) int, decoded now by several threads: (n, H, W, 3) uint8.

        Raises UserError (a ValueError) naming the file if one cannot be read or, where nothing is cropped, has another
        size than the first image of all.
        """
        # Evaluation fills its last batch up with one image, again and again.
        wanted, position = np.unique(indices, return_inverse=True)
        images = np.empty((len(wanted), *self._size, 3), np.uint8)

        def decode(i: int) -> None:
            images[i] = self._decode(self.paths[wanted[i]])

        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            list(pool.map(decode, range(len(wanted))))
        return images[position]

    @cached_property
    def _size(self) -> tuple[int, int]:
        crop = self.preprocess.crop
        if crop is not None:
            return crop, crop
        height, width, _ = self.preprocess.pixels(read_image(self.paths[0])).shape
        return height, width

    def _decode(self, path: Path) -> np.ndarray:
        pixels = self.preprocess.pixels(read_image(path))
        if pixels.shape[:2] != self._size:
            (height, width), (first_height, first_width) = pixels.shape[:2], self._size
            raise UserError(
                f"{path} has {width}x{height} pixels and {self.paths[0]} {first_width}x{first_height}: "
                "images of different sizes need a crop"
            )
        return pixels


def load_folder(root: Path, preprocess: Preprocess, *, class_names: tuple[str, ...] | None = None) -> LazySource:
    """The images `root/<class>/<image>`, classes and files in the order of their names; nothing is decoded yet.

    Files are known by EXTENSIONS in any case; hidden ones are ignored, and rotation in EXIF is not applied, as in
    torchvision. class_names: those of the model, of which the folder may hold a part: labels are positions in them.
    None: the folder's own. Raises UserError (a ValueError) for a folder that is not of this form, cannot be read, has
    a class without images, or one that is not among class_names.
    """
    files = {name: _image_files(root / name) for name in _class_folders(root)}
    if not any(files.values()):
        near = next((name for name in ("test", "val") if _holds_classes(root / name)), None)
        raise UserError(
            f"{root} holds no images in class folders; "
            + (f"did you mean {root / near}?" if near else f"they are expected as {root}/<class>/<image>")
        )
    for name, images in files.items():
        if not images:
            raise UserError(f"{root / name} holds no images ({' '.join(EXTENSIONS)}): add some or remove the folder")
    positions = _positions(root, tuple(files), class_names)
    paths = tuple(path for name in files for path in files[name])
    labels = np.repeat(np.array(positions, np.int32), [len(files[name]) for name in files])
    return LazySource(FolderImages(paths, preprocess), labels, class_names or tuple(files))


def read_image(path: Path) -> Image.Image:
    """The file's image, decoded, as RGB. Raises UserError (a ValueError) naming the file if that is not possible."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "no known format"
        raise UserError(f"{path} cannot be read as an image ({reason}): replace or remove it") from error


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


def _holds_classes(folder: Path) -> bool:
    return folder.is_dir() and any(_image_files(folder / name) for name in _class_folders(folder))


def _class_folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(root) if entry.is_dir())


def _image_files(folder: Path) -> list[Path]:
    # A link that leads nowhere is listed too: reading it tells, leaving it out would change the result.
    names = [entry.name for entry in _entries(folder) if not entry.is_dir()]
    return [folder / name for name in sorted(names) if name.lower().endswith(EXTENSIONS)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in `folder`, without hidden files."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder of images: {error.strerror}") from error
