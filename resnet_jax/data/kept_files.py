"""Files that are made once from others and kept: the index of a tar, the images of a Parquet file."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from resnet_jax.filesystem import atomic_path, lock
from resnet_jax.runtime import home


def kept_file(kind: str, sources: Sequence[Path], make: Callable[[Path], None], suffix: str, key: str = "") -> Path:
    """Returns the file that `make` writes to the path given to it, made anew only where a source has changed.

    It lies in the user's folder of kept files (RESNET_JAX_HOME), named by the sources' paths, sizes and times.
    Several processes that ask at once wait for the one that makes it.

    Args:
      kind: of file; the folder's name.
      key: everything else that the content depends on.

    Raises:
      UserError: if it cannot be written.
    """
    digest = hashlib.sha256(key.encode())
    for source in sources:
        status = source.stat()
        digest.update(f"\0{source.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape"))
    path = home() / kind / f"{digest.hexdigest()[:32]}{suffix}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as file:
            lock(file)
            if not path.exists():
                with atomic_path(path) as partial:
                    make(partial)
    with contextlib.suppress(OSError):  # another user's, or in a folder that is not to be written
        os.utime(path)  # when it was last of use
    return path
