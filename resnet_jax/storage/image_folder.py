"""Images in a bucket, as a folder on this machine: files of their names and sizes, whose bytes are read when asked for.

The folder holds a stand-in for each object, an empty file of its size and time, so that whatever lists a folder sees
the bucket's. What says labels (tables, lists, JSON) is brought whole. Tars, Parquet, TFRecord files and images are read
by ranges (`ranged_files`). Where all of them fit the bound on disk (RESNET_JAX_IMAGES_GB), what is read stays there in
blocks, and later epochs read the disk; where they do not, only what is asked for is fetched, and nothing is kept:
images are drawn at random, so a part of them on disk would save little of what its blocks cost.
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resnet_jax.errors import RunError, UserError
from resnet_jax.filesystem import expand, lock
from resnet_jax.formatting import format_bytes
from resnet_jax.runtime import home
from resnet_jax.storage.address import is_address
from resnet_jax.storage.object_store import ObjectStore, StoredObject, patience_seconds
from resnet_jax.storage.ranged_files import RANGED, RangedFolder, blocks_name, folders
from resnet_jax.storage.settings import environment_number

BOUND_VARIABLE = "RESNET_JAX_IMAGES_GB"
BOUND_GB = 200.0
SHARE_OF_FREE_DISK = 0.8
MOST_OBJECTS = 200_000
MOST_WHOLE_BYTES = 2**30  # of a file that is brought whole
NUM_THREADS = 16
_WHOLE = ".whole-"  # how the folders begin that hold a file while it is brought
# Read by libraries that know files alone, whatever their size.
_ALWAYS_WHOLE = re.compile(r"\.(array_record(-\d+-of-\d+)?|json|txt|csv|tsv|jsonl|ndjson|labels?)$", re.IGNORECASE)

_lock = threading.Lock()


def local_folder(text: str | Path, inside: str = "") -> Path:
    """Returns where images are read from: a path as it is, or the stand-in for an address's folder or file.

    Args:
      text: a path or an address.
      inside: the folder below the address that is needed, as in "cifar10"; "": all.

    Raises:
      UserError: if nothing is there, or too much to be listed, or a file that must be whole has no place on the disk.
    """
    if not is_address(text):
        return expand(text)
    above, _, name = str(text).rstrip("/").rpartition("/")
    if RANGED.search(name):
        above_it = ObjectStore(above, may_be_bucket=True)
        if (one := above_it.head(name)) is not None:
            return _stand_in(above_it, [one], name) / name
    store = ObjectStore(str(text))
    return _stand_in(store, None, inside)


def _stand_in(store: ObjectStore, objects: list[StoredObject] | None, inside: str) -> Path:
    """Returns the stand-in for a store's objects, None: for all inside of a folder of it."""
    scheme, _, rest = store.address.partition("://")
    root = home() / "images" / scheme / rest
    with _lock:
        if (found := folders.get(root / inside)) is not None:
            return found.path
        found_objects = _list(store, inside) if objects is None else objects
        etags = {one.key: one.etag for one in found_objects}
        ranged = [one for one in found_objects if RANGED.search(one.key)]
        # Images are copied out of Parquet files.
        needed = sum(one.num_bytes * (2 if one.key.lower().endswith(".parquet") else 1) for one in ranged)
        blocks = _blocks_folder(needed, {blocks_name(store.address, one.key, one.etag) for one in ranged})
        root.parent.mkdir(parents=True, exist_ok=True)
        with root.with_name(f".{root.name}.lock").open("w") as file:
            lock(file)  # of many processes one makes it
            _make_stand_ins(store, root, found_objects)
            if objects is None:
                _remove_others(root, found_objects, inside)
        store.patience = patience_seconds()
        folders[root / inside] = RangedFolder(store, root, etags, blocks)
    return root


def _list(store: ObjectStore, inside: str) -> list[StoredObject]:
    listed = store.list(inside, MOST_OBJECTS)
    if len(listed) > MOST_OBJECTS:
        raise UserError(
            f"{store.address} holds more than {MOST_OBJECTS:,} objects: pack the images into tars, which are read "
            "faster too"
        )
    found = [one for one in listed if not any(part.startswith(".") for part in one.key.split("/"))]
    if not found:
        raise UserError(f"{store.address}{f'/{inside}' if inside else ''} holds nothing")
    return found


def _blocks_folder(num_bytes: int, own: set[str]) -> Path | None:
    """Returns where blocks of files are kept, if so many bytes fit there; others' oldest blocks go for them.

    own: the names of the files' folders there.
    """
    folder = home() / "images" / ".blocks"
    folder.mkdir(parents=True, exist_ok=True)
    kept: dict[Path, tuple[float, int]] = {}  # the last time and the bytes of an object's blocks
    for path in folder.glob("*/*"):
        with contextlib.suppress(OSError):  # another process writes and removes there too
            status = path.stat()
            last, size = kept.get(path.parent, (0.0, 0))
            kept[path.parent] = max(last, status.st_mtime), size + status.st_size
    total = sum(size for _, size in kept.values())
    bound = min(_bound_bytes(), SHARE_OF_FREE_DISK * (shutil.disk_usage(folder).free + total))
    if num_bytes > bound:
        return None
    others = sorted((last, path, size) for path, (last, size) in kept.items() if path.name not in own)
    too_much = num_bytes + sum(size for *_, size in others) - bound
    for _, path, size in others:
        if too_much <= 0:
            break
        shutil.rmtree(path, ignore_errors=True)
        too_much -= size
    return folder


def _bound_bytes() -> float:
    return 1e9 * environment_number(
        BOUND_VARIABLE, BOUND_GB, "a number of gigabytes, at least 0", lambda number: number >= 0
    )


def _make_stand_ins(store: ObjectStore, root: Path, objects: Iterable[StoredObject]) -> None:
    """Makes `root` hold the bucket's content; changed files are made again."""

    def make(one: StoredObject) -> None:
        path = root / one.key
        with contextlib.suppress(OSError):
            status = path.stat()
            if (status.st_size, int(status.st_mtime)) == (one.num_bytes, int(one.modified)):
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        if RANGED.search(one.key):
            with path.open("wb") as file:
                file.truncate(one.num_bytes)  # takes no place on the disk
        elif _ALWAYS_WHOLE.search(one.key) or one.num_bytes <= MOST_WHOLE_BYTES:
            _check_space(store, one, root)
            with tempfile.TemporaryDirectory(dir=root, prefix=_WHOLE) as scratch:
                if not store.download(one.key, Path(scratch, "whole")):
                    raise RunError(f"{store.address}/{one.key} has gone")
                Path(scratch, "whole").replace(path)
        else:
            raise UserError(
                f"{store.address}/{one.key} is larger than {format_bytes(MOST_WHOLE_BYTES)}, and no tar, Parquet, "
                "record or image file: move it elsewhere"
            )
        os.utime(path, (one.modified, one.modified))

    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{_WHOLE}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for _ in pool.map(make, objects):
            pass


def _remove_others(root: Path, objects: Iterable[StoredObject], inside: str) -> None:
    """Removes files that have gone from the bucket."""
    expected = {one.key for one in objects}
    for folder, _, names in os.walk(root / inside, topdown=False):
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.relative_to(root).as_posix() not in expected:
                path.unlink()
        with contextlib.suppress(OSError):  # not empty
            Path(folder).rmdir()


def _check_space(store: ObjectStore, one: StoredObject, root: Path) -> None:
    free = shutil.disk_usage(root).free
    if one.num_bytes > SHARE_OF_FREE_DISK * free:
        raise UserError(
            f"{store.address}/{one.key} must be brought here whole, {format_bytes(one.num_bytes)}, and {root} has "
            f"{format_bytes(free)} left: set RESNET_JAX_HOME to a larger disk"
        )
