"""Counts of the images that cannot be decoded, by name, up to a limit."""

import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from resnet_jax.data.decoding import BadImageError
from resnet_jax.errors import UserError, truncate

logger = logging.getLogger(__name__)

NO_GOOD_IMAGE = "not one image of the data set can be read"


@dataclass
class BadImages:
    """Images that could not be decoded: skipped and counted up to a limit; shared by the sources of a run.

    Attributes:
      limit: how many images may be bad; 0: the first is an error.
      names: of the bad ones so far, of files their paths from `root`: where the images lie may change.
      has_config: the images are a run's, whose config can say how many may be bad, and whether EXIF rotates them.
    """

    limit: int = 0
    names: set[str] = field(default_factory=set)
    has_config: bool = True
    root: str = ""
    _rotation_told: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self, error: BadImageError) -> None:
        """Counts and reports it once; raises it if no image may be bad, and a UserError if too many are."""
        if not self.limit:
            if self.has_config:
                error.args = (f"{error}, or let the run skip it: --config.max_bad_images=1",)
            raise error
        with self._lock:
            name = self._relative(error.name)
            if name in self.names:
                return
            if len(self.names) == self.limit:  # this one is not kept: what was trained on until now may be saved
                raise UserError(
                    f"{self.limit + 1} images cannot be read, more than config.max_bad_images={self.limit}; "
                    f"the last: {error}"
                ) from error
            self.names.add(name)
            logger.warning(f"skipped ({len(self.names)} of at most {self.limit}): {error}")

    def known(self) -> list[str]:
        """Returns the names of the bad ones so far, in order."""
        with self._lock:
            return sorted(self.names)

    def add(self, *others: Iterable[str]) -> None:
        """Counts those that other processes, or an earlier start, have found."""
        with self._lock:
            self.names.update(map(self._relative, chain(*others)))

    def raise_if_too_many(self) -> None:
        """Raises UserError (a ValueError) if all processes and starts together have too many."""
        names = self.known()
        if len(names) > self.limit:
            raise UserError(
                f"{len(names)} images cannot be read, more than config.max_bad_images={self.limit}; one is "
                f"{os.path.join(self.root, names[-1])}"
            )

    def _relative(self, name: str) -> str:
        return name.removeprefix(f"{self.root}/") if self.root else name

    def warn_exif_rotation(self, name: str) -> None:
        """Says, once, of an image that EXIF asks to rotate and that is left as it is."""
        with self._lock:
            told, self._rotation_told = self._rotation_told, True
        if not told:
            advice = " (config.exif_rotation=True applies it)" if self.has_config else ""
            logger.warning(
                f"{truncate(name)} asks by EXIF to be rotated; it and others like it are left as they are, as "
                f"torchvision does{advice}"
            )
