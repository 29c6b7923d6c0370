"""Labelled image files, on disk or in tars: read when asked for, by index, from any number of threads."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_jax.data.decoding import BadImageError
from resnet_jax.data.digest import digest_of
from resnet_jax.data.listing import StoredFile
from resnet_jax.errors import RunError
from resnet_jax.storage.ranged_files import read_at


@dataclass(frozen=True)
class FolderImages:
    """Image files by index: reading one opens its file, or its tar, anew, so that any number of threads may.

    Attributes:
      root: what the paths below are relative to.
      paths: of the files, or their names inside a tar.
      labels: (N,) int32; (N, K) uint8 of zeros and ones where an image may have several.
      tars: paths of the tars, or of other files that hold images as they are.
      tar_index: (N,) int32: in which of them an image lies, -1: it is a file.
      offset, size: (N,) int64: where in its tar, in bytes.
    """

    root: Path
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    tars: tuple[str, ...]
    tar_index: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    @classmethod
    def of_files(
        cls, root: Path, class_names: tuple[str, ...], files: list[StoredFile], labels: np.ndarray, tars: list[str]
    ) -> "FolderImages":
        """Returns the images in `files`, with their labels."""
        return cls(
            root,
            class_names,
            tuple(file.stored for file in files),
            labels,
            tuple(tars),
            np.array([file.tar for file in files], np.int32),
            np.array([file.offset for file in files], np.int64),
            np.array([file.size for file in files], np.int64),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> tuple[bytes, int | np.ndarray]:
        """Returns an image's bytes and its label; of several, their row.

        Raises:
          BadImageError: if it is no longer there.
        """
        tar = self.tar_index[index]
        try:
            path = self.paths[index] if tar < 0 else self.tars[tar]  # "" where the root is the tar
            where = os.path.join(self.root, path) if path else self.root
            data = read_at(where) if tar < 0 else read_at(where, int(self.offset[index]), int(self.size[index]))
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise BadImageError(self.name(index), error.strerror or str(error)) from error
        except OSError as error:  # the disk's or the network's fault: to leave the image out would change the run
            raise RunError(f"{self.name(index)} cannot be read: {error.strerror}") from error
        if tar >= 0 and len(data) < self.size[index]:
            raise BadImageError(self.name(index), "its tar ends before it does")
        return data, self.labels[index] if self.labels.ndim == 2 else int(self.labels[index])

    def name(self, index: int) -> str:
        """Returns the image's path, through its tar if it lies in one."""
        tar = self.tar_index[index]
        if tar < 0 or os.path.isabs(self.tars[tar]):  # one that was made of a file under the root, which the path names
            return str(self.root / self.paths[index])
        return str(self.root / self.tars[tar] / self.paths[index])

    def digest(self) -> str:
        """Returns a hash of the images' paths and labels."""
        return digest_of(self.labels.tobytes(), *self.paths)
