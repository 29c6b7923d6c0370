"""The images that a command line names: files, folders of them, and standard input."""

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_jax.data.decoding import BadImageError, EncodedImage
from resnet_jax.data.scan import list_images
from resnet_jax.errors import UserError
from resnet_jax.filesystem import expand

STANDARD_INPUT = "-"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class ImageFile:
    """name: its name in results. data: its bytes, if they are here already; None: they are in the file `name`.
    fault: why there is nothing to read, where that is known already.
    """

    name: str
    data: bytes | None = None
    fault: str = ""

    def read(self) -> bytes:
        """Returns the bytes.

        Raises:
          OSError: or BadImageError if there are none to be had.
        """
        if self.fault:
            raise BadImageError(self.name, self.fault)
        if self.data is not None:
            return self.data
        if not stat.S_ISREG(os.stat(self.name).st_mode):  # a pipe waits for who writes, and a device may never end
            raise BadImageError(self.name, "not a regular file")
        return Path(self.name).read_bytes()


def find_images(words: Sequence[str], read_standard_input: Callable[[], bytes]) -> list[ImageFile]:
    """Returns the images that `words` name, in that order; of a folder those below it, known by their names, sorted.

    "-" is standard input: an image, or else a list of paths, one a line. The list includes paths that lead nowhere,
    files of any name, and entries of a folder that are neither file nor folder: reading them reports the error.

    Raises:
      UserError: if there are none, a folder cannot be read, or standard input is named twice.
    """
    if words.count(STANDARD_INPUT) > 1:
        raise UserError("standard input, -, is named twice: it can be read once")
    images: list[ImageFile] = []
    for word in words:
        images += _from_standard_input(read_standard_input()) if word == STANDARD_INPUT else _at(word)
    if not images:
        where = f"in {', '.join(words)}: name image files, or folders of them" if words else "to judge: name some"
        raise UserError(f"there are no images {where}")
    return images


def _at(word: str) -> list[ImageFile]:
    if _URL.match(word) and not os.path.exists(word):  # as a path it would lose a slash
        return [ImageFile(word, fault="it is an address: download it first")]
    try:
        path = Path(word) if os.path.lexists(word) else expand(word)  # a file may be called ~name
    except UserError as error:
        if not word:
            raise
        return [ImageFile(word, fault=str(error))]
    if os.path.isdir(path):
        return [ImageFile(str(file), fault=fault) for file, fault in list_images(path)]
    return [ImageFile(str(path))]


def _from_standard_input(data: bytes) -> list[ImageFile]:
    try:
        EncodedImage(data, STANDARD_INPUT)
        is_image = True
    except BadImageError:
        is_image = b"\0" in data  # no path has such a byte, and every damaged image of some length does
    if is_image:
        return [ImageFile(STANDARD_INPUT, data)]
    lines = (line.removesuffix(b"\r") for line in data.split(b"\n"))
    return [image for line in lines if line for image in _at(os.fsdecode(line))]
